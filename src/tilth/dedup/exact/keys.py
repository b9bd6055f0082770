"""Documents with the same key are duplicates: the one mechanism behind exact copies, normal texts and URLs.

A key table (KEYS) has a row for each document that has something to compare: where it is, its id and 128 bits of hash.
It is made shard by shard; grouping takes the tables of all shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tilth.contracts.contract import UUID
from tilth.dedup.exact.urls import normalized
from tilth.dedup.marks import Matches
from tilth.dedup.places import batches_of, collect, fixed_words, marks_of
from tilth.dedup.sorted_arrays import contains, distinct
from tilth.dedup.texts.buffers import Utf8, utf8
from tilth.dedup.texts.hashing import Hashes, hashes128
from tilth.dedup.texts.normal_text import fold
from tilth.errors import RecipeError, did_you_mean

Tables: TypeAlias = Callable[[], Iterable[pa.Table | pa.RecordBatch]]
KEYS = pa.schema(
    [
        pa.field("doc_id", UUID, nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("key", pa.binary(16), nullable=False),
    ],
    metadata={"tilth.contract": "duplicate_keys/1"},
)
# Method -> the column that it compares, and what it makes of it.
_METHODS: dict[str, tuple[str, Callable[[Utf8], Utf8]]] = {
    "exact": ("text_swhid", lambda texts: texts),
    "normal_text": ("text", fold),
    "url": ("url", normalized),
}
METHODS = tuple(_METHODS)


def key_column(method: str) -> str:
    """The column of documents/1 that `method` compares. Raises RecipeError for an unknown one."""
    if method not in _METHODS:
        raise RecipeError(f"there is no method `{method}` for exact duplicates", fix=did_you_mean(method, _METHODS))
    return _METHODS[method][0]


def keys_of(documents: pa.Table | pa.RecordBatch, method: str) -> pa.Table:
    """The keys of `documents` (doc_id, shard, row and the column that `method` compares): KEYS, in the same order.

    `exact` compares text_swhid, `normal_text` the text's normal form (normal_text.py), `url` the normal URL (urls.py).
    Documents of which nothing is left to compare, as without words or URL, have no row. Raises RecipeError for an
    unknown method.
    """
    column = documents.column(key_column(method))
    compared = _METHODS[method][1](utf8(column))
    keys = hashes128(compared)
    storage = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(keys), [None, pa.py_buffer(keys)])
    columns = [documents.column(name) for name in ("doc_id", "shard", "row")]
    table = pa.table([*columns, storage], names=KEYS.names)
    return table.filter(pa.array(np.diff(compared.offsets) > 0)).cast(KEYS)


def key_duplicates(tables: Tables, method: str) -> pa.Table:
    """Mark the documents of key tables (KEYS) that share a key: duplicates/1 with similarity 1.

    `tables` gives the tables, and is called twice: half of each key tells who may have company, and only of those is more
    kept. Memory: about 20 bytes a document, and 150 for each that shares its half. The keeper of a cluster is its first member by
    (shard, row); the others match the keeper, the keeper matches the second member. The result is the same for any order
    and partition of the tables. Raises ContractError where a document comes twice.
    """
    repeated = _repeated(tables())
    places, keys = collect((_with_company(table, repeated) for table in tables()), "key", 2)
    order = np.lexsort((places.rows, places.shards))
    places, keys = places.take(order), keys[order]
    return marks_of(places, _matches(keys), method, 1.0)


def _repeated(tables: Iterable[pa.Table | pa.RecordBatch]) -> npt.NDArray[np.uint64]:
    """The first words of keys that come twice or more, ascending."""
    # Copied in pieces, since an array that grows would take twice its size.
    words = [fixed_words(batch.column("key"), 2)[:, 0].copy() for table in tables for batch in batches_of(table)]
    whole = np.concatenate([np.zeros(0, np.uint64), *words])
    words.clear()
    whole.sort()
    return distinct(whole[1:][whole[1:] == whole[:-1]])


def _with_company(table: pa.Table | pa.RecordBatch, repeated: npt.NDArray[np.uint64]) -> pa.Table:
    batches = [
        batch.filter(pa.array(contains(repeated, fixed_words(batch.column("key"), 2)[:, 0]))) for batch in batches_of(table)
    ]
    return pa.Table.from_batches(batches, schema=table.schema)


def _matches(keys: Hashes) -> Matches:
    """Roots and matches of documents in the order of (shard, row), by their keys (n, 2)."""
    n = len(keys)
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: members of a cluster stay in their order
    starts_new = np.ones(n, bool)
    starts_new[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    starts = np.flatnonzero(starts_new)
    firsts = order[starts]
    roots = np.empty(n, np.int64)
    roots[order] = np.repeat(firsts, np.diff(np.append(starts, n)))
    nearest = roots.copy()
    has_second = np.append(starts[1:], n) - starts >= 2
    nearest[firsts[has_second]] = order[starts[has_second] + 1]
    return Matches(roots, nearest, np.ones(n))
