"""Documents to read: those next to each cut, and some at random."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tilth.report.blocks import Block, Excerpt, Grid, Heading
from tilth.report.cuts import Cut
from tilth.report.documents import excerpt, fetch
from tilth.report.facts import facts_table
from tilth.report.registry import panel
from tilth.report.scope import AbsentError, Row, Scope, Subset, quoted

MAX_CUTS = 6
_AT_A_CUT = 2
_AT_RANDOM = 3


@panel("Documents at the cuts", order=50)
def draw(scope: Scope) -> Iterable[Block]:
    """The documents that a slightly different predicate would have kept or left out, then some at random. Read them:
    no number says as much about a cut."""
    if not scope.subsets or not scope.columns("subset_documents"):
        scope.need_corpus()
        raise AbsentError("No subset has been picked from this corpus yet: `tilth pick NAME WHERE` does.")
    cuts: dict[Cut, Subset] = {}
    for subset in scope.subsets:
        for cut in subset.cuts:
            if cut.keeps_above is not None:
                cuts.setdefault(cut, subset)  # a cut that two subsets share is shown for the larger one
    for cut, subset in list(cuts.items())[:MAX_CUTS]:
        yield from _around(scope, subset, cut)
    yield from _random(scope, scope.subsets[0])


def _around(scope: Scope, subset: Subset, cut: Cut) -> Iterable[Block]:
    column = quoted(cut.column)
    rows = scope.rows(
        f"""with sided as (
                select m.shard, m.row, {column} as value, {column} {cut.operator} $1 as passes,
                       (m.doc_id, m.shard, m.row) in (
                           select (doc_id, shard, row) from subset_documents where subset = $2) as picked
                from {facts_table(scope)} as m where {column} is not null)
            select * from sided where passes = picked
            qualify row_number() over (partition by passes order by abs(value - $1), shard, row) <= {_AT_A_CUT}
            order by row_number() over (partition by passes order by abs(value - $1), shard, row), passes""",
        cut.value,
        subset.name,
    )
    if not rows:
        return
    documents = fetch(scope, [(row["shard"], row["row"]) for row in rows])
    facts = [[f"{cut.column} = {row['value']:.7g}"] for row in rows]
    yield Heading(f"{subset.name}: {cut}", "The nearest that it leaves out, and the nearest that were picked.")
    yield Grid(_excerpts(rows, documents, facts), kind="pairs")


def _random(scope: Scope, subset: Subset) -> Iterable[Block]:
    rows = scope.rows(
        f"""with sided as (
                select shard, row, is_keeper,
                       (doc_id, shard, row) in (select (doc_id, shard, row) from subset_documents where subset = $1) as picked
                from {facts_table(scope)})
            select * from sided
            qualify row_number() over (partition by picked order by md5(shard || ':' || row), shard, row) <= {_AT_RANDOM}
            order by picked, md5(shard || ':' || row), shard, row""",
        subset.name,
    )
    documents = fetch(scope, [(row["shard"], row["row"]) for row in rows])
    facts = [[] if row["is_keeper"] else ["marked as a duplicate"] for row in rows]
    yield Heading(f"{subset.name}: at random", "The same documents each time, chosen by a hash of their place.")
    yield Grid(_excerpts(rows, documents, facts), kind="texts")


def _excerpts(rows: Sequence[Row], documents: dict[tuple[str, int], Row], facts: Sequence[Sequence[str]]) -> list[Excerpt]:
    marks = {True: ("picked", "kept"), False: ("left out", "dropped")}
    return [
        excerpt(documents[row["shard"], row["row"]], fact, [marks[bool(row["picked"])]])
        for row, fact in zip(rows, facts, strict=True)
    ]
