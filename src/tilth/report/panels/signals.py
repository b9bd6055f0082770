"""Every signal by source: numbers as histograms with what each subset cuts off, words as shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tilth.catalog.quoting import literal
from tilth.report.blocks import Block, Cell, Chart, Folded, Grid, Heading, Note, Table
from tilth.report.facts import facts_table, families, measured_columns, signal_columns
from tilth.report.histograms import histogram_chart, rounded
from tilth.report.measures import MAX_SOURCES, Measure, choose_range, measure
from tilth.report.numbers import number
from tilth.report.registry import panel
from tilth.report.scope import AbsentError, Scope, is_numeric, quoted
from tilth.report.shares import share_chart, worded_columns

MAX_OPEN = 12  # charts that no subset cuts; if there are more, each family is folded
_SIZES = "sizes"


@panel("Signals and cuts", order=30)
def draw(scope: Scope) -> Iterable[Block]:
    """One row a source, each drawn to the height of its own fullest bin, so that a small source can be compared with
    a large one. The dashed line is the subset's cut; the shaded side is what it leaves out."""
    scope.need_corpus()
    measures = [measure(scope, column) for column in measured_columns(scope)]
    words = worded_columns(scope)
    if not measures and not words:
        raise AbsentError("No signals have been computed for this corpus.")
    charts = {one.column: chart for one in measures if (chart := _chart(scope, one)) is not None}
    cut = [charts[one.column] for one in measures if one.cuts and one.column in charts]
    if cut:
        yield Grid(cut, kind="small")
    rest: dict[str, list[Chart]] = {}
    family_of = families(scope)
    for one in measures:
        if not one.cuts and one.column in charts:
            rest.setdefault(family_of.get(one.column, _SIZES), []).append(charts[one.column])
    for column in words:
        rest.setdefault(family_of.get(column, "others"), []).append(share_chart(scope, column))
    yield from _by_family(rest)
    flat = [one for one in measures if one.column not in charts]
    if flat:
        values = ", ".join(f"{one.column} ({number(one.median) if one.n else 'undefined'})" for one in flat)
        yield Note(f"Without a spread: {values}.")
    if len(scope.sources) > MAX_SOURCES:
        yield Note(f"Histograms show the {MAX_SOURCES} largest sources and the others together; the medians are of every source.")
    yield _table(measures, family_of)
    yield _medians(scope, measures)
    yield from _reasons(scope)


def _chart(scope: Scope, one: Measure) -> Chart | None:
    bins = choose_range(one) if one.n else None
    return None if bins is None else histogram_chart(scope, one, bins, one.column + _of_list(scope, one.column))


def _of_list(scope: Scope, column: str) -> str:
    """What of a list is drawn, in words; empty for a signal that is one number."""
    kind = signal_columns(scope).get(column, "")
    if not kind.endswith("[]"):
        return ""
    entry = kind.removesuffix("[]")
    if not is_numeric(entry) and entry != "BOOLEAN":
        return ": entries in a document"
    return ": mean over the document's lines" if column.startswith("rps_lines_") else ": mean of the document's entries"


def _by_family(charts: dict[str, list[Chart]]) -> Iterable[Block]:
    folded = sum(map(len, charts.values())) > MAX_OPEN
    for family, group in charts.items():
        if folded:
            names = ", ".join(chart.name.removeprefix("signal-") for chart in group)
            yield Folded(f"{family} ({len(group)}): {names}", [Grid(group, kind="small")])
        else:
            yield Heading(family)
            yield Grid(group, kind="small")


def _table(measures: Sequence[Measure], family_of: dict[str, str]) -> Table:
    columns = ["signal", "family", "defined", "undefined", "smallest", "1st percentile", "median", "99th percentile", "largest"]
    rows: list[list[Cell | str]] = [
        [
            one.column,
            family_of.get(one.column, "–"),
            *(Cell(value) for value in (one.n, one.n_undefined)),
            *(Cell(rounded(value) if one.n else None) for value in (one.minimum, one.low, one.median, one.high, one.maximum)),
        ]
        for one in measures
    ]
    return Table(columns, rows, caption=f"All {len(measures)} signals in numbers", folded=True)


def _medians(scope: Scope, measures: Sequence[Measure]) -> Table:
    medians = ", ".join(f"median({quoted(one.column)})" for one in measures)
    found = {
        row["source"]: row["medians"]
        for row in scope.rows(f"select source, [{medians}]::double[] as medians from {facts_table(scope)} group by source")
    }
    sources = [source for source in scope.sources if source in found]
    rows: list[list[Cell | str]] = [
        [one.column, *(_median(found[source][place], one.column, source) for source in sources)]
        for place, one in enumerate(measures)
    ]
    return Table(["signal", *sources], rows, caption="Median of each signal by source", folded=True)


def _median(value: float | None, column: str, source: str) -> Cell:
    return Cell(None if value is None else rounded(value), name=f"median/{column}/{source}")


def _reasons(scope: Scope) -> Iterable[Block]:
    reasons = [name for name in scope.columns("signals", scope.relation) if name.endswith("_undefined")]
    if not reasons:
        return
    counts = " union all ".join(
        f"select {literal(name.removesuffix('_undefined'))} as family, {quoted(name)} as reason, source from {facts_table(scope)}"
        for name in reasons
    )
    rows = scope.rows(
        f"""select family, reason, count(*) as n, count(distinct source) as n_sources from ({counts})
            where reason is not null group by family, reason order by n desc, family, reason limit 100"""
    )
    if rows:
        body = [[row["family"], row["reason"], Cell(row["n"]), Cell(row["n_sources"])] for row in rows]
        yield Table(["family", "reason", "documents", "sources"], body, caption="Why signals are undefined", folded=True)
