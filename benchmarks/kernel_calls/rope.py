"""Calls of rope."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kernel_calls.call import Call
from tilth.kernels import rope

TABLES = ("cos_TR", "sin_TR")


def gate_calls(dtype: torch.dtype) -> Iterator[Call]:
    """Every width, both forms; a part of the channels and positions at one width."""
    for n_pairs in (32, 64, 128):
        for interleaved in (False, True):
            yield _call(f"R={n_pairs}", dtype, "cpu", (1, 4, 8, 2 * n_pairs), n_pairs, interleaved=interleaved)
    yield _call("partial", dtype, "cpu", (1, 4, 8, 128), 32, packed=True)


def check_calls(dtype: torch.dtype, device: str) -> Iterator[Call]:
    """Odd sizes, both forms, packed and back."""
    yield _call("one channel pair", dtype, device, (1, 1, 1, 2), 1)
    for interleaved in (False, True):
        yield _call(f"whole {interleaved}", dtype, device, (2, 257, 5, 64), 32, interleaved=interleaved)
        yield _call(f"partial {interleaved}", dtype, device, (3, 129, 8, 96), 20, interleaved=interleaved, packed=True)
        yield _call(f"inverse {interleaved}", dtype, device, (1, 1000, 3, 128), 64, interleaved=interleaved, inverse=True)
    yield _call("R=128", dtype, device, (2, 33, 9, 256), 128, packed=True)


def bench_calls(device: str) -> Iterator[Call]:
    """Queries of 16,384 tokens; what must move: x and the tables in and y out, and the same for the gradient."""
    for head_dim, n_heads in ((64, 32), (128, 32)):
        for interleaved in (False, True):
            call = _call("", torch.bfloat16, device, (4, 4096, n_heads, head_dim), head_dim // 2, interleaved=interleaved)
            n_bytes = 2 * 16384 * n_heads * head_dim * 2 + 2 * 4096 * head_dim // 2 * 4
            peers = {"torch.compile": torch.compile(_formula), "eager": _formula} | ({} if interleaved else {"liger": _liger})
            yield Call(
                f"D={head_dim} interleaved={interleaved}", rope, call.tensors, call.options,
                without_gradient=TABLES, forward_bytes=n_bytes, backward_bytes=n_bytes, peers=peers,
            )  # fmt: skip


def _call(
    name: str,
    dtype: torch.dtype,
    device: str,
    shape: tuple[int, int, int, int],
    n_pairs: int,
    packed: bool = False,
    **options: bool,
) -> Call:
    angles = torch.rand(shape[1], n_pairs, device=device) * 6
    tensors: dict[str, Tensor | None] = {"x_BTHD": torch.randn(shape, dtype=dtype, device=device)}
    tensors |= {"cos_TR": angles.cos(), "sin_TR": angles.sin()}
    if packed:
        tensors["positions_BT"] = torch.randint(0, shape[1], shape[:2], dtype=torch.int32, device=device)
    return Call(name, rope, tensors, dict(options), without_gradient=TABLES)


def _formula(x_BTHD: Tensor, cos_TR: Tensor, sin_TR: Tensor, interleaved: bool) -> Tensor:
    x = x_BTHD.float()
    if interleaved:
        cos, sin = (table.repeat_interleave(2, dim=-1)[:, None] for table in (cos_TR, sin_TR))
        other = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    else:
        cos, sin = (torch.cat([table, table], dim=-1)[:, None] for table in (cos_TR, sin_TR))
        first, second = x.chunk(2, dim=-1)
        other = torch.cat([-second, first], dim=-1)
    return (x * cos + other * sin).to(x_BTHD.dtype)


def _liger(x_BTHD: Tensor, cos_TR: Tensor, sin_TR: Tensor, interleaved: bool) -> Any:
    """Liger turns queries and keys in one launch and in place: one key head comes along, 1/32 more work."""
    from liger_kernel.ops.rope import LigerRopeFunction

    q_BHTD = x_BTHD.transpose(1, 2)
    tables = [torch.cat([table, table], dim=-1)[None].to(x_BTHD.dtype) for table in (cos_TR, sin_TR)]
    turned, _ = LigerRopeFunction.apply(q_BHTD.clone(), q_BHTD[:, :1].clone(), *tables)
    return turned.transpose(1, 2)
