"""What a subset would keep if one of its thresholds moved."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from tilth.report.blocks import Block, Chart, Folded, Grid, Heading, Legend
from tilth.report.charts import NUMBER_LABELS, sized
from tilth.report.cuts import Cut, cuts_in
from tilth.report.facts import clause_columns, facts_table
from tilth.report.histograms import line_layer, rounded, value_axis
from tilth.report.measures import Measure, Range, choose_range, line_position, measure
from tilth.report.numbers import number, share
from tilth.report.registry import panel
from tilth.report.scope import AbsentError, Row, Scope, Subset, quoted

MAX_OPEN = 6  # curves of a subset; the others are folded
_HEIGHT = 110
_COLOURS = {"documents": "var(--c1)", "tokens": "var(--c2)"}


@panel("If a threshold moved", order=34)
def draw(scope: Scope) -> Iterable[Block]:
    """The share of all documents and tokens that a subset's predicate would keep with another threshold, its other clauses
    as they are. Where the curve is steep, the threshold matters; budgets and mixtures come after."""
    scope.need_corpus()
    if not scope.subsets:
        raise AbsentError("No subset has been picked from this corpus yet: `tilth pick NAME WHERE` does.")
    curves = {subset.name: list(_curves(scope, subset)) for subset in scope.subsets}
    if not any(curves.values()):
        raise AbsentError("No subset compares a signal with a number.")
    has_tokens = "n_tokens" in scope.wide_columns
    yield Legend([(what, colour) for what, colour in _COLOURS.items() if what == "documents" or has_tokens])
    for name, charts in curves.items():
        if charts:
            yield Heading(name)
            yield Grid(charts[:MAX_OPEN], kind="small")
        if charts[MAX_OPEN:]:
            yield Folded(f"{name}: {len(charts) - MAX_OPEN} more thresholds", [Grid(charts[MAX_OPEN:], kind="small")])


def curve(scope: Scope, cut: Cut, others: str, thresholds: Sequence[float]) -> list[Row]:
    """Rows (edge, n_documents, n_tokens): what `others` and the cut's comparison with `edge` keep, `thresholds` in order."""
    column = quoted(cut.column)
    # Each document meets the last threshold that it passes; it passes all the ones before.
    order = "desc" if cut.keeps_above else "asc"
    return scope.rows(
        f"""with thresholds as (select unnest($1::double[]) as edge),
            met as (
                select t.edge, count(*) as n, sum({scope.n_tokens}) as n_tokens
                from (select * from {facts_table(scope)} where {column} is not null and ({others})) as f
                asof join thresholds as t on f.{column} {cut.operator} t.edge group by t.edge)
            select edge, coalesce(sum(n) over passed, 0)::bigint as n_documents,
                   coalesce(sum(n_tokens) over passed, 0)::bigint as n_tokens
            from thresholds left join met using (edge)
            window passed as (order by edge {order} rows between unbounded preceding and current row) order by edge""",
        list(thresholds),
    )


def _curves(scope: Scope, subset: Subset) -> Iterable[Chart]:
    for cut in subset.cuts:
        if cut.keeps_above is None or not math.isfinite(cut.value):
            continue
        one = measure(scope, cut.column)
        bins = choose_range(one) if one.n else None
        if bins is not None:
            yield _chart(scope, subset, cut, one, bins)


def _chart(scope: Scope, subset: Subset, cut: Cut, one: Measure, bins: Range) -> Chart:
    edges = {bins.edge(index) for index in range(bins.n_bins + 1)}
    others = other_clauses(scope, subset, cut)
    rows = curve(scope, cut, "true" if others is None else others, sorted(edges | {cut.value}))
    whole = scope.row(
        f"select count(*) as n_documents, coalesce(sum({scope.n_tokens}), 0)::bigint as n_tokens from {facts_table(scope)}"
    )
    (now,) = [row for row in rows if row["edge"] == cut.value]
    kept = [f"{now['n_documents']:,} documents ({share(now['n_documents'], whole['n_documents'])})"]
    if whole["n_tokens"]:
        kept.append(f"{now['n_tokens']:,} tokens ({share(now['n_tokens'], whole['n_tokens'])})")
    alone = "" if others is not None else " This comparison alone, for it stands in a clause with other conditions."
    note = f"At {number(cut.value)}: {', '.join(kept)}.{alone}"
    shown = [row for row in rows if bins.holds(row["edge"])]
    spec = _spec(shown, whole, bins, line_position(cut, one.whole), str(cut))
    return Chart(f"threshold-{subset.name}-{cut}", str(cut), spec, [note])


def other_clauses(scope: Scope, subset: Subset, cut: Cut) -> str | None:
    """SQL of everything in the predicate but this comparison; None where it is no clause by itself or with its like.

    A clause may hold several comparisons, as BETWEEN does. That it is nothing but those is seen on the documents.
    """
    columns = clause_columns(scope)
    holding = [clause for clause in subset.clauses if cut in cuts_in(scope.connection, clause, [cut.column])]
    if len(holding) != 1:
        return None
    beside = cuts_in(scope.connection, holding[0], scope.wide_columns.keys())
    written = " and ".join(_sql(other) for other in beside)
    differing = f"({written}) is true <> {columns[holding[0]]} is true"
    if scope.row(f"select count(*) as n from {facts_table(scope)} where {differing}")["n"]:
        return None
    rest = [f"{columns[clause]} is true" for clause in subset.clauses if clause != holding[0]]
    return " and ".join([*rest, *(_sql(other) for other in beside if other != cut)]) or "true"


def _sql(cut: Cut) -> str:
    return f"{quoted(cut.column)} {cut.operator} '{cut.value!r}'::double"


def _spec(rows: Sequence[Row], whole: Row, bins: Range, at: float, cut: str) -> dict[str, Any]:
    axis = value_axis(bins)
    data = [
        {"a": rounded(row["edge"]), "w": what, "p": round(100 * row[f"n_{what}"] / whole[f"n_{what}"], 2)}
        for what in _COLOURS if whole[f"n_{what}"] for row in rows
    ]  # fmt: skip
    percent = {"labelExpr": f"{NUMBER_LABELS} + ' %'", "tickCount": 3}
    lines = {
        "data": {"values": data},
        "transform": [{"calculate": "datum.w + ' that are kept'", "as": "label"}],
        "mark": {"type": "line"},
        "encoding": {
            "x": {**axis, "field": "a", "type": "quantitative"},
            "y": {"field": "p", "type": "quantitative", "title": None, "scale": {"zero": True}, "axis": percent},
            "color": {"field": "w", "type": "nominal", "legend": None,
                      "scale": {"domain": list(_COLOURS), "range": list(_COLOURS.values())}},
            "description": {"field": "label", "type": "nominal"},
        },
    }  # fmt: skip
    line = [line_layer(at, f"cut: {cut}", axis)] if bins.holds(at) else []
    return sized({"layer": [*line, lines]}, _HEIGHT)
