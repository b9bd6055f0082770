"""The tokenizer: the same bytes each time, lossless on anything, not fooled by the separator's name."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.errors import ContractError, RecipeError, SubsetError
from tilth.tokenize.bpe import MAX_CHUNK_CHARS, SEPARATOR, Tokenizer, count_tokens, split_text, train_bpe

TEXTS = [inspect.getsource(module) for module in (json, os, inspect, subprocess)]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
NASTY = [
    "",
    "\0",
    "a\0b\0",
    SEPARATOR,
    f"x {SEPARATOR}\n{SEPARATOR}",
    "  \n\t \r\n ",
    "é\u0301\u200d\U0001f468\u200d\U0001f469",
    "\ufffe\uffff\x7f",
]


@pytest.fixture(scope="module")
def data() -> bytes:
    return train_bpe(TEXTS, 1_000)


@pytest.fixture(scope="module")
def tokenizer(data: bytes) -> Tokenizer:
    return Tokenizer(data)


def test_the_same_texts_give_the_same_bytes_in_another_process(data: bytes) -> None:
    code = (
        "import hashlib, inspect, json, os, subprocess; from tilth.tokenize.bpe import train_bpe;"
        "texts = [inspect.getsource(m) for m in (json, os, inspect, subprocess)];"
        "print(hashlib.sha256(train_bpe(texts, 1000)).hexdigest())"
    )
    for seed, threads in (("1", "1"), ("77", "4")):
        env = {**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads}
        found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout.strip()
        assert found == hashlib.sha256(data).hexdigest()


def test_the_vocabulary_has_the_asked_size_and_the_separator_first(tokenizer: Tokenizer) -> None:
    assert (tokenizer.vocab_size, tokenizer.separator_id) == (1_000, 0)
    assert tokenizer.decode([0]) == SEPARATOR
    assert tokenizer.dtype == np.dtype("<u2")
    assert sorted(json.loads(tokenizer.data)["model"]["vocab"].values()) == list(range(1_000))


def test_it_compresses_what_it_was_trained_on(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode(TEXTS[0])) < 0.5 * len(TEXTS[0].encode())


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(TEXT, max_size=5))
def test_decoding_gives_back_every_text(tokenizer: Tokenizer, texts: list[str]) -> None:
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert tokenizer.decode(ids) == text
        assert tokenizer.separator_id not in ids
        assert ids.dtype == tokenizer.dtype


@pytest.mark.parametrize("text", NASTY)
def test_hostile_text_is_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.separator_id not in ids
    assert len(ids) <= len(text.encode())


def test_training_on_the_separator_does_not_make_it_a_merge() -> None:
    tokenizer = Tokenizer(train_bpe([f"{SEPARATOR} {SEPARATOR}a{SEPARATOR}" * 200], 400))
    assert tokenizer.separator_id not in tokenizer.encode(SEPARATOR)
    assert tokenizer.decode(tokenizer.encode(SEPARATOR)) == SEPARATOR


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.sampled_from("ab' \n\t.1é\u3000\xa0"), max_size=200), max_chars=st.integers(4, 30))
def test_chunks_join_to_the_text_and_are_bounded(text: str, max_chars: int) -> None:
    chunks = list(split_text(text, max_chars))
    assert "".join(chunks) == text
    assert max(map(len, chunks)) <= max_chars


@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.sampled_from(["don't", "x", "for", "1.5", "\u3000", "é", "\n\n", "  ", "\t", "'s"]), max_size=60))
def test_a_cut_before_a_space_changes_no_token(tokenizer: Tokenizer, words: list[str]) -> None:
    text = " ".join(words)
    # 40 characters always hold a place to cut: the longest word of the list has 5.
    chunks = list(split_text(text + " end", 40))
    assert np.array_equal(np.concatenate(tokenizer.encode_batch(chunks)), tokenizer.encode(text + " end"))


def test_a_long_text_has_the_tokens_of_the_library(tokenizer: Tokenizer) -> None:
    text = "\n".join(TEXTS)
    assert len(text) > 3 * MAX_CHUNK_CHARS
    whole = tokenizer._library.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text).tolist() == whole


@pytest.mark.parametrize("run", [" ", "a", "\0", "é", "ab"])
def test_one_huge_line_takes_linear_time(tokenizer: Tokenizer, run: str) -> None:
    def seconds(n_chars: int) -> float:
        text = run * (n_chars // len(run))
        begin = time.process_time()
        ids = tokenizer.encode(text)
        taken = time.process_time() - begin
        assert tokenizer.decode(ids) == text
        return taken

    seconds(100_000)
    # 16 times the text: the library alone needs over 30 times as long on spaces, and far more on longer runs.
    assert seconds(3_200_000) < 30 * max(seconds(200_000), 0.02)


def test_training_takes_a_huge_run_without_spaces() -> None:
    rng = np.random.default_rng(0)
    noise = "".join(map(chr, rng.integers(97, 123, 400_000)))
    begin = time.process_time()
    tokenizer = Tokenizer(train_bpe([noise, " " * 1_000_000], 600))
    assert time.process_time() - begin < 20
    assert tokenizer.vocab_size == 600


def test_max_bytes_cuts_at_a_character() -> None:
    assert train_bpe(["é" * 100 + "xyz" * 100], 300, max_bytes=101) == train_bpe(["é" * 50], 300)
    assert train_bpe(["abc " * 9, "def " * 9], 300, max_bytes=36) == train_bpe(["abc " * 9], 300)


def test_a_vocabulary_too_small_and_no_text_are_refused() -> None:
    with pytest.raises(RecipeError, match="256 cannot hold all bytes"):
        train_bpe(["a"], 256)
    with pytest.raises(SubsetError, match="no text"):
        train_bpe(["", ""], 300)


def test_what_is_no_tokenizer_is_refused(data: bytes, tmp_path: object) -> None:
    with pytest.raises(ContractError, match=r"not a tokenizer\.json"):
        Tokenizer(b"{}")
    with pytest.raises(ContractError, match="no separator token `<eos>`"):
        Tokenizer(data, separator="<eos>")
    with pytest.raises(ContractError, match=r"no tokenizer\.json"):
        Tokenizer.open("/nonexistent")  # type: ignore[arg-type]


def test_counting_counts_the_separator(tokenizer: Tokenizer) -> None:
    texts = ["", "a b", TEXTS[0]] * 3
    assert count_tokens(tokenizer, iter(texts)).tolist() == [len(ids) + 1 for ids in tokenizer.encode_batch(texts)]
    assert count_tokens(tokenizer, []).tolist() == []


def test_it_travels_to_other_processes(tokenizer: Tokenizer) -> None:
    other = pickle.loads(pickle.dumps(tokenizer))
    assert (other.digest, other.encode(SEPARATOR).tolist()) == (tokenizer.digest, tokenizer.encode(SEPARATOR).tolist())


def test_two_tokenizers_differ_in_their_ids_or_in_what_ends_or_begins_a_text() -> None:
    special = ("<begin>", "<end>")
    data = train_bpe(TEXTS, 400, special_tokens=special)
    plain, ids = Tokenizer(data), Tokenizer(data).special_ids
    assert plain.difference(Tokenizer(data)) is None
    assert plain.difference(Tokenizer(data, SEPARATOR, ids[SEPARATOR])) is None  # said, or the default
    other = plain.difference(Tokenizer(train_bpe(TEXTS, 401, special_tokens=special)))
    assert other == "their tokenizer.json differ, so the same id would mean another token"
    assert plain.difference(Tokenizer(data, "<end>")) == f"its texts end with `{SEPARATOR}`, these with `<end>`"
    begun = Tokenizer(data, begin_id=ids["<begin>"])
    assert begun.difference(plain) == f"its texts begin with `<begin>`, these with `{SEPARATOR}`"
