"""Colours and type of the charts. Every colour is a CSS variable, so that dark mode is the style sheet's affair alone."""

from __future__ import annotations

from typing import Any

SOURCE_COLOURS = tuple(f"var(--c{rank})" for rank in range(1, 8))
OTHER_COLOUR = "var(--c8)"
CUT_COLOUR = "var(--cut)"
MAIN_COLOUR = SOURCE_COLOURS[0]

FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"


def chart_config() -> dict[str, Any]:
    """The Vega-Lite config that all charts share; it is in the page once."""
    return {
        "background": "transparent",
        "font": FONT,
        "padding": {"left": 2, "right": 6, "top": 4, "bottom": 2},
        "view": {"stroke": None},
        "axis": {
            "labelColor": "var(--soft)",
            "titleColor": "var(--soft)",
            "titleFontWeight": "normal",
            "titleFontSize": 11,
            "labelFontSize": 11,
            "domainColor": "var(--rule)",
            "tickColor": "var(--rule)",
            "gridColor": "var(--rule)",
            "gridOpacity": 0.7,
            "labelLimit": 150,
            "labelOverlap": "greedy",
            "labelSeparation": 6,
        },
        "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
        "axisX": {"grid": True, "tickCount": 5},
        "text": {"color": "var(--ink)", "fontSize": 11},
        "bar": {"color": MAIN_COLOUR},
        "line": {"strokeWidth": 1.8},
        "rule": {"color": CUT_COLOUR},
    }
