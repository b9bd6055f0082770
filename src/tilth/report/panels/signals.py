"""Signals as histograms by source, with what each subset cuts off."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tilth.report.blocks import Block, Cell, Chart, Grid, Note, Table
from tilth.report.charts import NUMBER_LABELS, finished
from tilth.report.cuts import Cut
from tilth.report.measures import (
    MAX_SOURCES,
    OTHER,
    Measure,
    Range,
    choose_range,
    effect,
    histogram,
    line_position,
    measure,
    measured_columns,
    tails,
)
from tilth.report.numbers import number
from tilth.report.registry import panel
from tilth.report.scope import AbsentError, Row, Scope
from tilth.report.theme import CUT_COLOUR, OTHER_COLOUR

MAX_CHARTS = 12
_ROW_HEIGHT = 30


@panel("Signals and cuts", order=30)
def draw(scope: Scope) -> Iterable[Block]:
    """One row a source, each drawn to the height of its own fullest bin, so that a small source can be compared with
    a large one. The dashed line is the subset's cut; the shaded side is what it leaves out."""
    scope.need_corpus()
    columns = measured_columns(scope)
    if not columns:
        raise AbsentError("No signals have been computed for this corpus.")
    measures = [measure(scope, column) for column in columns]
    # Cuts first; last those of which at least half the documents have the smallest value: one bar says little.
    measures.sort(key=lambda one: (not one.cuts, one.median == one.low))
    drawn: list[Chart] = []
    flat: list[Measure] = []
    for one in measures:
        bins = choose_range(one) if one.n else None
        if bins is None:
            flat.append(one)
        elif len(drawn) < MAX_CHARTS:
            drawn.append(_chart(scope, one, bins))
    yield Grid(drawn)
    if flat:
        yield Note(
            "Without a spread: "
            + ", ".join(f"{one.column} ({number(one.median) if one.n else 'undefined'})" for one in flat)
            + "."
        )
    yield _table(measures)


def _chart(scope: Scope, measure: Measure, bins: Range) -> Chart:
    shown = scope.sources[:MAX_SOURCES]
    rows = histogram(scope, measure, bins, shown)
    present = {row["source"] for row in rows}
    names = [name for name in [*shown, OTHER] if name in present]
    outside = tails(scope, measure, bins)
    notes = [_explain(scope, subset, cut, bins, measure.whole) for subset, cut in measure.cuts]
    beyond = [f"{n:,} {side} the picture" for side, n in (("below", outside["below"]), ("above", outside["above"])) if n]
    beyond += [f"{measure.n_undefined:,} undefined"] if measure.n_undefined else []
    notes += ["Documents: " + ", ".join(beyond) + "."] if beyond else []
    spec = _spec(scope, measure, bins, rows, names)
    return Chart(f"signal-{measure.column}", measure.column, spec, notes)


def _explain(scope: Scope, subset: str, cut: Cut, bins: Range, whole: bool) -> str:
    row = effect(scope, cut)
    tokens = f" ({row['n_tokens_pass']:,} tokens)" if row["n_tokens_pass"] is not None else ""
    far = "" if bins.holds(line_position(cut, whole)) else " The line lies outside the picture."
    return f"{subset} keeps {cut.operator} {number(cut.value)}: {row['n_pass']:,}{tokens} pass, {row['n_fail']:,} do not.{far}"


def _spec(scope: Scope, measure: Measure, bins: Range, rows: Sequence[Row], names: Sequence[str]) -> dict[str, Any]:
    import altair as alt

    low, high = bins.ends
    scale = (
        alt.Scale(domain=[low, high], nice=False, type="log")
        if bins.log
        else alt.Scale(domain=[low, high], nice=False, zero=False)
    )
    axis = alt.Axis(**_ticks(bins), labelExpr=NUMBER_LABELS, grid=False)
    x = alt.X("a:Q", scale=scale, axis=axis, title=None)
    data = [_bar(bins, row, len(names) - 1 - names.index(row["source"])) for row in rows]
    colours = [scope.colour(name) if name != OTHER else OTHER_COLOUR for name in names]
    labels = alt.Axis(values=list(range(len(names))), labelExpr=_label_expression(names), labelBaseline="bottom", labelLimit=110)
    y = alt.Y("y:Q", scale=alt.Scale(domain=[0, len(names)], nice=False), axis=labels, title=None)
    bars = alt.Chart(alt.Data(values=data)).mark_rect(strokeWidth=0).encode(
        x=x, x2="b:Q", y=y, y2="h:Q", description="label:N", tooltip="label:N",
        color=alt.Color("s:N", scale=alt.Scale(domain=list(names), range=colours), legend=None),
    )  # fmt: skip
    layers = [*_cut_layers(measure, bins, scale), bars]
    return finished(alt.layer(*layers), height=_ROW_HEIGHT * len(names))


def _bar(bins: Range, row: Row, level: int) -> dict[str, Any]:
    a, b = bins.edge(row["bin"]), bins.edge(row["bin"] + 1)
    label = f"{row['source']}: {row['n']:,} documents from {number(a)} to {number(b)}"
    return {
        "s": row["source"],
        "a": _digits(a),
        "b": _digits(b),
        "n": row["n"],
        "y": level,
        "h": round(level + 0.86 * row["share"], 3),
        "label": label,
    }


def _cut_layers(measure: Measure, bins: Range, scale: Any) -> list[Any]:
    """For each distinct cut that is in the picture: a shade over what it leaves out, and a line."""
    import altair as alt

    low, high = bins.ends
    layers = []
    for cut in dict.fromkeys(cut for _, cut in measure.cuts):
        at = line_position(cut, measure.whole)
        if not bins.holds(at):
            continue
        x = alt.X("a:Q", scale=scale, title=None)
        label = f"cut: {cut}"
        if cut.keeps_above is not None:
            ends = {"a": low, "b": at} if cut.keeps_above else {"a": at, "b": high}
            shade = alt.Chart(alt.Data(values=[ends])).mark_rect(color=CUT_COLOUR, opacity=0.09, aria=False)
            layers.append(shade.encode(x=x, x2="b:Q"))
        line = alt.Chart(alt.Data(values=[{"a": at, "label": label}])).mark_rule(
            color=CUT_COLOUR, strokeDash=[4, 3], strokeWidth=1.5
        )
        layers.append(line.encode(x=x, description="label:N", tooltip="label:N"))
    return layers


def _label_expression(names: Sequence[str]) -> str:
    """Level of the row -> name of the source, as an expression of Vega's."""
    import json

    return f"{json.dumps(list(reversed(names)))}[datum.value]"


def _ticks(bins: Range) -> dict[str, Any]:
    values = bins.ticks
    return {"tickCount": 4} if values is None else {"values": values}


def _digits(value: float) -> float:
    return float(f"{value:.6g}")


def _table(measures: Sequence[Measure]) -> Table:
    columns = ["signal", "defined", "undefined", "smallest", "1st percentile", "median", "99th percentile", "largest"]
    rows: list[list[Cell | str]] = [
        [
            one.column,
            *(Cell(value) for value in (one.n, one.n_undefined)),
            *(Cell(_digits(value) if one.n else None) for value in (one.minimum, one.low, one.median, one.high, one.maximum)),
        ]
        for one in measures
    ]
    return Table(columns, rows, caption=f"All {len(measures)} signals in numbers", folded=True)
