"""Kneser-Ney against values worked out by hand, a plain implementation of its definition, and sums of one."""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.errors import RecipeError
from tilth.quality_signals.models import kneser_ney, ngram_counts
from tilth.quality_signals.models.arpa import write_arpa
from tilth.quality_signals.models.kneser_ney import KneserNeyParameters, Trained, train_kneser_ney
from tilth.quality_signals.models.ngram_model import NgramModel

Ngram = tuple[str, ...]
_SENTENCES = st.lists(st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=6), min_size=1, max_size=8).filter(any)
_SPECIALS = ["<unk>", "<s>", "</s>"]


class Plain:
    """Modified Kneser-Ney by its definition (Chen and Goodman 1998), over dictionaries."""

    def __init__(self, sentences: Sequence[Sequence[str]], trained: Trained, parameters: KneserNeyParameters) -> None:
        self.parameters, self.discounts, self.order = parameters, trained.discounts, parameters.order
        padded = [["<s>", *sentence, "</s>"] for sentence in sentences]
        self.plain: dict[Ngram, int] = defaultdict(int)
        lefts: dict[Ngram, set[str]] = defaultdict(set)
        for sentence in padded:
            for n in range(1, self.order + 1):
                for start in range(len(sentence) - n + 1):
                    ngram = tuple(sentence[start : start + n])
                    if ngram != ("<s>",):
                        self.plain[ngram] += 1
                        if start and n < self.order:
                            lefts[ngram].add(sentence[start - 1])
        is_plain = lambda ngram: len(ngram) == self.order or ngram[0] == "<s>"  # noqa: E731
        self.adjusted = {ngram: count if is_plain(ngram) else len(lefts[ngram]) for ngram, count in self.plain.items()}
        self.words = sorted({word for sentence in sentences for word in sentence} | {"<unk>", "</s>"})
        self.followers: dict[Ngram, list[str]] = defaultdict(list)
        for ngram in self.adjusted:
            self.followers[ngram[:-1]].append(ngram[-1])

    def _discount(self, ngram: Ngram) -> float:
        return self.discounts[len(ngram) - 1][min(self.adjusted[ngram], 3) - 1]

    def keeps(self, ngram: Ngram) -> bool:
        return self.plain[ngram] > self.parameters.threshold(len(ngram))

    def gamma(self, context: Ngram) -> float:
        """The share of a context's mass that is left to shorter contexts."""
        found = [(*context, word) for word in self.followers[context]]
        total = sum(self.adjusted[ngram] for ngram in found)
        return sum(self._discount(n) if self.keeps(n) else self.adjusted[n] for n in found) / total if total else 1.0

    def prob(self, context: Ngram, word: str) -> float:
        """p(word | context) with all interpolation."""
        lower = self.prob(context[1:], word) if context else 1 / len(self.words)
        found = [(*context, other) for other in self.followers[context]]
        total = sum(self.adjusted[ngram] for ngram in found)
        if not total:
            return lower
        ngram = (*context, word)
        own = self.adjusted[ngram] - self._discount(ngram) if ngram in self.adjusted and self.keeps(ngram) else 0.0
        return own / total + self.gamma(context) * lower


def _ngrams(model: NgramModel) -> dict[Ngram, tuple[float, float]]:
    """All n-grams of a model with log10 probability and backoff."""
    out, first = {}, 0
    for count in model.n_ngrams:
        ids = np.arange(first, first + count)
        for i, numbers in zip(ids, zip(*(column.tolist() for column in model.ngram_words(ids)))):
            out[tuple(model.words[number] for number in numbers)] = (float(model.log10_probs[i]), float(model.backoffs[i]))
        first += count
    return out


def _query(ngrams: dict[Ngram, tuple[float, float]], context: Ngram, word: str) -> float:
    """log10 p(word | context) by the definition of backoff models."""
    if (*context, word) in ngrams:
        return ngrams[*context, word][0]
    return (ngrams[context][1] if context in ngrams else 0.0) + _query(ngrams, context[1:], word)


def test_worked_out_by_hand() -> None:
    """One sentence `a b a`, bigrams, fallback discounts 0.5, 1, 1.5.

    Bigrams: <s> a, a b, b a, a </s>, once each. Unigrams by distinct words before them: a 2 (<s>, b), b 1, </s> 1; total 4.
    """
    trained = train_kneser_ney([["a", "b", "a"]], KneserNeyParameters(order=2))
    assert trained.is_estimated == [False, False]
    assert (trained.n_sentences, trained.n_tokens, trained.model.n_ngrams) == (1, 4, [5, 4])
    freed = (1.0 + 0.5 + 0.5) / 4  # D2 for a, D1 for b and </s>
    uniform = freed / 4  # over a, b, </s>, <unk>
    unigram = {"a": 1 / 4 + uniform, "b": 0.5 / 4 + uniform, "</s>": 0.5 / 4 + uniform, "<unk>": uniform, "<s>": 1.0}
    assert math.isclose(sum(unigram.values()), 2.0)  # <s> is written as 1 and never predicted
    # After <s> and b there is one bigram, after a there are two; each gives up 0.5.
    wanted = {
        (word,): (math.log10(p), {"a": math.log10(0.5), "b": math.log10(0.5), "<s>": math.log10(0.5)}.get(word, 0.0))
        for word, p in unigram.items()
    }
    for context, word, share in (("<s>", "a", 0.5), ("b", "a", 0.5), ("a", "b", 0.25), ("a", "</s>", 0.25)):
        wanted[context, word] = (math.log10(share + 0.5 * unigram[word]), 0.0)
    found = _ngrams(trained.model)
    assert found.keys() == wanted.keys()
    for ngram, numbers in wanted.items():
        assert found[ngram] == pytest.approx(numbers, abs=1e-6), ngram


