"""Which documents hold parts of benchmarks: documents in, spans with benchmark and item out (contamination/1).

A document is compared as its words are, without case, accents, punctuation and line breaks (`texts.units`). Every n-gram of
the index is looked up at every word; equal hashes are compared word by word. Windows of one item that overlap or touch make
one span. Marks only: what to do with a document is SQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numba import njit

from tilth.contracts import CONTAMINATION, check
from tilth.dedup.contamination.ngram_index import BASE, BenchmarkIndex, Grams, power
from tilth.dedup.texts.code_units import cut_into
from tilth.dedup.texts.units import Units, mixed

Batches: TypeAlias = pa.Table | Iterable[pa.RecordBatch]
_MAX_BYTES = 8 << 20  # of text that is cut into units at once


def find_contamination(documents: Batches, index: BenchmarkIndex) -> Iterator[pa.Table]:
    """For each batch of `documents` (shard, row, text; more is ignored) what it holds of benchmarks (contamination/1).

    Rows are in the order of the documents, then by benchmark, item, field and start; a batch without any gives an empty
    table. `coverage` is the share of the n-grams of an item's field that the document holds anywhere, the same for all its
    spans. Memory: 16 bytes a word (a character, for substrings) of 8 MiB of text, or of the longest one.
    """
    for batch in documents.to_batches() if isinstance(documents, pa.Table) else documents:
        pieces = [_of_piece(piece, index) for piece in _pieces(batch)]
        found = pa.concat_tables([CONTAMINATION.schema.empty_table(), *pieces])
        check(found, CONTAMINATION)
        yield found


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """A batch in parts of at most _MAX_BYTES of text, or one row."""
    array = batch.column("text").cast(pa.large_string())
    _, offsets, _ = array.buffers()
    ends = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1] if len(array) else np.zeros(1, np.int64)
    first = 0
    while first < batch.num_rows:
        stop = max(first + 1, int(np.searchsorted(ends, ends[first] + _MAX_BYTES, side="right")) - 1)
        yield batch.slice(first, stop - first)
        first = stop


def _of_piece(piece: pa.RecordBatch, index: BenchmarkIndex) -> pa.Table:
    parts, cut = [], {}
    for grams in index.methods:
        if not len(grams.hashes):
            continue
        if grams.unit not in cut:
            cut = {grams.unit: cut_into(piece.column("text"), grams.unit)}
        parts.append(_spans(piece, cut[grams.unit], grams, index))
    found = pa.concat_tables([CONTAMINATION.schema.empty_table(), *parts])
    order = np.lexsort(
        [
            found.column("start").to_numpy(),
            *(_ranks(found.column(name)) for name in ("method", "field", "item", "benchmark")),
            found.column("row").to_numpy(),
        ]
    )
    return found.take(pa.array(order))


def _ranks(names: pa.ChunkedArray) -> np.ndarray:
    return np.unique(np.array(names.to_pylist(), object).astype(str), return_inverse=True)[1]


def _spans(piece: pa.RecordBatch, units: Units, grams: Grams, index: BenchmarkIndex) -> pa.Table:
    """The spans that one method finds in a batch."""
    of = grams
    hits = _scan(
        units.hashes, units.bounds, of.n, of.filter, of.hashes, of.bounds, of.entries, of.places, of.lengths, of.units
    )  # fmt: skip
    documents, entries, gram_numbers, places, lengths = hits
    order = np.lexsort((places, entries, documents))
    documents, entries, places, lengths = documents[order], entries[order], places[order], lengths[order]
    ends = places + lengths
    is_new = np.ones(len(order), bool)
    is_new[1:] = (documents[1:] != documents[:-1]) | (entries[1:] != entries[:-1]) | (places[1:] > ends[:-1])
    firsts = np.flatnonzero(is_new)
    lasts = np.append(firsts[1:], len(order)) - 1 if len(firsts) else firsts
    coverage = _coverage(documents, entries, gram_numbers[order], grams)
    places_of_rows = pa.array(documents[firsts])
    texts = index.table.take(pa.array(entries[firsts]))
    columns = {
        "shard": piece.column("shard").take(places_of_rows),
        "row": piece.column("row").take(places_of_rows),
        **{name: texts.column(name) for name in ("benchmark", "item", "field")},
        "method": pa.array([grams.method] * len(firsts), pa.string()),
        "start": pa.array(units.starts[places[firsts]].astype(np.int64)),
        "end": pa.array(units.ends[ends[lasts] - 1].astype(np.int64)),
        "n_matched": pa.array(ends[lasts] - places[firsts]),
        "coverage": pa.array(coverage[firsts].astype(np.float32)),
    }
    return pa.table([columns[name] for name in CONTAMINATION.schema.names], schema=CONTAMINATION.schema)


def _coverage(documents: np.ndarray, entries: np.ndarray, gram_numbers: np.ndarray, grams: Grams) -> np.ndarray:
    """For each hit the share of its entry's n-grams that its document holds."""
    pairs = np.zeros(len(documents), np.int64)
    if not len(pairs):
        return np.zeros(0)
    is_new = (documents[1:] != documents[:-1]) | (entries[1:] != entries[:-1])
    pairs[1:] = np.cumsum(is_new)
    order = np.lexsort((gram_numbers, pairs))
    is_other = np.ones(len(order), bool)
    is_other[1:] = (pairs[order][1:] != pairs[order][:-1]) | (gram_numbers[order][1:] != gram_numbers[order][:-1])
    n_different = np.bincount(pairs[order], weights=is_other)
    share: np.ndarray = n_different[pairs] / grams.n_of_entry[entries]
    return share


@njit(cache=True, nogil=True)
def _scan(units, bounds, n, bits, hashes, starts, entries, places, lengths, item_units):  # type: ignore[no-untyped-def]
    """Document, entry, n-gram, first unit and length of every hit, in the order of documents."""
    size, room, gone = 0, 1024, power(n)
    hits = np.empty((5, room), np.int64)
    shift = np.uint64(64 - 6)
    width = len(bits)
    while width > 1:
        shift -= np.uint64(1)
        width >>= 1
    for document in range(len(bounds) - 1):
        value, first, stop = np.uint64(0), bounds[document], bounds[document + 1]
        for at in range(first, stop):
            value = value * BASE + units[at]
            if at - first >= n:
                value -= units[at - n] * gone
            if at - first < n - 1:
                continue
            key = mixed(value)
            bit = key >> shift
            if not (bits[bit >> np.uint64(6)] >> (bit & np.uint64(63))) & np.uint64(1):
                continue
            gram = np.searchsorted(hashes, key)
            if gram == len(hashes) or hashes[gram] != key:
                continue
            place = at - n + 1
            for posting in range(starts[gram], starts[gram + 1]):
                length = lengths[posting]
                if place + length > stop or not _equal(units, place, item_units, places[posting], length):
                    continue
                if size == room:
                    larger = np.empty((5, 2 * room), np.int64)
                    larger[:, :room] = hits
                    hits, room = larger, 2 * room
                hits[0, size], hits[1, size], hits[2, size] = document, entries[posting], gram
                hits[3, size], hits[4, size] = place, length
                size += 1
    return hits[0, :size], hits[1, :size], hits[2, :size], hits[3, :size], hits[4, :size]


@njit(cache=True, nogil=True)
def _equal(left, left_at, right, right_at, length):  # type: ignore[no-untyped-def]
    same = 0
    while same < length and left[left_at + same] == right[right_at + same]:
        same += 1
    return same == length
