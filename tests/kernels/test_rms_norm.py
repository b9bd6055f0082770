"""rms_norm: the equation and its gradients on every backend, with a residual, a gate, groups and two strands."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tilth.kernels import rms_norm, use_backend
from tilth.kernels.accuracy import outputs_and_gradients
from tilth.kernels.rms_norm import triton_

Inputs = dict[str, Any]
Check = Callable[..., None]
# What may stand around the norm: names of further tensors, and options.
AROUND: dict[str, tuple[tuple[str, ...], Inputs]] = {
    "plain": ((), {}),
    "bias, groups": (("bias_D",), {"group_size": 16}),
    "residual": (("residual_D",), {}),
    "residual, bias, groups": (("residual_D", "bias_D"), {"group_size": 24}),
    "gate after": (("gate_D", "bias_D"), {}),
    "gate before": (("gate_D", "bias_D"), {"norm_before_gate": False}),
    "gate before, groups": (("gate_D",), {"norm_before_gate": False, "group_size": 16}),
    "strands": (("bias_D",), {"reverse_complement": True}),
    "strands, residual, groups": (("residual_D",), {"reverse_complement": True, "group_size": 24}),
    "strands, gate after": (("gate_D",), {"reverse_complement": True}),
}
around = pytest.mark.parametrize(("names", "options"), AROUND.values(), ids=AROUND)


def make(names: tuple[str, ...], options: Inputs, *shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Inputs:
    """Values of one order of magnitude, so that the largest error is not that of a single outlier."""
    generator = torch.Generator().manual_seed(seed)
    n_weights = shape[-1] // (2 if options.get("reverse_complement") else 1)

    def draw(name: str) -> Tensor:
        is_weight = name in ("weight_D", "bias_D")
        drawn = 2 * torch.rand(n_weights if is_weight else shape, generator=generator, dtype=torch.float64) - 1
        if name == "gate_D":
            drawn = drawn.sign() + 2 * drawn  # silu is near 0 nowhere
        return (drawn / 2 + 1 if is_weight else 2 * drawn).to(dtype)

    return {name: draw(name) for name in ("x_D", "weight_D", *names)}


def by_loops(
    inputs: Inputs, eps: float, norm_before_gate: bool = True, group_size: int | None = None, **options: Any
) -> np.ndarray:
    """One token, strand and group after the other; the second strand is turned round, normalised and turned back."""
    arrays = {name: value.numpy() for name, value in inputs.items()}
    n_weights = len(arrays["weight_D"])
    width = group_size or n_weights
    x = arrays["x_D"] + arrays.get("residual_D", 0.0)
    y = np.empty_like(x)
    for token in np.ndindex(*x.shape[:-1]):
        for strand in range(x.shape[-1] // n_weights):
            here = slice(strand * n_weights, (strand + 1) * n_weights)
            turn = slice(None, None, -1 if strand else 1)
            row = x[token][here][turn].copy()
            gate = arrays["gate_D"][token][here][turn] if "gate_D" in arrays else None
            share = 1.0 if gate is None else gate / (1 + np.exp(-gate))
            row *= 1.0 if norm_before_gate else share
            for start in range(0, n_weights, width):
                group = row[start : start + width]
                group /= np.sqrt(np.dot(group, group) / width + eps)
            row = row * arrays["weight_D"] + arrays.get("bias_D", 0.0)
            y[token][here] = (row * (share if norm_before_gate else 1.0))[turn]
    return y


@around
def test_the_reference_is_the_equation(names: tuple[str, ...], options: Inputs) -> None:
    inputs = make(names, options, 2, 3, 48, dtype=torch.float64)
    found = rms_norm(**inputs, eps=1e-3, **options, backend="reference")
    if "residual_D" in names:
        found, h = found
        assert torch.equal(h, inputs["x_D"] + inputs["residual_D"])
    assert np.abs(found.numpy() - by_loops(inputs, 1e-3, **options)).max() < 1e-14


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@around
def test_gradcheck(names: tuple[str, ...], options: Inputs, backend: str) -> None:
    options = {**options, **({"group_size": 2} if "group_size" in options else {})}
    inputs = make(names, options, 3, 8, dtype=torch.float64)
    leaves = [value.requires_grad_() for value in inputs.values()]
    assert torch.autograd.gradcheck(
        lambda *values: rms_norm(**dict(zip(inputs, values, strict=True)), **options, backend=backend), leaves
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@around
def test_cpu(hold_to_rule: Check, names: tuple[str, ...], options: Inputs, dtype: torch.dtype) -> None:
    hold_to_rule(rms_norm, "cpu", make(names, options, 3, 65, 96, dtype=dtype), **options)


@around
def test_cpu_in_float64(names: tuple[str, ...], options: Inputs) -> None:
    """The rule would compare it with the very numbers of the reference: here every sum may round."""
    inputs = make(names, options, 3, 65, 96, dtype=torch.float64)
    found = {}
    for backend in ("cpu", "reference"):
        found[backend] = outputs_and_gradients(rms_norm, inputs, **options, backend=backend)
    torch.testing.assert_close(found["cpu"], found["reference"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@around
def test_triton(hold_to_rule: Check, names: tuple[str, ...], options: Inputs, dtype: torch.dtype) -> None:
    hold_to_rule(rms_norm, "triton", make(names, options, 3, 15, 96, dtype=dtype), **options)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("shape", [(1, 1), (257, 17), (2, 129, 1), (5, 255), (2, 1025), (3, 2049), (1, 4097)])
def test_odd_sizes(hold_to_rule: Check, backend: str, shape: tuple[int, ...]) -> None:
    hold_to_rule(rms_norm, backend, make((), {}, *shape))


@pytest.mark.parametrize("name", ["plain", "gate after", "gate before", "residual, bias, groups"])
def test_rows_that_no_program_holds(hold_to_rule: Check, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    names, options = AROUND[name]
    monkeypatch.setattr(triton_, "_bucket", lambda group_size, largest: "wide")
    options = {**options, **({"group_size": 8500} if "group_size" in options else {})}
    hold_to_rule(rms_norm, "triton", make(names, options, 3, 17_000), **options)


def test_the_sizes_that_a_program_holds() -> None:
    assert [triton_._bucket(size, 32768) for size in (1, 256, 257, 32768, 32769)] == ["D256", "D256", "D1024", "D32768", "wide"]
    assert [triton_._bucket(size, 8192) for size in (8192, 8193)] == ["D8192", "wide"]


def test_more_tokens_than_programs(hold_to_rule: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    original = triton_.launch
    monkeypatch.setattr(triton_, "launch", lambda *a: {n: 4 if n == "PROGRAMS" else v for n, v in original(*a).items()})
    names, options = AROUND["gate before, groups"]
    hold_to_rule(rms_norm, "triton", make(names, options, 131, 32), **options)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_a_residual_stream_of_float32(hold_to_rule: Check, backend: str) -> None:
    inputs = make(("residual_D",), {}, 17, 64, dtype=torch.float16)
    inputs["residual_D"] = inputs["residual_D"].float()
    hold_to_rule(rms_norm, backend, inputs)
    y, h = rms_norm(**inputs, backend=backend)
    assert (y.dtype, h.dtype) == (torch.float16, torch.float32)
    assert torch.equal(h, inputs["x_D"].float() + inputs["residual_D"])


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_weights_of_another_type(hold_to_rule: Check, backend: str) -> None:
    inputs = make(("gate_D", "bias_D"), {}, 17, 64, dtype=torch.float16)
    inputs |= {name: inputs[name].float() for name in ("weight_D", "bias_D")}
    hold_to_rule(rms_norm, backend, inputs)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_tensors_that_are_not_contiguous(backend: str) -> None:
    inputs = make(("gate_D",), {}, 4, 6, 32)
    apart = {
        "x_D": inputs["x_D"].transpose(0, 1).contiguous().transpose(0, 1),
        "weight_D": torch.stack([inputs["weight_D"]] * 2, dim=1)[:, 0],
        "gate_D": torch.cat([inputs["gate_D"]] * 3, dim=-1)[..., 32:64],
    }
    assert not any(value.is_contiguous() for value in apart.values())
    expected = outputs_and_gradients(rms_norm, inputs, norm_before_gate=False, backend=backend)
    # A leaf would be cloned with its strides; the call gets views of leaves instead.
    leaves = {name: value.detach().requires_grad_() for name, value in apart.items()}
    y = rms_norm(**leaves, norm_before_gate=False, backend=backend)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y))
    assert torch.equal(y, expected["output 0"])
    for name, leaf in leaves.items():
        assert torch.equal(leaf.grad, expected[f"d{name}"])


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # numpy's, where a GPU gives infinity as it should
@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_nothing_and_extremes(poisoned_memory: None, backend: str) -> None:
    for shape in ((0, 8), (2, 0, 8)):
        for names, options in (AROUND["residual"], AROUND["gate before"]):
            found = outputs_and_gradients(rms_norm, make(names, options, *shape), **options, backend=backend)
            assert not found["dweight_D"].any()
            assert found["dx_D"].shape == shape
    x = torch.tensor([[1e18, -1e18], [1e-30, 0.0], [0.0, 0.0]])
    found = outputs_and_gradients(rms_norm, {"x_D": x, "weight_D": torch.ones(2)}, backend=backend)
    assert torch.allclose(found["output 0"], torch.tensor([[1.0, -1.0], [0.0, 0.0], [0.0, 0.0]]))
    assert all(torch.isfinite(value).all() for value in found.values())
    gate = torch.tensor([[1e4, -1e4], [-1e4, -88.0], [0.0, 1e4]])
    for before in (True, False):
        inputs = {"x_D": torch.ones(3, 2), "weight_D": torch.ones(2), "gate_D": gate}
        found = outputs_and_gradients(rms_norm, inputs, norm_before_gate=before, backend=backend)
        assert all(torch.isfinite(value).all() for value in found.values())


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_strands_are_equivariant(backend: str) -> None:
    """The other strand's reading of the other strand is the strand itself: both ends of the channels change places."""
    names, options = AROUND["strands"]
    inputs = make(names, options, 3, 5, 64)
    forward = outputs_and_gradients(rms_norm, inputs, **options, backend=backend)["output 0"]
    inputs["x_D"] = inputs["x_D"].flip(-1)
    turned = outputs_and_gradients(rms_norm, inputs, **options, backend=backend)["output 0"]
    # Not the same bits: the squares are summed from the other end.
    torch.testing.assert_close(turned.flip(-1), forward, rtol=1e-6, atol=1e-6)
    half = {"x_D": inputs["x_D"].flip(-1)[..., :32], "weight_D": inputs["weight_D"], "bias_D": inputs["bias_D"]}
    torch.testing.assert_close(rms_norm(**half, backend=backend), forward[..., :32])


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_two_runs_give_the_same_bits(backend: str) -> None:
    for names, options in (AROUND[name] for name in ("residual, bias, groups", "gate before, groups", "strands, gate after")):
        inputs = make(names, options, 40, 48)
        first, second = (outputs_and_gradients(rms_norm, inputs, **options, backend=backend) for _ in range(2))
        assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore::UserWarning:torch.*")
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@around
def test_torch_contracts(names: tuple[str, ...], options: Inputs, backend: str) -> None:
    inputs = make(names, options, 2, 7, 48)
    leaves = {name: value.requires_grad_() for name, value in inputs.items()}
    tensors = [leaves.get(name) for name in ("x_D", "weight_D", "bias_D", "residual_D", "gate_D")]
    size = options.get("group_size") or len(inputs["weight_D"])
    flags = (options.get("norm_before_gate", True), size, options.get("reverse_complement", False))
    torch.library.opcheck(torch.ops.tilth.rms_norm.default, (*tensors, 1e-5, *flags, backend))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore::UserWarning:torch.*")