@settings(max_examples=60, deadline=None)
@given(sentences=_SENTENCES, order=st.integers(1, 4), prune=st.sampled_from([(), (0, 1), (0, 0, 1)]), rng=st.randoms())
def test_equals_the_definition_and_sums_to_one(
    sentences: list[list[str]], order: int, prune: tuple[int, ...], rng: random.Random
) -> None:
    parameters = KneserNeyParameters(order=order, prune=prune[:order])
    trained = train_kneser_ney(sentences, parameters)
    shuffled = train_kneser_ney(rng.sample(sentences, len(sentences)), parameters)
    for name in ("keys", "log10_probs", "backoffs"):
        assert np.array_equal(getattr(trained.model, name), getattr(shuffled.model, name))
    plain, ngrams = Plain(sentences, trained, parameters), _ngrams(trained.model)
    kept = {ngram for ngram in plain.adjusted if plain.keeps(ngram)}
    assert {ngram for ngram in ngrams if ngram not in {("<s>",), ("<unk>",)}} == kept
    for ngram, (log10_prob, backoff) in ngrams.items():
        if ngram != ("<s>",):
            assert 10**log10_prob == pytest.approx(plain.prob(ngram[:-1], ngram[-1]), rel=1e-5), ngram
        if len(ngram) < order:
            assert 10**backoff == pytest.approx(plain.gamma(ngram), rel=1e-5), ngram
    for n in range(order):
        for context in itertools.product([*plain.words[:2], "<s>", "a", "b"], repeat=n):
            assert sum(10 ** _query(ngrams, context, word) for word in plain.words) == pytest.approx(1.0, abs=1e-5), context


def test_discounts_are_equation_26() -> None:
    rng = random.Random(5)
    sentences = [[f"w{min(int(rng.paretovariate(0.7)), 300)}" for _ in range(20)] for _ in range(400)]
    trained = train_kneser_ney(sentences, KneserNeyParameters(order=3, fallback=None))
    plain = Plain(sentences, trained, KneserNeyParameters(order=3))
    for n, found in enumerate(trained.discounts, 1):
        n1, n2, n3, n4 = (sum(a == k for ngram, a in plain.adjusted.items() if len(ngram) == n) for k in (1, 2, 3, 4))
        y = n1 / (n1 + 2 * n2)
        assert found == pytest.approx((1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3), rel=1e-12)
    assert trained.is_estimated == [True, True, True]


def test_blocks_and_runs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    sentences = [[rng.choice("abcdefghij") for _ in range(rng.randrange(9))] for _ in range(700)] + [["x"] * 3000]
    whole = train_kneser_ney(sentences)
    monkeypatch.setattr(kneser_ney, "_TOKENS_AT_ONCE", 100)
    monkeypatch.setattr(kneser_ney, "_NGRAMS_AT_ONCE", 64)
    monkeypatch.setattr(ngram_counts, "_ROWS_AT_ONCE", 50)
    cut = train_kneser_ney(iter(sentences))
    assert (cut.n_sentences, cut.n_tokens, cut.discounts) == (whole.n_sentences, whole.n_tokens, whole.discounts)
    assert cut.model.n_ngrams == whole.model.n_ngrams
    assert np.array_equal(cut.model.keys, whole.model.keys)
    assert np.allclose(cut.model.log10_probs, whole.model.log10_probs, atol=1e-6)
    assert np.allclose(cut.model.backoffs, whole.model.backoffs, atol=1e-6)


def test_special_words_are_left_out() -> None:
    plain = train_kneser_ney([["a", "b"], ["b"]], KneserNeyParameters(order=2))
    odd = train_kneser_ney([["<s>", "a", "<unk>", "b", "</s>"], ["b"]], KneserNeyParameters(order=2))
    assert odd.model.words == plain.model.words == [*_SPECIALS, "a", "b"]
    assert np.array_equal(odd.model.log10_probs, plain.model.log10_probs)


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no words"):
        train_kneser_ney([[], ["<s>"]])
    for word in ("", "a b", "a\n", "\t"):
        with pytest.raises(RecipeError, match="cannot be a word"):
            train_kneser_ney([["a", word]])
    with pytest.raises(RecipeError, match="1-grams cannot be estimated"):
        train_kneser_ney([["a"]], KneserNeyParameters(fallback=None))
    for wrong in ({"order": 0}, {"order": 7}, {"fallback": (0.0, 1.0, 1.5)}, {"prune": (1,)}, {"prune": (0, 2, 1)}):
        with pytest.raises(RecipeError):
            KneserNeyParameters(**wrong)  # type: ignore[arg-type]
    model = train_kneser_ney([["\u3000", "\xa0a"]], KneserNeyParameters(order=2)).model  # not what ARPA splits at
    write_arpa(model, tmp_path / "odd.arpa")
    with pytest.raises(RecipeError, match="too many"):
        ngram_counts.NgramCounter(5, 1 << 22, tmp_path)
