"""Which device is current where kernels are launched: Triton does not look where the tensors are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from tilth.errors import UserError
from tilth.inference.devices import current_device, find_device
from tilth.inference.engine import engine as engines
from tilth.inference.engine.engine import Engine
from tilth.models.decoder import Decoder


def test_a_gpu_is_current_while_it_lasts_and_a_cpu_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    @contextmanager
    def device(wanted: torch.device) -> Iterator[None]:
        seen.append(f"{wanted} in")
        yield
        seen.append(f"{wanted} out")

    monkeypatch.setattr(torch.cuda, "device", device)
    with current_device(torch.device("cpu")):
        assert seen == []
    with current_device(torch.device("cuda:1")):
        assert seen == ["cuda:1 in"]
    assert seen == ["cuda:1 in", "cuda:1 out"]


def test_the_engines_thread_makes_the_models_device_current(
    make_model: Callable[..., Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str]] = []

    @contextmanager
    def current(device: torch.device) -> Iterator[None]:
        seen.append((str(device), threading.current_thread().name))
        yield

    monkeypatch.setattr(engines, "current_device", current)
    engine, stop = Engine(make_model("MA")), threading.Event()
    stop.set()
    thread = threading.Thread(target=engine.run, args=(stop,), name="engine")
    thread.start()
    thread.join()
    assert seen == [("cpu", "engine")]


def test_a_device_that_is_not_there_is_refused() -> None:
    assert find_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="no device `cuda:99`"):
        find_device("cuda:99")
