"""Out of memory: what to lower, and from where to go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tilth.errors import TrainError
from tilth.models.decoder import Decoder
from tilth.trainer.loop import TrainResult

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch.utils.tensorboard",
    "ignore::DeprecationWarning:tensorboard",
    "ignore:torch.distributed is disabled",
)


def raise_as_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")


@pytest.mark.parametrize(
    ("allocate", "said"),
    [
        (lambda: torch.empty(2**60, dtype=torch.uint8), "can't allocate memory"),
        (lambda: np.empty(2**60, dtype=np.uint8), "Unable to allocate 1.00 EiB"),
        (raise_as_a_gpu, r"CUDA out of memory\. Tried to allocate 2\.00 GiB\."),
    ],
)
def test_out_of_memory_says_what_to_lower(
    allocate: Callable[[], Any], said: str, run: Callable[..., TrainResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_in_step(monkeypatch, 7, allocate)
    with pytest.raises(TrainError, match=f"out of memory: .*{said}") as caught:
        run(micro_batch=4)
    message = str(caught.value)
    assert "The last good checkpoint is step-00000005." in message
    for way in ("micro_batch=2 (it was 4", "recompute=True", "precision='bfloat16'", "lower seq_len=48"):
        assert way in message


def test_only_ways_that_are_left_are_named(run: Callable[..., TrainResult], monkeypatch: pytest.MonkeyPatch) -> None:
    fail_in_step(monkeypatch, 1, raise_as_a_gpu)
    with pytest.raises(TrainError) as caught:
        run(micro_batch=1, recompute=True, precision="bfloat16")
    assert "There is no checkpoint yet. To use less: lower seq_len=48." in str(caught.value)


def test_other_errors_stay_what_they_are(run: Callable[..., TrainResult], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("shapes do not fit")

    fail_in_step(monkeypatch, 0, fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run()


def fail_in_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], Any]) -> None:
    """Call `act` in the first micro-batch of `step`."""
    n_updates = 0
    real_loss, real_step = Decoder.loss, torch.optim.AdamW.step

    def loss(self: Decoder, *args: Any) -> Any:
        if n_updates == step:
            act()
        return real_loss(self, *args)

    def count(self: Any, *args: Any) -> Any:
        nonlocal n_updates
        n_updates += 1
        return real_step(self, *args)

    monkeypatch.setattr(Decoder, "loss", loss)
    monkeypatch.setattr(torch.optim.AdamW, "step", count)
