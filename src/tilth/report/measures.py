"""Signals as histograms: ranges that outliers do not stretch, bins counted in SQL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tilth.report.cuts import Cut
from tilth.report.facts import facts_table
from tilth.report.scope import Row, Scope, quoted

N_BINS = 26
MAX_SOURCES = 8
OTHER = "other sources"
_LOG_RATIO = 200  # from the 1st to the 99th percentile: beyond it, equal steps would show one bar


@dataclass(frozen=True)
class Measure:
    """What SQL says about one numeric column of the corpus. Undefined: null, NaN or infinite."""

    column: str
    whole: bool  # an integer type
    n: int
    n_undefined: int
    minimum: float
    low: float  # 1st percentile
    median: float
    high: float  # 99th percentile
    maximum: float
    cuts: tuple[tuple[str, Cut], ...]  # (subset, cut)


@dataclass(frozen=True)
class Range:
    """Where the bins of a histogram lie; `start` and `width` are of the logarithm where `log`."""

    start: float
    width: float
    n_bins: int
    log: bool = False
    whole: bool = False

    def edge(self, index: int) -> float:
        """Left edge of a bin, in the column's own unit."""
        at = self.start + index * self.width
        return math.exp(at) if self.log else at

    @property
    def last(self) -> float:
        """The largest value that is still in the last bin, in the unit of `start`."""
        end = self.start + self.width * self.n_bins
        # Bins of whole numbers end before the next one; others are closed, with room for rounding.
        return end - 0.5 if self.whole else end + 1e-9 * abs(self.width)

    @property
    def ends(self) -> tuple[float, float]:
        """The first and the last edge."""
        return self.edge(0), self.edge(self.n_bins)

    def holds(self, at: float) -> bool:
        """Whether a line at this value is in the picture, give or take a rounding."""
        low, high = self.ends
        room = 1e-9 * (high - low)
        return low - room <= at <= high + room

    @property
    def ticks(self) -> list[float] | None:
        """Round values for a logarithmic axis, where Vega would label too many; None leaves them to Vega."""
        if not self.log:
            return None
        low, high = self.ends
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for steps in ((1,), (1, 3), (1, 2, 5)):
            found = [step * 10.0**power for power in powers for step in steps if self.holds(step * 10.0**power)]
            if len(found) > 2:
                break
        return found


def measure(scope: Scope, column: str) -> Measure:
    """Quantiles and counts of one column."""
    name = quoted(column)
    row = scope.row(
        f"""select count({name}) as n, count(*) - count({name}) as n_undefined,
                   coalesce(quantile_cont({name}, [0, 0.01, 0.5, 0.99, 1]), [0, 0, 0, 0, 0]) as q from {facts_table(scope)}"""
    )
    cuts = tuple((subset.name, cut) for subset in scope.subsets for cut in subset.cuts if cut.column == column)
    whole = "INT" in scope.wide_columns[column] and not scope.wide_columns[column].endswith("[]")
    minimum, low, median, high, maximum = row["q"]
    return Measure(column, whole, row["n"], row["n_undefined"], minimum, low, median, high, maximum, cuts)


def choose_range(measure: Measure) -> Range | None:
    """The 1st to the 99th percentile, widened to a cut that is not far off; None where all values are equal."""
    low, high = measure.low, measure.high
    if low == high:
        low, high = measure.minimum, measure.maximum
    if low == high:
        return None
    log = low > 0 and high / low > _LOG_RATIO
    reach = math.inf if log else high - low
    for _, cut in measure.cuts:
        at = line_position(cut, measure.whole)
        inside = measure.minimum <= at <= measure.maximum and (at > 0 or not log)
        if inside and low - reach <= at <= high + reach:
            low, high = min(low, at), max(high, at)
    if log:
        return Range(math.log(low), (math.log(high) - math.log(low)) / N_BINS, N_BINS, log=True)
    if measure.whole:
        width = math.ceil((math.floor(high) - math.floor(low) + 1) / N_BINS)
        return Range(math.floor(low), width, math.ceil((math.floor(high) - math.floor(low) + 1) / width), whole=True)
    return Range(low, (high - low) / N_BINS, N_BINS)


def histogram(scope: Scope, measure: Measure, bins: Range, sources: Sequence[str]) -> list[Row]:
    """Rows (source, bin, n, share of the source's fullest bin); bins without documents have no row."""
    return scope.rows(
        f"""with valued as (
                select case when list_contains($4, source) then source else '{OTHER}' end as source, {_binned(measure, bins)} as v
                from {facts_table(scope)}),
            counted as (
                select source, least(floor((v - $1) / $2)::int, $3 - 1) as bin, count(*) as n
                from valued where v >= $1 and v <= $5 group by all)
            select source, bin, n, n / max(n) over (partition by source) as share from counted order by source, bin""",
        bins.start,
        bins.width,
        bins.n_bins,
        list(sources),
        bins.last,
    )


def tails(scope: Scope, measure: Measure, bins: Range) -> Row:
    """How many documents lie below and above the bins."""
    # Without a logarithm means zero or less: below.
    return scope.row(
        f"""select count(*) filter (coalesce(v < $1, true)) as below, count(*) filter (v > $2) as above
            from (select {_binned(measure, bins)} as v from {facts_table(scope)} where {quoted(measure.column)} is not null)""",
        bins.start,
        bins.last,
    )


def effect(scope: Scope, cut: Cut) -> Row:
    """What the cut alone does: documents (and their tokens) that pass it, fail it, or are undefined."""
    column = quoted(cut.column)
    tokens = f"sum(n_tokens) filter ({column} {cut.operator} $1)" if "n_tokens" in scope.wide_columns else "null"
    return scope.row(
        f"""select count(*) filter ({column} {cut.operator} $1) as n_pass,
                   count(*) filter (not {column} {cut.operator} $1) as n_fail,
                   count(*) filter ({column} is null) as n_undefined, cast({tokens} as bigint) as n_tokens_pass
            from {facts_table(scope)}""",
        cut.value,
    )


def line_position(cut: Cut, whole: bool) -> float:
    """Where to draw the cut: between the last whole number that is dropped and the first that is kept."""
    if not whole:
        return cut.value
    return float(math.floor(cut.value) + 1 if cut.operator in (">", "<=") else math.ceil(cut.value))


def _binned(measure: Measure, bins: Range) -> str:
    column = quoted(measure.column)
    return f"ln(case when {column} > 0 then {column} end)" if bins.log else column
