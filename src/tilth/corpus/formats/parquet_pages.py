"""How large the pages of a Parquet file are unpacked, by their headers alone: the footer does not say, and readers believe them.

Headers are in Thrift's compact protocol (apache/parquet-format: parquet.thrift; apache/thrift: thrift-compact-protocol.md).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

HEAD_BYTES = 1 << 14  # of a header; statistics of long values are what can make one longer
MAX_HEAD_BYTES = 1 << 24
MAX_FOOTER_BYTES = 64 << 20
MAX_PAGES = 100_000  # of a column in a row group; writers make pages of 8 KB and more
MAX_OFFSET = 1 << 60
MAX_DEPTH = 16
DICTIONARY_PAGE = 2
BOOLEANS, DOUBLE, BINARY, SEQUENCES, MAP, STRUCT = (1, 2), 7, 8, (9, 10), 11, 12
VARINTS = (4, 5, 6)


class Chunk(NamedTuple):
    """The pages of a column in a row group: where they begin, and their bytes as they are packed."""

    column: str
    offset: int
    n_bytes: int


class RowGroup(NamedTuple):
    """What the footer says of a row group."""

    n_rows: int
    n_bytes: int  # encoded, not packed
    chunks: list[Chunk]


class Page(NamedTuple):
    """A page: where it begins, and its size unpacked."""

    offset: int
    is_dictionary: bool
    n_bytes: int


def footer_bytes(file: BinaryIO) -> bytes:
    """The footer with its length and magic. Raises ValueError where there is none, or a longer one than any real."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 8))
    tail = file.read(8)
    n_bytes = int.from_bytes(tail[:4], "little") + 8
    if tail[4:] != b"PAR1" or n_bytes > size:
        raise ValueError("it does not end as one")
    if n_bytes > MAX_FOOTER_BYTES:
        raise ValueError(f"a footer of {n_bytes} bytes, at most {MAX_FOOTER_BYTES}")
    file.seek(size - n_bytes)
    return file.read(n_bytes)


def read_footer(data: bytes) -> list[RowGroup] | str:
    """The row groups of a footer, or why there are none. For a process of its own: damaged statistics end that of pyarrow 26."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        facts = pq.read_metadata(io.BytesIO(b"PAR1" + data))
        groups = [facts.row_group(i) for i in range(facts.num_row_groups)]
        return [RowGroup(group.num_rows, group.total_byte_size, _chunks(group)) for group in groups]
    except (pa.ArrowException, OSError, ValueError) as error:
        return str(error) or type(error).__name__


def _chunks(group: Any) -> list[Chunk]:
    found = []
    for i in range(group.num_columns):
        chunk = group.column(i)
        first = chunk.dictionary_page_offset if chunk.has_dictionary_page else None
        offset = min(first, chunk.data_page_offset) if first else chunk.data_page_offset
        found.append(Chunk(chunk.path_in_schema, offset, chunk.total_compressed_size))
    return found


def pages(file: BinaryIO, chunk: Chunk) -> Iterator[Page]:
    """The pages of a column in a row group, in order. Raises ValueError: no header where one must be, pages without end."""
    offset, end = chunk.offset, chunk.offset + chunk.n_bytes
    n_pages = 0
    while offset < end:
        if n_pages == MAX_PAGES:
            raise ValueError(f"more than {MAX_PAGES} pages")
        if not 0 <= offset < MAX_OFFSET:
            raise ValueError(f"no byte {offset}")
        fields, n_head = _header(file, offset)
        kind, unpacked, packed = (fields.get(field) for field in (1, 2, 3))
        if kind is None or unpacked is None or packed is None or unpacked < 0 or packed < 0:
            raise ValueError(f"no page header at byte {offset}")
        yield Page(offset, kind == DICTIONARY_PAGE, unpacked)
        n_pages += 1
        offset += n_head + packed


def _header(file: BinaryIO, offset: int) -> tuple[dict[int, int], int]:
    """The numbers of a header by field, and its length."""
    n_bytes = HEAD_BYTES
    while True:
        file.seek(offset)
        data = io.BytesIO(file.read(n_bytes))
        try:
            return _struct(data, 0), data.tell()
        except EOFError:
            if n_bytes >= MAX_HEAD_BYTES or len(data.getbuffer()) < n_bytes:
                raise ValueError(f"no page header at byte {offset}") from None
            n_bytes *= 8


def _struct(data: BinaryIO, depth: int) -> dict[int, int]:
    if depth > MAX_DEPTH:
        raise ValueError("a page header is nested too deep")
    fields: dict[int, int] = {}
    field = 0
    while kind := _byte(data):
        field = field + (kind >> 4) if kind >> 4 else _zigzag(_varint(data))
        value = _value(data, kind & 15, depth)
        if value is not None:
            fields[field] = value
    return fields


def _value(data: BinaryIO, kind: int, depth: int) -> int | None:
    """A number, or None for a value of another kind, which is passed over."""
    if kind in VARINTS:
        return _zigzag(_varint(data))
    if kind == 3:
        _byte(data)
    elif kind == DOUBLE:
        _skip(data, 8)
    elif kind == BINARY:
        _skip(data, _varint(data))
    elif kind in SEQUENCES:
        head = _byte(data)
        for _ in range(_varint(data) if head >> 4 == 15 else head >> 4):
            _element(data, head & 15, depth)
    elif kind == MAP:
        n_pairs = _varint(data)
        kinds = _byte(data) if n_pairs else 0
        for _ in range(n_pairs):
            _element(data, kinds >> 4, depth)
            _element(data, kinds & 15, depth)
    elif kind == STRUCT:
        _struct(data, depth + 1)
    elif kind not in BOOLEANS:
        raise ValueError(f"no Thrift type is {kind}")
    return None


def _element(data: BinaryIO, kind: int, depth: int) -> None:
    if kind in BOOLEANS:  # a byte each in sequences; in a struct the type says it
        _byte(data)
    else:
        _value(data, kind, depth + 1)


def _byte(data: BinaryIO) -> int:
    if not (found := data.read(1)):
        raise EOFError
    return found[0]


def _skip(data: BinaryIO, n_bytes: int) -> None:
    if n_bytes > MAX_HEAD_BYTES or len(data.read(n_bytes)) < n_bytes:
        raise EOFError


def _varint(data: BinaryIO) -> int:
    number = shift = 0
    while True:
        byte = _byte(data)
        number |= (byte & 127) << shift
        if byte < 128:
            return number
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _zigzag(number: int) -> int:
    return (number >> 1) ^ -(number & 1)
