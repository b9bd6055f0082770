"""Intervals of sequences: BED, and tables with a header that names the columns (as Genomic Benchmarks publishes its sets).

Places count from 0 and ends are not in the interval, in both.
Source: UCSC, "BED format"; samtools/hts-specs, BEDv1.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tilth.corpus.formats.compressed import Gap
from tilth.corpus.formats.content import Cut, lines

BED_COLUMNS = (
    "name", "score", "strand", "thick_start", "thick_end", "item_rgb", "block_count", "block_sizes", "block_starts",
)  # fmt: skip
SEQUENCE_COLUMNS = ("region", "chrom", "chr", "chromosome", "sequence", "seqname")
MAX_LINE_BYTES = 1 << 20
_NUMBER = re.compile(r"[0-9]{1,15}")
STRANDS = {"+": "+", "-": "-", ".": ".", "": "."}


class Interval(NamedTuple):
    """Letters `start` to `end` of a sequence; `columns` are those behind these three, by name."""

    line: int
    sequence: str
    start: int
    end: int
    strand: str  # "+", "-", or "." where it has none
    columns: Mapping[str, str]


class NoInterval(NamedTuple):
    """A line that is none; `reason` is a word for rejects/1."""

    line: int
    reason: str
    detail: str


def bed_intervals(parts: Iterable[bytes | Gap], columns: Sequence[str]) -> Iterator[Interval | NoInterval]:
    """The rows of BED: `columns` name what follows on sequence, start and end. Comments, `track` and `browser` lines are none."""
    for number, text in _texts(parts):
        if isinstance(text, NoInterval):
            yield text
        elif text.strip() and not text.startswith(("#", "track ", "browser ")):
            cells = text.split("\t") if "\t" in text else text.split()
            if len(cells) < 3:
                yield NoInterval(number, "invalid_bed", f"{len(cells)} columns, at least 3: sequence, start, end")
                continue
            yield _interval(number, cells[0], cells[1], cells[2], dict(zip(columns, cells[3:])))


def table_intervals(parts: Iterable[bytes | Gap], separator: str) -> Iterator[Interval | NoInterval]:
    """The rows of a table whose header names the sequence (region, chrom, ...), start, end and, where there is one, strand."""
    header: list[str] | None = None
    for number, text in _texts(parts):
        if isinstance(text, NoInterval):
            yield text
            continue
        cells = next(csv.reader([text], delimiter=separator), [])
        if not cells:
            continue
        if header is None:
            header = [cell.strip().lower() for cell in cells]
            of = next((name for name in SEQUENCE_COLUMNS if name in header), None)
            if of is None or not {"start", "end"} <= {*header}:
                yield NoInterval(number, "invalid_table", f"no columns region, start, end among {', '.join(header)[:200]}")
                return
        elif len(cells) != len(header):
            yield NoInterval(number, "wrong_width", f"{len(cells)} cells, {len(header)} columns")
        else:
            row = dict(zip(header, cells, strict=True))
            assert of is not None
            yield _interval(number, row.pop(of), row.pop("start"), row.pop("end"), row)


def _interval(number: int, sequence: str, start: str, end: str, columns: dict[str, str]) -> Interval | NoInterval:
    strand = columns.pop("strand", ".").strip()
    first, last = (int(value) if _NUMBER.fullmatch(value.strip()) else -1 for value in (start, end))
    if first < 0 or last < first or strand not in STRANDS:
        return NoInterval(number, "invalid_bed", f"start `{start}`, end `{end}`, strand `{strand}`"[:200])
    columns = {name: value for name, value in columns.items() if value != ""}
    return Interval(number, sequence.strip(), first, last, STRANDS[strand], columns)


def _texts(parts: Iterable[bytes | Gap]) -> Iterator[tuple[int, str | NoInterval]]:
    for line in lines(parts, MAX_LINE_BYTES):
        if isinstance(line, Cut):
            yield line.number, NoInterval(line.number, line.reason, line.detail)
        elif line.data is None:
            yield line.number, NoInterval(line.number, "too_large", f"a line of {line.size_bytes} bytes")
        else:
            yield line.number, line.data.rstrip(b"\r").decode("utf-8", "surrogateescape").removeprefix("\ufeff")
