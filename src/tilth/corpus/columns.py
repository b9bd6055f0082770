"""Ids and texts of a user's files as Arrow columns, without making a document of each row: what deduplication needs of them.

JSON lines are parsed a block at a time; a block that is not plain JSON lines is read again line by line, so that only what
is damaged is lost. Every row has its place, also one that is no document: its text is null then.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tilth.corpus.formats.content import DamagedError, decompressed
from tilth.corpus.locations import FoundFile, open_raw
from tilth.corpus.records import Reject, printable
from tilth.errors import SourceError, did_you_mean

BLOCK_BYTES = 2 << 20
PIECE_BYTES = 128 << 20  # of a plain file that are a shard
MAX_LINE_BYTES = 64 << 20
NEAR_BYTES = 64 << 10  # between two lines that are read in one go
PARQUET_ROWS = 2_000
LINES = (".jsonl", ".json", ".ndjson")
PACKED = (".gz", ".zst", ".xz", ".bz2", ".lz4")
TABLES = (".parquet", ".parq", ".pq")
SUFFIXES = (*(f"{suffix}{packed}" for suffix in LINES for packed in ("", *PACKED)), *TABLES)


Offsets = npt.NDArray[np.int64]


class Columns(NamedTuple):
    """Some rows: their ids, their texts (null where there is none), and why rows or lines are no documents.

    `offsets` are where their lines begin in the file; None where that cannot be gone to.
    """

    ids: pa.Array
    texts: pa.Array
    rejects: list[Reject]
    offsets: Offsets | None = None


@dataclass(frozen=True)
class Piece:
    """A file, or of a plain file of JSON lines those lines that begin in [start, end)."""

    name: str
    location: str
    start: int = 0
    end: int | None = None


@dataclass(frozen=True)
class Fields:
    """Which field is the text and which the id; without one an id is `file:row`. `id_type` is int64 or string."""

    text: str = "text"
    id: str | None = None
    id_type: pa.DataType = field(default_factory=pa.string)


def pieces(file: FoundFile) -> list[Piece]:
    """A file in parts of about PIECE_BYTES; one part where it is packed, far away, or no JSON lines.

    Raises SourceError for a file that is neither JSON lines nor Parquet.
    """
    name = printable(file.name)
    plain = name.lower()
    for suffix in PACKED:
        plain = plain.removesuffix(suffix)
    if not plain.endswith((*LINES, *TABLES)):
        raise SourceError("this is neither JSON lines nor Parquet", name, "name it by what it holds: .jsonl or .parquet")
    if not name.lower().endswith(LINES) or not file.is_local or file.size_bytes <= PIECE_BYTES:
        return [Piece(name, file.location)]
    n_parts = -(-file.size_bytes // PIECE_BYTES)
    cuts = [file.size_bytes * part // n_parts for part in range(n_parts + 1)]
    return [Piece(f"{name}#{part:05}", file.location, cuts[part], cuts[part + 1]) for part in range(n_parts)]


def read_columns(piece: Piece, fields: Fields, where: str) -> Iterator[Columns]:
    """The rows of a piece in their order. Raises SourceError: unreadable, or no row of it has the fields."""
    with open_raw(piece.location, where) as raw:
        if piece.location.lower().endswith(TABLES):
            yield from _read_parquet(raw, piece, fields)
        else:
            yield from _read_lines(raw, piece, fields)


def read_texts(
    piece: Piece, fields: Fields, rows: npt.NDArray[np.int64], where: str, offsets: Offsets | None = None
) -> Iterator[pa.Array]:
    """The texts of some rows (ascending) of a piece; `offsets` are those of all its rows, where they are known."""
    if offsets is None:
        first = 0
        for columns in read_columns(piece, fields, where):
            begin, end = np.searchsorted(rows, (first, first + len(columns.texts)))
            yield columns.texts.take(pa.array(rows[begin:end] - first))
            first += len(columns.texts)
        return
    with open_raw(piece.location, where) as raw:
        for lines in _lines_at(raw, offsets, rows, piece):
            yield (_parsed(lines, piece, fields, 0, 0) or _one_by_one(lines, piece, fields, 0, 0, {})).texts


def _lines_at(raw: BinaryIO, offsets: Offsets, rows: npt.NDArray[np.int64], piece: Piece) -> Iterator[bytes]:
    """The lines of the given rows, about BLOCK_BYTES together. Lines that lie near each other are read in one go.

    Raises SourceError where the file has become shorter.
    """
    if not len(rows):
        return
    raw.seek(int(offsets[-1]))
    ends = np.append(offsets[1:], offsets[-1] + len(raw.readline(MAX_LINE_BYTES)))
    starts, stops = offsets[rows], ends[rows]
    far = np.flatnonzero((starts[1:] - stops[:-1] > NEAR_BYTES) | (np.diff(starts // BLOCK_BYTES) > 0)) + 1
    held: list[pa.Buffer] = []
    for begin, end in pairwise((0, *far.tolist(), len(rows))):
        first, last = int(starts[begin]), int(stops[end - 1])
        raw.seek(first)
        data = raw.read(last - first)
        if len(data) < last - first:
            raise SourceError(f"it ends at byte {first + len(data)}, before {last}", piece.name, "Leave files alone meanwhile.")
        # Lines and what lies between them are the entries of one array, of which Arrow copies every other one.
        cuts = np.stack([starts[begin:end], stops[begin:end]], axis=1).ravel() - first
        buffers = [None, pa.py_buffer(cuts), pa.py_buffer(data)]
        kept = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(cuts) - 1, buffers).take(pa.array(range(0, len(cuts), 2)))
        held.append(kept.buffers()[2].slice(0, int(stops[begin:end].sum() - starts[begin:end].sum())))
        if sum(part.size for part in held) > BLOCK_BYTES:
            yield b"".join(held)
            held = []
    if held:
        yield b"".join(held)


def _objects(block: bytes | memoryview) -> npt.NDArray[np.int64] | None:
    """Where the lines of a block begin; None unless each looks like an object."""
    data = np.frombuffer(block, np.uint8)
    starts = np.flatnonzero(data == ord("\n")) + 1
    starts = np.concatenate(([0], starts[starts < len(block)]))
    return starts if (data[starts] == ord("{")).all() else None


def _read_parquet(raw: BinaryIO, piece: Piece, fields: Fields) -> Iterator[Columns]:
    options = {fields.text: "--text", **({fields.id: "--id"} if fields.id else {})}
    wanted = list(options)
    n_done = 0
    try:
        with pq.ParquetFile(raw, pre_buffer=False) as table:
            for name in wanted:
                if name not in table.schema_arrow.names:
                    raise _missing(name, options[name], table.schema_arrow.names, piece)
            for batch in table.iter_batches(PARQUET_ROWS, columns=wanted, use_threads=False):
                texts = batch.column(fields.text).cast(pa.large_string())
                yield Columns(_ids(batch, piece, fields, n_done), *_screened(texts, piece, n_done))
                n_done += batch.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        what = f"it is damaged from row {n_done} on: {(str(error).splitlines() or [''])[0][:200]}"
        raise SourceError(what, piece.name, "Fetch it again, or leave it out.") from error


def _ids(batch: pa.RecordBatch, piece: Piece, fields: Fields, first: int) -> pa.Array:
    if fields.id is None:
        return _numbered(piece, first, batch.num_rows)
    return batch.column(fields.id).cast(fields.id_type)


def _numbered(piece: Piece, first: int, n_rows: int) -> pa.Array:
    return pa.array([f"{piece.name}:{row}" for row in range(first, first + n_rows)], pa.string())


def _screened(texts: pa.Array, piece: Piece, first: int) -> tuple[pa.Array, list[Reject]]:
    nulls = np.flatnonzero(np.asarray(texts.is_null())) if texts.null_count else ()
    return texts, [Reject(f"{piece.name}:{first + int(row)}", "missing_text", "the text is null or not there") for row in nulls]


def _read_lines(raw: BinaryIO, piece: Piece, fields: Fields) -> Iterator[Columns]:
    n_done = n_texts = 0
    names: dict[str, None] = {}
    try:
        stream = decompressed(raw)
        for offset, block in _blocks(stream, piece):
            found = _parsed(block, piece, fields, n_done, offset) or _one_by_one(block, piece, fields, n_done, offset, names)
            n_done += len(found.texts)
            n_texts += len(found.texts) - found.texts.null_count
            yield found if stream is raw else found._replace(offsets=None)
    except DamagedError as error:
        reject = Reject(f"{piece.name}:{n_done}", error.reason, f"all from here on: {error}")
        yield Columns(pa.array([], fields.id_type), pa.array([], pa.large_string()), [reject])
    if n_done and not n_texts:
        if not names:
            with open_raw(piece.location) as again:
                _one_by_one(next(_blocks(decompressed(again), piece))[1], piece, fields, 0, 0, names)
        if names and fields.text not in names:  # else its texts are null, or its lines no objects: rejects that are told
            raise _missing(fields.text, "--text", list(names), piece)


def _missing(name: str, option: str, names: list[str], piece: Piece) -> SourceError:
    shown = ["".join(filter(str.isprintable, str(other)[:60])) for other in names[:200]]
    return SourceError(f"there is no field `{name}`", piece.name, f"{option} names it. {did_you_mean(name, shown)}")


def _blocks(stream: BinaryIO, piece: Piece) -> Iterator[tuple[int, memoryview]]:
    """Whole lines, about BLOCK_BYTES at a time, and where they begin. The memory is used again for the next ones."""
    at = piece.start
    if piece.start:
        stream.seek(piece.start - 1)
        at += len(stream.readline(MAX_LINE_BYTES)) - 1  # the line that begins before belongs to the part before
    block, held = bytearray(BLOCK_BYTES), 0
    while piece.end is None or at + held < piece.end:
        if held == len(block):
            if held > MAX_LINE_BYTES:
                raise SourceError(f"a line of more than {MAX_LINE_BYTES} bytes", piece.name, "Is it one object a line?")
            block = block + bytes(BLOCK_BYTES)
        room = memoryview(block)[held:]
        if piece.end is not None:
            room = room[: piece.end - at - held]
        # One read of what is packed at a time: a damage behind it takes nothing of it along.
        n_read = cast(io.BufferedReader, stream).readinto1(room)
        if not n_read:
            break
        n_bytes = held + n_read
        if at + n_bytes == piece.end and block[n_bytes - 1] != ord("\n"):
            block = block[:n_bytes] + stream.readline(MAX_LINE_BYTES)
            n_bytes = len(block)
        end = n_bytes if piece.end is not None and at + n_bytes >= piece.end else block.rfind(b"\n", 0, n_bytes) + 1
        if end:
            yield at, memoryview(block)[:end]
        block[: n_bytes - end] = block[end:n_bytes]
        at, held = at + end, n_bytes - end
    if held:
        yield at, memoryview(block)[:held]


def _parsed(block: bytes | memoryview, piece: Piece, fields: Fields, first: int, offset: int) -> Columns | None:
    """The rows of a block by Arrow's parser; None where it will not have all of them. `offset` is where the block begins."""
    from pyarrow import json as arrow_json

    starts = _objects(block)
    if starts is None:  # Arrow's parser (26.0) crashes on a `null` that stands alone
        return None
    wanted = {fields.text: pa.string(), **({fields.id: fields.id_type} if fields.id else {})}
    try:
        table = arrow_json.read_json(
            pa.BufferReader(block),
            arrow_json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            arrow_json.ParseOptions(explicit_schema=pa.schema(list(wanted.items())), unexpected_field_behavior="ignore"),
        )
        columns = {name: table.column(name).combine_chunks() for name in wanted}
        columns[fields.text].validate(full=True)
    except (pa.ArrowException, KeyError):
        return None
    texts = columns[fields.text]
    ids = columns[fields.id] if fields.id else _numbered(piece, first, len(texts))
    if len(texts) != len(starts) or (fields.id and ids.null_count):
        return None
    return Columns(ids, *_screened(texts.cast(pa.large_string()), piece, first), starts + offset)


