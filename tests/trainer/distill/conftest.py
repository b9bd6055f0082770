"""A teacher of attention that has learnt a little, and a student of it with other mixers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tilth.models.config import ModelConfig
from tilth.models.weights import load_model, save_model
from tilth.trainer.config import TrainConfig
from tilth.trainer.distill.student import make_student, student_config
from tilth.trainer.loop import train

LAYERS = "DAD"


@pytest.fixture(scope="session")
def teacher(tokens: Path, config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three layers of attention, after 20 steps."""
    shape = ModelConfig(vocab_size=290, d_model=32, layers="AAA", n_heads=2, d_ff=64, chunk_size=16)
    return train(shape, config, tokens, None, tmp_path_factory.mktemp("teacher") / "run").folder


@pytest.fixture(scope="session")
def student(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student that begins as the teacher's attention, not yet trained."""
    folder = tmp_path_factory.mktemp("student") / "model"
    torch.manual_seed(0)
    origin = load_model(teacher)
    save_model(folder, make_student(origin, student_config(origin.config, LAYERS)), (teacher / "tokenizer.json").read_bytes())
    return folder


@pytest.fixture
def distil(run: Callable[..., Any], teacher: Path, student: Path) -> Callable[..., Any]:
    """As `run`, of the student and its teacher; by default 4 steps of distillation."""

    def call(name: str = "run", **changed: Any) -> Any:
        settings = {"objective": "distillation", "steps": 4, "warmup_steps": 0, "teacher": teacher, "initial": student}
        return run(name, **{"model_config": load_model(student).config, **settings, **changed})

    return call
