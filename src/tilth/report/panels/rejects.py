"""Why inputs were rejected."""

from __future__ import annotations

from collections.abc import Iterable

from tilth.report.blocks import Block, Chart, Legend, Note, Table
from tilth.report.charts import stacked_bars
from tilth.report.markup import shorten
from tilth.report.registry import panel
from tilth.report.scope import Scope


@panel("Rejects by reason", order=20)
def draw(scope: Scope) -> Iterable[Block]:
    """What could not be read at all, counted with its reason; rows in are rows out plus rejects."""
    rejects = scope.side("rejects")
    rows = scope.rows(
        f"""select reason, source, count(*) as n, sum(count(*)) over (partition by reason)::bigint as n_reason
            from {rejects} group by reason, source order by n_reason desc, reason, n desc, source limit 200"""
    )
    if not rows:
        yield Note("Nothing was rejected.")
        return
    data = [{**row, "label": f"{row['reason']}, {row['source']}: {row['n']:,}"} for row in rows]
    colours = dict(scope.legend)
    yield Legend([(source, colour) for source, colour in scope.legend if any(row["source"] == source for row in rows)])
    yield Chart(
        "rejects",
        "Rejected inputs",
        stacked_bars(data, category="reason", value="n", title="inputs", part="source", colours=colours),
    )
    examples = scope.rows(
        f"""select reason, source, location, detail from {rejects}
            qualify row_number() over (partition by reason order by location) <= 2 order by reason, location limit 40"""
    )
    body = [(row["reason"], row["source"], shorten(row["location"], 90), shorten(row["detail"], 120)) for row in examples]
    yield Table(["reason", "source", "where", "detail"], body, caption="Two examples of each reason", folded=True)
