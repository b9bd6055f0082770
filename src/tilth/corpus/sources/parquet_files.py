"""Parquet files, row group by row group; a row is a document, its other columns are its `meta`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from tilth.corpus.layouts import LAYOUTS, Layout, Place, RecordReader, choose_layout, detect_layout
from tilth.corpus.locations import FoundFile, files_of, find_files, group_files, open_raw, plan_files
from tilth.corpus.provenance.licences import declared_licence
from tilth.corpus.records import Document, Reject, Shard, fingerprint, printable
from tilth.corpus.registry import source
from tilth.errors import SourceError, did_you_mean

BATCH_BYTES = 16 << 20
MAX_BATCH_ROWS = 1024
BUFFER_BYTES = 1 << 20  # of a column that is read at a time, instead of a whole row group


@source
@dataclass(frozen=True)
class ParquetFiles:
    """`path` is a file, folder, pattern or URL. `layout` and the names of columns are as in JsonLines.

    `columns` are the columns that are read besides (all if None). A damaged row group is one reject that says how many
    rows it held; the others are read.
    """

    name: str
    path: str
    layout: str = "auto"
    text: str | None = None
    id: str | None = None
    url: str | None = None
    language: str | None = None
    columns: tuple[str, ...] | None = None
    max_bytes: int | None = None
    shard_bytes: int = 128 << 20
    licence: str | None = None

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("pyarrow",)

    def plan(self, digest: Callable[[Path], str] = fingerprint) -> list[Shard]:
        """Shards of whole files. Raises SourceError: nothing there, no such layout or licence."""
        choose_layout(self.layout, self._fields, self._where)
        params = {
            "layout": self.layout, "fields": self._fields, "columns": list(self.columns) if self.columns is not None else None,
            "licence": declared_licence(self.licence, where=self._where),
        }  # fmt: skip
        groups = group_files(find_files(self.path, self._where, (".parquet", ".parq", ".pq")), self.shard_bytes)
        return plan_files(self.name, groups, params, self.max_bytes, digest, self.path)

    @property
    def _where(self) -> str:
        return f"ParquetFiles {self.name}"

    @property
    def _fields(self) -> dict[str, str | None]:
        return {"text": self.text, "id": self.id, "url": self.url, "language": self.language}

    def read(self, shard: Shard) -> Iterator[Document | Reject]:
        """Yield a row for every row, a reject for every damage. Raises SourceError: unreadable, no such column."""
        layout = choose_layout(self.layout, self._fields, self._where)
        reader = RecordReader(self.name, "parquet", layout, shard.params["licence"])
        for file in files_of(shard, self._where):
            yield from read_parquet(file, reader, self.columns, self._where)


def read_parquet(
    file: FoundFile, reader: RecordReader, columns: tuple[str, ...] | None, where: str
) -> Iterator[Document | Reject]:
    """The rows of one file. Raises SourceError if it is unreadable or a column is missing."""
    import pyarrow.parquet as pq

    name = printable(file.name)
    with open_raw(file.location, where) as raw:
        try:
            table = pq.ParquetFile(raw, pre_buffer=False, buffer_size=BUFFER_BYTES)
            names = table.schema_arrow.names
        except (pa.ArrowException, OSError, ValueError) as error:
            yield Reject(name, "damaged", f"no Parquet file: {_first_line(error)}")
            return
        wanted = chosen_columns(names, reader.layout, columns, f"{where}: {name}")
        n_before = 0
        for group in range(table.num_row_groups):
            facts = table.metadata.row_group(group)
            n_done = 0
            try:
                n_rows = max(1, min(MAX_BATCH_ROWS, facts.num_rows * BATCH_BYTES // max(1, facts.total_byte_size)))
                for batch in table.iter_batches(n_rows, row_groups=[group], columns=wanted, use_threads=False):
                    yield from batch_rows(batch, name, n_before + n_done, reader)
                    n_done += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                n_lost = facts.num_rows - n_done
                yield Reject(
                    f"{name}:{n_before + n_done}", "damaged", f"{n_lost} rows of row group {group}: {_first_line(error)}"
                )
            n_before += facts.num_rows


def chosen_columns(names: list[str], layout: Layout | None, columns: Iterable[str] | None, where: str) -> list[str]:
    """The columns to read, in the order of the file. Raises SourceError if one that is asked for is missing."""
    used = layout or LAYOUTS[detect_layout(names)]
    for column in [used.text, *(columns or ())]:
        if column not in names:
            fix = f"text=... names the column of the text. {did_you_mean(column, names)}"
            raise SourceError(f"there is no column `{column}`", where=where, fix=fix)
    if columns is None:
        return names
    keep = {used.text, used.id, used.url, used.language, *used.nested, *columns}
    return [name for name in names if name in keep]


def batch_rows(batch: pa.RecordBatch, name: str, first: int, reader: RecordReader) -> Iterator[Document | Reject]:
    """The rows of a batch; `first` is the number of its first row in the file, from 0. Text that is not UTF-8 is a reject."""
    for i, record in enumerate(_records(batch)):
        location = f"{name}:{first + i}"
        if isinstance(record, UnicodeDecodeError):
            yield Reject(location, "decode", f"not UTF-8 at byte {record.start}")
        else:
            yield reader.row(record, Place(location, name, str(first + i), None, None))


def _records(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    try:
        yield from batch.to_pylist()
        return
    except UnicodeDecodeError:
        pass
    for i in range(batch.num_rows):
        try:
            yield batch.slice(i, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            yield error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