@pytest.mark.parametrize("name", ["residual, bias, groups", "gate before"])
def test_torch_compile_agrees(name: str) -> None:
    names, options = AROUND[name]
    inputs = make(names, options, 2, 7, 48)
    if "residual_D" in names:
        inputs = {name: value.half() if name != "residual_D" else value for name, value in inputs.items()}
    compiled = torch.compile(rms_norm, fullgraph=True, backend="aot_eager")
    expected = outputs_and_gradients(rms_norm, inputs, **options)
    torch.testing.assert_close(outputs_and_gradients(compiled, inputs, **options), expected)


X = torch.ones(2, 3, 4)
W = torch.ones(4)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"weight_D": torch.ones(3)}, r"weight_D has shape \(3,\); expected \(4,\)"),
        ({"x_D": X.int()}, "x_D is torch.int32"),
        ({"x_D": torch.tensor(1.0)}, "x_D has shape .* at least 1"),
        ({"bias_D": torch.ones(3)}, "bias_D has shape"),
        ({"residual_D": torch.ones(2, 4)}, "residual_D has shape"),
        ({"residual_D": X.half()}, "residual_D is torch.float16; expected a dtype that holds the values of x_D"),
        ({"gate_D": torch.ones(2, 3, 8)}, "gate_D has shape"),
        ({"gate_D": X, "residual_D": X}, "residual_D and gate_D were both given"),
        ({"norm_before_gate": False}, "norm_before_gate is False, but there is no gate_D"),
        ({"group_size": 3}, "group_size is 3; expected a divisor of D = 4"),
        ({"group_size": 0}, "group_size is 0"),
        ({"reverse_complement": True}, r"weight_D has shape \(4,\); expected \(2,\)"),
        ({"reverse_complement": True, "x_D": torch.ones(2, 7)}, "reverse_complement an even number"),
        ({"bias_D": torch.ones(4, device="meta")}, "bias_D is on meta"),
    ],
)
def test_bad_inputs_say_what_is_wrong(inputs: Inputs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rms_norm(**({"x_D": X, "weight_D": W} | inputs))


def test_every_combination_that_is_not_refused_runs() -> None:
    for residual, gate, bias, before, group, strands in itertools.product(*[(False, True)] * 6):
        if (residual and gate) or not (gate or before):
            continue
        options = {"norm_before_gate": before, "reverse_complement": strands, "group_size": 4 if group else None}
        names = [name for name, there in (("residual_D", residual), ("gate_D", gate), ("bias_D", bias)) if there]
        inputs = make(tuple(names), options, 3, 16, dtype=torch.float64)
        with use_backend("cpu"):
            y = rms_norm(**inputs, **options)
        y = y[0] if residual else y
        assert np.abs(y.numpy() - by_loops(inputs, 1e-5, before, options["group_size"])).max() < 1e-13
