"""Exact duplicates: documents whose texts have the same SWHID, that is the same UTF-8 bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pyarrow as pa

from tilth.dedup.exact.keys import key_duplicates, keys_of


def exact_duplicates(documents: pa.Table | Callable[[], Iterable[pa.RecordBatch]]) -> pa.Table:
    """Mark equal texts among `documents` (shard, row, doc_id, text_swhid; further columns are ignored): duplicates/1.

    `documents` is a table, or what gives its batches and is called twice. The keeper of a cluster is its first member by
    (shard, row); the others match the keeper, the keeper matches the second member. The result does not depend on the
    order of rows. Memory: as in `key_duplicates`.
    """
    batches = (lambda: [documents]) if isinstance(documents, pa.Table) else documents
    return key_duplicates(lambda: (keys_of(batch, "exact") for batch in batches()), "exact")
