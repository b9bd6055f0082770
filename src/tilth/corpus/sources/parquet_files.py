"""Parquet files, row group by row group; a row is a document, its other columns are its `meta`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

import pyarrow as pa

from tilth.corpus.attempts import MAX_SECONDS, Refused, attempt
from tilth.corpus.formats import parquet_pages
from tilth.corpus.formats.content import LIMITS
from tilth.corpus.formats.parquet_pages import RowGroup, footer_bytes, pages
from tilth.corpus.layouts import LAYOUTS, Layout, Place, RecordReader, detect_layout
from tilth.corpus.locations import FoundFile, open_raw
from tilth.corpus.record_files import RecordFiles
from tilth.corpus.records import Document, Reject, Shard, printable
from tilth.corpus.registry import source
from tilth.errors import SourceError, did_you_mean

BATCH_BYTES = 16 << 20
MAX_BATCH_ROWS = 1024
MAX_BATCH_BYTES = 256 << 20  # each row of a dictionary may be its longest value
MAX_PAGE_BYTES = 256 << 20  # of one page of every column together: they are unpacked whole
MAX_ROW_BYTES = 32 << 20
BUFFER_BYTES = 1 << 20  # of a column that is read at a time, instead of a whole row group


@source
@dataclass(frozen=True, kw_only=True)
class ParquetFiles(RecordFiles):
    """`path` is a file, folder, pattern or URL. `layout` and the names of columns are as in JsonLines.

    `columns` are the columns that are read besides (all if None). A row group that is damaged, or whose pages unpack to more
    than `max_page_bytes`, is one reject that says how many rows it held; the others are read.
    """

    columns: tuple[str, ...] | None = None
    max_row_bytes: int = MAX_ROW_BYTES
    max_page_bytes: int = MAX_PAGE_BYTES

    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = ("pyarrow",)
    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".parq", ".pq")
    kind: ClassVar[str] = "parquet"

    def params(self) -> dict[str, Any]:
        """Raises SourceError for an unknown layout."""
        limits = {"max_row_bytes": self.max_row_bytes, "max_page_bytes": self.max_page_bytes}
        return {**super().params(), "columns": list(self.columns) if self.columns is not None else None, **limits}

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """A row for every row, a reject for every damage. Raises SourceError: unreadable, no such column."""
        (file,) = unit
        yield from read_parquet(file, self.reader(shard), self.columns, self.where, self.max_row_bytes, self.max_page_bytes)


def read_parquet(
    file: FoundFile, reader: RecordReader, columns: tuple[str, ...] | None, where: str,
    max_row_bytes: int = MAX_ROW_BYTES, max_page_bytes: int = MAX_PAGE_BYTES,
) -> Iterator[Document | Reject]:  # fmt: skip
    """The rows of one file. Raises SourceError if it is unreadable or a column is missing."""
    import pyarrow.parquet as pq

    name = printable(file.name)
    with open_raw(file.location, where) as raw:
        try:
            groups = attempt(f"{parquet_pages.__name__}:read_footer", footer_bytes(raw), max_seconds=MAX_SECONDS)
            if not isinstance(groups, list):
                raise ValueError(groups.detail if isinstance(groups, Refused) else groups)
            raw.seek(0)
            table = pq.ParquetFile(raw, pre_buffer=False, buffer_size=BUFFER_BYTES)
            names = table.schema_arrow.names
        except (pa.ArrowException, OSError, ValueError) as error:
            yield Reject(name, "damaged", f"no Parquet file: {_first_line(error)}")
            return
        wanted = chosen_columns(names, reader.layout, columns, f"{where}: {name}")
        n_before = n_out = 0
        most = LIMITS.free_bytes + LIMITS.max_ratio * file.size_bytes
        for i, group in enumerate(groups):
            n_done = 0
            try:
                n_rows = _batch_rows(raw, group, set(wanted), max_page_bytes)
                for found in table.iter_batches(n_rows, row_groups=[i], columns=wanted, use_threads=False):
                    batch = _plain(found)
                    n_out += batch.nbytes
                    if n_out > most:
                        raise _TooLargeError(f"{n_out} bytes unpacked from a file of {file.size_bytes}")
                    yield from batch_rows(batch, name, n_before + n_done, reader, max_row_bytes)
                    n_done += batch.num_rows
            except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
                reason = "too_large" if isinstance(error, _TooLargeError) else "damaged"
                what = f"{group.n_rows - n_done} rows of row group {i}: {_first_line(error)}"
                yield Reject(f"{name}:{n_before + n_done}", reason, what)
            n_before += group.n_rows


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch without dictionaries, so that its bytes are those of its rows."""
    coded = any(pa.types.is_dictionary(column.type) for column in batch.columns)
    columns = [column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names) if coded else batch


