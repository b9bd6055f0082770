"""Reads one shard of a source into Arrow batches, no further than the shard's cap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tilth.corpus.batches import ShardBatch, batches
from tilth.corpus.optout.withdrawn import Withdrawn, without
from tilth.corpus.records import Document, Reject, Shard, Source


def read_shard(source: Source, shard: Shard, withdrawn: Withdrawn | None = None, key: bytes = b"") -> Iterator[ShardBatch]:
    """Yield the shard as batches of documents/1, occurrences/1, licences/1 and rejects/1.

    What is read becomes a document or a reject, never nothing. Where `shard.params` has
    `max_bytes`, reading ends before the first document that would exceed it (UTF-8 bytes of text).
    What is `withdrawn` (by digests that `key` makes) is a reject; nothing is read in its stead.
    """
    records = until_full(source.read(shard), shard.params.get("max_bytes"))
    yield from batches(records if withdrawn is None else without(records, withdrawn, key), shard)


def until_full(records: Iterable[Document | Reject], max_bytes: int | None) -> Iterator[Document | Reject]:
    """Pass records on until their text would exceed `max_bytes`; the same input always ends at the same record."""
    n_left = max_bytes
    for record in records:
        if n_left is not None and isinstance(record, Document):
            n_left -= len(record.text.encode("utf-8", "replace"))
            if n_left < 0:
                return
        yield record


def share(max_bytes: int | None, sizes: list[int]) -> list[int | None]:
    """Divide a source's cap among its shards in proportion to their sizes, so that each can be read alone."""
    if max_bytes is None:
        return [None] * len(sizes)
    total = sum(sizes)
    return [max_bytes * size // total if total else 0 for size in sizes]
