"""Signals of linguist: whether a file is vendored, generated or documentation, by all its paths and its text as it was read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from tilth.artifacts import Artifact
from tilth.contracts import family_contract
from tilth.contracts.contract import Contract
from tilth.pipeline.graph import Node, Step
from tilth.pipeline.parquet import Writer, stream

COLUMNS = {"is_vendored": pa.bool_(), "is_generated": pa.bool_(), "is_documentation": pa.bool_()}
FILES = ("git", "file", "package")  # kinds of places whose path names a file


@dataclass(frozen=True)
class Linguist:
    """`Corpus(signals=[..., Linguist()])`: `is_vendored`, `is_generated`, `is_documentation`, as GitHub's linguist rules.

    A content may lie at several paths: it is vendored if it is so at each of them, and likewise for the others. What is no file
    of its own (a page, a record of a larger file) is none of the three. Edits change no verdict.
    """

    name: str = field(init=False, default="linguist")
    libraries: tuple[str, ...] = field(init=False, default=())

    @property
    def contract(self) -> Contract:
        """signals/1 with the columns of this step."""
        return family_contract(self.name, COLUMNS)


def linguist_node(read: Node) -> Node:
    """The verdicts on one shard; the release of linguist whose rules they are is in the key."""
    from tilth.corpus.languages.rules import rules

    return Node(STEP, read.shard, {"linguist": rules().version}, needs=(read.id,))


def judge_shard(inputs: Mapping[str, Artifact], folder: Path, params: Mapping[str, Any], work: Any) -> dict[str, Any]:
    """The verdicts on each document of one shard."""
    (shard,) = inputs.values()
    places = _paths(shard)
    with Writer(folder / "signals.parquet", Linguist().contract) as writer:
        for batch in stream(shard, "documents.parquet", ["shard", "row", "text"]):
            # every document has a place, and both lie in the order of rows
            judged = [judge(paths, text.as_py().encode()) for text, paths in zip(batch.column("text"), places, strict=False)]
            verdicts = [pa.array(values, pa.bool_()) for values in zip(*judged, strict=True)]
            columns = [batch.column("shard"), batch.column("row"), *verdicts, pa.nulls(batch.num_rows, pa.string())]
            writer.write(pa.Table.from_arrays(columns, schema=writer.contract.schema))
    return {"n_rows": writer.n_rows}


def judge(paths: set[str], content: bytes) -> tuple[bool, bool, bool]:
    """Whether a content is vendored, generated, documentation at each of the paths; nothing of these where there are none."""
    from tilth.corpus.languages import is_documentation, is_generated, is_vendored

    if not paths:
        return False, False, False
    return all(map(is_vendored, paths)), all(is_generated(path, content) for path in paths), all(map(is_documentation, paths))


def _paths(shard: Artifact) -> Iterator[set[str]]:
    """The paths that are a file's own, of each document in the order of rows."""
    columns = ["row", "kind", "path", "record_id", "offset"]
    rows = (
        row
        for batch in stream(shard, "occurrences.parquet", columns)
        for row in zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
    )
    for _, places in groupby(rows, key=itemgetter(0)):
        yield {path for _, kind, path, record, offset in places if kind in FILES and record is None and offset is None}


STEP = Step("signals.linguist", 1, (), judge_shard)
