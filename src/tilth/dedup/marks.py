"""Writes verified matches as duplicates/1: who belongs together, who is kept, who matched whom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tilth.contracts import DUPLICATES, check

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Matches:
    """Verified matches among n documents that are numbered in the order of (shard, row); both arrays have length n.

    `roots`: smallest member of each document's cluster. `nearest`, `similarity`: the best match of each (any value
    where a document is alone).
    """

    roots: Ints
    nearest: Ints
    similarity: npt.NDArray[np.float64]


def canonical_order(table: pa.Table) -> pa.Table:
    """The rows in the order of (shard, row), by which "first" is meant everywhere in this room."""
    order = pc.sort_indices(table, sort_keys=[("shard", "ascending"), ("row", "ascending")])
    return table.take(order).combine_chunks()


def mark(documents: pa.Table, matches: Matches, method: str, threshold: float) -> pa.Table:
    """duplicates/1 for `documents` (doc_id, shard, row; in canonical order): the rows of clusters of two and more."""
    sizes = np.bincount(matches.roots, minlength=len(matches.roots))
    members = np.flatnonzero(sizes[matches.roots] >= 2)
    ids = documents.column("doc_id")
    columns = {
        "doc_id": ids.take(members),
        "shard": documents.column("shard").take(members),
        "row": documents.column("row").take(members),
        "method": pa.array([method] * len(members), pa.string()),
        "threshold": pa.array(np.full(len(members), threshold, np.float32)),
        "cluster_id": ids.take(matches.roots[members]),
        "matched_id": ids.take(matches.nearest[members]),
        "is_keeper": pa.array(matches.roots[members] == members),
        "similarity": pa.array(matches.similarity[members].astype(np.float32)),
    }
    table = pa.table([columns[field.name] for field in DUPLICATES.schema], schema=DUPLICATES.schema)
    check(table, DUPLICATES)
    return table
