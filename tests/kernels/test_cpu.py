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
from tilth.kernels.attention import cpu as attention_cpu

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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n_tokens", LENGTHS)
def test_attention(
    attention_inputs: Callable[..., Inputs], run: Run, worst_error: Worst, n_tokens: int, dtype: torch.dtype
) -> None:
    for causal in (True, False):
        for groups, packed in ((1, True), (2, False), (4, True)):
            inputs = attention_inputs(2, n_tokens, n_tokens, 4, groups, 16, dtype=dtype, packed=packed)
            error, where = worst_error(
                run("attention", "cpu", inputs, causal=causal), run("attention", "reference", inputs, causal=causal)
            )
            assert error < limit(dtype), where


@REUSE
@given(
    n_keys=st.integers(1, 40),
    missing=st.integers(0, 39),
    batch=st.integers(0, 2),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 1)]),
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_attention_with_fewer_queries_than_keys(
    attention_inputs: Callable[..., Inputs],
    run: Run,
    worst_error: Worst,
    n_keys: int,
    missing: int,
    batch: int,
    heads: tuple[int, int],
    flags: tuple[bool, bool],
) -> None:
    causal, packed = flags
    inputs = attention_inputs(batch, max(1, n_keys - missing), n_keys, *heads, 8, dtype=torch.float64, packed=packed)
    error, where = worst_error(
        run("attention", "cpu", inputs, causal=causal), run("attention", "reference", inputs, causal=causal)
    )
    assert error < 1e-12, where


@pytest.mark.parametrize("scores_per_call", [0, 10**12])
def test_attention_is_the_same_with_documents_apart_and_under_a_mask(
    attention_inputs: Callable[..., Inputs],
    run: Run,
    worst_error: Worst,
    monkeypatch: pytest.MonkeyPatch,
    scores_per_call: int,
) -> None:
    monkeypatch.setattr(attention_cpu, "_SCORES_PER_CALL", scores_per_call)
    inputs = attention_inputs(3, 90, 90, 4, 2, 16, dtype=torch.float64, packed=True)
    n_parts = len(attention_cpu._parts(*(inputs[n].transpose(1, 2) for n in ("q_BTHD", "k_BTGD")), True, inputs["segments_BT"]))
    assert (n_parts > 3) == (scores_per_call == 0)
    error, where = worst_error(run("attention", "cpu", inputs), run("attention", "reference", inputs))
    assert error < 1e-12, where


def test_inputs_need_not_be_contiguous(
    ssd_inputs: Callable[..., Inputs], attention_inputs: Callable[..., Inputs], run: Run, worst_error: Worst
) -> None:
    def strided(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() < 2:
            return value
        wide = torch.stack([value, torch.full_like(value, 77)], dim=-1)
        return wide.transpose(0, 1).contiguous().transpose(0, 1)[..., 0]

    for operator, inputs in (
        ("ssd_scan", ssd_inputs(2, 37, 4, 2, packed=True)),
        ("attention", attention_inputs(2, 37, 37, 4, 2, 8, packed=True)),
    ):
        loose = {name: strided(value) for name, value in inputs.items()}
        assert not next(iter(loose.values())).is_contiguous()
        with use_backend("cpu"):
            outputs = {"ssd_scan": ssd_scan, "attention": attention}[operator](**loose)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        expected = run(operator, "reference", inputs)
        found = {f"output {i}": output for i, output in enumerate(outputs)}
        error, where = worst_error(found, {name: expected[name] for name in found})
        assert error < 1e-5, where


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


def test_two_runs_give_the_same_bits(
    ssd_inputs: Callable[..., Inputs], attention_inputs: Callable[..., Inputs], run: Run
) -> None:
    for operator, inputs in (
        ("ssd_scan", ssd_inputs(2, 100, 4, 2, packed=True)),
        ("attention", attention_inputs(2, 100, 100, 4, 2, 16, packed=True)),
    ):
        first, second = run(operator, "cpu", inputs), run(operator, "cpu", inputs)
        assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_gradcheck(
    ssd_inputs: Callable[..., Inputs],
    attention_inputs: Callable[..., Inputs],
    rms_norm_inputs: Callable[..., Inputs],
) -> None:
    ssd = ssd_inputs(1, 7, 2, 1, 2, 3, dtype=torch.float64, packed=True)
    names = [name for name in ssd if name != "segments_BT"]
    att = attention_inputs(1, 5, 6, 2, 1, 3, dtype=torch.float64, packed=True)
    norm = rms_norm_inputs(3, 4, dtype=torch.float64)

    def leaves(inputs: Inputs, wanted: list[str]) -> tuple[Tensor, ...]:
        return tuple(inputs[name].requires_grad_() for name in wanted)

    def scan(*values: Tensor) -> Any:
        return ssd_scan(**dict(zip(names, values, strict=True)), segments_BT=ssd["segments_BT"], chunk_size=4)

    with use_backend("cpu"):
        assert torch.autograd.gradcheck(scan, leaves(ssd, names))
        assert torch.autograd.gradcheck(
            lambda q, k, v: attention(q, k, v, segments_BT=att["segments_BT"]), leaves(att, ["q_BTHD", "k_BTGD", "v_BTGD"])
        )
        assert torch.autograd.gradcheck(rms_norm, leaves(norm, ["x_D", "weight_D"]))
