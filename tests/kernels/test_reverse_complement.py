"""Both directions and reverse complements: `reverse` is the flip of inputs and outputs, and whole blocks need no flip at all.

Caduceus (Schiff et al. 2024) runs a mixer over a sequence and over its reverse, and for reverse complements over a second
half of the channels that is read backwards in time and in channels. With `reverse` only small weights are flipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from tilth.kernels import causal_conv1d, selective_scan
from tilth.kernels.accuracy import outputs_and_gradients

BACKENDS = ("reference", "cpu", "triton")
Tensors = dict[str, Any]
Weights = dict[str, Tensor]


def flip_tokens(tensors: Tensors) -> Tensors:
    """Flip every tensor that has tokens; the states of a convolution are rows of it, and flip too."""
    with_tokens = ("x_BTC", "u_BTC", "dt_BTC", "B_BTGN", "C_BTGN", "z_BTC", "segments_BT", "initial_state_BKC")
    return {name: value.flip(1) if name in with_tokens and value is not None else value for name, value in tensors.items()}


def through_flips(function: Callable[..., tuple[Tensor, Tensor]], flips_state: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return `function` read backwards by flipping what goes in and what comes out."""

    def run(**given: Any) -> tuple[Tensor, Tensor]:
        y, state = function(**flip_tokens(given))
        return y.flip(1), state.flip(1) if flips_state else state

    return run


def conv_inputs(packed: bool) -> Tensors:
    return {
        "x_BTC": torch.randn(2, 13, 6),
        "weight_CK": torch.randn(6, 4),
        "bias_C": torch.randn(6),
        "segments_BT": (torch.rand(2, 13) < 0.3).cumsum(1).int() if packed else None,
        "initial_state_BKC": torch.randn(2, 3, 6),
    }


def scan_inputs(packed: bool, n_tokens: int) -> Tensors:
    return {
        "u_BTC": torch.randn(2, n_tokens, 6),
        "dt_BTC": torch.randn(2, n_tokens, 6),
        "A_CN": -torch.rand(6, 4) - 0.2,
        "B_BTGN": torch.randn(2, n_tokens, 2, 4),
        "C_BTGN": torch.randn(2, n_tokens, 2, 4),
        "D_C": torch.randn(6),
        "z_BTC": torch.randn(2, n_tokens, 6),
        "segments_BT": (torch.rand(2, n_tokens) < 0.3).cumsum(1).int() if packed else None,
        "initial_state_BCN": torch.randn(2, 6, 4),
    }


def in_type_of(backend: str, tensors: Tensors) -> Tensors:
    """float64 where the backend has it: torch rounds by where a value lies in a vector, and a flip moves it."""
    dtype = torch.float32 if backend == "triton" else torch.float64
    return {
        name: value.to(dtype) if value is not None and value.is_floating_point() else value for name, value in tensors.items()
    }


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        bound = 1e-13 if value.dtype == torch.float64 else 2e-6
        assert (found[name] - value).abs().max() <= bound * max(value.abs().max(), 1), name


@pytest.mark.usefixtures("fixed_seed")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_reversed_convolution_is_the_one_of_the_flip(backend: str, packed: bool) -> None:
    def conv(**given: Any) -> Any:
        return causal_conv1d(**given, activation="silu", return_final_state=True, backend=backend)

    def reversed_conv(**given: Any) -> Any:
        return causal_conv1d(**given, activation="silu", return_final_state=True, reverse=True, backend=backend)

    inputs = in_type_of(backend, conv_inputs(packed))
    found = outputs_and_gradients(reversed_conv, inputs)
    wanted = outputs_and_gradients(through_flips(conv, flips_state=True), inputs)
    assert torch.equal(found["output 1"], wanted["output 1"])
    assert backend != "triton" or torch.equal(found["output 0"], wanted["output 0"])
    assert_close(found, wanted)


@pytest.mark.usefixtures("fixed_seed")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_reversed_scan_is_the_one_of_the_flip(backend: str, packed: bool) -> None:
    def scan(**given: Any) -> Any:
        return selective_scan(**given, dt_softplus=True, backend=backend)

    def reversed_scan(**given: Any) -> Any:
        return selective_scan(**given, dt_softplus=True, reverse=True, backend=backend)

    for n_tokens in (3,) if backend == "triton" else (5, 64, 70):
        inputs = in_type_of(backend, scan_inputs(packed, n_tokens))
        wanted = outputs_and_gradients(through_flips(scan, flips_state=False), inputs)
        found = outputs_and_gradients(reversed_scan, inputs)
        assert backend != "triton" or torch.equal(found["output 0"], wanted["output 0"])
        assert_close(found, wanted)


