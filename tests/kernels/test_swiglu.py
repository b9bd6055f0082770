"""swiglu: the equation and its gradients on every backend, from one tensor and from two."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tilth.kernels import swiglu
from tilth.kernels.accuracy import outputs_and_gradients

Inputs = dict[str, Any]
Check = Callable[..., None]
SHAPES = [(1, 65), (33, 1), (257, 3), (3, 129, 17), (2, 5, 255), (3, 257), (1, 2049)]


def one(*shape: int, dtype: torch.dtype = torch.float32) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(*shape[:-1], 2 * shape[-1], generator=generator, dtype=torch.float64)
    return {"gate_up_2F": (2 * drawn).to(dtype)}


def two(*shape: int, dtype: torch.dtype = torch.float32) -> Inputs:
    gate, up = one(*shape, dtype=dtype)["gate_up_2F"].chunk(2, dim=-1)
    return {"gate_up_2F": gate.contiguous(), "up_F": up.contiguous()}


@pytest.mark.parametrize("make", [one, two])
def test_the_reference_is_the_equation(make: Callable[..., Inputs]) -> None:
    y = swiglu(**make(3, 7, dtype=torch.float64), backend="reference").numpy()
    gate, up = np.split(one(3, 7, dtype=torch.float64)["gate_up_2F"].numpy(), 2, axis=-1)
    for place in np.ndindex(3, 7):
        assert math.isclose(y[place], gate[place] / (1 + math.exp(-gate[place])) * up[place], rel_tol=1e-14)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("make", [one, two])
def test_gradcheck(make: Callable[..., Inputs], backend: str) -> None:
    leaves = [value.requires_grad_() for value in make(3, 4, dtype=torch.float64).values()]
    assert torch.autograd.gradcheck(lambda *values: swiglu(*values, backend=backend), leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [one, two])
def test_cpu(hold_to_rule: Check, make: Callable[..., Inputs], dtype: torch.dtype) -> None:
    for shape in SHAPES:
        hold_to_rule(swiglu, "cpu", make(*shape, dtype=dtype))


@pytest.mark.parametrize("make", [one, two])
def test_cpu_in_float64(make: Callable[..., Inputs]) -> None:
    found = [outputs_and_gradients(swiglu, make(3, 65, 17, dtype=torch.float64), backend=b) for b in ("cpu", "reference")]
    torch.testing.assert_close(*found, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("make", [one, two])
def test_triton(hold_to_rule: Check, make: Callable[..., Inputs], dtype: torch.dtype) -> None:
    for shape in SHAPES:
        hold_to_rule(swiglu, "triton", make(*shape, dtype=dtype))


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_rows_that_lie_apart(backend: str) -> None:
    whole = one(4, 6, 40)["gate_up_2F"]
    for gate, up in (
        (whole[..., 5:25], whole[..., 40:60]),
        (whole.transpose(0, 1)[..., :20], whole.transpose(0, 1)[..., 20:40]),
        (whole[..., ::4], whole[..., 1::4]),
    ):
        leaves = [value.detach().requires_grad_() for value in (gate, up)]
        y = swiglu(*leaves, backend=backend)
        y.backward(torch.ones_like(y).expand_as(y))
        copies = [value.detach().contiguous().requires_grad_() for value in (gate, up)]
        expected = swiglu(*copies, backend=backend)
        expected.sum().backward()  # its gradient is one number, expanded: no stride at all
        # On the CPU the exponential of a strided value comes from another routine than that of a vector.
        torch.testing.assert_close(
            [y, *[leaf.grad for leaf in leaves]], [expected, *[c.grad for c in copies]], rtol=1e-6, atol=1e-6
        )


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # numpy's, where a GPU gives infinity as it should
@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_nothing_and_extremes(poisoned_memory: None, backend: str) -> None:
    for shape in ((0, 8), (2, 0, 8)):
        found = outputs_and_gradients(swiglu, one(*shape), backend=backend)
        assert (found["output 0"].shape, found["dgate_up_2F"].shape) == (shape, (*shape[:-1], 16))
    gate = torch.tensor([[1e4, -1e4, 88.0, -88.0, -104.0, 0.0]])
    found = outputs_and_gradients(swiglu, {"gate_up_2F": gate, "up_F": torch.full_like(gate, 2.0)}, backend=backend)
    assert torch.allclose(found["output 0"], torch.tensor([[2e4, 0.0, 176.0, 0.0, 0.0, 0.0]]), atol=1e-30)
    assert all(torch.isfinite(value).all() for value in found.values())


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_two_runs_give_the_same_bits(backend: str) -> None:
    first, second = (outputs_and_gradients(swiglu, one(40, 33), backend=backend) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore::UserWarning:torch.*")
@pytest.mark.parametrize("make", [one, two])
def test_torch_contracts(make: Callable[..., Inputs]) -> None:
    inputs = {name: value.requires_grad_() for name, value in make(2, 7, 8).items()}
    for backend in ("reference", "cpu"):
        torch.library.opcheck(torch.ops.tilth.swiglu.default, (inputs["gate_up_2F"], inputs.get("up_F"), backend))
    compiled = torch.compile(swiglu, fullgraph=True, backend="aot_eager")
    expected = outputs_and_gradients(swiglu, make(2, 7, 8))
    torch.testing.assert_close(outputs_and_gradients(compiled, make(2, 7, 8)), expected)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((torch.ones(2, 3),), "gate_up_2F has 3 channels; expected an even number"),
        ((torch.tensor(1.0),), "gate_up_2F has shape"),
        ((torch.ones(2, 4).int(),), "gate_up_2F is torch.int32"),
        ((torch.ones(2, 4), torch.ones(2, 3)), r"up_F has shape \(2, 3\); expected \(2, 4\)"),
        ((torch.ones(2, 4), torch.ones(2, 4).half()), "up_F is torch.float16, but the gate is torch.float32"),
        ((torch.ones(2, 4), torch.ones(2, 4, device="meta")), "up_F is on meta"),
    ],
)
def test_bad_inputs_say_what_is_wrong(inputs: tuple[torch.Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        swiglu(*inputs)
