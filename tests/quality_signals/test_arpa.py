"""ARPA files: what is written is read again exactly, kenlm agrees to the last bit, and damaged files are refused."""

from __future__ import annotations

import gzip
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.errors import SourceError
from tilth.quality_signals.models.arpa import read_arpa, write_arpa
from tilth.quality_signals.models.kneser_ney import KneserNeyParameters, train_kneser_ney
from tilth.quality_signals.models.ngram_model import NgramModel

# Written by hand: trigrams, backoffs left out where they are 0, words in no order, as SRILM writes it.
BY_HAND = """
\\data\\
ngram 1=5
ngram 2=4
ngram 3=2

\\1-grams:
-0.6\t</s>
-99\t<s>\t-0.3
-0.5\ta\t-0.2
-0.7\tb\t-0.4
-1.5\t<unk>

\\2-grams:
-0.25\t<s> a\t-0.1
-0.35\ta b\t-0.15
-0.45\tb </s>
-0.55\tb a

\\3-grams:
-0.05\t<s> a b
-0.08\ta b </s>

\\end\\
"""


def _sentences(n: int, seed: int = 0) -> list[list[str]]:
    rng = random.Random(seed)
    return [[f"w{min(int(rng.paretovariate(0.6)), 500)}" for _ in range(rng.randrange(30))] for _ in range(n)]


def _score(model: NgramModel, sentences: list[list[str]], begin: bool = True, end: bool = True) -> list[float]:
    ids = [model.word_ids(sentence) for sentence in sentences]
    offsets = np.cumsum([0, *map(len, ids)])
    return model.scores(np.array([i for found in ids for i in found], np.int64), offsets, begin, end).tolist()


def _kenlm(path: Path) -> Any:
    kenlm = pytest.importorskip("kenlm", reason="kenlm is not installed; it builds from source")
    config = kenlm.Config()
    config.show_progress, config.arpa_complain = False, kenlm.ARPALoadComplain.NONE
    return kenlm.Model(str(path), config)


@pytest.fixture
def by_hand(tmp_path: Path) -> Path:
    path = tmp_path / "hand.arpa"
    path.write_text(BY_HAND)
    return path


def test_scores_worked_out_by_hand(by_hand: Path) -> None:
    model = read_arpa(by_hand)
    assert model.n_ngrams == [5, 4, 2]
    assert model.words[:3] == ["<unk>", "<s>", "</s>"]
    sentences = [["a", "b"], ["b", "a"], [], ["zz", "a"]]
    wanted = [
        -0.25 - 0.05 - 0.08,  # <s> a, <s> a b, a b </s>
        (-0.3 - 0.7) - 0.55 + (-0.2 - 0.6),  # b backs off from <s>; b a; </s> backs off from a (b a has weight 0)
        -0.3 - 0.6,
        (-0.3 - 1.5) - 0.5 + (-0.2 - 0.6),  # nothing follows an unknown word
    ]
    assert _score(model, sentences) == pytest.approx(wanted, abs=1e-6)
    assert _score(model, [["a", "b"]], begin=False) == pytest.approx([-0.5 - 0.35 - 0.08], abs=1e-6)
    assert _score(model, [["a", "b"]], end=False) == pytest.approx([-0.3], abs=1e-6)
    reference = _kenlm(by_hand)
    assert _score(model, sentences) == [reference.score(" ".join(sentence)) for sentence in sentences]


