"""ssd_scan in Triton's interpreter: both forms of the forward, all gradients, packed documents, large steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import scan_inputs
import torch

from tilth.kernels import ssd_scan, use_backend
from tilth.kernels.accuracy import outputs_and_gradients
from tilth.kernels.ssd_scan import triton_

Inputs = dict[str, Any]
Hold = Callable[..., None]
EVERYTHING = ("D_H", "z_BTHP", "dt_bias_H", "initial_state_BHPN")
both_types = pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
both_forms = pytest.mark.parametrize("is_fused", [False, True])


make = partial(scan_inputs.make, seed=2)


@pytest.fixture(autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the form that the test asks for, whatever the size; heads of a group in one program, so that the loop loops."""
    if "is_fused" in request.fixturenames:
        monkeypatch.setattr(triton_, "FUSED_PROGRAMS", 1 if request.getfixturevalue("is_fused") else 10**9)
    monkeypatch.setattr(triton_, "GRADIENT_PROGRAMS", 1)


@both_forms
@both_types
@pytest.mark.parametrize("n_tokens", [1, 2, 17, 33, 65])
def test_every_length(hold_to_rule: Hold, n_tokens: int, dtype: torch.dtype, is_fused: bool) -> None:
    given = ("D_H", "initial_state_BHPN") if n_tokens % 2 else ()
    inputs = make((1, n_tokens, 4, 1 + n_tokens % 2, 8, 16), *given, dtype=dtype, seed=0 if n_tokens == 2 else 2)
    hold_to_rule(ssd_scan, "triton", inputs, chunk_size=16, reverse=n_tokens % 4 == 1)


@both_forms
@both_types
@pytest.mark.parametrize("reverse", [False, True])
def test_all_options_at_once(hold_to_rule: Hold, reverse: bool, dtype: torch.dtype, is_fused: bool) -> None:
    options = {"dt_softplus": True, "dt_limit": (0.01, 1.0), "reverse": reverse, "chunk_size": 16}
    seed = 0 if reverse else 4
    packed = make((2, 40, 4, 2, 8, 16), *EVERYTHING, "segments_BT", dtype=dtype, wide_D=True, seed=seed)
    if not is_fused:  # a gate beside documents is not fused
        hold_to_rule(ssd_scan, "triton", packed, **options)
    bounded = make((1, 60, 4, 1, 8, 16), *EVERYTHING, dtype=dtype, bounds=(0, 0, 1, 20, 20, 58, 60, 60), seed=seed)
    hold_to_rule(ssd_scan, "triton", bounded, **options)


@both_types
def test_documents_without_a_gate_in_the_fused_form(
    hold_to_rule: Hold, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(triton_, "FUSED_PROGRAMS", 1)
    inputs = make((2, 40, 4, 2, 8, 16), "D_H", "initial_state_BHPN", "segments_BT", dtype=dtype)
    hold_to_rule(ssd_scan, "triton", inputs, chunk_size=16)


@both_forms
@pytest.mark.parametrize(
    "size",
    [
        (1, 257, 4, 1, 16, 32),
        (1, 50, 4, 1, 5, 40),  # no powers of two
        (1, 40, 4, 1, 70, 130),  # several slices of P and of N
        (0, 5, 2, 1, 8, 16),
    ],
)
def test_other_sizes(hold_to_rule: Hold, size: tuple[int, ...], is_fused: bool) -> None:
    hold_to_rule(ssd_scan, "triton", make(size, seed=1 if size[5] == 130 else 4))


@both_types
def test_parts_of_a_group_and_outputs_without_gradients(
    hold_to_rule: Hold, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(triton_, "GRADIENT_PROGRAMS", 8)
    inputs = make((1, 40, 5, 1, 8, 16), "D_H", dtype=dtype)
    hold_to_rule(ssd_scan, "triton", inputs, chunk_size=16)
    for programs in (1, 10**9):
        monkeypatch.setattr(triton_, "FUSED_PROGRAMS", programs)
        hold_to_rule(ssd_scan, "triton", inputs, gradients=False)


@both_forms
@both_types
def test_large_steps_give_finite_values_and_gradients(dtype: torch.dtype, is_fused: bool) -> None:
    for given, options in ((("initial_state_BHPN",), {}), (EVERYTHING, {"dt_softplus": True})):
        inputs = make((1, 40, 4, 1, 8, 16), *given, dtype=dtype)
        inputs["A_H"] = torch.tensor([-16.0, -1.0, -0.1, -1e-3], dtype=dtype)
        inputs["dt_BTH"] = inputs["dt_BTH"] * 1e3 / inputs["dt_BTH"].abs().amax(dim=1, keepdim=True)
        if "dt_bias_H" in inputs:
            inputs["dt_bias_H"] = torch.tensor([1e3, -1e3, 80.0, 0.0], dtype=dtype)
        # Sums of 40 steps of 1e3 do not fit 16 bits, whoever adds them.
        scale = 1e-2 if dtype == torch.float16 else 1.0
        inputs |= {name: inputs[name] * scale for name in ("x_BTHP", "B_BTGN", "C_BTGN")}
        with use_backend("triton"):
            found = outputs_and_gradients(ssd_scan, inputs, chunk_size=16, **options)
        for name, value in found.items():
            assert torch.isfinite(value).all(), name


def test_one_large_step_among_small_ones_does_not_blur_the_others(hold_to_rule: Hold) -> None:
    inputs = make((1, 40, 8, 1, 8, 16))
    inputs["dt_BTH"][:, 20] = 1e3
    hold_to_rule(ssd_scan, "triton", inputs)


@both_forms
def test_two_runs_give_the_same_bits(is_fused: bool) -> None:
    inputs = make((1, 40, 4, 1, 8, 16), *EVERYTHING, "segments_BT")
    runs: list[dict[str, Any]] = []
    with use_backend("triton"):
        runs = [outputs_and_gradients(ssd_scan, inputs, dt_softplus=True) for _ in range(2)]
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())


def test_what_the_kernels_do_not_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="P <= 128 and N <= 256"):
        ssd_scan(**make((1, 4, 1, 1, 8, 300)), backend="triton")
