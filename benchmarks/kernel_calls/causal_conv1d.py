"""Calls of causal_conv1d. Bytes: each input read once and each output written once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from kernel_calls.call import Call
from tilth.kernels import causal_conv1d
from tilth.kernels.causal_conv1d import causal_conv1d_update


def gate_calls(dtype: torch.dtype) -> Iterator[Call]:
    """The taps of Mamba, plain and with all that a kernel may leave out; the most taps; one step of decoding."""
    yield _call("K=4", 1, 128, 512, 4, dtype, activation="silu")
    yield _call("K=4 packed, state, reverse", 1, 128, 512, 4, dtype, packed=True, state=True, activation="silu", reverse=True)
    yield _call("K=8", 1, 128, 512, 8, dtype, packed=True, state=True, activation="silu")
    x_BTC, state_BKC = torch.randn(2, 1, 512, dtype=dtype), torch.randn(2, 3, 512, dtype=dtype)
    taps: dict[str, Tensor | None] = {"weight_CK": torch.randn(512, 4, dtype=dtype), "bias_C": torch.randn(512, dtype=dtype)}
    tensors = {"x_BTC": x_BTC, "state_BKC": state_BKC, **taps, "state_indices_B": torch.tensor([1, -1])}
    yield Call("update", causal_conv1d_update, tensors, {"activation": "silu"}, gradients=False)


def check_calls(dtype: torch.dtype, device: str) -> Iterator[Call]:
    """Odd and large lengths, every option, few and many taps."""
    for n_batch, n_tokens, n_channels, n_taps in (
        (1, 1, 64, 4),
        (2, 257, 100, 2),
        (3, 1000, 384, 3),
        (1, 4099, 1280, 4),
        (2, 129, 72, 8),
    ):
        for reverse in (False, True):
            name = f"{n_batch}x{n_tokens}x{n_channels} K={n_taps} reverse={reverse}"
            yield _call(
                name,
                n_batch,
                n_tokens,
                n_channels,
                n_taps,
                dtype,
                device,
                packed=True,
                state=True,
                activation="silu",
                reverse=reverse,
            )
    yield _call("plain", 2, 513, 256, 4, dtype, device)


def bench_calls(device: str) -> Iterator[Call]:
    """The convolution of a Mamba-2 layer of 2.7 billion parameters, and that of a DNA model over one long row."""
    for n_batch, n_tokens, n_channels in ((8, 2048, 5376), (1, 131072, 512)):
        call = _call(
            f"{n_batch}x{n_tokens}x{n_channels}", n_batch, n_tokens, n_channels, 4, torch.bfloat16, device, activation="silu"
        )
        size = n_batch * n_tokens * n_channels * 2
        peers = {"torch.compile": torch.compile(_formula), "F.conv1d": _conv1d, "causal-conv1d": _causal_conv1d_package}
        yield Call(
            call.name, call.function, call.tensors, call.options, forward_bytes=2 * size, backward_bytes=3 * size, peers=peers
        )


def _call(
    name: str,
    n_batch: int,
    n_tokens: int,
    n_channels: int,
    n_taps: int,
    dtype: torch.dtype,
    device: str = "cpu",
    *,
    packed: bool = False,
    state: bool = False,
    **options: Any,
) -> Call:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=device)

    tensors = {
        "x_BTC": normal(n_batch, n_tokens, n_channels),
        "weight_CK": normal(n_channels, n_taps),
        "bias_C": normal(n_channels),
        "segments_BT": (torch.rand(n_batch, n_tokens, device=device) < 0.05).cumsum(1).int() if packed else None,
        "initial_state_BKC": normal(n_batch, n_taps - 1, n_channels) if state else None,
    }
    return Call(name, causal_conv1d, tensors, options)


def _formula(x_BTC: Tensor, weight_CK: Tensor, bias_C: Tensor, **_: Any) -> Tensor:
    n_tokens, n_taps = x_BTC.shape[1], weight_CK.shape[1]
    padded = torch.nn.functional.pad(x_BTC, (0, 0, n_taps - 1, 0)).float()
    total = sum(padded[:, k : k + n_tokens] * weight_CK[:, k].float() for k in range(n_taps)) + bias_C.float()
    return torch.nn.functional.silu(total).to(x_BTC.dtype)


def _conv1d(x_BTC: Tensor, weight_CK: Tensor, bias_C: Tensor, **_: Any) -> Tensor:
    n_channels, n_taps = weight_CK.shape
    x_BCT = torch.nn.functional.pad(x_BTC.transpose(1, 2), (n_taps - 1, 0))
    y_BCT = torch.nn.functional.conv1d(x_BCT, weight_CK.unsqueeze(1), bias_C, groups=n_channels)
    return torch.nn.functional.silu(y_BCT).transpose(1, 2)


def _causal_conv1d_package(x_BTC: Tensor, weight_CK: Tensor, bias_C: Tensor, **_: Any) -> Tensor:
    package: dict[str, Callable[..., Tensor]] = vars(__import__("causal_conv1d"))
    return package["causal_conv1d_fn"](x_BTC.transpose(1, 2), weight_CK, bias_C, activation="silu").transpose(1, 2)
