"""Operators whose parameters differ from row to row, against a call for each row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tilth.kernels import causal_conv1d, causal_conv1d_update, rms_norm, selective_step, ssd_step

Run = Callable[..., Any]
BACKENDS = ["reference", "cpu", "triton"]
ROWS = 3


def by_row(function: Run, rows: dict[str, Tensor], parameters: dict[str, Tensor], **options: Any) -> Any:
    """What `function` returns for each row alone, its parameters without their row; states are written to as they lie."""
    found = []
    for b in range(ROWS):
        mine = {name: value[b : b + 1] for name, value in rows.items()} | {name: value[b] for name, value in parameters.items()}
        found.append(function(**mine, **options))
    if isinstance(found[0], tuple):
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))
    return torch.cat(found)


def check(function: Run, rows: dict[str, Tensor], parameters: dict[str, Tensor], state: str | None, **options: Any) -> None:
    ours, theirs = ({name: value.clone() for name, value in rows.items()} for _ in range(2))
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(
        function(**ours, **parameters, **options), by_row(function, theirs, parameters, **options), **close
    )
    if state is not None:
        assert not torch.equal(ours[state], rows[state])
        torch.testing.assert_close(ours[state], theirs[state], **close)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_tokens", [1, 4])
def test_rms_norm(backend: str, n_tokens: int) -> None:
    x, other = torch.randn(2, ROWS, n_tokens, 12)
    parameters = {"weight_D": torch.randn(ROWS, 12), "bias_D": torch.randn(ROWS, 12)}
    check(rms_norm, {"x_D": x}, parameters, None, backend=backend)
    check(rms_norm, {"x_D": x, "residual_D": other}, parameters, None, backend=backend)
    gated = {"x_D": x, "gate_D": other}
    check(rms_norm, gated, parameters, None, norm_before_gate=False, group_size=4, backend=backend)
    check(rms_norm, {"x_D": x[:, 0]}, {"weight_D": parameters["weight_D"]}, None, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_tokens", [1, 5])
def test_causal_conv1d(backend: str, n_tokens: int) -> None:
    rows = {"x_BTC": torch.randn(ROWS, n_tokens, 6), "initial_state_BKC": torch.randn(ROWS, 3, 6)}
    parameters = {"weight_CK": torch.randn(ROWS, 6, 4), "bias_C": torch.randn(ROWS, 6)}
    check(causal_conv1d, rows, parameters, None, activation="silu", return_final_state=True, backend=backend)
    check(causal_conv1d, {"x_BTC": rows["x_BTC"]}, {"weight_CK": parameters["weight_CK"]}, None, backend=backend)
    check(causal_conv1d, rows, parameters, None, reverse=True, backend=backend)
    update = {"x_BTC": rows["x_BTC"], "state_BKC": rows["initial_state_BKC"]}
    check(causal_conv1d_update, update, parameters, "state_BKC", activation="silu", backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_groups", [1, 2])
def test_ssd_step(backend: str, n_groups: int) -> None:
    rows = {
        "state_BHPN": torch.randn(ROWS, 4, 8, 16),
        "x_BHP": torch.randn(ROWS, 4, 8),
        "dt_BH": torch.rand(ROWS, 4),
        "B_BGN": torch.randn(ROWS, n_groups, 16),
        "C_BGN": torch.randn(ROWS, n_groups, 16),
        "z_BHP": torch.randn(ROWS, 4, 8),
    }
    parameters = {"A_H": -torch.rand(ROWS, 4), "D_H": torch.randn(ROWS, 4), "dt_bias_H": torch.randn(ROWS, 4)}
    check(ssd_step, rows, parameters, "state_BHPN", dt_softplus=True, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_groups", [1, 2])
def test_selective_step(backend: str, n_groups: int) -> None:
    rows = {
        "u_BC": torch.randn(ROWS, 8),
        "state_BCN": torch.randn(ROWS, 8, 16),
        "dt_BC": torch.rand(ROWS, 8),
        "B_BGN": torch.randn(ROWS, n_groups, 16),
        "C_BGN": torch.randn(ROWS, n_groups, 16),
        "z_BC": torch.randn(ROWS, 8),
    }
    parameters = {"A_CN": -torch.rand(ROWS, 8, 16), "D_C": torch.randn(ROWS, 8), "dt_bias_C": torch.randn(ROWS, 8)}
    check(selective_step, rows, parameters, "state_BCN", dt_softplus=True, backend=backend)


def test_gradients_flow_to_the_parameters_of_rows() -> None:
    x, weight = torch.randn(ROWS, 4, 6, requires_grad=True), torch.randn(ROWS, 6, 3, requires_grad=True)
    gain = torch.randn(ROWS, 6, requires_grad=True)
    found = torch.autograd.grad(rms_norm(causal_conv1d(x, weight), gain).sum(), (x, weight, gain))
    each = [rms_norm(causal_conv1d(x[b : b + 1], weight[b]), gain[b]) for b in range(ROWS)]
    theirs = torch.autograd.grad(torch.cat(each).sum(), (x, weight, gain))
    torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-5)


INDICES = torch.zeros(ROWS, dtype=torch.int32)
X, STATE, TAPS = torch.randn(ROWS, 1, 6), torch.randn(ROWS, 3, 6), torch.randn(ROWS, 6, 4)
HEADS = (torch.randn(ROWS, 2, 4, 8), torch.randn(ROWS, 2, 4), torch.rand(ROWS, 2))
GROUPS = (torch.randn(ROWS, 1, 8), torch.randn(ROWS, 1, 8))
CHANNELS = (torch.randn(ROWS, 6), torch.randn(ROWS, 6, 8), torch.rand(ROWS, 6))
BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: rms_norm(X, torch.ones(ROWS + 1, 6)), "weight_D"),
    (lambda: rms_norm(X, torch.ones(ROWS, 6), bias_D=torch.ones(6)), "bias_D"),
    (lambda: rms_norm(torch.randn(6), torch.ones(1, 6)), "x_D"),
    (lambda: rms_norm(torch.randn(ROWS, 12), torch.ones(ROWS, 6), reverse_complement=True), "reverse_complement"),
    (lambda: causal_conv1d(X, TAPS[:2]), "weight_CK"),
    (lambda: causal_conv1d(X, TAPS, torch.ones(6)), "bias_C"),
    (lambda: causal_conv1d(X, TAPS, segments_BT=torch.zeros(ROWS, 1, dtype=torch.int32)), "segments_BT"),
    (lambda: causal_conv1d_update(X, STATE, TAPS, state_indices_B=INDICES), "state_indices_B"),
    (lambda: causal_conv1d_update(X, STATE[:2], TAPS), "state_BKC"),
    (lambda: ssd_step(*HEADS, -torch.rand(ROWS, 2), *GROUPS, state_indices_B=INDICES), "state_indices_B"),
    (lambda: ssd_step(*HEADS, -torch.rand(ROWS, 2), *GROUPS, D_H=torch.ones(2)), "D_H"),
    (lambda: ssd_step(*HEADS, -torch.rand(2, ROWS), *GROUPS), "A_H"),
    (lambda: selective_step(*CHANNELS, -torch.rand(ROWS, 6, 8), *GROUPS, state_indices_B=INDICES), "state_indices_B"),
    (lambda: selective_step(*CHANNELS, -torch.rand(ROWS, 6, 8), *GROUPS, D_C=torch.ones(6)), "D_C"),
    (
        lambda: selective_step(CHANNELS[0], CHANNELS[1].mT.contiguous().mT, CHANNELS[2], -torch.rand(ROWS, 6, 8), *GROUPS),
        "strides",
    ),
]


@pytest.mark.parametrize(("call", "named"), BAD, ids=[f"{i} {named}" for i, (_, named) in enumerate(BAD)])
def test_what_does_not_fit_is_named(call: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        call()
