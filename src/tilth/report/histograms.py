"""A signal as a picture: one row of bars a source, with the cuts of the subsets. Written as Vega-Lite at once, since a page
has up to a hundred of them and Altair takes 30 ms for each; tests hold them against Altair's schema."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tilth.report.blocks import Chart
from tilth.report.charts import NUMBER_LABELS, SPOKEN, sized
from tilth.report.cuts import Cut
from tilth.report.measures import MAX_SOURCES, OTHER, Measure, Range, effect, histogram, line_position, tails
from tilth.report.numbers import number
from tilth.report.scope import Row, Scope
from tilth.report.theme import CUT_COLOUR, OTHER_COLOUR

_ROW_HEIGHT = 30
_FILL = 0.86  # of a row's height, by the fullest bin of its source


def histogram_chart(scope: Scope, measure: Measure, bins: Range, title: str) -> Chart:
    """The distribution of a measure, with a sentence for each cut and for what the picture leaves out."""
    shown = scope.sources[:MAX_SOURCES]
    rows = histogram(scope, measure, bins, shown)
    present = {row["source"] for row in rows}
    names = [name for name in [*shown, OTHER] if name in present]
    outside = tails(scope, measure, bins)
    notes = [_explain(scope, subset, cut, bins, measure.whole) for subset, cut in measure.cuts]
    beyond = [f"{n:,} {side} the picture" for side, n in (("below", outside["below"]), ("above", outside["above"])) if n]
    beyond += [f"{measure.n_undefined:,} undefined"] if measure.n_undefined else []
    notes += ["Documents: " + ", ".join(beyond) + "."] if beyond else []
    return Chart(f"signal-{measure.column}", title, _spec(scope, measure, bins, rows, names), notes)


def rounded(value: float) -> float:
    """Six digits, which is more than a picture shows."""
    return float(f"{value:.6g}")


def line_layer(at: float, label: str, x: dict[str, Any]) -> dict[str, Any]:
    """A dashed line where a cut stands."""
    mark = {"type": "rule", "color": CUT_COLOUR, "strokeDash": [4, 3], "strokeWidth": 1.5}
    encoding = {"x": {**x, "field": "a", "type": "quantitative"}, **SPOKEN}
    return {"data": {"values": [{"a": at, "label": label}]}, "mark": mark, "encoding": encoding}


def value_axis(bins: Range) -> dict[str, Any]:
    """The x channel, without its field, of a picture over these bins."""
    low, high = bins.ends
    scale = {"domain": [low, high], "nice": False, **({"type": "log"} if bins.log else {"zero": False})}
    ticks = {"tickCount": 4} if bins.ticks is None else {"values": bins.ticks}
    return {"scale": scale, "title": None, "axis": {**ticks, "labelExpr": NUMBER_LABELS, "grid": False}}


def _explain(scope: Scope, subset: str, cut: Cut, bins: Range, whole: bool) -> str:
    row = effect(scope, cut)
    tokens = f" ({row['n_tokens_pass']:,} tokens)" if row["n_tokens_pass"] is not None else ""
    far = "" if bins.holds(line_position(cut, whole)) else " The line lies outside the picture."
    return f"{subset} keeps {cut.operator} {number(cut.value)}: {row['n_pass']:,}{tokens} pass, {row['n_fail']:,} do not.{far}"


def _spec(scope: Scope, measure: Measure, bins: Range, rows: Sequence[Row], names: Sequence[str]) -> dict[str, Any]:
    colours = [scope.colour(name) if name != OTHER else OTHER_COLOUR for name in names]
    axis = value_axis(bins)
    levels = {
        "values": list(range(len(names))), "labelExpr": f"{json.dumps(list(reversed(names)))}[datum.value]",
        "labelBaseline": "bottom", "labelLimit": 110,
    }  # fmt: skip
    bars = {
        # A row names its source and bin by number; the rest is worked out on the page, which keeps it small.
        "data": {"values": [{"s": names.index(row["source"]), "i": row["bin"], "n": row["n"]} for row in rows]},
        "transform": _worked_out(bins, names),
        "mark": {"type": "rect", "strokeWidth": 0},
        "encoding": {
            "x": {**axis, "field": "a", "type": "quantitative"},
            "x2": {"field": "b"},
            "y": {"field": "y", "type": "quantitative", "title": None, "axis": levels,
                  "scale": {"domain": [0, len(names)], "nice": False}},
            "y2": {"field": "h"},
            "color": {"field": "source", "type": "nominal", "legend": None, "scale": {"domain": list(names), "range": colours}},
            **SPOKEN,
        },
    }  # fmt: skip
    return sized({"layer": [*_cut_layers(measure, bins, axis), bars]}, _ROW_HEIGHT * len(names))


def _worked_out(bins: Range, names: Sequence[str]) -> list[dict[str, Any]]:
    edges = [bins.edge(index) for index in range(bins.n_bins + 1)]
    shown = json.dumps([number(edge) for edge in edges])
    places = json.dumps([rounded(edge) for edge in edges])
    label = "datum.source + ': ' + format(datum.n, ',') + ' documents from ' + datum.from + ' to ' + datum.to"
    return [
        {"joinaggregate": [{"op": "max", "field": "n", "as": "top"}], "groupby": ["s"]},
        {"calculate": f"{json.dumps(list(names))}[datum.s]", "as": "source"},
        {"calculate": f"{places}[datum.i]", "as": "a"},
        {"calculate": f"{places}[datum.i + 1]", "as": "b"},
        {"calculate": f"{len(names) - 1} - datum.s", "as": "y"},
        {"calculate": f"datum.y + {_FILL} * datum.n / datum.top", "as": "h"},
        {"calculate": f"{shown}[datum.i]", "as": "from"},
        {"calculate": f"{shown}[datum.i + 1]", "as": "to"},
        {"calculate": label, "as": "label"},
    ]


def _cut_layers(measure: Measure, bins: Range, axis: dict[str, Any]) -> list[dict[str, Any]]:
    """For each distinct cut that is in the picture: a shade over what it leaves out, and a line."""
    low, high = bins.ends
    layers = []
    for cut in dict.fromkeys(cut for _, cut in measure.cuts):
        at = line_position(cut, measure.whole)
        if not bins.holds(at):
            continue
        if cut.keeps_above is not None:
            ends = {"a": low, "b": at} if cut.keeps_above else {"a": at, "b": high}
            mark = {"type": "rect", "color": CUT_COLOUR, "opacity": 0.09, "aria": False}
            encoding = {"x": {**axis, "field": "a", "type": "quantitative"}, "x2": {"field": "b"}}
            layers.append({"data": {"values": [ends]}, "mark": mark, "encoding": encoding})
        layers.append(line_layer(at, f"cut: {cut}", axis))
    return layers
