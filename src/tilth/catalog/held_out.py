"""Validation by a predicate (held-out chromosomes, sites, years): with their duplicates, so that nothing of them is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from tilth.catalog.corpus_views import CorpusViews
from tilth.catalog.policies import expand_policies
from tilth.catalog.predicate import Predicate, check_binds, parse_predicate
from tilth.errors import SubsetError

# A cluster of duplicates goes as a whole: a copy of what is held out would be training on it.
IN_VALIDATION = "bool_or(is_held_out) over (partition by cluster_id)"


@dataclass(frozen=True)
class HeldOut:
    """How documents were split by a predicate."""

    n_validation: int
    n_train: int
    n_moved: int  # documents that do not satisfy it, but are duplicates of some that do


def parse_held_out(
    connection: duckdb.DuckDBPyConnection, relation: str, where: str, views: CorpusViews, corpus: str
) -> Predicate:  # fmt: skip
    """The predicate that says which documents are for validation. Raises QueryError."""
    where = expand_policies(where, views.columns, corpus)
    predicate = parse_predicate(connection, where)
    check_binds(connection, relation, where, predicate, views.columns)
    return predicate


def count_held_out(connection: duckdb.DuckDBPyConnection, where: str) -> HeldOut:
    """How `subset_rows` are split by `where`. Raises SubsetError where either side is empty."""
    query = (
        "select count(*) filter (where split = 'validation'), count(*) filter (where split = 'train'), "
        "count(*) filter (where split = 'validation' and not is_held_out) from subset_rows"
    )
    found = HeldOut(*(connection.execute(query).fetchone() or (0, 0, 0)))
    if not found.n_validation:
        fix = "Loosen it; `tilth sql \"select distinct meta['sequence'] from CORPUS\"` shows, for DNA, what there is."
        raise SubsetError("no selected document is for validation", f"validation_where: {where}", fix)
    if not found.n_train:
        moved = f", {found.n_moved} of them as duplicates of others" if found.n_moved else ""
        what = f"all {found.n_validation} selected documents are for validation{moved}"
        raise SubsetError(what, f"validation_where: {where}", "Narrow it, or select more.")
    return found
