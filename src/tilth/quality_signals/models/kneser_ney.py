"""Trains n-gram models with interpolated modified Kneser-Ney smoothing, as KenLM's lmplz does.

Chen and Goodman 1998, sections 3 and 4.1.6 (discounts by equation 26); Heafield, Pouzyrevsky, Clark and Koehn, ACL 2013.
Unigrams are interpolated with the uniform distribution over all words but <s>. Everything that grows with the text is
in files; the resulting model is in memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tilth.errors import RecipeError
from tilth.quality_signals.models.ngram_counts import NgramCounter, OrderCounts
from tilth.quality_signals.models.ngram_model import (
    BEGIN,
    BEGIN_ID,
    END,
    END_ID,
    MAX_ORDER,
    UNKNOWN,
    UNKNOWN_ID,
    WORD_BITS,
    Ids,
    NgramModel,
    ngram_keys,
)

_SPECIALS = (UNKNOWN, BEGIN, END)
_TOKENS_AT_ONCE, _NGRAMS_AT_ONCE = 1 << 20, 1 << 20
Discounts = tuple[float, float, float]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class KneserNeyParameters:
    """`order` is the longest n-gram; `fallback` the discounts for adjusted counts 1, 2 and 3+ of an order whose own cannot
    be estimated (None: refuse); n-grams of order n seen at most `prune[n-1]` times are left out (0: none; ascending).

    Raises RecipeError for values that cannot be.
    """

    order: int = 5
    fallback: Discounts | None = (0.5, 1.0, 1.5)
    prune: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.order <= MAX_ORDER:
            raise RecipeError(f"`order` must be 1 to {MAX_ORDER}", where=str(self))
        if self.fallback is not None and not all(0 < d <= n for n, d in enumerate(self.fallback, 1)):
            raise RecipeError("a discount is above 0 and at most the count it is taken from", where=str(self))
        thresholds = (0, *self.prune)
        if len(self.prune) > self.order or any(a > b for a, b in pairwise(thresholds)) or any(self.prune[:1]):
            raise RecipeError("`prune` must ascend from 0 for single words, one number for each order", where=str(self))

    def threshold(self, n: int) -> int:
        """The count up to which n-grams of order n are left out; the last one given holds for all higher orders."""
        return self.prune[min(n, len(self.prune)) - 1] if self.prune else 0


class Trained(NamedTuple):
    """A model and how it came about: tokens counted (with </s>), discounts of each order and whether they are estimated."""

    model: NgramModel
    n_sentences: int
    n_tokens: int
    discounts: list[Discounts]
    is_estimated: list[bool]


def train_kneser_ney(sentences: Iterable[Sequence[str]], parameters: KneserNeyParameters | None = None) -> Trained:
    """Train on sentences of words. Their order does not matter; <s>, </s> and <unk> in them are left out, as by lmplz
    with `--skip_symbols`. A word must not be empty or hold white space, which ARPA files could not carry.

    Raises RecipeError for no words at all, for such a word, for too many words, or for discounts that cannot be
    estimated where no fallback is given.
    """
    parameters = parameters or KneserNeyParameters()
    with tempfile.TemporaryDirectory(prefix="tilth-ngrams-") as name:
        folder = Path(name)
        words, n_sentences, n_tokens, new_ids = _spool(sentences, folder / "tokens")
        counter = NgramCounter(parameters.order, len(words), folder)
        for block in _blocks(folder / "tokens", new_ids):
            counter.add(block)
        counts = counter.finish()
        estimates = [_discounts(order, n, parameters.fallback) for n, order in enumerate(counts, 1)]
        discounts = [found for found, _ in estimates]
        model = _Estimator(words, counts, discounts, parameters, folder).model()
        # Windows and some network folders refuse to remove mapped files.
        del counts, counter
    return Trained(model, n_sentences, n_tokens, discounts, [is_own for _, is_own in estimates])


def _spool(sentences: Iterable[Sequence[str]], path: Path) -> tuple[list[str], int, int, Ids]:
    """Write word ids to a file; the words, sentences and tokens, and the final id of each id written."""
    known = {word: number for number, word in enumerate(_SPECIALS)}
    n_sentences = n_tokens = 0
    with path.open("wb") as file:
        for sentence in sentences:
            ids = [known.setdefault(word, len(known)) for word in sentence]
            if any(number < len(_SPECIALS) for number in ids):
                ids = [number for number in ids if number >= len(_SPECIALS)]
            file.write(np.array([BEGIN_ID, *ids, END_ID], np.int32).tobytes())
            n_sentences += 1
            n_tokens += len(ids) + 1
    if len(known) == len(_SPECIALS):
        raise RecipeError("no words to train an n-gram model on", fix="give texts that are not empty")
    rest = sorted(word for word in known if word not in _SPECIALS)
    bad = next((word for word in rest if not _is_arpa_word(word)), None)
    if bad is not None:
        raise RecipeError(f"{bad!r} cannot be a word of an n-gram model", fix="split texts at white space")
    words = [*_SPECIALS, *rest]
    new_ids = np.zeros(len(words), np.int64)
    new_ids[[known[word] for word in words]] = np.arange(len(words))
    return words, n_sentences, n_tokens, new_ids


def _is_arpa_word(word: str) -> bool:
    # Only ASCII white space separates words in an ARPA file.
    return bool(word) and not any(space in word for space in " \t\n\v\f\r\0")


def _blocks(path: Path, new_ids: Ids) -> Iterable[Ids]:
    """The spooled tokens with their final ids, in blocks of whole sentences."""
    tokens = np.memmap(path, np.int32, "r")
    start = 0
    while start < len(tokens):
        stop = min(start + _TOKENS_AT_ONCE, len(tokens))
        while stop < len(tokens) and tokens[stop] != BEGIN_ID:
            step = tokens[stop : stop + _TOKENS_AT_ONCE] == BEGIN_ID
            stop += int(step.argmax()) if step.any() else len(step)
        yield new_ids[tokens[start:stop]]
        start = stop


def _discounts(counts: OrderCounts, n: int, fallback: Discounts | None) -> tuple[Discounts, bool]:
    """Discounts of one order by equation 26 of Chen and Goodman, and whether they could be estimated."""
    histogram = np.zeros(5, np.int64)
    for start in range(0, len(counts.adjusted), _NGRAMS_AT_ONCE):
        histogram += np.bincount(np.minimum(counts.adjusted[start : start + _NGRAMS_AT_ONCE], 5), minlength=6)[:5]
    if histogram[1:4].all():
        y = histogram[1] / (histogram[1] + 2 * histogram[2])
        found = tuple(float(k - (k + 1) * y * histogram[k + 1] / histogram[k]) for k in (1, 2, 3))
        if all(0 < discount <= k for k, discount in enumerate(found, 1)):
            return found, True  # type: ignore[return-value]
    if fallback is None:
        what = f"the discounts of {n}-grams cannot be estimated: {histogram[1:].tolist()} of them have counts 1 to 4"
        raise RecipeError(what, where="fallback", fix="train on more text, or give `fallback` discounts")
    return fallback, False


class _Estimator:
    """Turns counts into probabilities, order by order."""

    def __init__(
        self,
        words: list[str],
        counts: list[OrderCounts],
        discounts: list[Discounts],
        parameters: KneserNeyParameters,
        folder: Path,
    ) -> None:
        self.words, self.counts, self.parameters, self.folder = words, counts, parameters, folder
        self.tables = [np.array([0.0, *found]) for found in discounts]
        sizes = [len(order.adjusted) for order in counts]
        self.firsts = np.concatenate(([0], np.cumsum(sizes)))  # id of the first n-gram of each order
        self.probs = self._array("probs", np.float64, int(self.firsts[-1]))
        self.gammas = self._array("gammas", np.float64, int(self.firsts[-2]) if len(sizes) > 1 else 0)
        self.contexts = self._array("contexts", np.int64, int(self.firsts[-1]))
        self.keys = self._array("keys", np.uint64, int(self.firsts[-1]) - sizes[0])

    def model(self) -> NgramModel:
        """The model; pruned n-grams left out."""
        self._unigrams()
        for n in range(2, len(self.counts) + 1):
            self._find_contexts(n)
            self._interpolate(n)
        return self._pruned()

    def _array(self, name: str, kind: Any, size: int) -> Any:
        return np.memmap(self.folder / name, kind, "w+", shape=(size,)) if size else np.zeros(0, kind)

    def _unigrams(self) -> None:
        counts = self.counts[0].adjusted
        discounted = counts - self.tables[0][np.minimum(counts, 3)]
        total = counts.sum()
        uniform = (counts - discounted).sum() / total / (len(self.words) - 1)  # over all words but <s>
        self.probs[: len(counts)] = discounted / total + uniform
        self.probs[BEGIN_ID] = 1.0  # never predicted; written as log 1, as lmplz does
        self.probs[UNKNOWN_ID] = uniform

    def _find_contexts(self, n: int) -> None:
        """The id of the first n-1 words of each n-gram."""
        counts, first, n_words = self.counts[n - 1], int(self.firsts[n - 1]), len(self.words)
        below = int(self.firsts[n - 2])
        known = self.keys[below - n_words : first - n_words] if n > 2 else None
        for start, stop in self._portions(n):
            suffixes = counts.suffixes[start:stop] + below
            first_words = counts.first_words[start:stop]
            here = slice(first + start, first + stop)
            self.keys[first - n_words + start : first - n_words + stop] = ngram_keys(suffixes, first_words)
            if known is None:
                self.contexts[here] = first_words
            else:
                keys = ngram_keys(self.contexts[suffixes], first_words)
                self.contexts[here] = below + np.searchsorted(known, keys)

    def _interpolate(self, n: int) -> None:
        """Totals and freed mass of each context, then p(w | h) = (a - D) / total + gamma(h) p(w | shorter h)."""
        counts, first, below = self.counts[n - 1], int(self.firsts[n - 1]), int(self.firsts[n - 2])
        totals = self._array(f"totals-{n}", np.float64, first - below)
        masses = self._array(f"masses-{n}", np.float64, first - below)
        for start, stop in self._portions(n):
            contexts = np.asarray(self.contexts[first + start : first + stop]) - below
            adjusted = np.asarray(counts.adjusted[start:stop])
            discounted = self._discounted(n, start, stop)
            np.add.at(totals, contexts, adjusted.astype(np.float64))
            np.add.at(masses, contexts, adjusted - discounted)
        for start in range(0, first - below, _NGRAMS_AT_ONCE):
            part = slice(start, min(start + _NGRAMS_AT_ONCE, first - below))
            gammas = np.divide(masses[part], totals[part], out=np.ones(part.stop - start), where=totals[part] > 0)
            self.gammas[below + start : below + part.stop] = gammas
        for start, stop in self._portions(n):
            contexts = np.asarray(self.contexts[first + start : first + stop])
            lower = self.probs[counts.suffixes[start:stop] + below]
            own = self._discounted(n, start, stop) / totals[contexts - below]
            self.probs[first + start : first + stop] = own + self.gammas[contexts] * lower

    def _discounted(self, n: int, start: int, stop: int) -> Floats:
        """Adjusted counts less their discounts; 0 where the n-gram is pruned, so that all its mass goes to the backoff."""
        adjusted = np.asarray(self.counts[n - 1].adjusted[start:stop])
        discounted = adjusted - self.tables[n - 1][np.minimum(adjusted, 3)]
        return np.where(self.counts[n - 1].plain[start:stop] > self.parameters.threshold(n), discounted, 0.0)

    def _portions(self, n: int) -> list[tuple[int, int]]:
        size = len(self.counts[n - 1].adjusted)
        return [(start, min(start + _NGRAMS_AT_ONCE, size)) for start in range(0, size, _NGRAMS_AT_ONCE)]

    def _pruned(self) -> NgramModel:
        kept = [np.ones(len(self.words), np.bool_)]
        kept += [self.counts[n - 1].plain > self.parameters.threshold(n) for n in range(2, len(self.counts) + 1)]
        sizes = [int(part.sum()) for part in kept]
        while len(sizes) > 1 and not sizes[-1]:
            sizes.pop()
        everything = np.concatenate(kept)
        # Where nothing follows a context nothing is left to weigh: its backoff is 1.
        log10_probs, gammas = _log10(self.probs, everything), _log10(self.gammas, everything[: len(self.gammas)])
        backoffs = np.zeros(len(log10_probs), np.float32)
        backoffs[: len(gammas)] = gammas
        keys = np.array(self.keys)
        if not everything.all():
            new_ids = np.cumsum(everything) - 1
            keys = keys[everything[len(self.words) :]]
            words = (keys & np.uint64((1 << WORD_BITS) - 1)).astype(np.int64)
            keys = ngram_keys(new_ids[(keys >> np.uint64(WORD_BITS)).astype(np.int64)], words)
        return NgramModel(self.words, sizes, keys, log10_probs, backoffs)


def _log10(values: Floats, kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Logarithms of the values that are kept, in single precision."""
    starts = range(0, len(values), _NGRAMS_AT_ONCE)
    parts = [np.log10(values[a : a + _NGRAMS_AT_ONCE][kept[a : a + _NGRAMS_AT_ONCE]]).astype(np.float32) for a in starts]
    return np.concatenate([np.zeros(0, np.float32), *parts])
