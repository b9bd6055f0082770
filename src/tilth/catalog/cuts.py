"""What each clause of a predicate costs: documents, bytes and tokens that it drops, and that it alone drops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import duckdb


@dataclass(frozen=True)
class Counts:
    """Documents with their UTF-8 bytes and, where the corpus has token counts, tokens."""

    n_documents: int
    n_bytes: int
    n_tokens: int | None


@dataclass(frozen=True)
class ClauseCut:
    """One clause: `failed` is false for it, `unknown` null; `alone` is kept by all other clauses but dropped by this one."""

    sql: str
    failed: Counts
    unknown: Counts
    alone: Counts

    @property
    def n_dropped(self) -> int:
        """Documents that do not satisfy the clause."""
        return self.failed.n_documents + self.unknown.n_documents


@dataclass(frozen=True)
class Cuts:
    """A predicate over a corpus: before = after + failed + unknown, by document."""

    before: Counts
    after: Counts
    failed: Counts  # the whole predicate is false
    unknown: Counts  # the whole predicate is null: lost to signals that a document does not have
    clauses: tuple[ClauseCut, ...]

    @property
    def biggest(self) -> ClauseCut | None:
        """The clause that drops most documents (the first of equals); None where none drops any."""
        worst = max(self.clauses, key=lambda clause: clause.n_dropped, default=None)
        return worst if worst and worst.n_dropped else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_dict(fields: dict[str, Any]) -> Cuts:
        """The inverse of `to_dict`."""
        parts = {name: Counts(**fields[name]) for name in ("before", "after", "failed", "unknown")}
        clauses = tuple(
            ClauseCut(clause["sql"], *(Counts(**clause[name]) for name in ("failed", "unknown", "alone")))
            for clause in fields["clauses"]
        )
        return Cuts(**parts, clauses=clauses)


def count_cuts(connection: duckdb.DuckDBPyConnection, source: str, clauses: Sequence[str], has_tokens: bool) -> Cuts:
    """Judge every row of `source` (a FROM item with n_bytes and, with `has_tokens`, n_tokens) by each clause, in one pass.

    Raises what DuckDB raises, as for a text that does not cast.
    """
    judged = [f"({clause})::boolean as clause_{number}" for number, clause in enumerate(clauses)]
    tokens = "n_tokens" if has_tokens else "null::bigint"
    names = [f"clause_{number}" for number in range(len(clauses))]
    n_unsatisfied = " + ".join(f"({name} is not true)::int" for name in names)
    whole = " and ".join(names)
    conditions = ["true", f"({whole}) is true", f"({whole}) is false", f"({whole}) is null"]
    for name in names:
        conditions += [f"{name} is false", f"{name} is null", f"{name} is not true and n_unsatisfied = 1"]
    measures = ", ".join(
        f"count(*) filter (where {condition}), coalesce(sum(n_bytes) filter (where {condition}), 0), "
        f"coalesce(sum(n_tokens_here) filter (where {condition}), 0)"
        for condition in conditions
    )
    query = (
        f"with judged as (select n_bytes, {tokens} as n_tokens_here, {', '.join(judged)} from {source}), "
        f"counted as (select *, {n_unsatisfied} as n_unsatisfied from judged) select {measures} from counted"
    )
    row = connection.execute(query).fetchone() or ()
    counts = [
        Counts(int(row[at]), int(row[at + 1]), int(row[at + 2]) if has_tokens else None)
        for at in range(0, 3 * len(conditions), 3)
    ]
    by_clause = tuple(ClauseCut(clause, *counts[4 + 3 * number : 7 + 3 * number]) for number, clause in enumerate(clauses))
    before, after, failed, unknown = counts[:4]
    return Cuts(before, after, failed, unknown, by_clause)
