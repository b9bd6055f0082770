"""What was cut out of the texts after they were read, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tilth.report.blocks import Block, Cell, Chart, Excerpt, Grid, Heading, Legend, Table
from tilth.report.charts import stacked_bars
from tilth.report.documents import excerpt, fetch
from tilth.report.facts import facts_table
from tilth.report.markup import shorten
from tilth.report.numbers import share
from tilth.report.registry import panel
from tilth.report.scope import AbsentError, Row, Scope, quoted
from tilth.report.views import before_name

_EXAMPLES = 3
_LEAD_IN = 80  # characters before the first edit
_SHOWN = 420
_READ = 20_000  # characters of a text at most, to find what follows a long cut


@panel("Edits", order=25)
def draw(scope: Scope) -> Iterable[Block]:
    """Spans of a text that were cut or replaced after reading; the text as it was read is still there."""
    edits = scope.side("edits")
    rows = scope.rows(_sql(scope, edits))
    if not rows:
        raise AbsentError("No text was edited.")
    data = [
        {**row, "label": f"{row['reason']}, {row['source']}: {row['n_cut']:,} characters in {row['n_spans']:,} spans"}
        for row in rows
    ]
    colours = dict(scope.legend)
    yield Legend([(source, colour) for source, colour in scope.legend if any(row["source"] == source for row in rows)])
    spec = stacked_bars(data, category="reason", value="n_cut", title="characters cut", part="source", colours=colours)
    yield Chart("edits", "Characters cut", spec)
    yield _table(rows)
    if scope.has_temporary(before_name(scope.relation)):
        yield from _examples(scope, edits)


def _sql(scope: Scope, edits: str) -> str:
    # A document's length as it was read is what it has now, with what was cut and without what was put in its place.
    return f"""with placed as (
            select f.source, e.reason, e.shard, e.row, e."end" - e.start as n_cut, len(e.replacement) as n_put
            from {edits} as e join {facts_table(scope)} as f on f.shard = e.shard and f.row = e.row),
        lengths as (
            select source, sum(n)::bigint as n_read from (
                select source, sum(n_chars) as n from {facts_table(scope)} group by source union all
                select source, sum(n_cut - n_put) as n from placed group by source) group by source)
        select reason, source, count(*) as n_spans, count(distinct (shard, row)) as n_documents, sum(n_cut)::bigint as n_cut,
               sum(n_put)::bigint as n_put, any_value(n_read) as n_read, sum(sum(n_cut)) over (partition by reason) as n_reason
        from placed join lengths using (source) group by reason, source order by n_reason desc, reason, n_cut desc, source"""


def _table(rows: Sequence[Row]) -> Table:
    columns = ["reason", "source", "documents", "spans", "characters cut", "put in their place", "cut, of all that was read"]
    body: list[list[Cell | str]] = []
    for row in rows:
        place = f"{row['reason']}/{row['source']}"
        body.append([
            row["reason"], row["source"], Cell(row["n_documents"]), Cell(row["n_spans"], name=f"edits/spans/{place}"),
            Cell(row["n_cut"], name=f"edits/characters/{place}"), Cell(row["n_put"]),
            Cell(row["n_cut"] / row["n_read"] if row["n_read"] else None, share(row["n_cut"], row["n_read"])),
        ])  # fmt: skip
    return Table(columns, body)


def _examples(scope: Scope, edits: str) -> Iterable[Block]:
    """Documents in turn from every reason and source, chosen by a hash of their place."""
    rows = scope.rows(
        f"""with first as (
                select shard, row, min(start) as start, arg_min(reason, start) as reason from {edits} group by shard, row),
            placed as (select first.*, f.source from first join {facts_table(scope)} as f using (shard, row)),
            turned as (
                select *, row_number() over (partition by reason, source order by md5(shard || ':' || row), shard, row) as turn
                from placed)
            select shard, row, start, reason from turned order by turn, reason, source limit {_EXAMPLES}"""
    )
    documents = fetch(scope, [(row["shard"], row["row"]) for row in rows])
    yield Heading(
        "Before and after", "Texts begin shortly before their first edit; one document of each source and reason in turn."
    )
    pairs = [_pair(scope, edits, row, documents[row["shard"], row["row"]]) for row in rows]
    yield Grid([text for pair in pairs for text in pair], kind="pairs")


def _pair(scope: Scope, edits: str, first: Row, document: Row) -> list[Excerpt]:
    begin = max(0, first["start"] - _LEAD_IN)
    (read,) = scope.rows(
        f"""select substring(text, $3 + 1, {_READ}) as text from {quoted(before_name(scope.relation))}
            where shard = $1 and row = $2""",
        first["shard"],
        first["row"],
        begin,
    )
    spans = scope.rows(
        f"""select start, "end", replacement from {edits}
            where shard = $1 and row = $2 and start < $3 + {_READ} order by start, "end" limit 1000""",
        first["shard"],
        first["row"],
        begin,
    )
    before, after = read["text"], edited(read["text"], begin, spans)
    dots = "…" if begin else ""
    facts = [f"first edit: {first['reason']}, at character {first['start']:,}"]
    head = excerpt(document, facts)
    return [
        Excerpt(head.head, head.facts, dots + shorten(before[: _SHOWN + 1], _SHOWN), [("as read", "dropped")]),
        Excerpt(head.head, head.facts, dots + shorten(after[: _SHOWN + 1], _SHOWN), [("as edited", "kept")]),
    ]


def edited(text: str, offset: int, spans: Sequence[Row]) -> str:
    """A piece of a text that begins at character `offset`, with those spans (of the whole text, in order) replaced."""
    parts, at = [], 0
    for span in spans:
        start, end = span["start"] - offset, span["end"] - offset
        if start > len(text):
            break
        parts += [text[at:start], span["replacement"]]
        at = end
    return "".join([*parts, text[at:]])
