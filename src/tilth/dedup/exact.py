"""Exact duplicates: documents whose texts have the same SWHID, that is the same UTF-8 bytes."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from tilth.dedup.keys import key_duplicates, key_tables


def exact_duplicates(documents: pa.Table | Iterable[pa.RecordBatch]) -> pa.Table:
    """Mark equal texts among `documents` (shard, row, doc_id, text_swhid; further columns are ignored): duplicates/1.

    The keeper of a cluster is its first member by (shard, row); the others match the keeper, the keeper matches the
    second member. The result does not depend on the order of rows.
    """
    batches = documents.to_batches() if isinstance(documents, pa.Table) else documents
    return key_duplicates(key_tables(batches, "exact"), "exact")
