"""The steps that mark copies other than equal texts, by normal text, URL or SimHash: keys of each shard, then one grouping."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tilth.artifacts.spec import UNICODE
from tilth.contracts import DUPLICATES
from tilth.pipeline.graph import Node, Step
from tilth.pipeline.parquet import read_columns, stream, write_table
from tilth.pipeline.steps import Inputs, Params, texts_of

if TYPE_CHECKING:
    from tilth.dedup.simhash.parameters import SimHash


def make_keys(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """What is compared of each document of one shard, as hashes."""
    from tilth.dedup.exact.keys import KEYS, key_column, keys_of

    method = params["method"]
    (documents,) = texts_of(inputs)
    n_keys = 0
    with pq.ParquetWriter(folder / "keys.parquet", KEYS, compression="zstd") as file:
        columns = ["doc_id", "shard", "row", key_column(method)]
        for batch in stream(documents, "documents.parquet", columns):
            table = keys_of(batch, method)
            file.write_table(table)
            n_keys += table.num_rows
    return {"n_keys": n_keys}


def mark_equal_keys(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """Mark documents with the same key."""
    from tilth.dedup.exact.keys import key_duplicates

    def tables() -> Iterator[pa.Table]:
        return (read_columns(keys, "keys.parquet") for keys in inputs.values())

    marks = key_duplicates(tables, params["method"])
    return {"n_marked": write_table(folder / "duplicates.parquet", marks, DUPLICATES)}


def make_fingerprints(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """SimHash fingerprints of one shard. `work` holds the parameters; only what decides the fingerprints is in `params`."""
    from tilth.dedup.simhash.duplicates import fingerprint_schema, fingerprints

    (documents,) = texts_of(inputs)
    n_rows = 0
    with pq.ParquetWriter(folder / "fingerprints.parquet", fingerprint_schema(work), compression="zstd") as file:
        for batch in stream(documents, "documents.parquet", ["doc_id", "shard", "row", "text"]):
            table = fingerprints(batch, work)
            file.write_table(table)
            n_rows += table.num_rows
    return {"n_rows": n_rows}


def mark_near_fingerprints(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """Mark documents whose fingerprints differ in few bits."""
    from tilth.dedup.simhash.duplicates import SimHash, simhash_duplicates

    tables = (read_columns(artifact, "fingerprints.parquet") for artifact in inputs.values())
    marks = simhash_duplicates(tables, SimHash(**params))
    return {"n_marked": write_table(folder / "duplicates.parquet", marks, DUPLICATES)}


def nodes_of(given: str | SimHash, documents: Sequence[Node]) -> tuple[list[Node], Node]:
    """The nodes of one method of a recipe: one for each shard's documents, and the one that marks."""
    if isinstance(given, str):
        libraries = (UNICODE,) if given == "normal_text" else ()
        keys, marks = Step(f"dedup.{given}_keys", 1, libraries, make_keys), Step(f"dedup.{given}", 1, (), mark_equal_keys)
        params = {"method": given}
        signed = [Node(keys, node.shard, params, needs=(node.id,)) for node in documents]
        return signed, Node(marks, params=params, needs=tuple(node.id for node in signed))
    decides = {"n": given.n, "unit": given.unit}
    signed = [Node(FINGERPRINTS, node.shard, decides, needs=(node.id,), work=given) for node in documents]
    return signed, Node(SIMHASH, params=dataclasses.asdict(given), needs=tuple(node.id for node in signed))


FINGERPRINTS = Step("dedup.fingerprints", 1, (UNICODE,), make_fingerprints)
SIMHASH = Step("dedup.simhash", 1, (), mark_near_fingerprints)
