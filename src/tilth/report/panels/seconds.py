"""How long each step took."""

from __future__ import annotations

from collections.abc import Iterable

from tilth.report.blocks import Block, Cell, Chart, Table
from tilth.report.charts import stacked_bars
from tilth.report.numbers import seconds
from tilth.report.registry import panel
from tilth.report.scope import Scope


@panel("Seconds by step", order=100, per_corpus=False)
def draw(scope: Scope) -> Iterable[Block]:
    """The time that making each step's outputs took, summed over shards; those that worked side by side count in full."""
    table = scope.need("step_seconds", ("step", "seconds"), "No step has been timed yet.")
    rows = scope.rows(
        f"""select step, count(*) as n, sum(seconds) as total, median(seconds) as median, max(seconds) as longest
            from {table} group by step order by total desc, step limit 40"""
    )
    data = [{"step": row["step"], "n": row["total"], "label": f"{row['step']}: {seconds(row['total'])}"} for row in rows]
    yield Chart("seconds", "Seconds", stacked_bars(data, category="step", value="n", title="seconds"))
    body = [
        [row["step"], Cell(row["n"]), Cell(row["total"], seconds(row["total"]), f"seconds/{row['step']}")]
        + [Cell(row[key], seconds(row[key])) for key in ("median", "longest")]
        for row in rows
    ]
    yield Table(["step", "outputs", "in all", "median", "longest"], body)
