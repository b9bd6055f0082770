"""ssd_scan: the reference against sums written another way, the CPU path against the reference, and what callers may rely on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scan_inputs import make
from torch import Tensor

from tilth.kernels import ssd_scan, use_backend
from tilth.kernels.accuracy import outputs_and_gradients
from tilth.kernels.ssd_scan import cpu

Inputs = dict[str, Any]
Hold = Callable[..., None]
EVERYTHING = ("D_H", "z_BTHP", "dt_bias_H", "initial_state_BHPN")
LENGTHS = [1, 2, 15, 16, 17, 63, 64, 65, 127, 129, 257]
LOW_PRECISION = [torch.float32, torch.float16, torch.bfloat16]


def by_matrix(inputs: Inputs, b: int, h: int, reverse: bool) -> tuple[np.ndarray, np.ndarray]:
    """y = (L * C B^T) (dt x), with L built entry by entry as products of decays, never as a difference of sums; numpy."""
    order = slice(None, None, -1 if reverse else 1)
    arrays = {name: value.numpy() for name, value in inputs.items()}
    g = h // (arrays["x_BTHP"].shape[2] // arrays["B_BTGN"].shape[2])
    x, z = (arrays[name][b, order, h] for name in ("x_BTHP", "z_BTHP"))
    dt = np.clip(np.logaddexp(0, arrays["dt_BTH"][b, order, h] + arrays["dt_bias_H"][h]), 0.05, 0.5)
    B, C = (arrays[name][b, order, g] for name in ("B_BTGN", "C_BTGN"))
    ids, initial = arrays["segments_BT"][b, order], arrays["initial_state_BHPN"][b, h]
    keep = np.array([1.0, *(ids[1:] == ids[:-1])]) * np.exp(dt * arrays["A_H"][h])
    n_tokens = len(x)
    L = np.array([[np.prod(keep[s + 1 : t + 1]) if s <= t else 0.0 for s in range(n_tokens)] for t in range(n_tokens)])
    from_initial = np.cumprod(keep)
    y = (L * (C @ B.T)) @ (dt[:, None] * x) + from_initial[:, None] * (C @ initial.T) + arrays["D_H"][h] * x
    final = from_initial[-1] * initial + (L[-1, :, None] * dt[:, None] * x).T @ B
    return (y * z / (1 + np.exp(-z)))[order], final


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_reference_is_the_materialised_matrix(groups: int, reverse: bool) -> None:
    inputs = make((2, 23, 4, groups, 3, 5), *EVERYTHING, "segments_BT", dtype=torch.float64)
    y, final = ssd_scan(**inputs, dt_softplus=True, dt_limit=(0.05, 0.5), reverse=reverse, backend="reference")
    for b, h in np.ndindex(2, 4):
        expected_y, expected_final = by_matrix(inputs, b, h, reverse)
        assert np.abs(y[b, :, h].numpy() - expected_y).max() < 2e-8  # torch's softplus is x itself above 20
        assert np.abs(final[b, h].numpy() - expected_final).max() < 2e-8


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_gradcheck(backend: str) -> None:
    for bounds, given in ((None, (*EVERYTHING, "segments_BT")), ((0, 3, 3, 7), EVERYTHING)):
        inputs = make((1, 7, 2, 1, 2, 3), *given, dtype=torch.float64, bounds=bounds, wide_D=True)
        names = [name for name, value in inputs.items() if value.is_floating_point()]

        def scan(*values: Tensor, inputs: Inputs = inputs, names: list[str] = names) -> tuple[Tensor, Tensor]:
            leaves = dict(zip(names, values, strict=True))
            return ssd_scan(**(inputs | leaves), dt_softplus=True, dt_limit=(0.01, 3.0), reverse=True, backend=backend)

        assert torch.autograd.gradcheck(scan, tuple(inputs[name].requires_grad_() for name in names))


@pytest.mark.parametrize("dtype", LOW_PRECISION)
@pytest.mark.parametrize("n_tokens", LENGTHS)
def test_every_length(hold_to_rule: Hold, n_tokens: int, dtype: torch.dtype) -> None:
    given = ("D_H", "initial_state_BHPN") if n_tokens % 2 else ()
    batch = 2 if n_tokens > 16 else 8  # enough numbers for their largest error to mean something
    inputs = make((batch, n_tokens, 8, 1 + n_tokens % 2, 8, 16), *given, dtype=dtype)
    hold_to_rule(ssd_scan, "cpu", inputs, reverse=n_tokens % 4 == 1)


@pytest.mark.parametrize("dtype", LOW_PRECISION)
@pytest.mark.parametrize("reverse", [False, True])
def test_all_options_at_once(hold_to_rule: Hold, reverse: bool, dtype: torch.dtype) -> None:
    options = {"dt_softplus": True, "dt_limit": (0.01, 1.0), "reverse": reverse}
    packed = make((2, 70, 8, 2, 8, 16), *EVERYTHING, "segments_BT", dtype=dtype, wide_D=True, seed=4)
    hold_to_rule(ssd_scan, "cpu", packed, **options)
    bounded = make((1, 140, 8, 1, 8, 16), *EVERYTHING, dtype=dtype, bounds=(0, 0, 1, 20, 20, 90, 140, 140), seed=4)
    hold_to_rule(ssd_scan, "cpu", bounded, **options)


@pytest.mark.parametrize("size", [(0, 5, 2, 1, 3, 4), (3, 70, 3, 3, 5, 7), (5, 9, 4, 2, 1, 1), (2, 130, 2, 1, 16, 8)])
def test_float64_is_exact(size: tuple[int, ...], poisoned_memory: None) -> None:
    # In float64 torch's own error, to which the rule compares, is that of the reference with itself: none.
    for reverse in (False, True):
        inputs = make(size, *EVERYTHING, "segments_BT", dtype=torch.float64)
        found, expected = (_run(inputs, backend, dt_softplus=True, reverse=reverse) for backend in ("cpu", "reference"))
        for name, value in expected.items():
            largest = value.abs().max().item() if value.numel() else 0.0
            assert torch.allclose(found[name], value, rtol=0, atol=1e-12 * (1 + largest)), name


def _run(inputs: Inputs, backend: str, **options: Any) -> dict[str, Tensor]:
    with use_backend(backend):
        return outputs_and_gradients(ssd_scan, inputs, **options)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("reverse", [False, True])
def test_packed_documents_are_the_documents_apart(backend: str, reverse: bool) -> None:
    bounds = (0, 1, 31, 31, 48, 112, 115)
    inputs = make((1, 115, 4, 1, 8, 16), *EVERYTHING, bounds=bounds)
    options = {"dt_softplus": True, "reverse": reverse, "backend": backend}
    y, final = ssd_scan(**inputs, **options)
    segments = torch.repeat_interleave(torch.arange(6), torch.tensor(bounds).diff()).to(torch.int32)[None]
    without = {name: value for name, value in inputs.items() if name not in ("cu_seqlens", "initial_state_BHPN")}
    unset, _ = ssd_scan(**without, segments_BT=segments, **options)
    for i, (start, end) in enumerate(pairwise(bounds)):
        if start == end:
            assert torch.equal(final[i], inputs["initial_state_BHPN"][i])
            continue
        here = {name: value[:, start:end] if "_BT" in name else value for name, value in without.items()}
        y_here, final_here = ssd_scan(**here, initial_state_BHPN=inputs["initial_state_BHPN"][i : i + 1], **options)
        torch.testing.assert_close(y[:, start:end], y_here, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(final[i : i + 1], final_here, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(unset[:, start:end], ssd_scan(**here, **options)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_reverse_is_the_scan_of_the_tokens_turned_round(backend: str) -> None:
    inputs = make((2, 75, 4, 2, 8, 16), *EVERYTHING, "segments_BT")
    turned = {name: value.flip(1) if "_BT" in name else value for name, value in inputs.items()}
    y, final = ssd_scan(**inputs, dt_softplus=True, reverse=True, backend=backend)
    y_turned, final_turned = ssd_scan(**turned, dt_softplus=True, backend=backend)
    torch.testing.assert_close(y, y_turned.flip(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(final, final_turned, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_an_id_that_comes_back_resets_the_state(backend: str) -> None:
    ids = torch.tensor([[0, 0, 1, 0, 0]], dtype=torch.int32)
    one = torch.ones(1, 5, 1, 1, dtype=torch.float64)
    A_H = torch.tensor([-1e-9], dtype=torch.float64)
    y, _ = ssd_scan(one, one[..., 0], A_H, one, one, segments_BT=ids, backend=backend)
    assert torch.allclose(y.flatten(), torch.tensor([1, 2, 1, 1, 2], dtype=torch.float64))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("reverse", [False, True])
def test_large_steps_give_finite_values_and_gradients(backend: str, reverse: bool) -> None:
    for given, options in ((("D_H", "initial_state_BHPN"), {}), (EVERYTHING, {"dt_softplus": True})):
        inputs = make((2, 140, 4, 1, 8, 16), *given)
        inputs["A_H"] = torch.tensor([-16.0, -1.0, -1e-3, -1e-9])
        inputs["dt_BTH"] = inputs["dt_BTH"] * 1e3 / inputs["dt_BTH"].abs().amax(dim=1, keepdim=True)
        if "dt_bias_H" in inputs:
            inputs["dt_bias_H"] = torch.tensor([1e3, -1e3, 80.0, 0.0])
        for name, value in _run(inputs, backend, reverse=reverse, **options).items():
            assert torch.isfinite(value).all(), name


def test_one_large_step_among_small_ones_does_not_blur_the_others(hold_to_rule: Hold) -> None:
    inputs = make((2, 100, 8, 1, 8, 16))
    inputs["dt_BTH"][:, 20] = 1e3
    hold_to_rule(ssd_scan, "cpu", inputs)


def test_inputs_need_not_be_contiguous(hold_to_rule: Hold) -> None:
    def strided(value: Tensor) -> Tensor:
        wide = torch.stack([value, torch.full_like(value, 77)], dim=-1)
        return wide.transpose(0, -2).contiguous().transpose(0, -2)[..., 0]

    inputs = make((2, 70, 4, 2, 8, 16), *EVERYTHING, "segments_BT")
    loose = {name: strided(value) for name, value in inputs.items()}
    assert not loose["x_BTHP"].is_contiguous()
    hold_to_rule(ssd_scan, "cpu", loose, dt_softplus=True)


def test_two_runs_give_the_same_bits_whatever_the_chunk_size() -> None:
    inputs = make((2, 100, 4, 2, 8, 16), *EVERYTHING, "segments_BT")
    first = _run(inputs, "cpu", dt_softplus=True)
    for chunk_size in (64, 1, 1000):
        again = _run(inputs, "cpu", dt_softplus=True, chunk_size=chunk_size)
        assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_small_rows_are_taken_together_and_large_ones_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make((5, 70, 4, 1, 8, 16), "D_H")
    together = _run(inputs, "cpu")
    assert len(list(cpu._spans(_scan_inputs(inputs)))) == 2
    monkeypatch.setattr(cpu, "_NUMBERS_OF_A_CHUNK", 1)
    assert len(list(cpu._spans(_scan_inputs(inputs)))) == 5
    for name, value in _run(inputs, "cpu").items():
        torch.testing.assert_close(value, together[name], rtol=1e-5, atol=1e-4)


def _scan_inputs(inputs: Inputs) -> cpu.ScanInputs:
    return cpu.ScanInputs(**(dict.fromkeys(cpu.ScanInputs._fields) | inputs))


def _arguments(inputs: Inputs, backend: str) -> tuple[Any, ...]:
    leaves = {name: value.requires_grad_(value.is_floating_point()) for name, value in inputs.items()}
    return (*_scan_inputs(leaves), True, 0.01, 3.0, True, 4, True, backend)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore::UserWarning:torch.*")
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_opcheck(backend: str) -> None:
    for bounds, given in ((None, EVERYTHING), (None, ("segments_BT",)), ((0, 3, 3, 7), ("initial_state_BHPN",))):
        inputs = make((1, 7, 4, 2, 8, 16), *given, bounds=bounds)
        torch.library.opcheck(torch.ops.tilth.ssd_scan.default, _arguments(inputs, backend))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore::UserWarning:torch.*")
def test_torch_compile_agrees_with_eager() -> None:
    inputs = make((1, 70, 4, 2, 8, 16), *EVERYTHING, bounds=(0, 20, 70))
    options = {"dt_softplus": True, "reverse": True}
    compiled = torch.compile(ssd_scan, fullgraph=True, backend="aot_eager")
    expected = outputs_and_gradients(ssd_scan, inputs, **options)
    for name, value in outputs_and_gradients(compiled, inputs, **options).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_BTHP": torch.ones(2, 5, 4)}, "x_BTHP .* expected 4 dimensions"),
        ({"B_BTGN": torch.ones(2, 5, 3, 16)}, "4 heads cannot share 3 groups"),
        ({"C_BTGN": torch.ones(2, 5, 2, 15)}, "C_BTGN has shape"),
        ({"dt_BTH": torch.ones(2, 5, 3)}, "dt_BTH has shape"),
        ({"A_H": torch.ones(4, dtype=torch.int32)}, "A_H is torch.int32"),
        ({"D_H": torch.ones(3)}, "D_H has shape"),
        ({"D_H": torch.ones(4, 7)}, r"D_H .* \(H, P\)"),
        ({"z_BTHP": torch.ones(2, 5, 4, 7)}, "z_BTHP has shape"),
        ({"dt_bias_H": torch.ones(3)}, "dt_bias_H has shape"),
        ({"dt_limit": (1.0, 0.5)}, "dt_limit is"),
        ({"dt_limit": (math.nan, 0.5)}, "dt_limit is"),
        ({"initial_state_BHPN": torch.ones(2, 4, 16, 8)}, "initial_state_BHPN has shape"),
        ({"segments_BT": torch.zeros(2, 5)}, "expected int32"),
        ({"cu_seqlens": torch.tensor([0, 5], dtype=torch.int32)}, "x_BTHP has 2 rows"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"x_BTHP": torch.ones(2, 0, 4, 8)}, "at least 1"),
    ],
)
def test_bad_inputs_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ssd_scan(**(make((2, 5, 4, 2, 8, 16)) | changes))


@pytest.mark.parametrize("bounds", [(0, 3), (1, 5), (0, 4, 2, 5), (0, 6)])
def test_bounds_that_do_not_cover_the_tokens_are_refused(bounds: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cu_seqlens must begin with 0"):
        ssd_scan(**make((1, 5, 4, 2, 8, 16), bounds=bounds))


def test_bounds_of_another_type_or_with_segments_are_refused() -> None:
    inputs = make((1, 5, 4, 2, 8, 16), bounds=(0, 5))
    with pytest.raises(ValueError, match=r"cu_seqlens is torch\.int64"):
        ssd_scan(**(inputs | {"cu_seqlens": torch.tensor([0, 5])}))
    with pytest.raises(ValueError, match="cu_seqlens and segments_BT"):
        ssd_scan(**inputs, segments_BT=torch.zeros(1, 5, dtype=torch.int32))


def test_short_documents_cost_no_call_each() -> None:
    """Two hundred documents of a row take at most three times the time of one: some masks, and not a chunk for each."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    tensors = (normal(4, 512, 4, 64), normal(4, 512, 4).sigmoid(), -normal(4).exp(), normal(4, 512, 1, 32), normal(4, 512, 1, 32))
    segments = (torch.rand(4, 512, generator=generator) < 0.4).cumsum(dim=1).to(torch.int32)

    def seconds(segments_BT: Tensor | None) -> float:
        found = []
        for _ in range(5):
            leaves = [tensor.clone().requires_grad_() for tensor in tensors]
            start = time.process_time()
            ssd_scan(*leaves, segments_BT=segments_BT, backend="cpu")[0].sum().backward()
            found.append(time.process_time() - start)
        return min(found)

    assert seconds(segments) < 3 * seconds(None)
