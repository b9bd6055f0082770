"""Loss on answers alone: which tokens are asked for, by brute force over texts and tokenizers; what is refused; that it learns."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

from tilth.corpus.questions.arithmetic import problems
from tilth.corpus.questions.problem import document_of
from tilth.errors import RecipeError
from tilth.inference.generate import generate
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.weights import load_model, save_model
from tilth.tokenize import answer_places
from tilth.tokenize.bpe import Tokenizer, train_bpe
from tilth.tokenize.mixture import Source, TokenMixture
from tilth.tokenize.nucleotides import nucleotide_tokenizer
from tilth.tokenize.order import Piece, SequencePlan
from tilth.tokenize.question_form import prompt_of
from tilth.tokenize.shards import TokenSet, write_tokens
from tilth.trainer.answers import Answers
from tilth.trainer.config import TrainConfig
from tilth.trainer.given import Given
from tilth.trainer.loop import train
from tilth.trainer.metrics import read_metrics

MARK = "\nAnswer:"
# Llama 3's splitting pattern: there marks take the line feeds after them, so a token can begin in the mark and end in the answer
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXTS = [document_of(problem) for problem in problems(60, 9, largest=500)]
TEXTS += ["Why?\nAnswer:\n\n- it's so!\n", "漢字?!\nAnswer:...\n", "Answer:é\nAnswer:\n"] * 20


def like_llama3() -> bytes:
    library = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated")
    library.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    library.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    library.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False))
    library.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
    return str(library.to_str()).encode()


TOKENIZERS = {
    "llama3": Tokenizer(like_llama3()),
    "bpe": Tokenizer(train_bpe(TEXTS, 500)),
    "bytes": Tokenizer(train_bpe(TEXTS, 257)),
}


def write_set(folder: Path, texts: Iterable[str], tokenizer: Tokenizer) -> TokenMixture:
    folder.mkdir(parents=True)
    rows = [(row.to_bytes(16, "big"), "q/0", row, ids) for row, ids in enumerate(tokenizer.encode_batch(list(texts)))]
    write_tokens(folder, rows, tokenizer)
    return TokenMixture.open([Source("sums", folder)])


def asked(objective: Answers, tokens: TokenMixture, document: int, source: int = 0) -> tuple[list[int], list[int], int]:
    """Ids and targets that are not padding, and how many are."""
    length = min(int(tokens.sets[source].lengths[document]), objective.seq_len + 1)
    plan = SequencePlan((Piece(document, 0, length),), (0,), source=source)
    ids, targets, padding = objective.arrange(tokens.sequence(plan), plan, 0, 0)
    assert len(ids) == len(targets) == len(padding) == objective.seq_len
    n = int((padding == 0).sum())
    assert (padding[:n] == 0).all()
    assert (targets[n:] == -100).all()
    return ids[:n].tolist(), targets[:n].tolist(), len(ids) - n


def places_by_brute_force(tokenizer: Tokenizer, text: str) -> int:
    """The first token that a prefix of the ids needs for the mark and a byte more, by decoding every prefix."""
    ids, end = tokenizer.encode(text).tolist(), len(text[: text.index(MARK) + len(MARK)].encode())
    for n in range(len(ids) + 1):
        said = b"".join(tokenizer.token_bytes[number] for number in ids[:n])
        assert text.encode().startswith(said)
        if len(said) > end:
            return n - 1
    return len(ids)  # nothing is behind the mark: the separator


TEXT = st.text(
    st.one_of(st.sampled_from(" \n.?!:A1é漢-"), st.characters(exclude_categories=["Cs"], exclude_characters="\0")), max_size=20
)
CALLS = iter(range(10**6))


@pytest.mark.parametrize("name", TOKENIZERS)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_precedes_the_answer_is_masked_and_nothing_else(name: str, tmp_path: Path, parts: list[tuple[str, str]]) -> None:
    tokenizer, texts = TOKENIZERS[name], [f"{question}{MARK}{answer}" for question, answer in parts]
    tokens = write_set(tmp_path / f"{next(CALLS)}", texts, tokenizer)
    objective = Answers.of(400, MARK, tokens)
    for document, text in enumerate(texts):
        ids, targets, _ = asked(objective, tokens, document)
        held = tokens.sets[0].document(document).tolist()
        assert ids == [tokenizer.separator_id, *held[:-1]]
        first = places_by_brute_force(tokenizer, text)
        assert targets == [-100] * first + held[first:]
        # what is asked for is the answer, and at most the end of the mark that one token has with its beginning
        said = b"".join(tokenizer.token_bytes[number] for number in targets[first:])
        answer = text[text.index(MARK) + len(MARK) :].encode()
        assert said.endswith(answer)
        assert MARK.encode().endswith(said[: len(said) - len(answer)])


def test_an_answer_that_begins_with_a_space_begins_with_a_token(tmp_path: Path) -> None:
    for name, tokenizer in TOKENIZERS.items():
        texts = [document_of(problem) for problem in problems(50, 2)]
        tokens = write_set(tmp_path / name, texts, tokenizer)
        objective = Answers.of(200, MARK, tokens)
        for document, text in enumerate(texts):
            prompt = text[: text.index(MARK) + len(MARK)]
            ids, targets, _ = asked(objective, tokens, document)
            n = len(tokenizer.encode(prompt))
            assert ids[: n + 1] == [tokenizer.separator_id, *tokenizer.encode(prompt).tolist()]  # what a model is sampled with
            assert targets[n:] == [*tokenizer.encode(text[len(prompt) :]).tolist(), tokenizer.separator_id]


def test_llama3_joins_the_end_of_the_mark_with_the_answer(tmp_path: Path) -> None:
    tokenizer = TOKENIZERS["llama3"]
    tokens = write_set(tmp_path / "set", ["Why?\nAnswer:\n\n- so"], tokenizer)
    _, targets, _ = asked(Answers.of(40, MARK, tokens), tokens, 0)
    first = next(number for number in targets if number != -100)
    assert tokenizer.token_bytes[first] == b":\n\n"


def test_a_mark_is_not_found_across_two_documents(tmp_path: Path) -> None:
    tokenizer = TOKENIZERS["bytes"]
    tokens = write_set(tmp_path / "set", ["x\nAns", "wer: 3", f"q{MARK} 1", f"q{MARK}", f"q{MARK}a{MARK}b"], tokenizer)
    found = answer_places.answer_places(tokens.sets[0], MARK).tolist()
    assert found == [-1, -1, 9, 9, 9]  # of several marks the first; behind the mark of the fourth is its separator


def test_groups_of_documents_give_the_same_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = write_set(tmp_path / "set", ["a", *TEXTS, "b\nAns"], TOKENIZERS["bpe"])
    whole = answer_places.answer_places(tokens.sets[0], MARK)
    for size in (1, 37, 1000):
        monkeypatch.setattr(answer_places, "_GROUP_TOKENS", size)
        answer_places._places.cache_clear()
        assert answer_places.answer_places(tokens.sets[0], MARK).tolist() == whole.tolist()


def test_long_documents_are_cut_off_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = TOKENIZERS["bytes"]
    text = f"q{MARK} 0123456789"
    tokens = write_set(tmp_path / "set", [text, f"q{MARK} 1"], tokenizer)
    with caplog.at_level(logging.INFO):
        objective = Answers.of(14, MARK, tokens)
    assert "1 of 2 documents of `sums` are cut off after 14 tokens" in caplog.text
    ids, targets, n_padding = asked(objective, tokens, 0)
    held = tokenizer.encode(text).tolist()
    assert (ids, n_padding) == ([tokenizer.separator_id, *held[:13]], 0)
    assert targets == [-100] * 9 + held[9:14]
    assert asked(objective, tokens, 1)[1][-1] == tokenizer.separator_id  # the end of a whole one is learnt


def test_documents_without_an_answer_are_refused_by_name(tmp_path: Path) -> None:
    tokenizer = TOKENIZERS["bytes"]
    tokens = write_set(tmp_path / "set", [f"q{MARK} 1", "none", f"q{MARK} 2", "nor here"], tokenizer)
    with pytest.raises(RecipeError, match="2 of 4 documents of `sums` have no answer") as caught:
        Answers.of(30, MARK, tokens)
    assert caught.value.where == "q/0 row 1, the first of them"
    late = write_set(tmp_path / "late", [f"q{MARK} 1", f"a long question{MARK} 2"], tokenizer)
    with pytest.raises(RecipeError, match="1 of 2 documents of `sums` begin their answer behind seq_len=20") as caught:
        Answers.of(20, MARK, late)
    assert "Set seq_len to 24" in str(caught.value)
    Answers.of(24, MARK, late)
    with pytest.raises(RecipeError, match="no answer"):
        Answers.of(30, MARK, write_set(tmp_path / "ok", [f"q{MARK} 1"], tokenizer)).for_validation(tokens)


def test_tokens_that_are_no_bytes_are_refused(tmp_path: Path) -> None:
    tokens = write_set(tmp_path / "dna", ["ACGT"], Tokenizer(nucleotide_tokenizer()))
    with pytest.raises(RecipeError, match="tokens are no bytes"):
        Answers.of(30, MARK, tokens)


def test_loss_is_that_of_the_answers_tokens(tmp_path: Path, small: ModelConfig) -> None:
    tokenizer = TOKENIZERS["bpe"]
    texts = [document_of(problem) for problem in problems(5, 3)]
    tokens = write_set(tmp_path / "set", texts, tokenizer)
    objective, model = Answers.of(60, MARK, tokens), Decoder(small)
    plans = [SequencePlan((Piece(n, 0, int(tokens.sets[0].lengths[n])),), (0,)) for n in range(5)]
    rows = [objective.arrange(tokens.sequence(plan), plan, 0, 0) for plan in plans]
    batch = tuple(torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))
    each = torch.full(batch[0].shape, 7.0)
    loss, count = objective.loss(model, batch, each)
    expected, n_asked = 0.0, 0
    for text in texts:  # one by one, without padding, from the text
        ids = torch.tensor([[tokenizer.separator_id, *tokenizer.encode(text).tolist(), tokenizer.separator_id]])
        log_p = torch.log_softmax(model(ids[:, :-1])[0].detach().double(), -1).gather(1, ids[0, 1:, None])[:, 0]
        n_prompt = len(tokenizer.encode(text[: text.index(MARK) + len(MARK)]))
        expected -= float(log_p[n_prompt:].sum())
        n_asked += len(log_p) - n_prompt
    assert int(count) == n_asked
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(each.sum()) == pytest.approx(expected, rel=1e-5)
    assert float(objective.score(model, batch)[0]["loss"].detach()) == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def small() -> ModelConfig:
    return ModelConfig(vocab_size=500, d_model=32, layers="MA", n_heads=2, d_ff=64, d_state=8, ssm_head_dim=16, chunk_size=16)


SETTINGS: dict[str, Any] = {
    "steps": 100, "seq_len": 32, "global_batch": 16, "objective": "answers", "lr": 1e-2, "warmup_steps": 5, "device": "cpu",
    "checkpoint_every": 0, "eval_batches": 2, "document_losses": True,
}  # fmt: skip


def test_a_model_learns_to_answer_and_to_stop(tmp_path: Path, one_thread: None) -> None:
    # one step of small numbers: 7 + 5; a question of the evaluation split was never seen in training
    tokenizer = Tokenizer(train_bpe(["0 1 2 3 4 5 6 7 8 9 + - = #### Question: Answer:\n"] * 3, 280))
    sets = {
        split: write_set(
            tmp_path / split, (document_of(each) for each in problems(n, 1, n_steps=1, largest=20, split=split)), tokenizer
        )
        for split, n in (("train", 220), ("evaluation", 25))
    }
    config = ModelConfig(vocab_size=280, d_model=32, layers="A", n_heads=2, d_ff=64)
    source, held_out = ([Source("sums", tmp_path / split)] for split in sets)
    result = train(config, TrainConfig(**SETTINGS), source, held_out, tmp_path / "run")
    first = read_metrics(tmp_path / "run")[0]
    assert first["n_tokens"] < 16 * 25
    assert result.final_loss < 0.5 * result.first_loss
    assert result.start_validation_loss is not None
    assert result.validation_loss is not None
    assert result.validation_loss < result.start_validation_loss * 0.6
    model = load_model(tmp_path / "run")
    n_formed = 0
    for problem in list(problems(5, 1, n_steps=1, largest=20)):
        ids = [tokenizer.separator_id, *tokenizer.encode(prompt_of(problem.question)).tolist()]
        said = tokenizer.decode(generate(model, ids, 30, temperature=0.0, stop_id=tokenizer.separator_id))
        n_formed += re.fullmatch(r" \d+ [+-] \d+ = \d+\n#### \d+(<\|endoftext\|>)?", said) is not None
    assert n_formed >= 3


def test_it_begins_from_a_saved_model_and_is_the_same_when_interrupted(
    tmp_path: Path, small: ModelConfig, one_thread: None
) -> None:
    tokens = write_set(tmp_path / "set", [document_of(problem) for problem in problems(40, 3)], TOKENIZERS["bpe"])
    torch.manual_seed(0)
    save_model(tmp_path / "saved", Decoder(small), TOKENIZERS["bpe"].data)
    short = {**SETTINGS, "steps": 6, "global_batch": 4, "seq_len": 60, "warmup_steps": 0, "checkpoint_every": 2}
    run: Callable[..., Any] = train
    whole = run(small, TrainConfig(**short), tokens.folder, None, tmp_path / "whole", Given(tmp_path / "saved"))

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 3:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run(small, TrainConfig(**short), tokens.folder, None, tmp_path / "torn", Given(tmp_path / "saved"), on_step=stop)
    again = run(small, TrainConfig(**short), tokens.folder, None, tmp_path / "torn", Given(tmp_path / "saved"))
    assert (again.resumed_from, again.weights_digest) == (2, whole.weights_digest)
    named = TokenSet.open(tokens.folder)
    assert whole.n_tokens == sum(line["n_tokens"] for line in read_metrics(tmp_path / "whole"))
    assert named.n_documents == 40
