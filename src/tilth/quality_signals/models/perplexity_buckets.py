"""CCNet's buckets: the third of a language's documents that a model finds least surprising is the head, and so on.

`head` below the 30th percentile of the language's perplexities, `middle` below the 60th, else `tail`; `all` where a document
has no perplexity or its language no cutoffs (Wenzek et al., arXiv:1911.00359, and the code published with it).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tilth.errors import RecipeError, SourceError

HEAD, MIDDLE, TAIL, ALL = BUCKETS = ("head", "middle", "tail", "all")
Floats = npt.NDArray[np.float64]


class Cutoffs(NamedTuple):
    """Perplexities below `head` are head, below `tail` middle."""

    head: float
    tail: float


class PerplexityCounts:
    """All perplexities of a corpus by language, as distinct values and how often each occurs.

    Perplexities are rounded to one decimal, so distinct values are few, and percentiles are exact whatever the order in
    which documents come. Counts of parts of a corpus can be added.
    """

    def __init__(self) -> None:
        self._counts: dict[str, tuple[Floats, npt.NDArray[np.int64]]] = {}

    def add(self, languages: pa.Array | pa.ChunkedArray, perplexities: pa.Array | pa.ChunkedArray) -> None:
        """Count documents; those without a language or a perplexity are passed over."""
        table = pa.table({"language": languages, "perplexity": perplexities.cast(pa.float64())}).drop_null()
        found = table.group_by(["language", "perplexity"]).aggregate([([], "count_all")])
        for language in pc.unique(found.column("language")).to_pylist():
            rows = found.filter(pc.equal(found.column("language"), language))
            self._merge(language, rows.column("perplexity").to_numpy(), rows.column("count_all").to_numpy())

    def update(self, other: PerplexityCounts) -> None:
        """Add the counts of another part of the corpus."""
        for language, (values, counts) in other._counts.items():
            self._merge(language, values, counts)

    def cutoffs(self, head: float = 30, tail: float = 60) -> dict[str, Cutoffs]:
        """Percentiles of each language, interpolated linearly between neighbours as numpy.percentile does.

        Raises RecipeError unless 0 <= head <= tail <= 100.
        """
        if not 0 <= head <= tail <= 100:
            raise RecipeError("percentiles must ascend from 0 to 100", where=f"head={head}, tail={tail}")
        return {
            language: Cutoffs(*(_percentile(*self._counts[language], share) for share in (head, tail)))
            for language in sorted(self._counts)
        }

    def _merge(self, language: str, values: Floats, counts: npt.NDArray[np.int64]) -> None:
        if not np.isfinite(values).all():
            raise SourceError("a perplexity is not a finite number", where=language)
        known = self._counts.get(language, (np.zeros(0), np.zeros(0, np.int64)))
        distinct, places = np.unique(np.concatenate([known[0], values]), return_inverse=True)
        total = np.zeros(len(distinct), np.int64)
        np.add.at(total, places, np.concatenate([known[1], counts]))
        self._counts[language] = (distinct, total)


def assign_buckets(
    languages: pa.Array | pa.ChunkedArray, perplexities: pa.Array | pa.ChunkedArray, cutoffs: Mapping[str, Cutoffs]
) -> pa.Array:
    """The bucket of each document (string, never null)."""
    names = sorted(cutoffs)
    place = pc.index_in(languages, value_set=pa.array(names, pa.string()))
    heads, tails = (pa.array([cutoffs[name][side] for name in names], pa.float64()).take(_flat(place)) for side in (0, 1))
    values = _flat(perplexities).cast(pa.float64())
    chosen = pc.if_else(pc.less(values, heads), HEAD, pc.if_else(pc.less(values, tails), MIDDLE, TAIL))
    known = pc.and_(pc.is_valid(chosen), pc.greater_equal(values, 0.0))
    return pc.fill_null(pc.if_else(known, chosen, ALL), ALL)


def read_cutoffs(path: Path, head: float = 30, tail: float = 60) -> dict[str, Cutoffs]:
    """Read CCNet's cutoff.csv: a column for each language, a row for each percentile, which the first column names.

    Raises SourceError where the file or one of the two percentiles is not there, or a cell is not a number.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = [row for row in csv.reader(file) if row]
        lines = {float(row[0]): row[1:] for row in rows}
        low, high = lines[head], lines[tail]
        if len(set(header[1:])) < len(header) - 1 or not len(header) - 1 == len(low) == len(high):
            raise ValueError("rows and header do not have the same columns")
        found = {name: Cutoffs(float(a), float(b)) for name, a, b in zip(header[1:], low, high)}
    except KeyError as error:
        raise SourceError(f"there is no row for percentile {error.args[0]:g}", where=str(path)) from error
    except (OSError, ValueError, IndexError, csv.Error) as error:
        fix = "give a header `,en,de,...` and rows such as `30,340.2,370.1,...`"
        raise SourceError(f"the cutoffs cannot be read: {error}", where=str(path), fix=fix) from error
    if bad := [name for name, (a, b) in found.items() if not (math.isfinite(a) and math.isfinite(b) and a <= b)]:
        raise SourceError("cutoffs must be numbers that ascend", where=f"{path}: {', '.join(bad)}")
    return found


def write_cutoffs(cutoffs: Mapping[str, Cutoffs], path: Path, head: float = 30, tail: float = 60) -> None:
    """Write cutoffs in the format that `read_cutoffs` reads; numbers as Python writes them, so that they stay exact."""
    names = sorted(cutoffs)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["", *names])
        writer.writerow([f"{head:g}", *(repr(float(cutoffs[name].head)) for name in names)])
        if tail != head:
            writer.writerow([f"{tail:g}", *(repr(float(cutoffs[name].tail)) for name in names)])


def merge_counts(parts: Iterable[PerplexityCounts]) -> PerplexityCounts:
    """The counts of a corpus from those of its parts, in any order."""
    total = PerplexityCounts()
    for part in parts:
        total.update(part)
    return total


def _percentile(values: Floats, counts: npt.NDArray[np.int64], share: float) -> float:
    ends = np.cumsum(counts)
    rank = share / 100 * (int(ends[-1]) - 1)
    low, high = (float(values[np.searchsorted(ends, math.floor(place), side="right")]) for place in (rank, math.ceil(rank)))
    return low + (high - low) * (rank - math.floor(rank))


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
