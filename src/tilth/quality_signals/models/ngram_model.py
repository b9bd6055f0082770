"""An n-gram language model with backoff in flat arrays, and its scores, equal to kenlm's.

Every n-gram has an id: words 0..V-1, then the bigrams, trigrams and so on. A longer n-gram is the pair (id of its last
n-1 words, its first word) in one 64-bit key; keys ascend over all orders, so an id is a place in them. Scoring looks keys
up in one open-addressing table, whose slots take the part of ids, so that an n-gram costs one access to memory. Sums are
made in single precision and in kenlm's order (Heafield 2011).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
UNKNOWN_ID, BEGIN_ID, END_ID = 0, 1, 2
WORD_BITS = 24
MAX_ORDER = 6
_WORD_MASK = np.uint64((1 << WORD_BITS) - 1)
_SPREAD = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio (Knuth, vol. 3, 6.4)

Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


class NgramModel:
    """`words[i]` has id i (the first three are <unk>, <s>, </s>); `n_ngrams[k]` counts the (k+1)-grams.

    `keys` (uint64, ascending) are those of all longer n-grams; `log10_probs` and `backoffs` (log10, float32) have one item
    for each id. Every n-gram's first and last n-1 words are n-grams of the model too.
    """

    def __init__(self, words: list[str], n_ngrams: list[int], keys: Keys, log10_probs: Floats, backoffs: Floats) -> None:
        self.words, self.n_ngrams, self.keys = words, n_ngrams, keys
        self.log10_probs, self.backoffs = log10_probs, backoffs

    @property
    def order(self) -> int:
        """The longest n-gram's length."""
        return len(self.n_ngrams)

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """The id of each word."""
        return {word: number for number, word in enumerate(self.words)}

    def word_ids(self, words: Iterable[str]) -> list[int]:
        """Ids of words; what the model does not know is <unk>."""
        ids = self.ids
        return [ids.get(word, UNKNOWN_ID) for word in words]

    def ngram_words(self, ids: Ids) -> list[Ids]:
        """The words of n-grams of one order: a list of arrays, the first words first. `ids` are not empty."""
        columns = []
        state = ids.astype(np.int64)
        while state[0] >= len(self.words):
            keys = self.keys[state - len(self.words)]
            columns.append((keys & _WORD_MASK).astype(np.int64))
            state = (keys >> np.uint64(WORD_BITS)).astype(np.int64)
        return [*columns, state]

    def find(self, suffixes: Ids, first_words: Ids) -> Ids:
        """Ids of the n-grams (first word, then suffix); -1 where there is none."""
        keys = ngram_keys(suffixes, first_words)
        places = np.searchsorted(self.keys, keys)
        found = np.zeros(len(keys), np.bool_)
        inside = places < len(self.keys)
        found[inside] = self.keys[places[inside]] == keys[inside]
        return np.where(found, places + len(self.words), -1)

    def scores(self, word_ids: Ids, offsets: Ids, begin: bool = True, end: bool = True) -> npt.NDArray[np.float32]:
        """log10 probability of each sentence word_ids[offsets[i]:offsets[i + 1]].

        `begin` conditions on <s>, `end` adds the probability of </s>, as in kenlm's `score(sentence, bos, eos)`.
        """
        out = np.zeros(len(offsets) - 1, np.float32)
        n_words = len(self.words)
        unigrams = (self.log10_probs[:n_words], self.backoffs[:n_words])
        sentences = (word_ids.astype(np.int64), offsets.astype(np.int64), begin, end)
        _compiled()(*sentences, self.order, *unigrams, self._table, self._table.view(np.float32), out)
        return out

    @cached_property
    def _table(self) -> Keys:
        """A slot for each longer n-gram, and half as many free ones, (slots, 2): key + 1 (0 is free); probability and backoff."""
        n_words = len(self.words)
        table = np.zeros((len(self.keys) * 3 // 2 + 8, 2), np.uint64)
        slots = np.zeros(len(self.keys), np.uint32)
        weights = (self.log10_probs[n_words:], self.backoffs[n_words:])
        _compiled_fill()(self.keys, *weights, n_words, slots, table, table.view(np.float32))
        return table


def ngram_keys(suffixes: Ids, first_words: Ids) -> Keys:
    """The keys of n-grams from the ids of their last n-1 words and their first words."""
    return (suffixes.astype(np.uint64) << np.uint64(WORD_BITS)) | first_words.astype(np.uint64)


@cache
def _compiled() -> Any:
    from numba import njit

    return njit(cache=True, nogil=True)(_score)


@cache
def _compiled_fill() -> Any:
    from numba import njit

    return njit(cache=True, nogil=True)(_fill)


def _fill(keys, probs, backoffs, n_words, slots, table, weights):  # type: ignore[no-untyped-def]
    """Enter each n-gram under the slot of its suffix, which was entered before it."""
    n_slots = np.uint64(len(table))
    for place in range(len(keys)):
        suffix = np.int64(keys[place] >> np.uint64(WORD_BITS))
        if suffix >= n_words:
            suffix = n_words + np.int64(slots[suffix - n_words])
        key = (np.uint64(suffix) << np.uint64(WORD_BITS)) | (keys[place] & np.uint64((1 << WORD_BITS) - 1))
        slot = np.int64((((key * np.uint64(_SPREAD)) >> np.uint64(32)) * n_slots) >> np.uint64(32))
        while table[slot, 0]:
            slot = slot + 1 if slot + 1 < len(table) else np.int64(0)
        table[slot, 0] = key + np.uint64(1)
        weights[slot, 2], weights[slot, 3] = probs[place], backoffs[place]
        slots[place] = slot


def _score(words, offsets, begin, end, order, probs, backoffs, table, weights, out):  # type: ignore[no-untyped-def]
    n_words, n_slots = len(probs), np.uint64(len(table))
    # Backoffs of the n-grams that end before the word at hand, and of those that end with it, by length.
    context, longer = np.zeros(order + 1, np.float32), np.zeros(order + 1, np.float32)
    for sentence in range(len(out)):
        start, stop = offsets[sentence], offsets[sentence + 1]
        n_context = 1 if begin and order > 1 else 0
        context[0] = backoffs[BEGIN_ID]
        total = np.float32(0.0)
        for i in range(start, stop + (1 if end else 0)):
            found = words[i] if i < stop else END_ID
            prob, longer[0] = probs[found], backoffs[found]
            matched = 1
            while matched <= n_context:
                before = i - matched
                first = words[before] if before >= start else BEGIN_ID
                key = (np.uint64(found) << np.uint64(WORD_BITS)) | np.uint64(first)
                slot = np.int64((((key * np.uint64(_SPREAD)) >> np.uint64(32)) * n_slots) >> np.uint64(32))
                entry = key + np.uint64(1)
                while table[slot, 0] != entry and table[slot, 0]:
                    slot = slot + 1 if slot + 1 < len(table) else np.int64(0)
                if not table[slot, 0]:
                    break
                found = n_words + slot
                prob, longer[matched] = weights[slot, 2], weights[slot, 3]
                matched += 1
            for k in range(matched - 1, n_context):
                prob = np.float32(prob + context[k])
            total = np.float32(total + prob)
            n_context = min(matched, order - 1)
            for k in range(n_context):
                context[k] = longer[k]
        out[sentence] = total