@pytest.mark.parametrize(
    "parameters", [KneserNeyParameters(order=n) for n in (1, 2, 3, 5, 6)] + [KneserNeyParameters(prune=(0, 0, 1))]
)
def test_written_models_are_read_exactly_and_kenlm_agrees(tmp_path: Path, parameters: KneserNeyParameters) -> None:
    model = train_kneser_ney(_sentences(300), parameters).model
    path = tmp_path / "model.arpa"
    write_arpa(model, path)
    again = read_arpa(path)
    assert (again.words, again.n_ngrams) == (model.words, model.n_ngrams)
    for name in ("keys", "log10_probs", "backoffs"):
        assert np.array_equal(getattr(again, name), getattr(model, name)), name
    if parameters.order == 1:
        return  # kenlm refuses models of single words
    reference = _kenlm(path)
    sentences = [*_sentences(200, seed=1), ["never", "seen"], ["<unk>", "w1"], ["</s>", "w1"], ["<s>"], []]
    for begin in (True, False):
        for end in (True, False):
            wanted = [reference.score(" ".join(sentence), bos=begin, eos=end) for sentence in sentences]
            assert _score(model, sentences, begin, end) == wanted  # to the last bit


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", "d", "zz"]), max_size=8), min_size=1, max_size=6))
def test_scores_are_the_sum_of_backed_off_probabilities(sentences: list[list[str]]) -> None:
    model = train_kneser_ney([["a", "b", "a", "c"], ["b", "a"], ["c", "d", "a", "b"]], KneserNeyParameters(order=3)).model

    def identify(words: tuple[int, ...]) -> int:
        found = words[-1]
        for word in words[-2::-1]:
            found = int(model.find(np.array([found]), np.array([word]))[0]) if found >= 0 else -1
        return found

    def query(context: tuple[int, ...], word: int) -> float:
        if (found := identify((*context, word))) >= 0:
            return float(model.log10_probs[found])
        known = identify(context)
        return (float(model.backoffs[known]) if known >= 0 else 0.0) + query(context[1:], word)

    wanted = []
    for sentence in sentences:
        words = (1, *model.word_ids(sentence), 2)
        wanted.append(sum(query(words[max(0, i - 2) : i], words[i]) for i in range(1, len(words))))
    assert _score(model, sentences) == pytest.approx(wanted, rel=1e-5)


def test_compressed_files_and_windows_lines(tmp_path: Path, by_hand: Path) -> None:
    path = tmp_path / "hand.arpa.gz"
    path.write_bytes(gzip.compress(BY_HAND.replace("\n", "\r\n").encode()))
    assert np.array_equal(read_arpa(path).keys, read_arpa(by_hand).keys)


def test_a_model_without_unknown_words_takes_what_kenlm_takes(tmp_path: Path) -> None:
    path = tmp_path / "closed.arpa"
    path.write_text(BY_HAND.replace("-1.5\t<unk>\n", "").replace("ngram 1=5", "ngram 1=4"))
    model = read_arpa(path)
    assert _score(model, [["zz"]]) == pytest.approx([-0.3 - 100.0 - 0.6])
    with warnings.catch_warnings():
        assert _score(model, [["zz", "a"]]) == [_kenlm(path).score("zz a")]


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("\\data\\", "data", "begins with"),
        ("ngram 2=4", "ngram 3=4", "count of 2-grams"),
        ("ngram 2=4", "ngram 2=99999999999", "count of 2-grams"),
        ("ngram 1=5", "ngram 1=6", "two or three fields"),
        ("ngram 3=2", "ngram 3=1", "was expected"),
        ("-0.25", "x", "number"),
        ("-0.25", "nan", "finite"),
        ("-0.25", "0.25", "not above 0"),
        ("\\2-grams:", "\\4-grams:", "was expected"),
        ("b a\n", "b b\n-0.5", "was expected"),
        ("-0.55\tb a", "-0.55\tb", "2-gram has 2 words"),
        ("-0.55\tb a", "-0.55\ta b", "occurs twice"),
        ("-0.55\tb a", "-0.55\tb q", "not among the words"),
        ("a b </s>", "b a </s>", "not an n-gram of the model"),
        ("-0.7\tb", "-0.7\ta", "must differ"),
        ("</s>", "</t>", "not among the words"),
        ("-0.08\ta b </s>", "-0.08\ta b </s>\t-0.1", "no backoff"),
        ("\\end\\", "", "ends before"),
        ("\\end\\\n", "", "ends before"),
        ("-0.6\t", "-0.6\t\xff", "not among the words"),
    ],
)
def test_damaged_files_are_refused_with_their_line(tmp_path: Path, old: str, new: str, what: str) -> None:
    path = tmp_path / "bad.arpa"
    assert old in BY_HAND
    path.write_text(BY_HAND.replace(old, new, 1))
    with pytest.raises(SourceError, match=what) as caught:
        read_arpa(path)
    assert "bad.arpa, line" in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, len(BY_HAND) - 1), length=st.integers(0, 30), junk=st.binary(max_size=6))
def test_mutated_files_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, at: int, length: int, junk: bytes) -> None:
    path = tmp_path_factory.mktemp("arpa") / "mutated.arpa"
    data = BY_HAND.encode()
    path.write_bytes(data[:at] + junk + data[at + length :])
    try:
        model = read_arpa(path)
    except SourceError:
        return
    assert np.isfinite(_score(model, [["a", "b"]])).all()


def test_truncated_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.arpa.gz"
    path.write_bytes(gzip.compress(BY_HAND.encode())[:-20])
    with pytest.raises(SourceError, match=r"cannot be read|ends before"):
        read_arpa(path)
