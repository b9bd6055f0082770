"""Fields of some rows of a user's files, whatever their types: what a rule asks for beside ids and texts."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tilth.corpus.columns import PARQUET_ROWS, TABLES, Piece, read_blocks
from tilth.corpus.locations import open_raw

Rows = npt.NDArray[np.int64]
N_CHARS = "n_chars"  # of the text, where the files have no such field
_BLANK = b" \t\r\xef\xbb\xbf"


def is_table(piece: Piece) -> bool:
    """Whether a piece is Parquet; else it is JSON lines."""
    return piece.location.lower().endswith(TABLES)


def read_objects(
    piece: Piece, rows: Rows, names: Collection[str], text: str, known: dict[str, None], where: str
) -> Iterator[dict[str, Any]]:
    """The fields `names` (lower case) of some rows (ascending) of JSON lines; `known` collects the names of all fields."""
    first = at = 0
    for block in read_blocks(piece, where):
        if at == len(rows):
            break
        lines = [line for line in block.split(b"\n") if line.strip(_BLANK)]
        while at < len(rows) and rows[at] < first + len(lines):
            record = json.loads(lines[rows[at] - first].removeprefix(b"\xef\xbb\xbf"))
            known |= dict.fromkeys(record)
            wanted = {name: value for name, value in record.items() if name.lower() in names}
            if N_CHARS in names and not any(name.lower() == N_CHARS for name in wanted):
                wanted[N_CHARS] = len(record[text]) if isinstance(record.get(text), str) else None
            yield wanted
            at += 1
        first += len(lines)


def read_fields(
    piece: Piece, rows: Rows, names: Collection[str], text: str, known: dict[str, None], where: str
) -> Iterator[pa.Table]:
    """The same of Parquet; a table has some of the rows."""
    with open_raw(piece.location, where) as raw, pq.ParquetFile(raw, pre_buffer=False) as file:
        columns = file.schema_arrow.names
        known |= dict.fromkeys(columns)
        wanted = [name for name in columns if name.lower() in names] or columns[:1]  # rows are there by their columns alone
        is_measured = N_CHARS in names and text in columns and not any(name.lower() == N_CHARS for name in wanted)
        first = 0
        for batch in file.iter_batches(
            PARQUET_ROWS, columns=list(dict.fromkeys([*wanted, *([text] if is_measured else [])])), use_threads=False
        ):
            begin, end = np.searchsorted(rows, (first, first + batch.num_rows))
            if begin < end:
                chosen = pa.Table.from_batches([batch]).take(pa.array(rows[begin:end] - first))
                found = chosen.select(wanted)
                if is_measured:
                    found = found.append_column(N_CHARS, pc.utf8_length(chosen.column(text)))
                yield found
            first += batch.num_rows
            if end == len(rows):
                break
