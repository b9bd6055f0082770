"""Calls of attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from kernel_calls.call import Call
from tilth.kernels import attention
from tilth.kernels.attention.visible import Mask, Visible


def gate_calls(dtype: torch.dtype) -> Iterator[Call]:
    """Every head size that has launches, with bounds by arithmetic and from tensors; the softcap. float16 is as bfloat16."""
    cases: list[tuple[int, dict[str, Any]]] = [(128, {})]
    if dtype != torch.float16:
        cases += [(head_dim, {}) for head_dim in (16, 32, 64, 256)]
        cases += [(head_dim, {"window": 32}) for head_dim in (64, 128, 256)] + [(128, {"softcap": 30.0})]
    for head_dim, options in cases:
        yield Call(" ".join([f"D={head_dim}", *options]), attention, _inputs(1, 128, 128, 8, 2, head_dim, dtype, "cpu"), options)


def check_calls(dtype: torch.dtype, device: str) -> Iterator[Call]:
    """Head sizes, odd lengths, windows, documents, soft caps, decoding."""
    cases: list[tuple[tuple[int, ...], dict[str, Any]]] = [
        ((2, 512, 512, 8, 8, 128), {}),
        ((2, 512, 512, 8, 2, 64), {"causal": False}),
        ((1, 300, 300, 4, 1, 256), {}),
        ((2, 257, 257, 4, 2, 128), {}),
        ((2, 129, 257, 4, 2, 64), {}),
        ((1, 700, 700, 4, 2, 128), {"window": (100, 0)}),
        ((1, 333, 333, 4, 4, 80), {"window": (60, 20), "causal": False}),
        ((1, 400, 400, 4, 2, 128), {"softcap": 20.0}),
        ((3, 1, 1000, 8, 2, 128), {}),
    ]
    for sizes, options in cases:
        yield Call(f"{sizes} {options}", attention, _inputs(*sizes, dtype, device), options)
    for n_tokens, head_dim in ((1000, 128), (777, 64)):
        tensors = _inputs(2, n_tokens, n_tokens, 4, 2, head_dim, dtype, device)
        tensors["segments_BT"] = _documents(2, n_tokens, 90, device)
        yield Call(f"packed T={n_tokens} D={head_dim}", attention, tensors)


def bench_calls(device: str) -> Iterator[Call]:
    """16k tokens in all at each length, width 2048; packed and windowed beside the dense call of the same size."""
    for head_dim in (64, 128, 256):
        for n_tokens in (4096, 16384):
            for causal in (True, False):
                yield _bench(16384 // n_tokens, n_tokens, 2048 // head_dim, head_dim, device, {"causal": causal})
    for options in ({"window": (1024, 0)}, {"documents": 2048}):
        yield _bench(1, 16384, 16, 128, device, options)


def _bench(batch: int, n_tokens: int, heads: int, head_dim: int, device: str, options: dict[str, Any]) -> Call:
    options = dict(options)
    tensors = _inputs(batch, n_tokens, n_tokens, heads, heads, head_dim, torch.bfloat16, device)
    name = f"B{batch} T{n_tokens} H{heads} D{head_dim} {options}"
    causal = options.get("causal", True)
    peers: dict[str, Callable[..., Any]] = {
        "sdpa cudnn": _sdpa(SDPBackend.CUDNN_ATTENTION),
        "sdpa flash": _sdpa(SDPBackend.FLASH_ATTENTION),
    }
    n_pairs = batch * n_tokens**2 / (2 if causal else 1)
    if "window" in options or "documents" in options:
        mean_length = options.pop("documents", None)
        if mean_length is not None:
            tensors["segments_BT"] = _documents(batch, n_tokens, mean_length, device)
        left, right = options.get("window", (-1, 0))
        visible = Visible.under(Mask(left, right, tensors.get("segments_BT")), n_tokens, n_tokens, torch.device(device))
        n_pairs = float(visible.n_pairs)
        peers = {"flex_attention": _flex(visible, n_tokens)}
    flops = 4 * heads * head_dim * n_pairs
    n_bytes = 4 * batch * n_tokens * heads * head_dim * 2
    return Call(
        name, attention, tensors, options, forward_flops=flops, backward_flops=2.5 * flops,
        forward_bytes=n_bytes, backward_bytes=2 * n_bytes, peers=peers,
    )  # fmt: skip


def _sdpa(backend: SDPBackend) -> Callable[..., Tensor]:
    def run(q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, causal: bool = True) -> Tensor:
        heads_first = (tensor.transpose(1, 2) for tensor in (q_BTHD, k_BTGD, v_BTGD))
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(*heads_first, is_causal=causal).transpose(1, 2)

    return run


def _flex(visible: Visible, n_tokens: int) -> Callable[..., Tensor]:
    """flex_attention, compiled, with a mask of blocks that is made once, outside of what is timed."""
    prepared: list[Any] = []

    def run(q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, **_options: Any) -> Tensor:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        if not prepared:
            first, last = visible.first_key_BT[0], visible.last_key_BT[0]
            mask = create_block_mask(
                lambda _b, _h, t, s: (s >= first[t]) & (s <= last[t]), None, None, n_tokens, n_tokens, device=str(q_BTHD.device)
            )
            prepared.extend((torch.compile(flex_attention), mask))
        call, mask = prepared
        heads_first = (tensor.transpose(1, 2) for tensor in (q_BTHD, k_BTGD, v_BTGD))
        return call(*heads_first, block_mask=mask).transpose(1, 2)

    return run


def _inputs(
    batch: int, n_queries: int, n_keys: int, heads: int, groups: int, head_dim: int, dtype: torch.dtype, device: str
) -> dict[str, Tensor | None]:
    shapes = {"q_BTHD": (batch, n_queries, heads, head_dim)}
    shapes |= dict.fromkeys(("k_BTGD", "v_BTGD"), (batch, n_keys, groups, head_dim))
    return {name: torch.randn(shape, dtype=dtype, device=device) for name, shape in shapes.items()}


def _documents(batch: int, n_tokens: int, mean_length: int, device: str) -> Tensor:
    starts = torch.rand(batch, n_tokens, generator=torch.Generator().manual_seed(0)) < 1 / mean_length
    return starts.cumsum(dim=1).to(torch.int32).to(device)
