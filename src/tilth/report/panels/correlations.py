"""Which signals say the same: rank correlations of the numeric ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from tilth.report.blocks import Block, Cell, Chart, Note, Table
from tilth.report.charts import SPOKEN, sized
from tilth.report.facts import facts_table, families, measured_columns
from tilth.report.registry import panel
from tilth.report.scope import AbsentError, Scope, quoted
from tilth.report.theme import SOURCE_COLOURS

MAX_SIGNALS = 30
MAX_DOCUMENTS = 100_000  # of a larger corpus, those with the smallest hashes of their place
_ROW_HEIGHT = 15
_PAIRS = 25
_ALIKE, _OPPOSITE = SOURCE_COLOURS[:2]


@panel("Signals that say the same", order=38)
def draw(scope: Scope) -> Iterable[Block]:
    """Spearman's rank correlation: 1 where two signals order the documents alike, -1 where the other way round. A cut on
    one of a pair near either says little that the other does not."""
    scope.need_corpus()
    columns = chosen_signals(scope)
    if len(columns) < 2:
        raise AbsentError("Fewer than two signals vary in this corpus.")
    pairs = correlations(scope, columns)
    legend = [("the same order", _ALIKE), ("the opposite order", _OPPOSITE)]
    yield Chart("correlations", "Spearman's rank correlation", _heat_map(columns, pairs), legend=legend)
    if len(columns) == MAX_SIGNALS:
        rule = "those that a subset cuts, then of every family in turn the one with the most distinct values"
        yield Note(f"{MAX_SIGNALS} signals: {rule}.")
    (n,) = scope.row(f"select count(*) as n from {facts_table(scope)}").values()
    if n > MAX_DOCUMENTS:
        yield Note(f"Over {MAX_DOCUMENTS:,} of {n:,} documents, chosen by a hash of their place.")
    yield _table(pairs)


def chosen_signals(scope: Scope) -> list[str]:
    """At most MAX_SIGNALS that vary: those that a subset cuts, then from each family in turn the most varied one left."""
    columns = measured_columns(scope)
    if not columns:
        return []
    distinct = ", ".join(f"approx_count_distinct({quoted(column)})" for column in columns)
    row = scope.row(f"select [{distinct}] as n from {facts_table(scope)}")
    varied = {column: n for column, n in zip(columns, row["n"], strict=True) if n > 1}
    cut = [column for column in columns if column in varied and any(c.column == column for s in scope.subsets for c in s.cuts)]
    family_of = families(scope)
    ranked: list[tuple[int, int, str]] = []
    of_family: dict[str, int] = {}
    for column in sorted(varied.keys() - set(cut), key=lambda name: (-varied[name], columns.index(name))):
        family = family_of.get(column, "")
        of_family[family] = turn = of_family.get(family, 0) + 1
        ranked.append((turn, columns.index(column), column))
    chosen = [*cut, *(column for _, _, column in sorted(ranked))][:MAX_SIGNALS]
    return sorted(chosen, key=lambda name: (family_of.get(name, ""), columns.index(name)))


def correlations(scope: Scope, columns: Sequence[str]) -> list[tuple[str, str, float]]:
    """(signal, other, rho) for each pair of columns where it is defined.

    Ties share their mean rank. Ranks are taken over the documents for which a signal is defined, and a pair is compared
    where both are.
    """
    ranks = ", ".join(
        f"""case when {name} is not null then rank() over (partition by {name} is null order by {name})
            + (count(*) over (partition by {name}) - 1) / 2 end as r{place}"""
        for place, name in enumerate(map(quoted, columns))
    )
    pairs = [(i, j) for i in range(len(columns)) for j in range(i)]
    corrs = ", ".join(f"corr(r{i}, r{j})" for i, j in pairs)
    row = scope.row(
        f"""with taken as (
                select * from {facts_table(scope)} order by md5(shard || ':' || row), shard, row limit {MAX_DOCUMENTS}),
            ranked as (select {ranks} from taken)
            select list_transform([{corrs}], lambda r: case when isfinite(r) then r end) as rho from ranked"""
    )
    return [(columns[i], columns[j], rho) for (i, j), rho in zip(pairs, row["rho"], strict=True) if rho is not None]


def _heat_map(columns: Sequence[str], pairs: Sequence[tuple[str, str, float]]) -> dict[str, Any]:
    place = {column: number for number, column in enumerate(columns)}
    names = json.dumps(list(columns))
    data = [
        {"a": a, "b": b, "r": round(rho, 3)}
        for one, other, rho in pairs for a, b in ((place[one], place[other]), (place[other], place[one]))
    ]  # fmt: skip
    label = f"{names}[datum.a] + ', ' + {names}[datum.b] + ': ' + format(datum.r, '.3f')"
    numbered = f"(datum.value + 1) + ' ' + {names}[datum.value]"
    worked_out = {"size": "abs(datum.r)", "sign": "datum.r < 0 ? '-' : '+'", "label": label}
    numbers = {"sort": list(place.values()), "title": None}
    # The colour says the sign, how much of it there is says the size: both are CSS's, so that they suit dark mode.
    colours = {"domain": ["+", "-"], "range": [_ALIKE, _OPPOSITE]}
    spec = {
        "data": {"values": data},
        "transform": [{"calculate": expression, "as": field} for field, expression in worked_out.items()],
        "mark": {"type": "rect"},
        "encoding": {
            "x": {**numbers, "field": "b", "type": "ordinal",
                  "axis": {"labelExpr": "datum.value + 1", "labelAngle": 0, "orient": "top", "grid": False}},
            "y": {**numbers, "field": "a", "type": "ordinal",
                  "axis": {"labelExpr": numbered, "labelLimit": 240, "labelOverlap": False}},
            "color": {"field": "sign", "type": "nominal", "legend": None, "scale": colours},
            "opacity": {"field": "size", "type": "quantitative", "legend": None, "scale": {"domain": [0, 1], "range": [0, 1]}},
            **SPOKEN,
        },
    }  # fmt: skip
    return sized(spec, _ROW_HEIGHT * len(columns))


def _table(pairs: Sequence[tuple[str, str, float]]) -> Table:
    strongest = sorted(pairs, key=lambda pair: (-abs(pair[2]), pair[:2]))[:_PAIRS]
    body: list[list[Cell | str]] = [
        [one, other, Cell(rho, f"{rho:.3f}", f"correlation/{one}/{other}")] for one, other, rho in strongest
    ]
    return Table(["signal", "and", "rank correlation"], body, caption=f"The {len(body)} strongest pairs", folded=True)
