"""The spans of a token set on disk (token_spans/1): written as the tokens are, found by a token's place without reading all."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tilth.contracts import TOKEN_SPANS, check, uuid_array
from tilth.errors import ContractError, NotFoundError

FILE = "spans.parquet"
_ROWS_A_GROUP = 8_192  # what one look-up reads


class TokenSpan(NamedTuple):
    """A row of token_spans/1; places of tokens count from the beginning of what it belongs to."""

    token_start: int
    token_end: int
    kind: str
    part: str | None = None
    doc_id: bytes | None = None
    shard: str | None = None
    row: int | None = None
    start: int | None = None
    end: int | None = None
    source_start: int | None = None
    source_end: int | None = None

    def moved(self, by: int) -> TokenSpan:
        """The same span, `by` tokens later."""
        return self._replace(token_start=self.token_start + by, token_end=self.token_end + by)


class SpanWriter:
    """Writes spans in the order of their tokens, which they must tile. A file without spans still has its schema."""

    def __init__(self, folder: Path) -> None:
        self.path, self._rows, self._next = folder / FILE, list[TokenSpan](), 0

    def __enter__(self) -> SpanWriter:
        self._file = pq.ParquetWriter(self.path, TOKEN_SPANS.schema, compression="zstd")
        return self

    def write(self, spans: Iterable[TokenSpan]) -> None:
        """Append `spans`. Raises ContractError where one does not follow on the one before."""
        for span in spans:
            if span.token_start != self._next or span.token_end <= span.token_start:
                raise ContractError(
                    f"a span of tokens from {span.token_start} to {span.token_end} follows {self._next}", str(self.path)
                )
            self._next = span.token_end
            self._rows.append(span)
            if len(self._rows) == _ROWS_A_GROUP:
                self._flush()

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True) if self._rows else [()] * len(TOKEN_SPANS.schema)
        arrays = [
            uuid_array(list(values)) if field.name == "doc_id" else pa.array(values, field.type)
            for field, values in zip(TOKEN_SPANS.schema, columns, strict=True)
        ]
        batch = pa.record_batch(arrays, schema=TOKEN_SPANS.schema)
        check(batch, TOKEN_SPANS)
        self._file.write_batch(batch)
        self._rows.clear()

    def __exit__(self, *error: object) -> None:
        if error[0] is None and (self._rows or not self._next):
            self._flush()
        self._file.close()


class SpanIndex:
    """The spans of a token set, a row group at a time. Raises ContractError for a file that is not what was promised."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        try:
            self._file = pq.ParquetFile(self.path, pre_buffer=False)
        except (OSError, pa.ArrowException) as error:
            raise ContractError(f"{FILE} cannot be read: {error}", where=str(folder)) from error
        groups = [self._file.metadata.row_group(group) for group in range(self._file.num_row_groups)]
        self._firsts = np.array([group.column(0).statistics.min for group in groups if group.num_rows], np.int64)
        self._group = lru_cache(maxsize=64)(self._read_group)

    def at(self, token: int) -> TokenSpan:
        """The span that holds `token`. Raises NotFoundError."""
        group = int(np.searchsorted(self._firsts, token, side="right")) - 1
        if group >= 0:
            table, starts = self._group(group)
            place = int(np.searchsorted(starts, token, side="right")) - 1
            row: dict[str, Any] = table.slice(place, 1).to_pylist()[0]
            if token < row["token_end"]:
                doc_id = row["doc_id"]
                return TokenSpan(**{**row, "doc_id": doc_id.bytes if doc_id is not None else None})
        raise NotFoundError(f"there is no token {token}", where=str(self.path))

    def _read_group(self, group: int) -> tuple[pa.Table, np.ndarray]:
        table = self._file.read_row_group(group, use_threads=False)  # so little that handing it to threads costs more
        return table, table.column("token_start").to_numpy()
