"""The first numbers of the page."""

from __future__ import annotations

from collections.abc import Iterable

from tilth.report.blocks import Block, Figure, Figures, Note
from tilth.report.facts import facts_table
from tilth.report.numbers import share
from tilth.report.registry import panel
from tilth.report.scope import Scope


@panel("At a glance", order=0)
def draw(scope: Scope) -> Iterable[Block]:
    """What was read, what of it is unique, and what was made from it."""
    row = scope.row(
        f"""select count(*) as n_documents, sum({scope.n_tokens})::bigint as n_tokens, sum(n_chars)::bigint as n_chars,
                   count(distinct source) as n_sources, count(*) filter (not is_keeper) as n_duplicates,
                   (select count(*) from {scope.side("rejects")}) as n_rejects
            from {facts_table(scope)}"""
    )
    figures = [
        Figure("documents", "Documents", row["n_documents"], note=f"from {row['n_sources']:,} sources"),
        Figure("tokens", "Tokens", row["n_tokens"], note=f"{row['n_chars'] or 0:,} characters"),
        Figure(
            "rejects",
            "Rejected",
            row["n_rejects"],
            note=f"{share(row['n_rejects'], row['n_rejects'] + row['n_documents'])} of what was read",
        ),
        Figure(
            "duplicates",
            "Duplicates",
            row["n_duplicates"],
            note=f"{share(row['n_duplicates'], row['n_documents'])} of the documents",
        ),
    ]
    yield Figures([*figures, *_picked(scope, row["n_documents"])])
    if scope.hidden_subsets:
        yield Note(f"This page shows {len(scope.subsets)} subsets, not: {', '.join(scope.hidden_subsets)}.")


def _picked(scope: Scope, n_documents: int) -> Iterable[Figure]:
    if not scope.subsets or not scope.columns("subset_documents"):
        return
    counts = scope.rows(
        """select subset, count(*) as n, sum(n_tokens)::bigint as n_tokens
           from subset_documents where list_contains(?, subset) group by subset""",
        [subset.name for subset in scope.subsets],
    )
    for row in sorted(counts, key=lambda row: (-row["n"], row["subset"])):
        tokens = f", {row['n_tokens']:,} tokens" if row["n_tokens"] is not None else ""
        yield Figure(f"picked-{row['subset']}", f"Picked: {row['subset']}", row["n"], note=share(row["n"], n_documents) + tokens)
