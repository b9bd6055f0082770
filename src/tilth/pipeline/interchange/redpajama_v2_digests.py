"""RedPajama-V2's list of duplicates as marks: copies with the digest of another document of the corpus are no keepers.

The published list names documents, not what they repeat: that is the document with the same digest of the archived page which
the list does not name. Where it is not in the corpus (of another shard or snapshot) the first of its copies is kept, so that
a part of the published data loses nothing. `meta['rpv2_duplicate']` tells what the list says of a document.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tilth.contracts import DUPLICATES, uuid_array, uuid_bytes
from tilth.pipeline.graph import Step
from tilth.pipeline.parquet import stream, write_table
from tilth.pipeline.steps import Inputs, Params, texts_of

METHOD = "digest"


def mark_listed(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """Mark the documents that the published list names, and what they repeat. Memory: 41 bytes a document, and its id."""
    keys: list[bytes] = []
    listed: list[bool] = []
    ids: list[bytes] = []
    places: list[tuple[str, int]] = []
    for artifact in texts_of(inputs):
        for batch in stream(artifact, "documents.parquet", ["doc_id", "shard", "row", "meta"]):
            shards, rows = (batch.column(name).to_pylist() for name in ("shard", "row"))
            columns = zip(uuid_bytes(batch.column("doc_id")), shards, rows, batch.column("meta").to_pylist(), strict=True)
            for doc_id, shard, row, pairs in columns:
                meta = dict(pairs)
                if "digest" in meta:
                    keys.append(hashlib.blake2b(meta["digest"].encode(), digest_size=16).digest())
                    listed.append(meta.get("rpv2_duplicate") == "true")
                    ids.append(doc_id)
                    places.append((shard, row))
    marks = _marks(keys, np.array(listed, bool), ids, places)
    return {"n_listed": sum(listed), "n_marked": write_table(folder / "duplicates.parquet", marks, DUPLICATES)}


def _marks(keys: list[bytes], listed: npt.NDArray[np.bool_], ids: list[bytes], places: list[tuple[str, int]]) -> pa.Table:
    key = np.frombuffer(b"".join(keys), np.uint64).reshape(-1, 2)
    order = np.lexsort((np.arange(len(keys)), listed, key[:, 1], key[:, 0]))  # of a digest, what is not listed comes first
    starts = np.flatnonzero((key[order[1:]] != key[order[:-1]]).any(axis=1)) + 1
    rows: list[tuple[str, int, bytes, bytes, bytes, bool]] = []
    for cluster in np.split(order, starts):
        copies = [int(place) for place in cluster[1:] if listed[place]]
        if copies:
            keeper = int(cluster[0])
            root = ids[min(keeper, *copies)]
            for place in (keeper, *copies):
                matched = ids[copies[0] if place == keeper else keeper]
                rows.append((*places[place], ids[place], root, matched, place == keeper))
    rows.sort(key=lambda row: row[:2])
    shard, row, doc_id, root_id, matched_id, is_keeper = zip(*rows, strict=True) if rows else ((),) * 6
    columns = {
        "doc_id": uuid_array(list(doc_id)),
        "shard": pa.array(shard, pa.string()),
        "row": pa.array(row, pa.int32()),
        "method": pa.array([METHOD] * len(rows), pa.string()),
        "threshold": pa.array([1.0] * len(rows), pa.float32()),
        "cluster_id": uuid_array(list(root_id)),
        "matched_id": uuid_array(list(matched_id)),
        "is_keeper": pa.array(is_keeper, pa.bool_()),
        "similarity": pa.array([1.0] * len(rows), pa.float32()),
    }
    return pa.table([columns[name] for name in DUPLICATES.schema.names], schema=DUPLICATES.schema)


LISTED = Step("dedup.digest", 1, (), mark_listed)
