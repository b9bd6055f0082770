"""rope: rotations as complex numbers, whole and partial, half-split and interleaved, packed, back again."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tilth.kernels import rope
from tilth.kernels.accuracy import outputs_and_gradients

Inputs = dict[str, Any]
Check = Callable[..., None]
TABLES = ("cos_TR", "sin_TR")
FORMS = [{"interleaved": i, "inverse": j} for i, j in itertools.product((False, True), repeat=2)]
forms = pytest.mark.parametrize("form", FORMS)
# Batch, tokens, heads, head dimension, pairs that turn.
SIZES = [(1, 1, 1, 2, 1), (2, 17, 3, 16, 8), (3, 5, 9, 24, 6), (1, 257, 1, 8, 3), (2, 3, 5, 140, 65)]


def make(
    n_batch: int,
    n_tokens: int,
    n_heads: int,
    head_dim: int,
    n_pairs: int,
    dtype: torch.dtype = torch.float32,
    packed: bool = False,
) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n_batch, n_tokens, n_heads, head_dim, generator=generator, dtype=torch.float64) * 4 - 2
    angles = torch.rand(n_tokens, n_pairs, generator=generator, dtype=torch.float64) * 6
    inputs = {"x_BTHD": x.to(dtype), "cos_TR": angles.cos().to(dtype), "sin_TR": angles.sin().to(dtype)}
    if packed:
        inputs["positions_BT"] = torch.randint(0, n_tokens, (n_batch, n_tokens), generator=generator, dtype=torch.int32)
    return inputs


def by_complex_numbers(inputs: Inputs, interleaved: bool, inverse: bool) -> np.ndarray:
    x = inputs["x_BTHD"].numpy()
    turns = inputs["cos_TR"].numpy() + 1j * inputs["sin_TR"].numpy()
    n_pairs, positions = turns.shape[1], inputs.get("positions_BT")
    y = x.copy()
    for b, t, h, i in np.ndindex(*x.shape[:3], n_pairs):
        first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + n_pairs)
        turn = turns[t if positions is None else int(positions[b, t]), i]
        turned = complex(x[b, t, h, first], x[b, t, h, second]) * (turn.conjugate() if inverse else turn)
        y[b, t, h, first], y[b, t, h, second] = turned.real, turned.imag
    return y


@forms
@pytest.mark.parametrize("packed", [False, True])
def test_the_reference_multiplies_complex_numbers(form: Inputs, packed: bool) -> None:
    for sizes in SIZES[:3]:
        inputs = make(*sizes, dtype=torch.float64, packed=packed)
        assert np.abs(rope(**inputs, **form, backend="reference").numpy() - by_complex_numbers(inputs, **form)).max() < 1e-14


@forms
def test_gradcheck(form: Inputs) -> None:
    inputs = make(2, 3, 2, 6, 2, dtype=torch.float64, packed=True)
    x = inputs.pop("x_BTHD").requires_grad_()
    for backend in ("reference", "cpu"):
        assert torch.autograd.gradcheck(lambda x: rope(x, **inputs, **form, backend=backend), x)  # noqa: B023


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@forms
def test_cpu(hold_to_rule: Check, form: Inputs, dtype: torch.dtype) -> None:
    for sizes, packed in itertools.product(SIZES, (False, True)):
        hold_to_rule(rope, "cpu", make(*sizes, dtype=dtype, packed=packed), without_gradient=TABLES, **form)


@forms
def test_cpu_in_float64(form: Inputs) -> None:
    inputs = make(3, 17, 4, 24, 6, dtype=torch.float64, packed=True)
    found = [outputs_and_gradients(rope, inputs, TABLES, **form, backend=b) for b in ("cpu", "reference")]
    torch.testing.assert_close(*found, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@forms
def test_triton(hold_to_rule: Check, form: Inputs, dtype: torch.dtype) -> None:
    for number, sizes in enumerate(SIZES):
        hold_to_rule(rope, "triton", make(*sizes, dtype=dtype, packed=number % 2 == 0), without_gradient=TABLES, **form)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("interleaved", [False, True])
def test_tables_of_float32_for_16_bits(hold_to_rule: Check, backend: str, interleaved: bool) -> None:
    inputs = make(2, 17, 3, 16, 8, dtype=torch.float16) | {n: v for n, v in make(2, 17, 3, 16, 8).items() if n in TABLES}
    hold_to_rule(rope, backend, inputs, without_gradient=TABLES, interleaved=interleaved)


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_offsets_are_positions(backend: str) -> None:
    inputs = make(3, 4, 2, 8, 4) | {n: v for n, v in make(1, 20, 1, 8, 4).items() if n in TABLES}
    offsets = torch.tensor([0, 7, 16], dtype=torch.int32)
    positions = offsets[:, None] + torch.arange(4, dtype=torch.int32)
    assert torch.equal(
        rope(**inputs, offsets_B=offsets, backend=backend), rope(**inputs, positions_BT=positions, backend=backend)
    )


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
@pytest.mark.parametrize("interleaved", [False, True])
def test_back_again_and_the_length_stays(backend: str, interleaved: bool) -> None:
    inputs = make(2, 9, 3, 16, 6)
    y = rope(**inputs, interleaved=interleaved, backend=backend)
    assert torch.equal(y[..., 12:], inputs["x_BTHD"][..., 12:])
    assert not torch.allclose(y[..., :12], inputs["x_BTHD"][..., :12], atol=0.1)
    torch.testing.assert_close(y.norm(dim=-1), inputs["x_BTHD"].norm(dim=-1))
    inputs["x_BTHD"], again = y, inputs["x_BTHD"]
    torch.testing.assert_close(rope(**inputs, interleaved=interleaved, inverse=True, backend=backend), again)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("interleaved", [False, True])
def test_tensors_that_are_not_contiguous(backend: str, interleaved: bool) -> None:
    inputs = make(2, 7, 3, 8, 4, packed=True)
    tables = {name: torch.cat([inputs[name], inputs[name]], dim=1)[:, :4] for name in TABLES}
    tables["positions_BT"] = inputs["positions_BT"].T.contiguous().T
    x = inputs.pop("x_BTHD")
    for apart in (
        torch.cat([x, x, x], dim=2)[:, :, 3:6],  # queries among keys and values
        x.transpose(1, 2).contiguous().transpose(1, 2),
        torch.stack([x, x], dim=-1)[..., 0],
        torch.cat([x, x], dim=-1)[..., 1:9].roll(1, dims=-1)[..., :8],
    ):
        for tensors in (inputs, tables):
            expected = rope(apart.contiguous(), **tensors, interleaved=interleaved, backend=backend)
            assert torch.equal(rope(apart, **tensors, interleaved=interleaved, backend=backend), expected)


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_nothing(poisoned_memory: None, backend: str) -> None:
    for sizes in ((0, 3, 2), (2, 0, 2), (2, 3, 0)):
        found = outputs_and_gradients(rope, make(*sizes, 8, 4), TABLES, backend=backend)
        assert found["output 0"].shape == found["dx_BTHD"].shape == (*sizes, 8)


@pytest.mark.parametrize("position", [-1, 5, 2**31 - 1])
def test_a_position_without_angles(position: int) -> None:
    inputs = make(2, 5, 3, 8, 3, packed=True)
    inputs["positions_BT"][1, 2] = position
    for backend in ("reference", "cpu"):
        with pytest.raises(ValueError, match=r"positions_BT .* expected 0 to 4"):
            rope(**inputs, backend=backend)
    # What a GPU does, which is not asked to wait: the token is lost visibly, the others are right.
    y = rope(**inputs, backend="triton")
    assert torch.isnan(y[1, 2, :, :6]).all()
    assert torch.isnan(y).sum() == 18
    inputs["positions_BT"][1, 2] = 0
    expected = rope(**inputs, backend="triton")
    assert torch.equal(torch.where(torch.isnan(y), expected, y), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore::UserWarning:torch.*")
@pytest.mark.parametrize("packed", [False, True])
def test_torch_contracts(packed: bool) -> None:
    inputs = make(2, 7, 3, 8, 3, packed=packed)
    x = inputs["x_BTHD"].requires_grad_()
    for backend, interleaved in itertools.product(("reference", "cpu"), (False, True)):
        tensors = (x, inputs["cos_TR"], inputs["sin_TR"], inputs.get("positions_BT"))
        torch.library.opcheck(torch.ops.tilth.rope.default, (*tensors, interleaved, False, backend))
    compiled = torch.compile(rope, fullgraph=True, backend="aot_eager")
    expected = outputs_and_gradients(rope, inputs, TABLES)
    torch.testing.assert_close(outputs_and_gradients(compiled, inputs, TABLES), expected)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_two_runs_give_the_same_bits(backend: str) -> None:
    first, second = (outputs_and_gradients(rope, make(2, 33, 3, 16, 8), TABLES, backend=backend) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def ones(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    return torch.ones(*shape, dtype=dtype, device=device)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_BTHD": ones(2, 5, 8)}, "x_BTHD has shape .* expected 4 dimensions"),
        ({"x_BTHD": ones(2, 5, 3, 8, dtype=torch.int32)}, "x_BTHD is torch.int32"),
        ({"cos_TR": ones(5)}, "cos_TR has shape"),
        ({"cos_TR": ones(5, 5)}, "2 <= 2R <= D = 8"),
        ({"sin_TR": ones(5, 3)}, "sin_TR has shape"),
        ({"sin_TR": ones(5, 4, dtype=torch.float16)}, "sin_TR is torch.float16, but cos_TR is torch.float32"),
        ({"cos_TR": ones(5, 4).requires_grad_()}, "cos_TR requires a gradient"),
        ({"cos_TR": ones(4, 4), "sin_TR": ones(4, 4)}, "cos_TR has 4 positions; expected at least one for each of 5 tokens"),
        ({"positions_BT": ones(2, 4, dtype=torch.int32)}, r"positions_BT has shape \(2, 4\); expected \(2, 5\)"),
        ({"positions_BT": ones(2, 5, dtype=torch.int64)}, "positions_BT is torch.int64; expected int32"),
        ({"offsets_B": ones(3, dtype=torch.int32)}, "offsets_B has shape"),
        (
            {"offsets_B": ones(2, dtype=torch.int32), "positions_BT": ones(2, 5, dtype=torch.int32)},
            "positions_BT and offsets_B both say",
        ),
        ({"sin_TR": ones(5, 4, device="meta")}, "sin_TR is on meta"),
    ],
)
def test_bad_inputs_say_what_is_wrong(changes: Inputs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rope(**({"x_BTHD": ones(2, 5, 3, 8), "cos_TR": ones(5, 4), "sin_TR": ones(5, 4)} | changes))
