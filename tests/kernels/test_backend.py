"""The backend is the one that was asked for, or an error that says why not; wrong inputs say what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from tilth.errors import BackendError
from tilth.kernels import choose_backend, rms_norm, use_backend

X = torch.ones(2, 3, 4)
WEIGHT = torch.ones(4)


@pytest.fixture(autouse=True)
def _no_choice_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TILTH_KERNELS", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_the_device_chooses_unless_somebody_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_backend(X) == "cpu"
    monkeypatch.setenv("TILTH_KERNELS", "reference")
    assert choose_backend(X) == "reference"
    with use_backend("cpu"):
        assert choose_backend(X) == "cpu"
        with use_backend("reference"):
            assert choose_backend(X) == "reference"
        assert choose_backend(X) == "cpu"


def test_the_choice_ends_with_the_block_even_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="inside"), use_backend("reference"):
        raise RuntimeError("inside")
    assert choose_backend(X) == "cpu"


def test_the_backend_that_was_chosen_is_the_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from tilth.kernels.rms_norm import cpu, reference

    calls: list[str] = []
    for module in (cpu, reference):
        for name in ("forward", "backward"):
            original = getattr(module, name)
            label = f"{module.__name__.rpartition('.')[2]}.{name}"
            monkeypatch.setattr(module, name, lambda *a, _do=original, _say=label: calls.append(_say) or _do(*a))
    leaf = X.clone().requires_grad_()
    with use_backend("reference"):
        y = rms_norm(leaf, WEIGHT)
    y.sum().backward()  # outside the block: the gradient belongs to the backend of its forward
    rms_norm(leaf, WEIGHT).sum().backward()
    assert calls == ["reference.forward", "reference.backward", "cpu.forward", "cpu.backward"]


@pytest.mark.parametrize(
    ("name", "message"), [("tirton", "Did you mean `triton`"), ("zzz", "Known: cpu, gluon, reference, triton")]
)
def test_an_unknown_backend_is_an_error(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=message), use_backend(name):
        pass
    monkeypatch.setenv("TILTH_KERNELS", name)
    with pytest.raises(BackendError, match=message):
        rms_norm(X, WEIGHT)


def test_triton_on_the_cpu_is_an_error_and_not_another_backend() -> None:
    with use_backend("triton"), pytest.raises(BackendError, match="cannot run on cpu tensors"):
        rms_norm(X, WEIGHT)
    with use_backend("triton"), pytest.raises(BackendError, match="no float64 form"):
        rms_norm(X.double(), WEIGHT.double())


def test_the_interpreter_refuses_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with use_backend("triton"), pytest.raises(BackendError, match="bfloat16 wrongly"):
        rms_norm(X.bfloat16(), WEIGHT)


def test_the_cpu_path_on_another_device_is_an_error() -> None:
    with use_backend("cpu"), pytest.raises(BackendError, match="cannot run on meta tensors"):
        choose_backend(torch.empty(1, device="meta"))


def test_a_tensor_on_another_device_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="weight_D is on meta, but the first input is on cpu"):
        rms_norm(X, torch.ones(4, device="meta"))


def test_triton_is_not_imported_before_it_is_used() -> None:
    code = (
        "import sys, torch, tilth.kernels as k; k.rms_norm(torch.ones(2, 4), torch.ones(4));"
        "assert not [m for m in sys.modules if m.startswith('tilth.') and m.endswith('triton_')]"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TILTH_KERNELS"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
