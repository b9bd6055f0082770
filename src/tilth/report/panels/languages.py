"""Languages, as identified and as declared, and licences in force."""

from __future__ import annotations

from collections.abc import Iterable

from tilth.report.blocks import Block, Chart, Grid, Legend
from tilth.report.charts import stacked_bars
from tilth.report.facts import facts_table
from tilth.report.registry import panel
from tilth.report.scope import Scope, quoted

_SHOWN = 14
_COLUMNS = {
    "lid_language": ("Language, identified", "unknown"),
    "language": ("Language, as the source declares it", "not declared"),
    "licence": ("Licence in force", "none known"),
}


@panel("Languages and licences", order=60)
def draw(scope: Scope) -> Iterable[Block]:
    """All documents that were read; the licence is the effective one, with every claim that holds."""
    scope.need_corpus()
    charts = [_chart(scope, column, *words) for column, words in _COLUMNS.items() if column in scope.wide_columns]
    yield Legend(scope.legend)
    yield Grid(charts)


def _chart(scope: Scope, column: str, title: str, unknown: str) -> Chart:
    rows = scope.rows(
        f"""with named as (
                select coalesce(nullif({quoted(column)}::varchar, ''), ?) as kind, source from {facts_table(scope)}),
            ranked as (
                select kind, row_number() over (order by count(*) desc, kind) as place from named group by kind),
            merged as (select case when place <= {_SHOWN} then kind else 'all others' end as kind,
                              least(place, {_SHOWN + 1}) as place, source
                       from named join ranked using (kind))
            select kind, source, count(*) as n from merged group by kind, place, source order by place, n desc, source""",
        unknown,
    )
    data = [{**row, "label": f"{row['kind']}, {row['source']}: {row['n']:,} documents"} for row in rows]
    spec = stacked_bars(data, category="kind", value="n", title="documents", part="source", colours=dict(scope.legend))
    return Chart(f"kinds-{column}", title, spec)
