"""The few chart shapes of the page, in Altair; panels give rows and say what stands on the axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tilth.report.theme import MAIN_COLOUR

BAR_HEIGHT = 26
# Thousands as k, M, G; below them plain digits, for `50m` would be read as fifty minutes.
NUMBER_LABELS = "abs(datum.value) >= 1000 ? format(datum.value, '~s') : format(datum.value, '~g')"
# Channels of a mark with a `label`: what a screen reader says and the pointer shows.
SPOKEN = {"description": {"field": "label", "type": "nominal"}, "tooltip": {"field": "label", "type": "nominal"}}

Rows = Sequence[Mapping[str, Any]]


def stacked_bars(
    rows: Rows,
    *,
    category: str,
    value: str,
    title: str,
    part: str | None = None,
    colours: Mapping[str, str] | None = None,
    highest: float | None = None,
) -> dict[str, Any]:
    """Horizontal bars in the order of the rows; with `part`, stacked by it in the order and the colours of `colours`.

    Each row has a `label`: what a screen reader says and the pointer shows. `highest` is where the axis ends.
    """
    import altair as alt

    order = list(dict.fromkeys(row[category] for row in rows))
    length = alt.Undefined if highest is None else alt.Scale(domain=[0, highest], nice=False, clamp=True)
    chart = alt.Chart(alt.Data(values=list(rows))).mark_bar().encode(
        y=alt.Y(f"{category}:N", sort=order, title=None),
        x=alt.X(f"{value}:Q", title=title, scale=length, axis=alt.Axis(labelExpr=NUMBER_LABELS)),
        description="label:N",
        tooltip="label:N",
    )  # fmt: skip
    if part and colours:
        domain = list(colours)
        ranked = [{**row, "rank": domain.index(row[part])} for row in rows]
        scale = alt.Scale(domain=domain, range=list(colours.values()))
        chart = chart.encode(color=alt.Color(f"{part}:N", scale=scale, legend=None), order=alt.Order("rank:Q"))
        chart.data = alt.Data(values=ranked)
    return finished(chart, height=BAR_HEIGHT * len(order))


def columns(rows: Rows, *, category: str, value: str, x_title: str, y_title: str, height: int = 150) -> dict[str, Any]:
    """Upright bars over categories, in the order of the rows."""
    import altair as alt

    order = list(dict.fromkeys(row[category] for row in rows))
    chart = alt.Chart(alt.Data(values=list(rows))).mark_bar(color=MAIN_COLOUR).encode(
        x=alt.X(f"{category}:N", sort=order, title=x_title, axis=alt.Axis(labelAngle=0, grid=False)),
        y=alt.Y(f"{value}:Q", title=y_title, axis=alt.Axis(labelExpr=NUMBER_LABELS, tickMinStep=1, tickCount=4)),
        description="label:N",
        tooltip="label:N",
    )  # fmt: skip
    return finished(chart, height=height)


def finished(chart: Any, height: Any) -> dict[str, Any]:
    """The spec of an Altair chart that takes the width it is given."""
    return sized(chart.to_dict(), height)


def sized(spec: Mapping[str, Any], height: Any) -> dict[str, Any]:
    """The spec with the width that it is given."""
    return {**spec, "width": "container", "height": height, "autosize": {"type": "fit-x", "contains": "padding"}}
