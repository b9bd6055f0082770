"""The causal convolution: its reference against conv1d per document, every backend by the rule, states, decoding, bad input."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad, silu

from tilth.kernels import causal_conv1d, causal_conv1d_update
from tilth.kernels.accuracy import outputs_and_gradients

LENGTHS = [3, 1, 2, 7, 1, 1, 5]
Inputs = dict[str, Any]


def make_inputs(
    n_batch: int,
    n_tokens: int,
    n_channels: int,
    n_taps: int,
    dtype: torch.dtype = torch.float32,
    *,
    bias: bool = True,
    packed: bool = True,
    state: bool = True,
) -> Inputs:
    generator = torch.Generator().manual_seed(n_tokens)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "x_BTC": normal(n_batch, n_tokens, n_channels),
        "weight_CK": normal(n_channels, n_taps),
        "bias_C": normal(n_channels) if bias else None,
        "segments_BT": (torch.rand(n_batch, n_tokens, generator=generator) < 0.2).cumsum(1).int() if packed else None,
        "initial_state_BKC": normal(n_batch, n_taps - 1, n_channels) if state else None,
    }


def by_conv1d(x_BTC: Tensor, weight_CK: Tensor, bias_C: Tensor, lengths: list[int]) -> Tensor:
    outputs = []
    for document in x_BTC.split(lengths, dim=1):
        padded = pad(document.transpose(1, 2), (weight_CK.shape[1] - 1, 0))
        outputs.append(conv1d(padded, weight_CK[:, None], bias_C, groups=len(bias_C)).transpose(1, 2))
    return silu(torch.cat(outputs, dim=1))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("n_taps", [1, 2, 4, 8])
@pytest.mark.parametrize("lengths", [LENGTHS, [2], [1], [40]])
def test_values_and_gradients_are_those_of_conv1d(n_taps: int, lengths: list[int], backend: str) -> None:
    inputs = make_inputs(1, sum(lengths), 5, n_taps, torch.float64, packed=False, state=False)
    segments = torch.arange(len(lengths), dtype=torch.int32).repeat_interleave(torch.tensor(lengths))[None]
    leaves = [inputs[name].requires_grad_() for name in ("x_BTC", "weight_CK", "bias_C")]
    upstream = torch.randn(1, sum(lengths), 5, dtype=torch.float64)
    ours = causal_conv1d(*leaves, activation="silu", segments_BT=segments, backend=backend)
    theirs = by_conv1d(*leaves, lengths)
    assert (ours - theirs).abs().max() < 1e-12
    wanted = torch.autograd.grad(theirs, leaves, upstream)
    for found, expected in zip(torch.autograd.grad(ours, leaves, upstream), wanted, strict=True):
        assert (found - expected).abs().max() < 1e-11


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_gradients_match_finite_differences(reverse: bool, backend: str) -> None:
    inputs = make_inputs(2, 7, 3, 3, torch.float64)
    names = ("x_BTC", "weight_CK", "bias_C", "initial_state_BKC")

    def run(*tensors: Tensor) -> Any:
        given = dict(zip(names, tensors, strict=True)) | {"segments_BT": inputs["segments_BT"]}
        return causal_conv1d(**given, activation="silu", return_final_state=True, reverse=reverse, backend=backend)

    assert torch.autograd.gradcheck(run, [inputs[name].requires_grad_() for name in names])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n_tokens", [1, 2, 3, 17, 64, 129, 257])
def test_cpu_keeps_to_the_rule(hold_to_rule: Callable[..., None], n_tokens: int, dtype: torch.dtype) -> None:
    for n_taps in (1, 2, 4, 8):
        for reverse in (False, True):
            hold_to_rule(causal_conv1d, "cpu", make_inputs(2, n_tokens, 100, n_taps, dtype), activation="silu", reverse=reverse)
        plain = make_inputs(3, n_tokens, 100, n_taps, dtype, bias=False, packed=False, state=False)
        hold_to_rule(causal_conv1d, "cpu", plain)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("n_batch", [1, 5])
def test_cpu_tiles_join(monkeypatch: pytest.MonkeyPatch, hold_to_rule: Callable[..., None], n_batch: int, reverse: bool) -> None:
    monkeypatch.setattr(import_module("tilth.kernels.causal_conv1d.cpu"), "_TILE", 20 * 8)
    for n_tokens in (3, 8, 9, 41):
        hold_to_rule(causal_conv1d, "cpu", make_inputs(n_batch, n_tokens, 20, 4), activation="silu", reverse=reverse)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("reverse", [False, True])
def test_triton_keeps_to_the_rule(hold_to_rule: Callable[..., None], dtype: torch.dtype, reverse: bool) -> None:
    for n_batch, n_tokens, n_channels, n_taps in ((3, 1, 50, 8), (2, 5, 40, 4), (1, 35, 70, 3)):
        inputs = make_inputs(n_batch, n_tokens, n_channels, n_taps, dtype)
        hold_to_rule(causal_conv1d, "triton", inputs, activation="silu", reverse=reverse)
    plain = make_inputs(1, 19, 40, 1 if reverse else 2, dtype, bias=False, packed=False, state=False)
    hold_to_rule(causal_conv1d, "triton", plain, reverse=reverse)


def test_triton_chunks_join(hold_to_rule: Callable[..., None]) -> None:
    hold_to_rule(causal_conv1d, "triton", make_inputs(1, 257, 40, 4), activation="silu")


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_nan_stays_in_its_document(backend: str, reverse: bool) -> None:
    x, weight, bias = (torch.randn(shape) for shape in ((1, sum(LENGTHS), 5), (5, 4), (5,)))
    x.requires_grad_()
    with torch.no_grad():
        x[0, 5] = torch.nan  # the last token of the third document
    segments = torch.arange(len(LENGTHS), dtype=torch.int32).repeat_interleave(torch.tensor(LENGTHS))[None]
    output = causal_conv1d(x, weight, bias, activation="silu", segments_BT=segments, reverse=reverse, backend=backend)
    is_nan = output[0].isnan().any(dim=1)
    assert is_nan.tolist() == [token == 5 or (token == 4 and reverse) for token in range(sum(LENGTHS))]
    others = segments[0] != segments[0, 5]
    (grad_x,) = torch.autograd.grad(output[0][others].sum(), x)
    assert not grad_x[0][others].isnan().any()


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cut", [1, 2, 3, 10])
def test_a_state_continues_a_row(backend: str, cut: int, reverse: bool) -> None:
    inputs = make_inputs(2, 20, 6, 4)
    x, segments = inputs["x_BTC"], inputs["segments_BT"]
    segments[:, cut - 1 : cut + 1] = 1000  # no document may begin at the cut, which the second half could not know
    taps = {"weight_CK": inputs["weight_CK"], "bias_C": inputs["bias_C"], "activation": "silu", "reverse": reverse}
    options = taps | {"return_final_state": True, "backend": backend}
    whole, last = causal_conv1d(x, segments_BT=segments, **options)
    halves = [(x[:, :cut], segments[:, :cut]), (x[:, cut:], segments[:, cut:])]
    state, parts = None, []
    for half, ids in halves[:: -1 if reverse else 1]:
        part, state = causal_conv1d(half, segments_BT=ids, initial_state_BKC=state, **options)
        parts.append(part)
    assert (torch.cat(parts[:: -1 if reverse else 1], dim=1) - whole).abs().max() < 1e-5
    assert torch.equal(state, last)


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
@pytest.mark.parametrize("n_tokens", [1, 2, 5])
def test_update_continues_rows_and_skips_those_without_a_state(backend: str, n_tokens: int) -> None:
    inputs = make_inputs(3, n_tokens, 10, 4, packed=False)
    x, weight, bias = inputs["x_BTC"], inputs["weight_CK"], inputs["bias_C"]
    states = torch.randn(5, 3, 10)
    before = states.clone()
    slots = torch.tensor([4, -1, 0])
    y = causal_conv1d_update(x, states, weight, bias, activation="silu", state_indices_B=slots, backend=backend)
    options = {"activation": "silu", "return_final_state": True, "backend": "reference"}
    expected, expected_states = causal_conv1d(x[[0, 2]], weight, bias, initial_state_BKC=before[[4, 0]], **options)
    assert (y[[0, 2]] - expected).abs().max() < 1e-5
    assert torch.equal(y[1], torch.zeros_like(y[1]))
    assert torch.equal(states[[4, 0]], expected_states)
    assert torch.equal(states[1:4], before[1:4])
    own = before[:3].clone()
    without_slots = causal_conv1d_update(x, own, weight, bias, activation="silu", backend=backend)
    expected, expected_states = causal_conv1d(x, weight, bias, initial_state_BKC=before[:3], **options)
    assert (without_slots - expected).abs().max() < 1e-5
    assert torch.equal(own, expected_states)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_a_slice_of_wider_rows_and_other_strides(backend: str) -> None:
    wide = torch.randn(2, 40, 50)
    weight, bias = torch.randn(8, 50).T[:20], torch.randn(40)[::2]
    for x in (wide[:, ::2, 10:30], wide.transpose(1, 2)[:, :20, 20:].contiguous().transpose(1, 2)[..., :20]):
        found = causal_conv1d(x, weight[:, 4:], bias, backend=backend)
        assert (found - causal_conv1d(x, weight[:, 4:], bias, backend="reference")).abs().max() < 1e-5


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (2, 5, 0)])
def test_empty_inputs_have_empty_outputs_and_zero_gradients(backend: str, shape: tuple[int, int, int]) -> None:
    tensors = make_inputs(*shape, 4)
    found = outputs_and_gradients(causal_conv1d, tensors, activation="silu", return_final_state=True, backend=backend)
    assert found["output 0"].shape == shape
    assert not found["dweight_CK"].any()
    assert found["dinitial_state_BKC"].shape == (shape[0], 3, shape[2])


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # numpy's: the interpreter's sigmoid is right at its ends
def test_extreme_values_stay_finite() -> None:
    for backend in ("cpu", "triton"):
        inputs = make_inputs(1, 20, 6, 4)
        inputs["x_BTC"] *= 1e6
        found = outputs_and_gradients(causal_conv1d, inputs, activation="silu", backend=backend)
        assert all(value.isfinite().all() for value in found.values())


def test_low_precision_input_is_summed_in_float32() -> None:
    inputs = make_inputs(1, 30, 5, 4)
    x, weight, bias = inputs["x_BTC"].bfloat16(), inputs["weight_CK"], inputs["bias_C"]
    rough = causal_conv1d(x, weight, bias, activation="silu")
    assert rough.dtype == torch.bfloat16
    assert torch.equal(rough, causal_conv1d(x.float(), weight, bias, activation="silu").bfloat16())


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_every_run_gives_the_same_bits(backend: str) -> None:
    first, second = (
        outputs_and_gradients(causal_conv1d, make_inputs(2, 33, 9, 4), activation="silu", backend=backend) for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_operators_keep_torch_s_contract() -> None:
    from tilth.kernels.causal_conv1d import _causal_conv1d, _causal_conv1d_backward, _update

    inputs = make_inputs(2, 9, 4, 3)
    leaves = [t.requires_grad_() if t is not None and t.is_floating_point() else t for t in inputs.values()]
    torch.library.opcheck(_causal_conv1d, (*leaves, "silu", True, "cpu"))
    values = [None if t is None else t.detach() for t in leaves]
    torch.library.opcheck(_causal_conv1d_backward, (torch.randn(2, 9, 4), *values, "silu", False, "cpu"))
    x, weight, bias, _, state = values
    torch.library.opcheck(_update, (x, state, weight, bias, "silu", torch.tensor([1, -1]), "cpu"))


def test_compiled_code_agrees_with_eager() -> None:
    inputs = make_inputs(2, 12, 4, 4)
    compiled = torch.compile(causal_conv1d, fullgraph=True, backend="aot_eager")
    options = {"activation": "silu", "return_final_state": True}
    eager, traced = (outputs_and_gradients(function, inputs, **options) for function in (causal_conv1d, compiled))
    assert all(torch.equal(eager[name], traced[name]) for name in eager)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x_BTC", torch.zeros(4, 5)),
        ("x_BTC", torch.zeros(2, 6, 5, dtype=torch.int64)),
        ("weight_CK", torch.zeros(5, 9)),
        ("weight_CK", torch.zeros(4, 4)),
        ("bias_C", torch.zeros(4)),
        ("bias_C", torch.zeros(5, device="meta")),
        ("segments_BT", torch.zeros(2, 6, dtype=torch.int64)),
        ("segments_BT", torch.zeros(2, 5, dtype=torch.int32)),
        ("initial_state_BKC", torch.zeros(2, 4, 5)),
        ("activation", "relu"),
        ("backend", "fast"),
    ],
)
def test_bad_input_is_named(name: str, value: Any) -> None:
    inputs: Inputs = {"x_BTC": torch.zeros(2, 6, 5), "weight_CK": torch.zeros(5, 4)}
    with pytest.raises(ValueError, match=name):
        causal_conv1d(**{**inputs, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("state_BKC", torch.zeros(2, 4, 5)),
        ("state_BKC", torch.zeros(3, 3, 5)),
        ("weight_CK", torch.zeros(5, 1)),
        ("state_indices_B", torch.zeros(3, dtype=torch.int32)),
        ("state_indices_B", torch.zeros(2)),
    ],
)
def test_bad_input_of_the_update_is_named(name: str, value: Any) -> None:
    inputs: Inputs = {"x_BTC": torch.zeros(2, 1, 5), "state_BKC": torch.zeros(2, 3, 5), "weight_CK": torch.zeros(5, 4)}
    with pytest.raises(ValueError, match=name):
        causal_conv1d_update(**{**inputs, name: value})
