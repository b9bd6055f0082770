"""Exact duplicates: documents whose texts have the same SWHID, that is the same UTF-8 bytes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tilth.dedup.marks import Matches, canonical_order, mark


def exact_duplicates(keys: pa.Table) -> pa.Table:
    """Mark equal texts among `keys` (shard, row, doc_id, text_swhid; further columns are ignored): duplicates/1.

    The keeper of a cluster is its first member by (shard, row); the others match the keeper, the keeper matches the
    second member. Memory: the keys. The result does not depend on the order of rows.
    """
    documents = canonical_order(keys.select(["shard", "row", "doc_id", "text_swhid"]))
    encoded = pc.dictionary_encode(documents.column("text_swhid"))
    codes = _codes(encoded)
    # Codes are numbered by first occurrence, so the first row of each code is found by one unique.
    _, firsts = np.unique(codes, return_index=True)
    roots = firsts[codes].astype(np.int64)
    rows = np.arange(len(codes), dtype=np.int64)
    nearest = roots.copy()
    others = rows[roots != rows][::-1]
    nearest[roots[others]] = others  # written from the last to the first, so the second member stays
    return mark(documents, Matches(roots, nearest, np.ones(len(codes))), "exact", 1.0)


def _codes(encoded: pa.Array | pa.ChunkedArray) -> np.ndarray:
    array = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    return np.asarray(array.indices, dtype=np.int64)
