"""ssd_step: equal to one more token of ssd_scan, and every backend equal to the reference, states included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tilth.kernels import ssd_scan, ssd_step

Inputs = dict[str, Any]
Hold = Callable[..., None]
EVERYTHING = ("D_H", "z_BHP", "dt_bias_H", "state_indices_B")


def make(size: tuple[int, ...], *given: str, dtype: torch.dtype = torch.float32, wide_D: bool = False) -> Inputs:
    """Random inputs of `size` (B, H, G, P, N); with state_indices_B a pool of two more states, and row 1 skipped."""
    rows, heads, groups, head_dim, d_state = size
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    indices = torch.arange(rows, dtype=torch.int32).flip(0) + 2
    indices[1:2] = -1
    optional = {
        "D_H": normal(heads, head_dim) if wide_D else normal(heads),
        "z_BHP": normal(rows, heads, head_dim),
        "dt_bias_H": normal(heads),
        "state_indices_B": indices,
    }
    inputs = {
        "state_BHPN": normal(rows + 2 * ("state_indices_B" in given), heads, head_dim, d_state),
        "x_BHP": normal(rows, heads, head_dim),
        "dt_BH": normal(rows, heads).abs(),
        "A_H": -torch.exp(normal(heads)),
        "B_BGN": normal(rows, groups, d_state),
        "C_BGN": normal(rows, groups, d_state),
    }
    return inputs | {name: optional[name] for name in given}


def step(state_BHPN: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
    """The step on states of its own: y and the states after it."""
    states = state_BHPN.detach().clone()
    return ssd_step(states, **inputs), states


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_steps_are_the_scan(backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, z = (torch.randn(2, 9, 4, 8, generator=generator) for _ in range(2))
    B, C = (torch.randn(2, 9, 2, 16, generator=generator) for _ in range(2))
    dt, A, D, bias = (torch.randn(shape, generator=generator) for shape in ((2, 9, 4), (4,), (4,), (4,)))
    shared = {"D_H": D, "dt_bias_H": bias, "dt_softplus": True, "dt_limit": (0.1, 2.0)}
    states = torch.randn(2, 4, 8, 16, generator=generator)
    y_scan, final = ssd_scan(x, dt, -A.abs(), B, C, z_BTHP=z, initial_state_BHPN=states, **shared, backend="reference")
    for t in range(9):
        one = (x[:, t], dt[:, t], -A.abs(), B[:, t], C[:, t])
        y = ssd_step(states, *one, z_BHP=z[:, t], **shared, backend=backend)
        torch.testing.assert_close(y, y_scan[:, t], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(states, final, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        ("cpu", torch.float32),
        ("cpu", torch.float16),
        ("cpu", torch.bfloat16),
        ("triton", torch.float32),
        ("triton", torch.float16),
    ],
)
def test_backends_hold_to_the_rule(hold_to_rule: Hold, backend: str, dtype: torch.dtype) -> None:
    for size, given in (
        ((1, 4, 1, 8, 16), ()),
        ((3, 6, 2, 5, 7), EVERYTHING),
        ((4, 8, 8, 33, 130), EVERYTHING),
        ((2, 3, 1, 1, 1), ("D_H", "z_BHP")),
    ):
        inputs = make(size, *given, dtype=dtype, wide_D=size[0] == 3)
        hold_to_rule(step, backend, inputs, dt_softplus="dt_bias_H" in inputs, gradients=False)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_states_of_another_type_are_updated_in_theirs(backend: str) -> None:
    inputs = make((2, 4, 2, 8, 16), *EVERYTHING)
    for dtype in (torch.float16, torch.float64) if backend == "cpu" else (torch.float16,):
        mixed = inputs | {"state_BHPN": inputs["state_BHPN"].to(dtype)}
        y, states = step(**mixed, backend=backend)
        y_reference, states_reference = step(**mixed, backend="reference")
        assert states.dtype == dtype
        assert y.dtype == torch.float32
        torch.testing.assert_close(y, y_reference, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(states, states_reference, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_what_is_not_indexed_is_left_alone(backend: str) -> None:
    inputs = make((3, 4, 2, 8, 16), *EVERYTHING)
    y, states = step(**inputs, backend=backend)
    assert torch.equal(y[1], torch.zeros(4, 8))
    used = {number for number in inputs["state_indices_B"].tolist() if number >= 0}
    for number in range(5):
        assert torch.equal(states[number], inputs["state_BHPN"][number]) == (number not in used)


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_no_rows_and_large_steps(backend: str) -> None:
    y, states = step(**make((0, 4, 2, 8, 16)), backend=backend)
    assert y.shape == (0, 4, 8)
    assert states.shape == (0, 4, 8, 16)
    inputs = make((2, 4, 2, 8, 16), "dt_bias_H")
    for bias in (1e3, -1e3):
        found = step(**(inputs | {"dt_bias_H": torch.full((4,), bias)}), dt_softplus=True, backend=backend)
        assert all(torch.isfinite(value).all() for value in found)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore::UserWarning:torch.*")
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_opcheck_and_compile(backend: str) -> None:
    inputs = make((3, 4, 2, 8, 16), *EVERYTHING)
    torch.library.opcheck(torch.ops.tilth.ssd_step.default, (*inputs.values(), True, 0.0, 3.0, backend))
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(**inputs, backend=backend), step(**inputs, backend=backend), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_BHP": torch.ones(3, 4)}, "x_BHP .* expected 3 dimensions"),
        ({"B_BGN": torch.ones(3, 3, 16)}, "4 heads cannot share 3 groups"),
        ({"state_BHPN": torch.ones(2, 4, 8, 16)}, "state_BHPN has shape"),
        ({"state_BHPN": torch.ones(3, 4, 16, 8).transpose(2, 3)}, "state_BHPN has strides"),
        ({"C_BGN": torch.ones(3, 2, 15)}, "C_BGN has shape"),
        ({"dt_BH": torch.ones(3, 3)}, "dt_BH has shape"),
        ({"D_H": torch.ones(3)}, "D_H has shape"),
        ({"A_H": torch.ones(4, dtype=torch.int32)}, "A_H is torch.int32"),
        ({"state_indices_B": torch.tensor([0, 1, 2])}, "state_indices_B is torch.int64"),
        ({"state_indices_B": torch.tensor([0, 1, 3], dtype=torch.int32)}, "state_indices_B must hold -1 or numbers below 3"),
        ({"dt_limit": (1.0, 0.0)}, "dt_limit is"),
    ],
)
def test_bad_inputs_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ssd_step(**(make((3, 4, 2, 8, 16)) | changes))