def make_mixer(width: int) -> Weights:
    inner, d_state = 2 * width, 4
    shapes = {
        "in_proj": (2 * inner, width),
        "conv": (inner, 4),
        "conv_bias": (inner,),
        "x_proj": (inner + 2 * d_state, inner),
        "A": (inner, d_state),
        "D": (inner,),
        "out_proj": (width, inner),
    }
    weights = {name: torch.randn(shape, dtype=torch.float64) / shape[-1] ** 0.5 for name, shape in shapes.items()}
    return weights | {"A": -weights["A"].exp()}


def mixer(x_BTD: Tensor, weights: Weights, reverse: bool, backend: str) -> Tensor:
    """Mamba's mixer without its low rank: every part that reads neighbours takes the direction."""
    x, z = linear(x_BTD, weights["in_proj"]).chunk(2, dim=-1)
    x = causal_conv1d(x, weights["conv"], weights["conv_bias"], activation="silu", reverse=reverse, backend=backend)
    n_inner, d_state = weights["A"].shape
    dt, B, C = linear(x, weights["x_proj"]).split([n_inner, d_state, d_state], dim=-1)
    y, _ = selective_scan(
        x, dt, weights["A"], B.unsqueeze(2), C.unsqueeze(2),
        D_C=weights["D"], z_BTC=z, dt_softplus=True, reverse=reverse, backend=backend,
    )  # fmt: skip
    return linear(y, weights["out_proj"])


def both_directions(x_BTD: Tensor, weights: Weights, backend: str) -> Tensor:
    return mixer(x_BTD, weights, False, backend) + mixer(x_BTD, weights, True, backend)


def reverse_complement(x_BTD: Tensor) -> Tensor:
    return x_BTD.flip(1, 2)


def equivariant_block(x_BTD: Tensor, weights: Weights, backend: str) -> Tensor:
    """Run the mixer over the first half of the channels, and backwards over the second: its channels are flipped in the weights."""
    first, second = x_BTD.chunk(2, dim=-1)
    flipped = weights | {"in_proj": weights["in_proj"].flip(1), "out_proj": weights["out_proj"].flip(0)}
    return torch.cat([mixer(first, weights, False, backend), mixer(second, flipped, True, backend)], dim=-1)


def block_by_flips(x_BTD: Tensor, weights: Weights, backend: str) -> Tensor:
    first, second = x_BTD.chunk(2, dim=-1)
    parts = [
        mixer(first, weights, False, backend),
        reverse_complement(mixer(reverse_complement(second), weights, False, backend)),
    ]
    return torch.cat(parts, dim=-1)


@pytest.mark.usefixtures("fixed_seed")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bidirectional_mixer_needs_no_flip(backend: str) -> None:
    dtype = torch.float32 if backend == "triton" else torch.float64
    weights = {name: value.to(dtype) for name, value in make_mixer(6).items()}
    x = torch.randn(1, 5, 6, dtype=dtype)

    def flipped(x: Tensor) -> Tensor:
        return mixer(x, weights, False, backend) + mixer(x.flip(1), weights, False, backend).flip(1)

    found = outputs_and_gradients(lambda x: both_directions(x, weights, backend), {"x": x})
    assert_close(found, outputs_and_gradients(flipped, {"x": x}))


@pytest.mark.usefixtures("fixed_seed")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_block_is_equivariant_to_reverse_complements(backend: str) -> None:
    dtype, bound = (torch.float32, 1e-5) if backend == "triton" else (torch.float64, 1e-12)
    weights = {name: value.to(dtype) for name, value in make_mixer(5).items()}
    x = torch.randn(1, 7, 10, dtype=dtype)
    y = equivariant_block(x, weights, backend)
    assert (equivariant_block(reverse_complement(x), weights, backend) - reverse_complement(y)).abs().max() < bound
    assert (y - block_by_flips(x, weights, backend)).abs().max() < bound
    # The test would see a block that is not equivariant: the plain mixer over all channels.
    wide = {name: value.to(dtype) for name, value in make_mixer(10).items()}
    plain = mixer(reverse_complement(x), wide, False, backend) - reverse_complement(mixer(x, wide, False, backend))
    assert plain.abs().max() > 1e-2


@pytest.mark.usefixtures("fixed_seed")
def test_gradients_of_the_equivariant_block_are_those_of_the_flips() -> None:
    weights = make_mixer(5)
    tensors = weights | {"x_BTD": torch.randn(2, 11, 10, dtype=torch.float64)}

    def run(block: Callable[..., Tensor]) -> dict[str, Tensor]:
        def given(x_BTD: Tensor, **weights: Tensor) -> Tensor:
            return block(x_BTD, weights, "cpu")

        return outputs_and_gradients(given, tensors)

    assert_close(run(equivariant_block), run(block_by_flips))
