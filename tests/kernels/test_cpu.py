"""The CPU path gives the values and the gradients of the reference, for every shape, layout and packing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tilth.kernels import attention, rms_norm, ssd_scan, use_backend

Inputs = dict[str, Any]
Run = Callable[..., dict[str, Tensor]]
Worst = Callable[..., tuple[float, str]]
LENGTHS = [1, 2, 15, 16, 17, 63, 64, 65, 127, 129, 257]
pytestmark = pytest.mark.usefixtures("poisoned_memory")
REUSE = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def limit(dtype: torch.dtype) -> float:
    return {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5, 17), (257, 64), (0, 8), (2, 0, 8)])
def test_rms_norm(
    rms_norm_inputs: Callable[..., Inputs], run: Run, worst_error: Worst, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    inputs = rms_norm_inputs(*shape, dtype=dtype)
    error, where = worst_error(run("rms_norm", "cpu", inputs), run("rms_norm", "reference", inputs))
    assert error < limit(dtype), where


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n_tokens", LENGTHS)
def test_ssd_scan(ssd_inputs: Callable[..., Inputs], run: Run, worst_error: Worst, n_tokens: int, dtype: torch.dtype) -> None:
    groups = 1 + n_tokens % 2
    inputs = ssd_inputs(2, n_tokens, 4, groups, dtype=dtype, packed=n_tokens % 3 != 0)
    options = {"chunk_size": 16 if n_tokens % 4 else 64}
    error, where = worst_error(run("ssd_scan", "cpu", inputs, **options), run("ssd_scan", "reference", inputs, **options))
    assert error < limit(dtype), where


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_ssd_scan_in_16_bits(ssd_inputs: Callable[..., Inputs], run: Run, worst_error: Worst, dtype: torch.dtype) -> None:
    inputs = ssd_inputs(2, 70, 4, 2, dtype=dtype, packed=True)
    error, where = worst_error(run("ssd_scan", "cpu", inputs), run("ssd_scan", "reference", inputs))
    assert error < limit(dtype), where


@REUSE
@given(
    n_tokens=st.integers(1, 70),
    batch=st.integers(0, 2),
    heads=st.sampled_from([(1, 1), (4, 1), (4, 2), (3, 3)]),
    chunk_size=st.integers(1, 40),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_ssd_scan_for_any_chunk_size(
    ssd_inputs: Callable[..., Inputs],
    run: Run,
    worst_error: Worst,
    n_tokens: int,
    batch: int,
    heads: tuple[int, int],
    chunk_size: int,
    flags: tuple[bool, bool, bool],
) -> None:
    packed, skip, initial = flags
    inputs = ssd_inputs(batch, n_tokens, *heads, 3, 5, dtype=torch.float64, packed=packed, skip=skip, initial=initial)
    inputs = {name: value for name, value in inputs.items() if value is not None}
    error, where = worst_error(run("ssd_scan", "cpu", inputs, chunk_size=chunk_size), run("ssd_scan", "reference", inputs))
    assert error < 1e-12, where


def test_inputs_need_not_be_contiguous(ssd_inputs: Callable[..., Inputs], run: Run, worst_error: Worst) -> None:
    def strided(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() < 2:
            return value
        wide = torch.stack([value, torch.full_like(value, 77)], dim=-1)
        return wide.transpose(0, 1).contiguous().transpose(0, 1)[..., 0]

    for operator, inputs in (("ssd_scan", ssd_inputs(2, 37, 4, 2, packed=True)),):
        loose = {name: strided(value) for name, value in inputs.items()}
        assert not next(iter(loose.values())).is_contiguous()
        with use_backend("cpu"):
            outputs = {"ssd_scan": ssd_scan}[operator](**loose)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        expected = run(operator, "reference", inputs)
        found = {f"output {i}": output for i, output in enumerate(outputs)}
        error, where = worst_error(found, {name: expected[name] for name in found})
        assert error < 1e-5, where


def test_packed_documents_are_the_documents_apart(ssd_inputs: Callable[..., Inputs], run: Run) -> None:
    lengths = (1, 30, 17, 64, 3)
    inputs = ssd_inputs(1, sum(lengths), 4, 1)
    ids = torch.repeat_interleave(torch.tensor([3, 1, 4, 1, 5], dtype=torch.int32), torch.tensor(lengths))
    for backend in ("reference", "cpu"):
        whole = run("ssd_scan", backend, inputs | {"segments_BT": ids[None]})
        start = 0
        for n_tokens in lengths:
            here = slice(start, start + n_tokens)
            apart = {name: value[:, here] if "_BT" in name and value is not None else value for name, value in inputs.items()}
            if start:
                apart["initial_state_BHPN"] = torch.zeros_like(inputs["initial_state_BHPN"])
            with use_backend(backend):
                y, final = ssd_scan(**apart)
            assert (y - whole["output 0"][:, here]).abs().max() < 1e-6
            start += n_tokens
        assert (final - whole["output 1"]).abs().max() < 1e-6


@pytest.mark.parametrize("operator", ["ssd_scan", "attention"])
def test_gradients_of_packed_documents_are_those_of_the_documents_apart(
    ssd_inputs: Callable[..., Inputs], attention_inputs: Callable[..., Inputs], operator: str
) -> None:
    first, second = 21, 44
    inputs = (
        ssd_inputs(1, first + second, 4, 2, initial=False)
        if operator == "ssd_scan"
        else attention_inputs(1, first + second, first + second, 4, 2, 8)
    )
    ids = torch.tensor([[0] * first + [1] * second], dtype=torch.int32)
    call = {"ssd_scan": lambda **k: ssd_scan(**k)[0], "attention": attention}[operator]
    for backend in ("reference", "cpu"):
        gradients = []
        for is_packed in (True, False):
            leaves = {n: v.clone().requires_grad_() if v is not None else None for n, v in inputs.items() if n != "segments_BT"}
            with use_backend(backend):
                if is_packed:
                    y = call(**leaves, segments_BT=ids)
                else:
                    parts = [
                        {n: v[:, part] if "_BT" in n else v for n, v in leaves.items()}
                        for part in (slice(0, first), slice(first, None))
                    ]
                    y = torch.cat([call(**part) for part in parts], dim=1)
            y.square().sum().backward()
            gradients.append({n: v.grad for n, v in leaves.items() if v is not None})
        for name, gradient in gradients[0].items():
            scale = gradients[1][name].abs().max()
            assert (gradient - gradients[1][name]).abs().max() < 1e-6 * scale, (backend, name)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("largest_dt", [1e2, 1e3])
def test_a_large_step_gives_finite_values_and_gradients(
    ssd_inputs: Callable[..., Inputs], run: Run, backend: str, largest_dt: float
) -> None:
    inputs = ssd_inputs(2, 40, 4, 1)
    inputs["dt_BTH"] = inputs["dt_BTH"] * largest_dt / inputs["dt_BTH"].max()
    inputs["A_H"] = -16 * torch.ones(4)
    for name, value in run("ssd_scan", backend, inputs).items():
        assert torch.isfinite(value).all(), name


def test_one_large_step_among_small_ones_does_not_blur_the_others(
    ssd_inputs: Callable[..., Inputs], run: Run, worst_error: Worst
) -> None:
    inputs = ssd_inputs(1, 64, 2, 1)
    inputs["dt_BTH"][:, 20] = 1e3
    inputs["A_H"] = torch.tensor([-16.0, -1.0])
    precise = {name: value.double() if isinstance(value, Tensor) else value for name, value in inputs.items()}
    error, where = worst_error(run("ssd_scan", "cpu", inputs), run("ssd_scan", "reference", precise))
    assert error < 1e-5, where


def test_two_runs_give_the_same_bits(ssd_inputs: Callable[..., Inputs], run: Run) -> None:
    for operator, inputs in (("ssd_scan", ssd_inputs(2, 100, 4, 2, packed=True)),):
        first, second = run(operator, "cpu", inputs), run(operator, "cpu", inputs)
        assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_gradcheck(
    ssd_inputs: Callable[..., Inputs],
    rms_norm_inputs: Callable[..., Inputs],
) -> None:
    ssd = ssd_inputs(1, 7, 2, 1, 2, 3, dtype=torch.float64, packed=True)
    names = [name for name in ssd if name != "segments_BT"]
    norm = rms_norm_inputs(3, 4, dtype=torch.float64)

    def leaves(inputs: Inputs, wanted: list[str]) -> tuple[Tensor, ...]:
        return tuple(inputs[name].requires_grad_() for name in wanted)

    def scan(*values: Tensor) -> Any:
        return ssd_scan(**dict(zip(names, values, strict=True)), segments_BT=ssd["segments_BT"], chunk_size=4)

    with use_backend("cpu"):
        assert torch.autograd.gradcheck(scan, leaves(ssd, names))
        assert torch.autograd.gradcheck(rms_norm, leaves(norm, ["x_D", "weight_D"]))
