"""Skipped updates: which, why, how many, and the same ones after a kill."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilth.errors import TrainError
from tilth.models.decoder import Decoder
from tilth.trainer.checkpoint import published
from tilth.trainer.loop import TrainResult
from tilth.trainer.metrics import read_metrics
from tilth.trainer.spikes import MAX_NOT_FINITE, MIN_HISTORY, WINDOW, SpikeGuard

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch.utils.tensorboard",
    "ignore::DeprecationWarning:tensorboard",
    "ignore:torch.distributed is disabled",
)
NAN = float("nan")


def curve(n_steps: int, seed: int = 0) -> list[tuple[float, float]]:
    """A noisy run with single spikes of the loss or of the norm, some NaN, and a lasting rise in the end."""
    rng = np.random.default_rng(seed)
    found = np.stack([3 + 0.1 * rng.standard_normal(n_steps), 1 + 0.2 * rng.standard_normal(n_steps)], axis=1)
    found[20::50, 0] += 5
    found[35::50, 1] += 9
    found[40::90] = np.nan
    found[-30:, 0] += 4
    return [(float(loss), float(norm)) for loss, norm in found]


def test_its_decisions_are_those_of_the_definition() -> None:
    steps, guard = curve(400), SpikeGuard(6.0)
    for step, (loss, norm) in enumerate(steps):
        before = np.array([pair for pair in steps[:step] if np.isfinite(pair).all()][-WINDOW:])
        wanted = not np.isfinite(loss)
        if not wanted and len(before) >= MIN_HISTORY:
            wanted = bool(((np.array([loss, norm]) - before.mean(0)) > 6 * before.std(0, ddof=1)).any())
        assert guard.skips(step, loss, norm) == wanted, step
    assert {70, 85, 120, 135, 40, 130} <= set(guard.skipped_steps)
    assert not {20, 35} & set(guard.skipped_steps)  # too young to know
    # a new level is accepted after a few steps
    assert 370 in guard.skipped_steps
    assert {step for step in guard.skipped_steps if step > 380} == {385}  # a spike of the norm


@pytest.mark.parametrize("cut", [1, 30, 64, 75, 130, 200, 371])
def test_a_ledger_carries_the_decisions_over_a_resume(cut: int) -> None:
    steps, whole = curve(400), SpikeGuard(6.0)
    for step, pair in enumerate(steps):
        whole.skips(step, *pair)
    first = SpikeGuard(6.0)
    for step in range(cut):
        first.skips(step, *steps[step])
    second = SpikeGuard(6.0, json.loads(json.dumps(first.ledger)))
    for step in range(cut, 400):
        second.skips(step, *steps[step])
    assert second.ledger == whole.ledger


def test_nothing_is_skipped_unless_asked() -> None:
    guard = SpikeGuard(0.0)
    for step, pair in enumerate(curve(200)):
        assert not guard.skips(step, *pair)
        assert guard.gives_up == np.isnan(pair[0])


def spoil(monkeypatch: pytest.MonkeyPatch, is_spoilt: Callable[[int], bool]) -> None:
    """Make the loss NaN in the steps (of two micro-batches) that `is_spoilt` says."""
    real, n_calls = Decoder.loss, 0

    def loss(self: Decoder, *args: Any) -> Any:
        nonlocal n_calls
        n_calls += self.training
        total, count = real(self, *args)
        return (total * NAN if is_spoilt((n_calls - 1) // 2) else total), count

    monkeypatch.setattr(Decoder, "loss", loss)


def test_a_skipped_step_changes_nothing_and_is_counted(
    run: Callable[..., TrainResult], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(monkeypatch, lambda step: step in (3, 7))
    result = run(steps=8, skip_spikes=6.0, checkpoint_every=1)
    lines = read_metrics(result.folder)
    assert [line["step"] for line in lines if line.get("skipped")] == [3, 7]
    assert result.n_skipped == 2
    assert "step 7 is skipped" in caplog.text
    before, after = published(result.folder)
    assert (before / "__0_0.distcp").read_bytes() == (after / "__0_0.distcp").read_bytes()
    assert json.loads((after / "state.json").read_text())["ledger"]["skipped_steps"] == [3, 7]


def test_too_many_that_are_not_finite_end_the_run(run: Callable[..., TrainResult], monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, lambda step: step >= 6)
    with pytest.raises(TrainError, match=f"the loss of step {6 + MAX_NOT_FINITE} is nan") as caught:
        run(steps=20, skip_spikes=6.0)
    assert "The last good checkpoint is step-00000015." in str(caught.value)


@pytest.mark.slow
def test_killed_it_skips_the_same_steps_and_ends_with_the_same_bits(
    run_tiny: Callable[..., subprocess.Popen[str]], setup: dict[str, Any], tmp_path: Path
) -> None:
    """With Muon and bf16, too: all that a checkpoint must hold."""
    asked = {
        "steps": 84,
        "lr": 1e-5,  # learns nothing: one standard deviation cuts into the noise of a level
        "optimizer": "muon",
        "precision": "bfloat16",
        "skip_spikes": 1.0,
        "checkpoint_every": 30,
        "eval_every": 0,
    }
    train = {**setup["train"], **asked}
    for name, options in (("whole", {}), ("killed", {"act": "die", "where": "step:80"}), ("killed", {})):
        process = run_tiny(tmp_path / name, train=train, **options)
        out, err = process.communicate(timeout=120)
        assert process.returncode == (-signal.SIGKILL if options else 0), err
    assert json.loads(out)["resumed_from"] == 60
    clock = ("seconds", "tokens_per_second")
    whole, killed = (
        [{key: value for key, value in line.items() if key not in clock} for line in read_metrics(tmp_path / name)]
        for name in ("whole", "killed")
    )
    assert killed == whole
    assert 1 <= sum("skipped" in line for line in whole) < 20
    for path in ("model.safetensors", "checkpoints/step-00000084/__0_0.distcp"):
        assert (tmp_path / "whole" / path).read_bytes() == (tmp_path / "killed" / path).read_bytes()
