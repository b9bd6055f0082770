"""Single nucleotides: the vocabulary of Caduceus, the same ids as the library's, one byte a token, complements, both strands."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.errors import ContractError
from tilth.tokenize.bpe import Tokenizer, train_bpe
from tilth.tokenize.nucleotides import nucleotide_tokenizer
from tilth.tokenize.order import RunOrder
from tilth.tokenize.shards import TokenSet, write_tokens
from tilth.tokenize.strands import is_turned, mark_turned, other_strand

PAIR = dict(zip("ACGTN", "TGCAN", strict=True))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(nucleotide_tokenizer())


@pytest.fixture(scope="module")
def library() -> tokenizers.Tokenizer:
    found = tokenizers.Tokenizer.from_str(nucleotide_tokenizer().decode())
    found.encode_special_tokens = True
    return found


def test_the_vocabulary_is_that_of_caduceus(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 12
    assert tokenizer.encode("ACGTN").tolist() == [7, 8, 9, 10, 11]
    assert tokenizer.special_ids == {
        name: i for i, name in enumerate(["[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]"])
    }
    assert (tokenizer.separator, tokenizer.separator_id) == ("[SEP]", 1)
    assert tokenizer.encode("URYKMSWBDHVXurk*-. \n").tolist() == [6] * 20


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("ACGTNacgtnUuRrXZ*-. \r\n\t[SEP]>é\u0130ßŉ\0"), max_size=60))
def test_the_table_gives_the_ids_of_the_library(text: str) -> None:
    own = Tokenizer(nucleotide_tokenizer())
    library = tokenizers.Tokenizer.from_str(nucleotide_tokenizer().decode())
    library.encode_special_tokens = True
    assert own.encode(text).tolist() == library.encode(text, add_special_tokens=False).ids


def test_a_text_never_becomes_a_special_token(tokenizer: Tokenizer, library: tokenizers.Tokenizer) -> None:
    assert tokenizer.encode("[SEP][PAD]").tolist() == library.encode("[SEP][PAD]").ids == [6] * 7 + [7] + [6] * 2


def test_every_byte_is_one_token(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("ACGTNRYacgtn-*")
    assert tokenizer.byte_lengths[ids].tolist() == [1] * 14
    assert tokenizer.byte_lengths[[0, 1, 2, 3, 4, 5]].tolist() == [0] * 6
    assert tokenizer.decode(tokenizer.encode("acgtNA")) == "ACGTNA"


def test_the_complement_pairs_letters_and_leaves_the_rest(tokenizer: Tokenizer) -> None:
    assert tokenizer.complement == (0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11)
    assert pickle.loads(pickle.dumps(tokenizer)).complement == tokenizer.complement


def test_a_text_tokenizer_has_no_complement() -> None:
    trained = Tokenizer(train_bpe(["ACGT ACGT"], 300))
    assert trained.complement is None
    assert trained.separator == "<|endoftext|>"


@given(st.text(alphabet="ACGTN", max_size=80))
def test_the_other_strand_of_ids_is_that_of_letters(text: str) -> None:
    tokenizer = Tokenizer(nucleotide_tokenizer())
    pairs = np.array(tokenizer.complement)
    ids = tokenizer.encode(text).astype(np.int64)
    assert tokenizer.decode(other_strand(ids, pairs)) == "".join(PAIR[letter] for letter in reversed(text))
    assert np.array_equal(other_strand(other_strand(ids, pairs), pairs), ids)


def test_which_sequences_are_turned_is_a_function_of_seed_step_and_sequence() -> None:
    found = [[is_turned(0.25, 3, step, i) for i in range(64)] for step in range(200)]
    assert abs(np.mean(found) - 0.25) < 0.015  # 3.9 standard deviations of 12,800 draws
    assert found == [[is_turned(0.25, 3, step, i) for i in range(64)] for step in range(200)]
    assert found != [[is_turned(0.25, 4, step, i) for i in range(64)] for step in range(200)]
    assert not any(is_turned(0.0, 3, step, 0) for step in range(100))
    assert all(is_turned(1.0, 3, step, 0) for step in range(100))
    # Draws are independent: what one sequence got says nothing about its neighbours, in the step or in the next.
    for first, second in ((np.array(found)[:, :-1], np.array(found)[:, 1:]), (np.array(found)[:-1], np.array(found)[1:])):
        assert abs(np.mean(first & second) - 0.0625) < 0.01


def test_any_world_size_turns_the_same_sequences(tokenizer: Tokenizer) -> None:
    order = RunOrder(np.array([50, 70, 33]), seq_len=8, global_batch=12, seed=5)
    whole = mark_turned(order.sequences(2), 0.5, 5, 2)
    assert {plan.is_turned for plan in whole} == {True, False}
    for n_ranks in (1, 2, 3, 4):
        shares = [mark_turned(order.batch(2, rank, n_ranks), 0.5, 5, 2, rank * (12 // n_ranks)) for rank in range(n_ranks)]
        assert [plan for share in shares for plan in share] == whole


def test_a_turned_sequence_is_the_reverse_complement_with_its_documents(tmp_path: Path, tokenizer: Tokenizer) -> None:
    texts = ["AACCGGTTAC", "GATTACA", "NNACG"]
    write_tokens(tmp_path, [(bytes([i]) * 16, "dna/00000", i, tokenizer.encode(text)) for i, text in enumerate(texts)], tokenizer)
    tokens = TokenSet.open(tmp_path)
    order = RunOrder(tokens.lengths, seq_len=9, global_batch=2, seed=1)
    for plan in order.sequences(0):
        (turned,) = mark_turned([plan], 1.0, 1, 0)
        ids, targets, segments = tokens.sequence(turned)
        straight, _, _ = tokens.sequence(plan)
        whole = np.append(straight, [0])  # the last token of the window is only ever a target
        window = np.concatenate([
            tokens.tokens[int(tokens.offsets[piece.document]) + piece.start :][: piece.length] for piece in plan.pieces
        ]).astype(np.int64)  # fmt: skip
        assert np.array_equal(window[:-1], whole[:-1])
        expected = np.array([tokenizer.complement[i] for i in window[::-1]])
        assert np.array_equal(ids, expected[:-1])
        lengths = [piece.length for piece in reversed(plan.pieces)]
        owner = np.repeat(np.arange(len(lengths)), lengths)
        assert np.array_equal(segments, owner[:-1])
        assert np.array_equal(targets, expected[1:])
        assert len(targets) == turned.n_targets
        # what a document is read with stands before it, on both strands
        starts = np.flatnonzero(np.diff(segments)) + 1
        assert set(ids[starts].tolist()) <= {tokenizer.separator_id}
        # Position p of the turned sequence is the token at T - p.
        for position in range(10):
            at = order.locate(0, order.sequences(0).index(plan), 9 - position)
            token = tokens.tokens[int(tokens.offsets[at.document]) + at.offset]
            assert expected[position] == tokenizer.complement[int(token)]


def test_what_is_no_dna_is_not_turned(tmp_path: Path) -> None:
    trained = Tokenizer(train_bpe(["some words to train on"], 300))
    write_tokens(tmp_path, [(bytes(16), "web/00000", 0, trained.encode("some words"))], trained)
    tokens = TokenSet.open(tmp_path)
    (plan,) = mark_turned(RunOrder(tokens.lengths, 4, 1, 0).sequences(0), 1.0, 0, 0)
    with pytest.raises(ContractError, match="no nucleotides"):
        tokens.sequence(plan)
