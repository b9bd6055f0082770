"""The selective scan: its reference against loops of numpy, every backend by the rule, states, decoding, bad input."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tilth.kernels import selective_scan, selective_step
from tilth.kernels.accuracy import outputs_and_gradients

Inputs = dict[str, Any]
STEP_NAMES = {"u_BTC": "u_BC", "dt_BTC": "dt_BC", "B_BTGN": "B_BGN", "C_BTGN": "C_BGN", "z_BTC": "z_BC"}


def make_inputs(
    n_batch: int,
    n_tokens: int,
    n_channels: int,
    d_state: int,
    dtype: torch.dtype = torch.float32,
    *,
    groups: int = 1,
    full: bool = True,
) -> Inputs:
    """`dt` is raw: to go through the softplus. Without `full` only what must be given, and `dt` positive."""
    generator = torch.Generator().manual_seed(n_tokens)

    # Uniform, and decays of one magnitude: with tails, a few values would be all of the largest error, and it mere luck.
    def even(*shape: int) -> Tensor:
        return (4 * torch.rand(shape, generator=generator, dtype=torch.float64) - 2).to(dtype)

    dt = even(n_batch, n_tokens, n_channels) - 1
    return {
        "u_BTC": even(n_batch, n_tokens, n_channels),
        "dt_BTC": dt if full else torch.nn.functional.softplus(dt),
        "A_CN": -(even(n_channels, d_state).abs() + 0.3),
        "B_BTGN": even(n_batch, n_tokens, groups, d_state),
        "C_BTGN": even(n_batch, n_tokens, groups, d_state),
        "D_C": even(n_channels) if full else None,
        "z_BTC": even(n_batch, n_tokens, n_channels) if full else None,
        "dt_bias_C": even(n_channels) if full else None,
        "segments_BT": (torch.rand(n_batch, n_tokens, generator=generator) < 0.1).cumsum(1).int() if full else None,
        "initial_state_BCN": even(n_batch, n_channels, d_state) if full else None,
    }


def by_loops(inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """The recurrence of one scalar at a time, with softplus; a new document forgets."""
    u, dt, A, B, C, D, z, bias, ids, state = (value.numpy().copy() for value in inputs.values())
    y = np.zeros_like(u)
    per_group = u.shape[2] // B.shape[2]
    for b, t, c in np.ndindex(*u.shape):
        if t and ids[b, t] != ids[b, t - 1]:
            state[b, c] = 0
        step = np.log1p(np.exp(dt[b, t, c] + bias[c]))
        for n in range(A.shape[1]):
            state[b, c, n] = np.exp(step * A[c, n]) * state[b, c, n] + step * u[b, t, c] * B[b, t, c // per_group, n]
            y[b, t, c] += state[b, c, n] * C[b, t, c // per_group, n]
        y[b, t, c] = (y[b, t, c] + D[c] * u[b, t, c]) * z[b, t, c] / (1 + np.exp(-z[b, t, c]))
    return y, state


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_values_are_those_of_loops(backend: str) -> None:
    inputs = make_inputs(2, 70, 6, 3, torch.float64, groups=2)
    wanted_y, wanted_state = by_loops(inputs)
    y, state = selective_scan(**inputs, dt_softplus=True, backend=backend)
    assert np.abs(y.numpy() - wanted_y).max() < 1e-12
    assert np.abs(state.numpy() - wanted_state).max() < 1e-12


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_of_the_reference_match_finite_differences(reverse: bool) -> None:
    inputs = make_inputs(2, 5, 4, 2, torch.float64, groups=2)
    names = [name for name, value in inputs.items() if value.is_floating_point()]

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        given = inputs | dict(zip(names, tensors, strict=True))
        return selective_scan(**given, dt_softplus=True, reverse=reverse, backend="reference")

    assert torch.autograd.gradcheck(run, [inputs[name].requires_grad_() for name in names])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_cpu_gradients_are_those_of_the_reference_in_float64(full: bool, reverse: bool) -> None:
    for n_tokens in (1, 2, 64, 67, 130):
        inputs = make_inputs(2, n_tokens, 6, 3, torch.float64, groups=3 if full else 1, full=full)
        options = {"dt_softplus": full, "reverse": reverse}
        found, wanted = (outputs_and_gradients(selective_scan, inputs, **options, backend=name) for name in ("cpu", "reference"))
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert (found[name] - value).abs().max() <= 1e-12 * max(value.abs().max(), 1), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n_tokens", [1, 17, 63, 64, 129, 257])
def test_cpu_keeps_to_the_rule(hold_to_rule: Callable[..., None], n_tokens: int, dtype: torch.dtype) -> None:
    reverse = n_tokens % 2 == 0
    inputs = make_inputs(2, n_tokens, 64, 8, dtype, groups=2)
    hold_to_rule(selective_scan, "cpu", inputs, dt_softplus=True, reverse=reverse)
    hold_to_rule(selective_scan, "cpu", make_inputs(2, n_tokens, 64, 16, dtype, full=False), reverse=not reverse)


@pytest.mark.parametrize("n_runs", [1, 8])
def test_cpu_tiles_of_rows_join(monkeypatch: pytest.MonkeyPatch, hold_to_rule: Callable[..., None], n_runs: int) -> None:
    module = import_module("tilth.kernels.selective_scan.cpu")
    monkeypatch.setattr(module, "_TILE", 2 * 64 * 24 * 4)
    monkeypatch.setattr(module, "_SMALL", 0 if n_runs == 1 else 2**15)
    hold_to_rule(selective_scan, "cpu", make_inputs(5, 130, 24, 4), dt_softplus=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("reverse", [False, True])
def test_triton_keeps_to_the_rule(hold_to_rule: Callable[..., None], dtype: torch.dtype, reverse: bool) -> None:
    hold_to_rule(selective_scan, "triton", make_inputs(1, 67, 40, 5, dtype), dt_softplus=True, reverse=reverse)
    hold_to_rule(selective_scan, "triton", make_inputs(2, 9, 80, 17, dtype, groups=2, full=False), reverse=reverse)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # numpy's: the interpreter's sigmoid is right at its ends
@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
@pytest.mark.parametrize("largest", [1e-6, 1e3])
def test_time_steps_of_any_size_give_finite_gradients(backend: str, largest: float) -> None:
    inputs = make_inputs(1, 9, 6, 4, full=False)
    inputs["dt_BTC"] = torch.linspace(0, largest, 54).reshape(1, 9, 6)
    found = outputs_and_gradients(selective_scan, inputs, backend=backend)
    assert all(value.isfinite().all() for value in found.values())
    raw = inputs | {"dt_BTC": torch.linspace(-100, largest, 54).reshape(1, 9, 6)}
    found = outputs_and_gradients(selective_scan, raw, dt_softplus=True, backend=backend)
    assert all(value.isfinite().all() for value in found.values())


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_state_continues_a_row(backend: str, reverse: bool) -> None:
    inputs = make_inputs(2, 9, 6, 4, full=False)
    per_token = ("u_BTC", "dt_BTC", "B_BTGN", "C_BTGN")
    whole, last = selective_scan(**inputs, reverse=reverse, backend=backend)
    parts, state = [], None
    for tokens in (slice(0, 4), slice(4, 9))[:: -1 if reverse else 1]:
        half = inputs | {name: inputs[name][:, tokens] for name in per_token} | {"initial_state_BCN": state}
        part, state = selective_scan(**half, reverse=reverse, backend=backend)
        parts.append(part)
    assert (torch.cat(parts[:: -1 if reverse else 1], dim=1) - whole).abs().max() < 1e-5
    assert (state - last).abs().max() < 1e-5


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_step_continues_rows_and_skips_those_without_a_state(backend: str) -> None:
    inputs = make_inputs(3, 1, 6, 4, groups=2)
    states = torch.randn(5, 6, 4)
    before = states.clone()
    tokens = {STEP_NAMES[name]: inputs[name][:, 0] for name in STEP_NAMES}
    shared = {name: inputs[name] for name in ("A_CN", "D_C", "dt_bias_C")}
    kept = [0, 2]
    rows = {name: inputs[name][kept] for name in STEP_NAMES}
    slots = torch.tensor([4, -1, 0])
    y = selective_step(**tokens, **shared, state_BCN=states, dt_softplus=True, state_indices_B=slots, backend=backend)
    expected, expected_states = selective_scan(
        **rows, **shared, initial_state_BCN=before[[4, 0]], dt_softplus=True, backend="reference"
    )
    assert (y[kept] - expected[:, 0]).abs().max() < 1e-5
    assert torch.equal(y[1], torch.zeros(6))
    assert (states[[4, 0]] - expected_states).abs().max() < 1e-5
    assert torch.equal(states[1:4], before[1:4])


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_slices_of_wider_rows(backend: str) -> None:
    inputs = make_inputs(2, 6, 6, 4)
    wide = torch.randn(2, 6, 30)
    sliced = {"u_BTC": wide[..., 2:8], "z_BTC": wide[:, :, 10:16], "dt_BTC": torch.randn(2, 12, 6)[:, ::2]}
    given = inputs | sliced | {"C_BTGN": wide[..., 20:24].unsqueeze(2)}
    found, _ = selective_scan(**given, dt_softplus=True, backend=backend)
    wanted, _ = selective_scan(**given, dt_softplus=True, backend="reference")
    assert (found - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_an_empty_batch(backend: str) -> None:
    found = outputs_and_gradients(selective_scan, make_inputs(0, 5, 6, 4), dt_softplus=True, backend=backend)
    assert found["output 0"].shape == (0, 5, 6)
    assert found["output 1"].shape == (0, 6, 4)
    assert not found["dA_CN"].any()


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_every_run_gives_the_same_bits(backend: str) -> None:
    first, second = (
        outputs_and_gradients(selective_scan, make_inputs(1, 9, 6, 4), dt_softplus=True, backend=backend) for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_triton_says_how_many_states_it_holds() -> None:
    with pytest.raises(ValueError, match="at most 64"):
        selective_scan(**make_inputs(1, 2, 3, 65), backend="triton")


def test_operators_keep_torch_s_contract() -> None:
    from tilth.kernels.selective_scan import _selective_scan, _selective_scan_backward, _selective_step

    inputs = make_inputs(2, 7, 4, 3)
    leaves = [value.requires_grad_() if value.is_floating_point() else value for value in inputs.values()]
    torch.library.opcheck(_selective_scan, (*leaves, True, True, "cpu"))
    values = [value.detach() for value in leaves]
    y, final, states = _selective_scan(*values, True, False, "cpu")
    torch.library.opcheck(_selective_scan_backward, (torch.ones_like(y), final, *values, states, True, False, "cpu"))
    u, dt, A, B, C, D, z, bias, _, state = values
    tokens = (u[:, 0], state, dt[:, 0], A, B[:, 0], C[:, 0], D, z[:, 0], bias, torch.tensor([1, -1]))
    torch.library.opcheck(_selective_step, (*tokens, True, "cpu"))


def test_compiled_code_agrees_with_eager() -> None:
    inputs = make_inputs(2, 12, 4, 4)
    compiled = torch.compile(selective_scan, fullgraph=True, backend="aot_eager")
    eager, traced = (outputs_and_gradients(function, inputs, dt_softplus=True) for function in (selective_scan, compiled))
    assert all(torch.equal(eager[name], traced[name]) for name in eager)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("u_BTC", torch.zeros(6, 4)),
        ("u_BTC", torch.zeros(2, 0, 4)),
        ("dt_BTC", torch.zeros(2, 6, 3)),
        ("A_CN", torch.zeros(4, 2)),
        ("A_CN", torch.zeros(4, 3, dtype=torch.int32)),
        ("B_BTGN", torch.zeros(2, 6, 3)),
        ("B_BTGN", torch.zeros(2, 6, 3, 3)),
        ("C_BTGN", torch.zeros(2, 6, 2, 3)),
        ("D_C", torch.zeros(3)),
        ("z_BTC", torch.zeros(2, 6, 4, device="meta")),
        ("dt_bias_C", torch.zeros(4, 1)),
        ("segments_BT", torch.zeros(2, 6)),
        ("initial_state_BCN", torch.zeros(2, 3, 4)),
        ("backend", "fast"),
    ],
)
def test_bad_input_is_named(name: str, value: Any) -> None:
    inputs = make_inputs(2, 6, 4, 3, full=False)
    with pytest.raises(ValueError, match=name):
        selective_scan(**{**inputs, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("u_BC", torch.zeros(2, 1, 4)),
        ("state_BCN", torch.zeros(3, 4, 3)),
        ("state_indices_B", torch.zeros(2)),
        ("B_BGN", torch.zeros(2, 3)),
    ],
)
def test_bad_input_of_the_step_is_named(name: str, value: Any) -> None:
    tokens: Inputs = {"u_BC": torch.zeros(2, 4), "dt_BC": torch.zeros(2, 4), "state_BCN": torch.zeros(2, 4, 3)}
    inputs = tokens | {"A_CN": torch.zeros(4, 3), "B_BGN": torch.zeros(2, 1, 3), "C_BGN": torch.zeros(2, 1, 3)}
    with pytest.raises(ValueError, match=name):
        selective_step(**{**inputs, name: value})
