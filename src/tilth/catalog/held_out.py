"""Validation by a predicate (held-out chromosomes, sites, years): its duplicates go with it, so that none is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from tilth.errors import SubsetError

# A cluster of duplicates goes as a whole: a copy of what is held out would be training on it.
IN_VALIDATION = "bool_or(is_held_out) over (partition by cluster_id)"


@dataclass(frozen=True)
class HeldOut:
    """How documents were split by a predicate."""

    n_validation: int
    n_train: int
    n_moved: int  # documents that do not satisfy it, but are duplicates of some that do


def check_split(share: float, where: str | None) -> None:
    """Validation is told by a share of the clusters, or by a predicate. Raises SubsetError."""
    if where is not None and share:
        raise SubsetError("validation is told by a share and by a predicate", "validation_share, validation_where", "Give one.")
    if not 0.0 <= share < 1.0:
        raise SubsetError(f"validation_share is {share}", fix="Give a share from 0 up to, not including, 1.")


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
