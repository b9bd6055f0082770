"""A trained model goes on in another topology: the same weights, another function, healed by few steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch

from tilth.errors import StaleError
from tilth.models.config import ModelConfig
from tilth.models.weights import load_model
from tilth.tokenize.bpe import Tokenizer, train_bpe
from tilth.tokenize.shards import write_tokens
from tilth.trainer.loop import TrainResult

Run = Callable[..., TrainResult]
STEPS = 150


@pytest.fixture(scope="module")
def prose(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages of Python's own help: a made-up language would not need the upper layers."""
    pages = [topics[name] for name in sorted(topics)]
    tokenizer, root = Tokenizer(train_bpe(pages, 400)), tmp_path_factory.mktemp("prose")
    for name, part in (("tokens", pages[8:]), ("validation", pages[:8])):
        (root / name).mkdir()
        ids = tokenizer.encode_batch(part)
        write_tokens(root / name, ((i.to_bytes(16, "big"), "docs/0", i, each) for i, each in enumerate(ids)), tokenizer)
    return {name: root / name for name in ("tokens", "validation")}


@pytest.fixture
def standard() -> ModelConfig:
    return ModelConfig(vocab_size=400, d_model=64, layers="A*4", n_heads=4)


@pytest.fixture
def ladder(standard: ModelConfig) -> ModelConfig:
    return dataclasses.replace(standard, residual="ladder", residual_from=2)


def test_the_upper_half_made_a_ladder_recovers_with_a_tenth_more_tokens(
    run: Run, standard: ModelConfig, ladder: ModelConfig, prose: dict[str, Path]
) -> None:
    sizes = {"seq_len": 96, "global_batch": 8, "micro_batch": 8}
    options: dict[str, Any] = {**prose, **sizes, "checkpoint_every": 0, "eval_every": 0}
    trained = run(model_config=standard, steps=STEPS, warmup_steps=10, **options)
    healing = {**options, "steps": STEPS // 10, "warmup_steps": 2, "lr": 2e-4, "seed": 9, "initial": trained.folder}
    converted = run("converted", model_config=ladder, **healing)
    control = run("control", model_config=standard, **healing)
    assert trained.validation_loss
    assert converted.start_validation_loss
    assert converted.validation_loss
    assert control.validation_loss
    assert control.start_validation_loss == pytest.approx(trained.validation_loss, rel=1e-6)
    assert converted.start_validation_loss > trained.validation_loss + 0.001  # what the conversion cost
    assert converted.validation_loss < trained.validation_loss
    assert converted.validation_loss < 1.005 * control.validation_loss


def test_the_weights_are_the_same_and_the_topology_another(
    run: Run, standard: ModelConfig, ladder: ModelConfig, prose: dict[str, Path]
) -> None:
    options: dict[str, Any] = {**prose, "warmup_steps": 0}
    trained = run(model_config=standard, steps=2, **options)
    converted = run("converted", model_config=ladder, steps=1, lr=1e-12, weight_decay=0.0, initial=trained.folder, **options)
    before, after = load_model(trained.folder), load_model(converted.folder)
    assert all(torch.allclose(after.state_dict()[name], tensor, atol=1e-9) for name, tensor in before.state_dict().items())
    ids = torch.randint(0, 290, (1, 20))
    assert (before(ids) - after(ids)).abs().max() > 1e-4
    assert after.config.residual == "ladder"


def test_another_model_is_refused_with_the_difference(run: Run, standard: ModelConfig, prose: dict[str, Path]) -> None:
    options: dict[str, Any] = {**prose, "steps": 1, "warmup_steps": 0}
    trained = run(model_config=standard, **options)
    with pytest.raises(StaleError, match=r"model.d_ff: 192 -> 128"):
        run("other", model_config=dataclasses.replace(standard, d_ff=128), initial=trained.folder, **options)
