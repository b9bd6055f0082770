"""What a run with a second model costs: the teacher is asked, a reference reads pairs, and what is frozen has no moments."""

from __future__ import annotations

from typing import Any

import pytest

from tilth.errors import RecipeError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.trainer.config import TrainConfig
from tilth.trainer.distill.student import student_config
from tilth.trainer.throughput import flops_per_token, run_costs

TEACHER = ModelConfig(vocab_size=290, d_model=32, layers="AAA", n_heads=2, d_ff=64, chunk_size=16)
STUDENT = student_config(TEACHER, "DAM")
T = 48


def settings(objective: str, **changed: Any) -> TrainConfig:
    return TrainConfig(steps=5, seq_len=T, global_batch=4, objective=objective, **changed)


def forward_of_layers(config: ModelConfig, letters: str) -> float:
    """Of a model with these layers, without its head."""
    own = ModelConfig.from_dict({**config.to_dict(), "layers": letters})
    return own.flops_per_token(T) / 3 - 2 * own.padded_vocab_size * own.d_model


def test_a_teacher_is_asked_forwards_and_held() -> None:
    told = run_costs(STUDENT, settings("distillation"), TEACHER)
    assert told["flops_per_token"] == pytest.approx(STUDENT.flops_per_token(T) + TEACHER.flops_per_token(T) / 3)
    assert told["flops"] == pytest.approx(5 * 4 * T * told["flops_per_token"])
    assert told["state_bytes"] == 4 * (4 * STUDENT.n_parameters() + TEACHER.n_parameters())
    # 2 FLOPs a parameter and token, but for vectors and the table, and the attention itself
    matrices = sum(p.numel() for p in Decoder(TEACHER).parameters() if p.ndim > 1)
    assert told["flops_per_token"] - STUDENT.flops_per_token(T) == pytest.approx(2 * matrices, rel=0.15)


def test_a_teacher_whose_words_are_stored_is_neither() -> None:
    told = run_costs(STUDENT, settings("distillation"), TEACHER, is_stored=True)
    alone = run_costs(STUDENT, settings("next_token"))
    assert told == alone
    assert told["state_bytes"] == 4 * 4 * STUDENT.n_parameters()


@pytest.mark.parametrize(("optimizer", "copies"), [("adamw", 3), ("muon", 2)])
@pytest.mark.parametrize("objective", ["orientation", "alignment", "distillation"])
def test_what_is_frozen_has_neither_gradients_nor_moments(objective: str, optimizer: str, copies: int) -> None:
    told = run_costs(STUDENT, settings(objective, trained="mixers", optimizer=optimizer), TEACHER)
    mixers = [p for name, p in Decoder(STUDENT).named_parameters() if name.startswith(("blocks.0.mixer.", "blocks.2.mixer."))]
    n_trained = sum(p.numel() for p in mixers)
    assert told["n_trained_parameters"] == n_trained < STUDENT.n_parameters()
    assert told["state_bytes"] == 4 * (STUDENT.n_parameters() + copies * n_trained + TEACHER.n_parameters())


@pytest.mark.parametrize("objective", ["orientation", "alignment"])
def test_stages_that_compare_layers_run_those_and_no_head(objective: str) -> None:
    wanted = 3 * forward_of_layers(STUDENT, "DM") + forward_of_layers(TEACHER, "AAA")
    assert flops_per_token(STUDENT, settings(objective), TEACHER) == pytest.approx(wanted)
    with pytest.raises(RecipeError, match="student has 3 layers, its teacher 2"):
        flops_per_token(STUDENT, settings(objective), ModelConfig.from_dict({**TEACHER.to_dict(), "layers": "AA"}))


def test_a_pair_of_preferences_is_two_sequences_that_two_models_read() -> None:
    told = run_costs(TEACHER, settings("preferences"), TEACHER)
    assert told["tokens_per_step"] == 2 * 4 * T
    assert told["flops"] == pytest.approx(5 * 2 * 4 * T * TEACHER.flops_per_token(T) * 4 / 3)
    assert told["state_bytes"] == 4 * 5 * TEACHER.n_parameters()
