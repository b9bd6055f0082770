"""Calls of attention_decode."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from kernel_calls.call import Call
from tilth.kernels import attention_decode, write_pages

SMALL = "a tile of 16 rows is less than wgmma's 64: decoding is bound by the loading of keys"
CLAIMS = {"_partial_kernel": {"small products": SMALL}}


def gate_calls(dtype: torch.dtype) -> Iterator[Call]:
    """Every head size with few and with many rows, pages of a block and smaller ones, softcap; writing.

    Nothing but conversions differs between float16 and bfloat16: one head size stands for all.
    """
    for head_dim in (128,) if dtype == torch.float16 else (64, 128, 256):
        for n_tokens in (1, 16):
            tensors = _tensors([300, 17], n_tokens, 8, 2, head_dim, 64, dtype=dtype)
            yield Call(f"D={head_dim} T={n_tokens}", attention_decode, tensors, gradients=False)
    if dtype == torch.float16:
        return
    tensors = _tensors([300, 17], 1, 8, 2, 128, 16, dtype=dtype)
    yield Call("small pages", attention_decode, tensors, gradients=False)
    yield Call("softcap", attention_decode, tensors, {"softcap": 30.0, "window": 100}, gradients=False)
    yield Call("write", write_pages, _new(tensors), gradients=False)


def check_calls(dtype: torch.dtype, device: str) -> Iterator[Call]:
    """Odd lengths, one of 0 and one below T, all sorts of pages, windows, softcap, splits; a long row beside short ones."""
    for lengths, n_tokens, heads, groups, head_dim, page_size, options in (
        ([1000, 1, 513, 0], 1, 8, 2, 128, 64, {}),
        ([777, 3, 2000], 5, 6, 6, 64, 16, {}),
        ([4097, 130], 16, 8, 1, 128, 128, {}),
        ([600, 64], 4, 4, 2, 256, 32, {"softcap": 20.0}),
        ([1500, 40, 900], 2, 4, 4, 80, 24, {"window": 200}),
        ([333, 257], 3, 8, 2, 128, 256, {"causal": False, "window": (50, 1)}),
        ([20_000, 10], 1, 32, 8, 128, 64, {}),
        ([5000] * 8, 1, 16, 2, 128, 16, {"n_splits": 7}),
    ):
        tensors = _tensors(lengths, n_tokens, heads, groups, head_dim, page_size, dtype=dtype, device=device)
        name = f"lengths={lengths} T={n_tokens} H={heads} G={groups} D={head_dim} page={page_size} {options}"
        yield Call(name, attention_decode, tensors, options, gradients=False)


def bench_calls(device: str) -> Iterator[Call]:
    """One new token over 8k and 32k keys, batches of 1 to 64, pages of 64 and 16; four tokens of speculation."""
    for n_batch, length, n_tokens, page_size in (
        (1, 32_768, 1, 64),
        (8, 8192, 1, 64),
        (64, 8192, 1, 64),
        (64, 8192, 1, 16),
        (64, 8192, 4, 64),
    ):
        heads, groups, head_dim = 32, 8, 128
        tensors = _tensors([length] * n_batch, n_tokens, heads, groups, head_dim, page_size, dtype=torch.bfloat16, device=device)
        yield Call(
            f"B={n_batch} keys={length} T={n_tokens} H={heads} G={groups} D={head_dim} page={page_size}",
            attention_decode,
            tensors,
            gradients=False,
            forward_flops=4 * n_batch * n_tokens * length * heads * head_dim,
            forward_bytes=2 * n_batch * length * groups * head_dim * 2,
            peers={"sdpa on gathered keys": _sdpa_on(tensors)},
        )


def _tensors(
    lengths: list[int],
    n_tokens: int,
    heads: int,
    groups: int,
    head_dim: int,
    page_size: int,
    *,
    dtype: torch.dtype,
    device: str = "cpu",
) -> dict[str, Tensor | None]:
    """Rows of the given lengths in pages that lie anywhere; table entries beyond a length are no pages."""
    generator = torch.Generator(device).manual_seed(0)
    width = max(-(-length // page_size) for length in lengths) + 1
    n_used = [-(-length // page_size) for length in lengths]
    order = torch.randperm(sum(n_used), generator=generator, device=device).to(torch.int32)
    table = torch.full((len(lengths), width), 2**30, dtype=torch.int32, device=device)
    for row, pages in enumerate(order.split(n_used)):
        table[row, : len(pages)] = pages

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype, device=device)

    return {
        "q_BTHD": normal(len(lengths), n_tokens, heads, head_dim),
        "k_pages": normal(sum(n_used), page_size, groups, head_dim),
        "v_pages": normal(sum(n_used), page_size, groups, head_dim),
        "block_table_BP": table,
        "lengths_B": torch.tensor(lengths, dtype=torch.int32, device=device),
    }


def _new(tensors: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    """The inputs of write_pages: one new token for each row of those of attention_decode."""
    k_pages, lengths = tensors["k_pages"], tensors["lengths_B"]
    assert k_pages is not None
    assert lengths is not None
    new = k_pages[: len(lengths), :1].clone()
    return {"k_BTGD": new, "v_BTGD": new.clone()} | {name: value for name, value in tensors.items() if name != "q_BTHD"}


def _sdpa_on(tensors: dict[str, Tensor | None]) -> Callable[..., Tensor]:
    """Return torch's attention over keys that lie together: what an unpaged cache of rows of one length would cost."""
    q, k_pages, v_pages, table, lengths = tensors.values()
    page_size = k_pages.shape[1]
    n_keys = int(lengths[0])
    page = table[:, : -(-n_keys // page_size)].long()
    k, v = (pages[page].flatten(1, 2)[:, :n_keys].transpose(1, 2).contiguous() for pages in (k_pages, v_pages))
    is_one = q.shape[1] == 1
    mask = None if is_one else torch.ones(q.shape[1], n_keys, dtype=torch.bool, device=q.device).tril(n_keys - q.shape[1])

    def sdpa(q_BTHD: Tensor, **_others: object) -> Tensor:
        out = torch.nn.functional.scaled_dot_product_attention(q_BTHD.transpose(1, 2), k, v, attn_mask=mask, enable_gqa=True)
        return out.transpose(1, 2)

    return sdpa
