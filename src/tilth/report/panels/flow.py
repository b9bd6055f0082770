"""From what was read to what was picked, by source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tilth.report.blocks import Block, Cell, Chart, Grid, Legend, Table
from tilth.report.charts import stacked_bars
from tilth.report.facts import facts_table
from tilth.report.numbers import number
from tilth.report.registry import panel
from tilth.report.scope import Row, Scope

_LOST = ("rejected", "exact duplicate", "near duplicate")
_FIXED = 5  # columns of the table before the subsets: read, what was lost, unique


@panel("What came in and what left", order=10)
def draw(scope: Scope) -> Iterable[Block]:
    """Each bar is what is left after a step; nothing but rejects is gone for good, for marks can be undone."""
    rows = scope.rows(_sql(scope), [subset.name for subset in scope.subsets])
    yield Legend(scope.legend)
    kept = [row for row in rows if row["stage"] not in _LOST]
    charts = [_chart(scope, "flow-documents", "Documents", kept, "n_documents")]
    if any(row["n_tokens"] for row in kept):
        # What could not be read has no tokens.
        charts.append(_chart(scope, "flow-tokens", "Tokens", [row for row in kept if row["stage"] != "read"], "n_tokens"))
    yield Grid(charts)
    yield _table(scope, rows)


def _sql(scope: Scope) -> str:
    """Rows (stage, source, n_documents, n_tokens), the stages in order; a picked subset is a stage of its own."""
    tokens = "coalesce(n_tokens, 0)"
    stages = [f"select 0 as step, 'read' as stage, source, 0 as n_tokens from {scope.side('rejects')}"]
    stages += [f"select 2 as step, 'rejected' as stage, source, 0 as n_tokens from {scope.side('rejects')}"]
    for step, stage, where in (
        (0, "read", "true"),
        (1, "readable", "true"),
        (2, "unique text", "is_exact_keeper"),
        (3, "exact duplicate", "not is_exact_keeper"),
        (4, "near duplicate", "is_exact_keeper and not is_keeper"),
        (3, "unique", "is_keeper"),
    ):
        stages.append(f"select {step} as step, '{stage}' as stage, source, {tokens} as n_tokens from documents where {where}")
    if scope.columns("subset_documents"):
        stages.append(
            """select 4 as step, 'picked: ' || p.subset as stage, d.source, coalesce(d.n_tokens, 0) as n_tokens
                from documents as d join (select distinct subset, doc_id, shard, row from subset_documents) as p
                on p.doc_id = d.doc_id and p.shard = d.shard and p.row = d.row where list_contains($1, p.subset)"""
        )
    else:
        stages.append("select 4 as step, 'none' as stage, '' as source, 0 as n_tokens where len($1) > 0 and false")
    return f"""with documents as (
            select doc_id, shard, row, source, is_exact_keeper, is_keeper, {scope.n_tokens} as n_tokens
            from {facts_table(scope)}),
        stages as ({" union all by name ".join(stages)})
        select stage, source, count(*) as n_documents, sum(n_tokens)::bigint as n_tokens,
               sum(count(*)) over (partition by stage)::bigint as n_stage,
               sum(sum(n_tokens)) over (partition by stage)::bigint as n_tokens_stage
        from stages group by stage, source order by min(step), n_stage desc, stage, n_documents desc, source"""


def _chart(scope: Scope, name: str, title: str, rows: Sequence[Row], value: str) -> Chart:
    unit = "documents" if value == "n_documents" else "tokens"
    data = [
        {
            "stage": row["stage"],
            "source": row["source"],
            "n": row[value],
            "label": f"{row['stage']}, {row['source']}: {number(row[value])} {unit}",
        }
        for row in rows
    ]
    colours = dict(scope.legend)
    return Chart(name, title, stacked_bars(data, category="stage", value="n", title=unit, part="source", colours=colours))


def _table(scope: Scope, rows: Sequence[Row]) -> Table:
    stages = ["read", *_LOST, "unique", *(f"picked: {subset.name}" for subset in scope.subsets)]
    found = {(row["stage"], row["source"]): row for row in rows}
    body: list[list[Cell | str]] = []
    for source in scope.sources:
        row = [found.get((stage, source), {}) for stage in stages]
        body.append(_line(source, stages, row, "n_documents", "n_tokens"))
    if len(scope.sources) > 1:
        whole = {row["stage"]: row for row in rows}
        body.append(_line("all", stages, [whole.get(stage, {}) for stage in stages], "n_stage", "n_tokens_stage"))
    return Table(["source", *stages, "tokens", *(f"tokens {stage}" for stage in stages[_FIXED:])], body)


def _line(source: str, stages: Sequence[str], row: Sequence[Row], n_documents: str, n_tokens: str) -> list[Cell | str]:
    counts = [Cell(part.get(n_documents, 0), name=f"flow/{stage}/{source}") for stage, part in zip(stages, row, strict=True)]
    tokens = [Cell(part.get(n_tokens, 0)) for part in (row[0], *row[_FIXED:])]
    return [source, *counts, *tokens]
