"""Which member of a cluster is kept in a user's own files: the fields that the rule asks for are read, the catalog decides."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tilth.corpus.columns import Fields, Piece, read_columns
from tilth.corpus.member_rows import Rows, is_table, read_fields, read_objects
from tilth.errors import SourceError

if TYPE_CHECKING:
    from tilth.catalog.file_keepers import Members
    from tilth.catalog.keeper_rule import KeeperRule

SAMPLED_PIECES, SAMPLED_ROWS = 50, 200


def check_rule(keep: Sequence[str], own: Sequence[Piece], compared: str, text: str, where: str) -> None:
    """Raise QueryError unless the rule means something for the first rows of the files that have the field `compared`."""
    from tilth.catalog.file_keepers import check_file_rule
    from tilth.catalog.keeper_rule import parse_keeper_rule
    from tilth.pipeline.keeper_steps import rule_functions

    rule = parse_keeper_rule(tuple(keep))
    sampled = {}
    for piece in own[:SAMPLED_PIECES]:
        for columns in islice(read_columns(piece, Fields(compared), where), 1):
            sampled[piece] = np.flatnonzero(np.asarray(columns.texts.is_valid()))[:SAMPLED_ROWS]
    with tempfile.TemporaryDirectory() as folder:
        members = _members(sampled, rule, text, Path(folder), where)
        if members.tables or members.longest_line:  # else no row is a document, which the search tells
            check_file_rule(rule, members, rule_functions())


def keep_by_rule(
    duplicates: Path, keep: Sequence[str], own: Sequence[Piece], ids: Sequence[pa.ChunkedArray], text: str, where: str
) -> None:
    """Set `is_keeper` in the table `duplicates`: exactly one of each cluster, the first by the rule, then by file and row.

    `own` are the pieces in which it was searched, `ids` the ids of all rows of each. Reads the members' rows once more; what the
    rule asks for of them is spilled beside `duplicates`. Raises QueryError for a rule that fails on a document.
    """
    from tilth.catalog.file_keepers import write_file_keepers
    from tilth.catalog.keeper_rule import parse_keeper_rule
    from tilth.pipeline.keeper_steps import rule_functions

    wanted = pq.read_table(duplicates, columns=["id"]).column("id").combine_chunks()
    if not len(wanted):
        return
    rows: dict[Piece, Rows] = {}
    places = []
    for piece, column in zip(own, ids, strict=True):
        place = pc.index_in(column, value_set=wanted)
        rows[piece] = np.flatnonzero(np.asarray(place.is_valid()))
        places.append(np.asarray(place.drop_null()))
    rule = parse_keeper_rule(tuple(keep))
    with tempfile.TemporaryDirectory(dir=duplicates.absolute().parent, prefix=f".{duplicates.name}-keepers") as folder:
        members = _members(rows, rule, text, Path(folder), where, places)
        chosen = Path(folder) / "chosen.parquet"
        write_file_keepers(duplicates, members, rule, rule_functions(), chosen)
        chosen.replace(duplicates)


def _members(
    rows: Mapping[Piece, Rows],
    rule: KeeperRule,
    text: str,
    folder: Path,
    where: str,
    places: Sequence[Rows] | None = None,
) -> Members:
    """Write what the rule asks for of the given rows; `places` number them, by default all are 0."""
    from tilth.catalog.file_keepers import Members

    known: dict[str, None] = {}
    tables: list[Path] = []
    longest_line = 0
    lines = folder / "members.jsonl"
    with open(lines, "wb") as file:
        for number, (piece, own) in enumerate(rows.items()):
            numbers = np.zeros(len(own), np.int64) if places is None else places[number].astype(np.int64)
            asked = (piece, own, rule.names, text, known, where)
            if not len(own):
                continue
            if is_table(piece):
                tables.append(folder / f"{number}.parquet")
                n_read = _spill_table(tables[-1], read_fields(*asked), numbers)
            else:
                n_read, longest = _spill_objects(file, read_objects(*asked), numbers)
                longest_line = max(longest_line, longest)
            if n_read < len(own):
                raise SourceError("a file has fewer rows than when it was searched", piece.name, "Run the same command again.")
    return Members(lines, tables, list(known), longest_line)


def _spill_table(path: Path, found: Iterator[pa.Table], numbers: Rows) -> int:
    """Write the tables with their rows' numbers; returns the rows."""
    from tilth.catalog.file_keepers import PLACE

    n_read = 0
    with ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        for table in found:
            numbered = table.append_column(PLACE, pa.array(numbers[n_read : n_read + table.num_rows]))
            writer = writer or stack.enter_context(pq.ParquetWriter(path, numbered.schema, compression="zstd"))
            writer.write_table(numbered)
            n_read += table.num_rows
    return n_read


def _spill_objects(file: BinaryIO, found: Iterator[dict[str, Any]], numbers: Rows) -> tuple[int, int]:
    """Write the records with their numbers, one a line; returns the records, and the longest line in bytes."""
    from tilth.catalog.file_keepers import PLACE

    n_read = longest = 0
    for record in found:
        told = json.dumps({**record, PLACE: int(numbers[n_read])}, ensure_ascii=False)
        line = told.encode("utf-8", "replace") + b"\n"  # half a surrogate pair is no text
        longest = max(longest, len(line))
        file.write(line)
        n_read += 1
    return n_read, longest
