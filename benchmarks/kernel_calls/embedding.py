"""Calls of embedding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kernel_calls.call import Call
from tilth.kernels import embedding


def gate_calls(dtype: torch.dtype) -> Iterator[Call]:
    """The narrow and the wide launch, enough tokens for whole spans."""
    for size in (96, 512):
        yield _call(f"D={size}", dtype, "cpu", 100, 16, size, scale=2.0)


def check_calls(dtype: torch.dtype, device: str) -> Iterator[Call]:
    """Rows without tokens, tokens that are rare and that fill many spans, a padding row."""
    yield _call("one", dtype, device, 1, 1, 1)
    yield _call("rare", dtype, device, 257, 5003, 129, scale=0.5)
    yield _call("frequent", dtype, device, 10_000, 7, 768)
    yield _call("one row", dtype, device, 5000, 1, 65)
    yield _call("padding", dtype, device, 3000, 100, 2100, padding_index=3)
    yield _call("int32", dtype, device, 3000, 1000, 512, index_dtype=torch.int32)


def bench_calls(device: str) -> Iterator[Call]:
    """16,384 tokens of Zipf's law; what must move: ids, their rows in and out; then dy in and a whole table out."""
    for n_rows, size in ((50_304, 1024), (50_304, 4096), (128_256, 4096)):
        shares = 1 / torch.arange(1, n_rows + 1, dtype=torch.float64)
        ids = torch.multinomial(shares, 16384, replacement=True, generator=torch.Generator().manual_seed(0)).to(device)
        weight = torch.randn(n_rows, size, dtype=torch.bfloat16, device=device)
        read = ids.unique().numel() * size * 2
        written = 16384 * size * 2
        yield Call(
            f"V={n_rows} D={size}", embedding, {"ids": ids.reshape(4, 4096), "weight_VD": weight},
            forward_bytes=16384 * 8 + read + written, backward_bytes=16384 * 8 + written + n_rows * size * 2,
            peers={"F.embedding": _formula, "torch.compile": torch.compile(_formula), "liger": _liger},
        )  # fmt: skip


def _call(
    name: str, dtype: torch.dtype, device: str, n_tokens: int, n_rows: int, size: int,
    index_dtype: torch.dtype = torch.int64, **options: Any,
) -> Call:  # fmt: skip
    ids = torch.randint(0, n_rows, (n_tokens,), device=device).to(index_dtype)
    return Call(name, embedding, {"ids": ids, "weight_VD": torch.randn(n_rows, size, dtype=dtype, device=device)}, options)


def _formula(ids: Tensor, weight_VD: Tensor) -> Tensor:
    return functional.embedding(ids, weight_VD)


def _liger(ids: Tensor, weight_VD: Tensor) -> Any:
    from liger_kernel.ops.experimental.embedding import LigerEmbeddingFunction

    return LigerEmbeddingFunction.apply(weight_VD, ids)