class _TooLargeError(ValueError):
    """Pages that would not fit in memory."""


def _batch_rows(file: BinaryIO, group: RowGroup, wanted: set[str], max_page_bytes: int) -> int:
    """How many rows of a group may be unpacked together. Raises ValueError: damaged pages, or too large ones."""
    largest = dictionary = 0
    for chunk in group.chunks:
        if wanted.isdisjoint((chunk.column, chunk.column.partition(".")[0])):
            continue
        found = list(pages(file, chunk))
        largest += max((page.n_bytes for page in found), default=0)
        dictionary += max((page.n_bytes for page in found if page.is_dictionary), default=0)
    if largest > max_page_bytes:
        raise _TooLargeError(f"pages of {largest} bytes, at most {max_page_bytes}")
    by_size = group.n_rows * BATCH_BYTES // max(1, group.n_bytes)
    return max(1, min(MAX_BATCH_ROWS, by_size, MAX_BATCH_BYTES // max(1, dictionary)))


def chosen_columns(names: list[str], layout: Layout | None, columns: Iterable[str] | None, where: str) -> list[str]:
    """The columns to read, in the order of the file. Raises SourceError if one that is asked for is missing."""
    used = layout or LAYOUTS[detect_layout(names)]
    for column in [used.text, *(columns or ())]:
        if column not in names:
            shown = ["".join(filter(str.isprintable, name[:60])) for name in names[:200]]
            fix = f"text=... names the column of the text. {did_you_mean(column, shown)}"
            raise SourceError(f"there is no column `{column}`", where=where, fix=fix)
    if columns is None:
        return names
    keep = {used.text, used.id, used.url, used.language, *used.nested, *columns}
    return [name for name in names if name in keep]


def batch_rows(
    batch: pa.RecordBatch, name: str, first: int, reader: RecordReader, max_row_bytes: int = MAX_ROW_BYTES
) -> Iterator[Document | Reject]:  # fmt: skip
    """The rows of a batch; `first` is the number of its first row in the file, from 0. Rejects: decode, too_large."""
    for i, record in enumerate(_records(batch, max_row_bytes)):
        location = f"{name}:{first + i}"
        if isinstance(record, UnicodeDecodeError):
            yield Reject(location, "decode", f"not UTF-8 at byte {record.start}")
        elif isinstance(record, int):
            yield Reject(location, "too_large", f"{record} bytes, at most {max_row_bytes}")
        else:
            yield reader.row(record, Place(location, name, str(first + i), None, None))


def _records(batch: pa.RecordBatch, max_row_bytes: int) -> Iterator[dict[str, Any] | UnicodeDecodeError | int]:
    """Each row; where there is none, what is wrong with its text, or how many bytes it has."""
    if batch.nbytes <= max_row_bytes:
        try:
            yield from batch.to_pylist()
            return
        except UnicodeDecodeError:
            pass
    for i in range(batch.num_rows):
        row = batch.slice(i, 1)
        if row.nbytes > max_row_bytes:
            yield int(row.nbytes)
            continue
        try:
            yield row.to_pylist()[0]
        except UnicodeDecodeError as error:
            yield error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
