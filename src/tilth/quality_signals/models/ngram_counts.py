"""Counts n-grams of sentences of any size: blocks are sorted and written, the sorted runs are merged, and one pass over
the merged n-grams gives the adjusted counts of every order.

N-grams are sorted from their last word to their first, so that all that share a suffix stand together (the order that
lmplz uses; Heafield et al. 2013, section 3). Sentence beginnings are padded with <s>; only n-grams with at most one count.
Memory: a block of tokens and a block of every run; the rest is on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tilth.errors import RecipeError
from tilth.quality_signals.models.ngram_model import BEGIN_ID, WORD_BITS, Ids

Words = npt.NDArray[np.uint64]
_ROWS_AT_ONCE = 1 << 20  # over all runs of a merge


class OrderCounts(NamedTuple):
    """The n-grams of one order, sorted by their suffix and then their first word; arrays in files, read as needed.

    `suffixes` is the place of the last n-1 words in the order below (a word's id among unigrams).
    """

    suffixes: Ids
    first_words: Ids
    adjusted: Ids  # distinct words before it; the plain count where it begins a sentence or has the highest order
    plain: Ids


class NgramCounter:
    """Takes sentences of word ids, gives sorted n-gram counts. Scratch files go to `folder`."""

    def __init__(self, order: int, n_words: int, folder: Path) -> None:
        self.order, self.n_words, self.folder = order, n_words, folder
        self.bits = max(2, (n_words - 1).bit_length())
        self.n_high = min(order, 64 // self.bits)
        if (order - self.n_high) * self.bits > 64 or self.bits > WORD_BITS:
            fix = "take a smaller order, or SentencePiece's pieces for words"
            raise RecipeError(f"{n_words} words are too many for {order}-grams", where="order", fix=fix)
        self._runs: list[Path] = []

    def add(self, tokens: Ids) -> None:
        """Count a block of whole sentences, each of which begins with <s>; that is the only place of <s>."""
        inside = np.arange(len(tokens))
        starts = np.maximum.accumulate(np.where(tokens == BEGIN_ID, inside, 0))
        depth = inside - starts
        ends = np.flatnonzero(depth)
        high, low = np.zeros(len(ends), np.uint64), np.zeros(len(ends), np.uint64)
        for back in range(self.order):
            words = tokens[ends - np.minimum(depth[ends], back)].astype(np.uint64)
            if back < self.n_high:
                high = (high << np.uint64(self.bits)) | words
            else:
                low = (low << np.uint64(self.bits)) | words
        order = np.lexsort((low, high)) if self.n_high < self.order else np.argsort(high)
        rows = _reduce(high[order], low[order], np.ones(len(order), np.int64))
        path = self.folder / f"run-{len(self._runs)}.npy"
        np.save(path, rows)
        self._runs.append(path)

    def finish(self) -> list[OrderCounts]:
        """Merge the runs; the counts of orders 1 to `order`."""
        files = [[(self.folder / f"{name}-{n}").open("wb") for name in ("key", "count")] for n in range(self.order + 1)]
        state = _State(self.order)
        unigrams = np.zeros((self.n_words, 2), np.int64)
        for rows in self._merged():
            keys, counts = state.add(rows, self)
            for n, (key_file, count_file) in enumerate(files[1:], 1):
                key_file.write(keys[n].tobytes())
                count_file.write(counts[n].tobytes())
        for n, (_, count_file) in enumerate(files[1:], 1):
            count_file.write(state.open_counts(n).tobytes())
        for pair in files:
            for file in pair:
                file.close()
        for path in self._runs:
            path.unlink()
        return [self._load(n, unigrams) for n in range(1, self.order + 1)]

    def _merged(self) -> Iterator[Words]:
        """Rows (high, low, count), ascending and distinct over all runs."""
        runs = [np.load(path, mmap_mode="r") for path in self._runs]
        block = max(16, _ROWS_AT_ONCE // max(1, len(runs)))
        places = [0] * len(runs)
        while any(place < len(run) for place, run in zip(places, runs)):
            heads = [(i, run[places[i] : places[i] + block]) for i, run in enumerate(runs) if places[i] < len(run)]
            limit = min((int(head[-1, 0]), int(head[-1, 1])) for _, head in heads)
            parts = []
            for i, head in heads:
                taken = _count_up_to(head, limit)
                places[i] += taken
                parts.append(head[:taken])
            rows = np.concatenate(parts)
            order = np.lexsort((rows[:, 1], rows[:, 0]))
            yield _reduce(rows[order, 0], rows[order, 1], rows[order, 2].astype(np.int64))

    def _load(self, n: int, unigrams: Ids) -> OrderCounts:
        keys = _mapped(self.folder / f"key-{n}", np.int64).reshape(-1, 2)
        counts = _mapped(self.folder / f"count-{n}", np.int64).reshape(-1, 2)
        if n > 1:
            return OrderCounts(keys[:, 0], keys[:, 1], counts[:, 0], counts[:, 1])
        unigrams[keys[:, 1]] = counts
        ids = np.arange(self.n_words)
        return OrderCounts(ids, ids, unigrams[:, 0], unigrams[:, 1])


class _State:
    """What the pass over merged n-grams must remember between blocks."""

    def __init__(self, order: int) -> None:
        self.words = np.full(order, -1, np.int64)  # of the last n-gram, from its end
        self.ids = np.zeros(order, np.int64)  # place of its suffix of each length
        self.counts = np.zeros((order, 2), np.int64)  # adjusted and plain, of suffixes that may still grow
        self.n_found = np.zeros(order, np.int64)
        self.depth = np.zeros(1, np.int64)

    def add(self, rows: Words, counter: NgramCounter) -> tuple[list[Ids], list[Ids]]:
        order = counter.order
        keys, counts = np.zeros((order, len(rows), 2), np.int64), np.zeros((order, len(rows) + 1, 2), np.int64)
        n_keys, n_counts = np.zeros(order, np.int64), np.zeros(order, np.int64)
        outputs = (keys, counts, n_keys, n_counts)
        state = (self.words, self.ids, self.counts, self.n_found, self.depth)
        _compiled()(rows, order, counter.bits, counter.n_high, *state, *outputs)
        empty = np.zeros((0, 2), np.int64)
        return [empty, *(keys[n, : n_keys[n]] for n in range(order))], [empty, *(counts[n, : n_counts[n]] for n in range(order))]

    def open_counts(self, n: int) -> Ids:
        """The counts of the last n-gram of order n."""
        return self.counts[n - 1 : n] if n <= self.depth[0] else np.zeros((0, 2), np.int64)


def _reduce(high: Words, low: Words, counts: Ids) -> Words:
    """Rows of distinct n-grams with their counts added, from ascending ones."""
    is_new = np.concatenate(([True], (high[1:] != high[:-1]) | (low[1:] != low[:-1])))
    starts = np.flatnonzero(is_new)
    if not len(high):
        return np.zeros((0, 3), np.uint64)
    return np.stack([high[starts], low[starts], np.add.reduceat(counts, starts).astype(np.uint64)], axis=1)


def _count_up_to(rows: Words, limit: tuple[int, int]) -> int:
    """How many of ascending rows are not above `limit`."""
    high = rows[:, 0]
    first = int(np.searchsorted(high, np.uint64(limit[0]), side="left"))
    last = int(np.searchsorted(high, np.uint64(limit[0]), side="right"))
    return first + int(np.searchsorted(rows[first:last, 1], np.uint64(limit[1]), side="right"))


def _mapped(path: Path, kind: Any) -> Ids:
    # An empty file cannot be mapped.
    return np.memmap(path, kind, "r") if path.stat().st_size else np.zeros(0, kind)


@cache
def _compiled() -> Any:
    from numba import njit

    return njit(cache=True, nogil=True)(_adjust)


def _adjust(rows, order, bits, n_high, words, ids, open_counts, n_found, depth, keys, counts, n_keys, n_counts):  # type: ignore[no-untyped-def]
    """Close the suffixes that ended, open the new ones, and count: distinct words on the left, or plainly at a beginning."""
    mask = np.uint64((1 << bits) - 1)
    new = np.zeros(order, np.int64)
    for row in range(len(rows)):
        for back in range(order):
            if back < n_high:
                value, shift = rows[row, 0], bits * (n_high - 1 - back)
            else:
                value, shift = rows[row, 1], bits * (order - 1 - back)
            new[back] = np.int64((value >> np.uint64(shift)) & mask)
        length = 1
        while length < order and new[length - 1] != BEGIN_ID:
            length += 1
        same = 0
        while same < depth[0] and same < length and words[same] == new[same]:
            same += 1
        for k in range(same, depth[0]):
            counts[k, n_counts[k], 0], counts[k, n_counts[k], 1] = open_counts[k, 0], open_counts[k, 1]
            n_counts[k] += 1
        count = np.int64(rows[row, 2])
        for k in range(same, length):
            ids[k] = n_found[k] if k else new[0]
            n_found[k] += 1
            keys[k, n_keys[k], 0], keys[k, n_keys[k], 1] = ids[k - 1] if k else 0, new[k]
            n_keys[k] += 1
            open_counts[k, 0] = open_counts[k, 1] = 0
            if k:
                open_counts[k - 1, 0] += 1
            words[k] = new[k]
        for k in range(length):
            open_counts[k, 1] += count
        open_counts[length - 1, 0] = count
        depth[0] = length