def _one_by_one(
    block: bytes | memoryview, piece: Piece, fields: Fields, first: int, offset: int, names: dict[str, None]
) -> Columns:
    """The rows of a block line by line. `names` collects the names of fields, for a message."""
    ids: list[Any] = []
    texts: list[str | None] = []
    rejects: list[Reject] = []
    offsets: list[int] = []
    end = offset
    for line in bytes(block).split(b"\n"):
        start, end = end, end + len(line) + 1
        if not line.strip(b" \t\r\xef\xbb\xbf"):
            continue
        row = first + len(texts)
        given, text, problem = _record(line, fields, names)
        if problem:
            rejects.append(Reject(f"{piece.name}:{row}", *problem))
        offsets.append(start)
        ids.append(f"{piece.name}:{row}" if fields.id is None else given)
        texts.append(text)
    column = pa.array(ids, fields.id_type if fields.id else pa.string())
    return Columns(column, pa.array(texts, pa.large_string()), rejects, np.array(offsets, np.int64))


def _record(line: bytes, fields: Fields, names: dict[str, None]) -> tuple[Any, str | None, tuple[str, str] | None]:
    """(id, text, what is wrong)."""
    try:
        record = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        return None, None, ("invalid_json", str(error)[:200])
    if not isinstance(record, dict):
        return None, None, ("not_an_object", f"a {type(record).__name__}")
    names |= dict.fromkeys(record)
    given = record.get(fields.id) if fields.id else None
    if fields.id and isinstance(given, (int, str)):
        given = int(given) if pa.types.is_integer(fields.id_type) and str(given).lstrip("-").isdigit() else str(given)
    text = record.get(fields.text)
    if not isinstance(text, str):
        return given, None, ("missing_text", f"`{fields.text}` is {'not there' if text is None else type(text).__name__}")
    if fields.id and (given is None or pa.types.is_integer(fields.id_type) != isinstance(given, int)):
        return None, None, ("missing_id", f"`{fields.id}` is no {fields.id_type}")
    try:
        text.encode()
    except UnicodeEncodeError:
        return given, None, ("lone_surrogate", "the text holds half a surrogate pair")
    return given, text, None


def id_type_of(piece: Piece, field: str, where: str) -> pa.DataType:
    """int64 where the first record's id is a number, else string. Raises SourceError if there is none."""
    with open_raw(piece.location, where) as raw:
        if piece.location.lower().endswith(TABLES):
            schema = pq.read_schema(raw)
            if field not in schema.names:
                raise _missing(field, "--id", schema.names, piece)
            return pa.int64() if pa.types.is_integer(schema.field(field).type) else pa.string()
        for line in bytes(next(_blocks(decompressed(raw), piece), (0, b""))[1]).split(b"\n"):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict):
                if field not in record:
                    raise _missing(field, "--id", list(record), piece)
                return pa.int64() if isinstance(record[field], int) else pa.string()
    return pa.string()


def read_blocks(piece: Piece, where: str) -> Iterator[bytes]:
    """The lines of a piece of JSON lines as they are, some whole ones at a time; as far as they can be unpacked."""
    with open_raw(piece.location, where) as raw:
        try:
            yield from (bytes(block) for _, block in _blocks(decompressed(raw), piece))
        except DamagedError:
            return  # `read_columns` tells it
