"""What a run says about its speed and its cost, and that no dashboard can disturb it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.trainer import online, throughput
from tilth.trainer.config import TrainConfig
from tilth.trainer.loop import TrainResult
from tilth.trainer.metrics import read_metrics
from tilth.trainer.throughput import peak_flops, peak_of, run_costs

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch.utils.tensorboard",
    "ignore::DeprecationWarning:tensorboard",
    "ignore:torch.distributed is disabled",
)
Run = Callable[..., TrainResult]


def test_mfu_is_the_share_of_the_peak(run: Run, model_config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("mfu" in line for line in read_metrics(run("cpu", steps=1, warmup_steps=0).folder))
    monkeypatch.setattr(throughput, "peak_flops", lambda device: 2e12)
    for line in read_metrics(run("known", steps=2, warmup_steps=0).folder):
        wanted = 4 * 48 / line["seconds"] * model_config.flops_per_token(48) / 2e12
        assert line["mfu"] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "tera_flops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 3090", None),
        ("NVIDIA A1000", None),
    ],
)
def test_peaks_are_found_by_name(name: str, tera_flops: float | None) -> None:
    assert peak_of(name) == (tera_flops and tera_flops * 1e12)
    assert peak_flops(torch.device("cpu")) is None


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_costs_are_those_of_the_run(
    optimizer: str,
    run: Run,
    saved_tensors: Callable[[Path], dict[str, Tensor]],
    model_config: ModelConfig,
    config: TrainConfig,
) -> None:
    told = run_costs(model_config, TrainConfig.from_dict({**config.to_dict(), "optimizer": optimizer}))
    result = run(optimizer=optimizer)
    parameters = list(Decoder(model_config).parameters())
    assert told["n_parameters"] == sum(p.numel() for p in parameters)
    assert told["n_parameters_without_embedding"] == told["n_parameters"] - 296 * 32
    assert (told["tokens_per_step"], told["n_tokens"]) == (4 * 48, 20 * 4 * 48)
    assert told["flops"] == told["n_tokens"] * model_config.flops_per_token(48)
    saved = saved_tensors(result.folder)  # the weights and what the optimiser keeps; their gradients are as large again
    held = sum(value.nbytes for value in saved.values()) + 4 * told["n_parameters"]
    assert told["state_bytes"] == pytest.approx(held, rel=0.02)  # the vectors' second moments under Muon are left out


class Wandb:
    """Stands in for the library: keeps the lines it is given, or misbehaves."""

    def __init__(self, misbehave: Callable[[], None] = lambda: None) -> None:
        self.lines: list[dict[str, Any]] = []
        self.misbehave = misbehave
        self.ended = False

    def init(self, **named: Any) -> SimpleNamespace:
        self.named = named
        self.misbehave()
        return SimpleNamespace(log=lambda line, step: self.lines.append(line), finish=self.finish)

    def finish(self) -> None:
        self.ended = True


def test_the_curves_go_to_wandb_when_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    quiet = run("quiet", steps=3, warmup_steps=0)
    assert not wandb.lines
    result = run("shown", steps=3, warmup_steps=0, wandb_project="soil")
    assert wandb.lines == read_metrics(result.folder)
    assert wandb.ended
    assert (wandb.named["project"], wandb.named["name"]) == ("soil", "shown")
    assert result.weights_digest == quiet.weights_digest


def raise_system_exit() -> None:
    raise SystemExit("not logged in")


@pytest.mark.parametrize(
    ("module", "said"),
    [(Wandb(raise_system_exit), "SystemExit: not logged in"), (None, "ModuleNotFoundError"), (object(), "no attribute 'init'")],
)
def test_a_broken_wandb_stops_nothing(
    module: Any, said: str, run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", module)
    assert run(steps=3, warmup_steps=0, wandb_project="soil").steps == 3
    warnings = [record for record in caplog.records if "Weights & Biases" in record.message]
    assert len(warnings) == 1
    assert said in warnings[0].message


def test_a_wandb_that_hangs_delays_nothing(run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    released = threading.Event()
    monkeypatch.setitem(sys.modules, "wandb", Wandb(lambda: released.wait(60) and None))
    monkeypatch.setattr(online, "LAST_WORD_SECONDS", 0.2)
    monkeypatch.setattr(online, "MAX_WAITING", 2)
    began = time.monotonic()
    try:
        result = run(steps=5, warmup_steps=0, wandb_project="soil")
        assert time.monotonic() - began < 30
        assert len(read_metrics(result.folder)) == 5
        assert "did not answer in time" in caplog.text
    finally:
        released.set()


def test_the_project_is_no_part_of_what_a_run_computes(config: TrainConfig) -> None:
    assert TrainConfig.from_dict({**config.to_dict(), "wandb_project": "soil"}).identity() == config.identity()
    assert "wandb_project" not in config.identity()


def test_a_project_must_have_a_name(config: TrainConfig, tmp_path: Path) -> None:
    from tilth.errors import RecipeError

    with pytest.raises(RecipeError, match="wandb_project is ''"):
        TrainConfig.from_dict({**config.to_dict(), "wandb_project": ""})
