"""DPO against its formula written out in fp64: loss, gradients, chunks; what is refused; that the chosen answer becomes likelier."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tilth.corpus.questions.arithmetic import problems
from tilth.corpus.questions.problem import document_of, preference_of
from tilth.errors import RecipeError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.weights import load_model, save_model
from tilth.tokenize.bpe import Tokenizer, train_bpe
from tilth.tokenize.mixture import Source, TokenMixture
from tilth.tokenize.order import Piece, SequencePlan
from tilth.tokenize.question_form import prompt_of
from tilth.tokenize.shards import write_tokens
from tilth.trainer import preferences
from tilth.trainer.config import TrainConfig
from tilth.trainer.data import Batch
from tilth.trainer.given import Given
from tilth.trainer.loop import train
from tilth.trainer.preferences import Preferences, token_log_p

MARKS = ("\nAnswer:", "\nRejected:")
TOKENIZER = Tokenizer(train_bpe(["0 1 2 3 4 5 6 7 8 9 + - = #### Question: Answer: Rejected:\n"] * 3, 290))
Pair = tuple[str, str, str]


@pytest.fixture(autouse=True)
def _repeatable(one_thread: None) -> None:
    torch.manual_seed(3)


def pairs(n: int, seed: int = 0, split: str = "train") -> list[Pair]:
    """Sums of two numbers: the chosen answer is right, the rejected one is 1 or more beside it."""
    found = []
    for number, problem in enumerate(problems(n, seed, n_steps=1, largest=20, split=split)):
        wrong = str(int(problem.answer) + 1 + number % 3)
        chosen, rejected = (
            f" {problem.solution.replace(f'= {problem.answer}', f'= {each}')}" for each in (problem.answer, wrong)
        )
        found.append((f"Question: {problem.question}", chosen, rejected))
    return found


def write_pairs(folder: Path, given: Sequence[Pair], tokenizer: Tokenizer = TOKENIZER) -> TokenMixture:
    return write_texts(folder, [preference_of(*pair) for pair in given], tokenizer)


def write_texts(folder: Path, texts: Sequence[str], tokenizer: Tokenizer = TOKENIZER) -> TokenMixture:
    folder.mkdir(parents=True)
    rows = [(row.to_bytes(16, "big"), "p/0", row, ids) for row, ids in enumerate(tokenizer.encode_batch(list(texts)))]
    write_tokens(folder, rows, tokenizer)
    return TokenMixture.open([Source("pairs", folder)])


def batch_of(objective: Preferences, tokens: TokenMixture) -> Batch:
    plans = [SequencePlan((Piece(n, 0, int(length)),), (0,)) for n, length in enumerate(tokens.sets[0].lengths)]
    rows = [objective.arrange(tokens.sequence(plan), plan, 0, 0) for plan in plans]
    return tuple(torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))


def log_likelihood(model: nn.Module, prompt: str, answer: str) -> Tensor:
    """log p of an answer and its end after its prompt, by the whole logits of one sequence alone."""
    before = [TOKENIZER.separator_id, *TOKENIZER.encode(prompt + MARKS[0]).tolist()]
    after = [*TOKENIZER.encode(answer).tolist(), TOKENIZER.separator_id]
    log_p = torch.log_softmax(model(torch.tensor([[*before, *after]]))[0], -1)
    places = range(len(before) - 1, len(before) + len(after) - 1)
    return torch.stack([log_p[place, token] for place, token in zip(places, after, strict=True)]).sum()


def naive(model: nn.Module, reference: nn.Module, given: Sequence[Pair], beta: float) -> Tensor:
    losses = []
    for prompt, chosen, rejected in given:
        better = log_likelihood(model, prompt, chosen) - log_likelihood(reference, prompt, chosen).detach()
        worse = log_likelihood(model, prompt, rejected) - log_likelihood(reference, prompt, rejected).detach()
        losses.append(-torch.log(torch.sigmoid(beta * (better - worse))))
    return torch.stack(losses)


def models(layers: str) -> tuple[Decoder, Decoder]:
    config = ModelConfig(vocab_size=290, d_model=32, layers=layers, n_heads=2, d_ff=64, d_state=8, ssm_head_dim=16, chunk_size=16)
    model = Decoder(config)
    reference = copy.deepcopy(model)
    with torch.no_grad():
        for weight in reference.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return model, reference.requires_grad_(False).eval()


@pytest.mark.parametrize(("layers", "dtype", "within"), [("AA", torch.float64, 1e-9), ("MA", torch.float32, 2e-4)])
@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_loss_and_gradients_are_those_of_the_formula(
    tmp_path: Path, layers: str, dtype: torch.dtype, within: float, beta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preferences, "CHUNK_TOKENS", 7)
    given = [*pairs(4), ("Why?", " a much longer answer, for it is chosen", " 1"), ("Q", "\n", "")]
    tokens = write_pairs(tmp_path / "set", given)
    model, reference = (each.to(dtype) for each in models(layers))
    objective = Preferences.of(70, MARKS, beta, reference, tokens)
    batch = batch_of(objective, tokens)
    each = torch.full(batch[0].shape, 7.0, dtype=dtype)
    loss, count = objective.loss(model, batch, each)
    expected = naive(model, reference, given, beta)
    assert int(count) == 6
    assert torch.allclose(each[:, 0], expected.detach(), rtol=within, atol=within)
    assert not each[:, 1:].any()
    assert float(loss.detach()) == pytest.approx(float(expected.sum().detach()), rel=within)
    wanted = torch.autograd.grad(expected.sum(), list(model.parameters()))
    found = torch.autograd.grad(loss, list(model.parameters()))
    assert sum(float(gradient.abs().sum()) for gradient in wanted) > 1e-3
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=within, atol=within * float(wanted[0].abs().max()))
    scores, n = objective.score(model, batch)
    assert float(scores["loss"].detach()) == pytest.approx(float(expected.sum().detach()), rel=within)
    assert (int(scores["accuracy"]), int(n)) == (int((expected < np.log(2)).sum()), 6)


def test_against_itself_a_model_prefers_nothing(tmp_path: Path) -> None:
    tokens = write_pairs(tmp_path / "set", pairs(5))
    model, _ = models("MA")
    objective = Preferences.of(64, MARKS, 0.3, copy.deepcopy(model).requires_grad_(False), tokens)
    loss, count = objective.loss(model, batch_of(objective, tokens))
    assert float(loss.detach()) / int(count) == pytest.approx(np.log(2), rel=1e-6)


def test_log_likelihoods_do_not_depend_on_the_chunk() -> None:
    hidden, weight = torch.randn(23, 8, dtype=torch.float64, requires_grad=True), torch.randn(50, 8, dtype=torch.float64)
    targets = torch.randint(50, (23,))
    whole = torch.log_softmax(hidden @ weight.T, -1).gather(1, targets[:, None])[:, 0]
    (wanted,) = torch.autograd.grad(whole.square().sum(), hidden)
    for size in (1, 5, 23, 100):
        found = token_log_p(hidden, weight, targets, size)
        assert torch.allclose(found, whole, rtol=1e-12)
        assert torch.allclose(torch.autograd.grad(found.square().sum(), hidden)[0], wanted, rtol=1e-10)


def test_what_is_no_pair_is_refused_by_name(tmp_path: Path) -> None:
    _, reference = models("A")
    good = preference_of("Q", " 1", " 2")
    bad = write_texts(tmp_path / "bad", [good, "Q\nAnswer: 1", "Q\nRejected: 1\nAnswer: 2", good])
    with pytest.raises(RecipeError, match="2 of 4 documents of `pairs` are no pairs of answers") as caught:
        Preferences.of(64, MARKS, 0.1, reference, bad)
    assert caught.value.where == "p/0 row 1, the first of them"
    long = write_texts(tmp_path / "long", [good, preference_of("Q" * 40, " 1", " 2")])
    n = int(long.sets[0].lengths.max())
    with pytest.raises(RecipeError, match=f"1 of 2 documents of `pairs` are longer than seq_len={n - 1}") as caught:
        Preferences.of(n - 1, MARKS, 0.1, reference, long)
    assert f"Set seq_len to {n}" in str(caught.value)
    Preferences.of(n, MARKS, 0.1, reference, long)
    with pytest.raises(RecipeError, match="no pairs"):
        Preferences.of(n, MARKS, 0.1, reference, long).for_validation(bad)


COMMON: dict[str, Any] = {"seq_len": 48, "global_batch": 16, "device": "cpu", "checkpoint_every": 0, "eval_batches": 3}


def gains(model: nn.Module, reference: nn.Module, held: Sequence[Pair]) -> tuple[float, float]:
    """How much more likely chosen and rejected answers have become, in nats a pair."""
    with torch.no_grad():
        better, worse = (
            [float(log_likelihood(model, pair[0], pair[k]) - log_likelihood(reference, pair[0], pair[k])) for pair in held]
            for k in (1, 2)
        )
    return float(np.mean(better)), float(np.mean(worse))


def test_a_tuned_model_comes_to_prefer_the_chosen(tmp_path: Path) -> None:
    config = ModelConfig(vocab_size=290, d_model=32, layers="A", n_heads=2, d_ff=64)
    texts = [document_of(problem) for problem in problems(150, 5, n_steps=1, largest=20)]
    write_texts(tmp_path / "texts", texts)
    tuning = TrainConfig(**COMMON, steps=60, lr=1e-2, warmup_steps=5, objective="answers")
    train(config, tuning, [Source("pairs", tmp_path / "texts")], None, tmp_path / "tuned")
    shown, held = pairs(100, 1), pairs(20, 2, "evaluation")
    write_pairs(tmp_path / "shown", shown)
    write_pairs(tmp_path / "held", held)
    swapped = [(prompt, rejected, chosen) for prompt, chosen, rejected in shown]
    write_pairs(tmp_path / "swapped", swapped)
    settings = TrainConfig(**COMMON, steps=15, lr=2e-3, objective="preferences", beta=0.2, weight_decay=0.0)
    before = load_model(tmp_path / "tuned")
    found = {}
    for name in ("shown", "swapped"):
        source, held_out = ([Source("pairs", tmp_path / folder)] for folder in (name, "held"))
        result = train(config, settings, source, held_out, tmp_path / f"dpo-{name}", Given(tmp_path / "tuned"))
        assert result.first_loss == pytest.approx(np.log(2), rel=1e-5)  # it begins as its own reference
        assert result.final_loss < 0.5
        assert result.start_validation_loss == pytest.approx(np.log(2), rel=1e-5)
        assert result.validation_accuracy is not None
        better, worse = gains(load_model(tmp_path / f"dpo-{name}"), before, shown)
        found[name] = better - worse
        assert result.n_tokens == 15 * 16  # a pair is a target
    # the control: pairs whose answers are swapped teach the opposite
    assert found["shown"] > 1
    assert found["swapped"] < -1


def test_a_run_that_begins_with_nothing_has_no_reference(tmp_path: Path) -> None:
    write_pairs(tmp_path / "set", pairs(10))
    config = ModelConfig(vocab_size=290, d_model=16, layers="A", n_heads=2)
    settings = {**COMMON, "steps": 2, "objective": "preferences"}
    with pytest.raises(RecipeError, match="needs a reference model"):
        train(config, TrainConfig(**settings), tmp_path / "set", None, tmp_path / "run")
    save_model(tmp_path / "saved", Decoder(config), TOKENIZER.data)
    with pytest.raises(RecipeError, match="not cut into slices"):
        preferences_of_slices(config, settings, tmp_path)
    result = train(config, TrainConfig(**settings), tmp_path / "set", None, tmp_path / "run", Given(tmp_path / "saved"))
    assert result.first_loss == pytest.approx(np.log(2), rel=1e-5)
    assert prompt_of("2 + 3").endswith(MARKS[0])


def preferences_of_slices(config: ModelConfig, settings: dict[str, Any], tmp_path: Path) -> None:
    from tilth.trainer.objectives import make_objective

    sliced = TrainConfig(**{**settings, "tensor_parallel": 2})
    make_objective(sliced, config, TokenMixture.open(tmp_path / "set"), Decoder(config))
