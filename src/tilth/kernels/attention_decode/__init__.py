"""`attention_decode`: attention of a few new tokens over keys and values in pages; `write_pages` fills the pages."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.attention_decode.pages import Pages
from tilth.kernels.backend import check_device, check_float, check_shape, choose_backend, direct, implementation
from tilth.kernels.softmax_options import Window, check_softcap, softmax_scale, window_limits

LARGEST_HEAD = 256
MOST_TOKENS = 16
"""New tokens of one call: more are a prefill, for which `attention` is faster."""


def attention_decode(
    q_BTHD: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    *,
    block_table_BP: Tensor,
    lengths_B: Tensor,
    scale: float | None = None,
    causal: bool = True,
    window: Window = None,
    softcap: float = 0.0,
    n_splits: int | None = None,
    return_lse: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the attention of the T (1 to 16) newest tokens of every row over its cached keys, (B, T, H, D) in the dtype of q.

    Keys and values lie in pages (n_pages, page size, G, D): token i of row b in slot i % page size of page
    block_table_BP[b, i // page size] (int32). lengths_B (int32) counts a row's tokens in the cache, the new ones
    included (`write_pages` first): the last query has the place of the last key. What lies beyond a length, or wholly
    before a window, is never read, be it table entry or slot. A query that sees no key gives 0, and -inf in the
    log-sum-exp (B, H, T; float32, float64 for float64) that `return_lse` adds. H is a multiple of G, D at most 256;
    causal, window, softcap and scale are those of `attention`.

    A row's keys are split into runs that begin at multiples of a fixed number of keys and are then put together in
    their order. So the bits of a row's result depend on its own queries, keys and length (and on T, H, G, D, the options
    and the GPU's generation), and neither on the other rows or their number, nor on the pages, their size or the width of
    the table. `n_splits` cuts what the table holds into about so many runs instead: then they depend on that as well.
    Nothing waits for the GPU. There is no gradient. Source: Dao et al. 2023, "Flash-Decoding"; pages: Kwon et al. 2023.
    Raises ValueError for shapes, dtypes or options that do not fit, and on the CPU for lengths and pages out of range
    (on a GPU they are not looked at); BackendError for a backend that cannot run.
    """
    pages = Pages(k_pages, v_pages, block_table_BP, lengths_B)
    _check_new(pages, q_BTHD=q_BTHD)
    n_tokens, n_heads, head_dim = q_BTHD.shape[1:]
    n_groups = k_pages.shape[2]
    if not 1 <= n_tokens <= MOST_TOKENS:
        raise ValueError(f"q_BTHD has {n_tokens} tokens; expected 1 to {MOST_TOKENS} new ones (`attention` takes more)")
    if n_heads == 0 or n_heads % n_groups:
        raise ValueError(f"q_BTHD: {n_heads} heads cannot share {n_groups} groups: H must be a multiple of G")
    if n_splits is not None and n_splits < 1:
        raise ValueError(f"n_splits is {n_splits}; expected at least 1, or None")
    check_softcap(softcap)
    left, right = window_limits(window, causal)
    chosen = choose_backend(q_BTHD, backend)
    o_BTHD, lse_BHT = direct(_attention_decode)(
        q_BTHD, *pages, left, right, float(softcap), softmax_scale(scale, head_dim), n_splits or 0, chosen
    )
    return (o_BTHD, lse_BHT) if return_lse else o_BTHD


def write_pages(
    k_BTGD: Tensor,
    v_BTGD: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    *,
    block_table_BP: Tensor,
    lengths_B: Tensor,
    backend: str | None = None,
) -> None:
    """Write the keys and values of every row's T newest tokens into its pages, in place.

    The arguments are those of `attention_decode`; lengths_B counts the new tokens too, so that token t of row b goes to
    place lengths_B[b] - T + t. Tokens before place 0 are not written: a length of 0 leaves a row out. No two rows may
    write to the same slot. There is no gradient.
    Raises ValueError for shapes or dtypes that do not fit, and on the CPU for lengths and pages out of range (on a GPU
    they are not looked at); BackendError for a backend that cannot run.
    """
    pages = Pages(k_pages, v_pages, block_table_BP, lengths_B)
    _check_new(pages, k_BTGD=k_BTGD, v_BTGD=v_BTGD)
    shape = (*k_BTGD.shape[:2], *k_pages.shape[2:])
    check_shape("k_BTGD", k_BTGD, shape, "B, T, G, D")
    check_shape("v_BTGD", v_BTGD, shape, "B, T, G, D")
    _write_pages(k_BTGD, v_BTGD, *pages, choose_backend(k_BTGD, backend))


def _check_new(pages: Pages, **new: Tensor) -> None:
    """Raise ValueError unless pages, table and lengths fit each other and the tensors of new tokens."""
    n_batch = next(iter(new.values())).shape[0]
    pages.check(n_batch)
    head_dim, dtype = pages.k_pages.shape[3], pages.k_pages.dtype
    for name, tensor in new.items():
        check_float(name, tensor)
        if tensor.dim() != 4:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected 4 dimensions (B, T, heads, D)")
        if tensor.dtype != dtype:
            raise ValueError(f"{name} is {tensor.dtype}, but k_pages is {dtype}; they must be the same")
        if tensor.shape[3] != head_dim or not 1 <= head_dim <= LARGEST_HEAD:
            raise ValueError(
                f"{name} has heads of size {tensor.shape[3]} and k_pages of {head_dim}; expected equal sizes, 1 to {LARGEST_HEAD}"
            )
        check_device(tensor, **pages._asdict())
    inputs = {**new, "k_pages": pages.k_pages, "v_pages": pages.v_pages}
    trained = [name for name, tensor in inputs.items() if tensor.requires_grad]
    if trained and torch.is_grad_enabled():
        raise ValueError(f"{trained[0]} requires a gradient, and decoding has none: detach it, or call under torch.no_grad()")


@torch.library.custom_op("tilth::attention_decode", mutates_args=())
def _attention_decode(
    q_BTHD: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    block_table_BP: Tensor,
    lengths_B: Tensor,
    left: int,
    right: int,
    softcap: float,
    scale: float,
    n_splits: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Second output: the log of the sum of exponentials of each row (B, H, T). n_splits 0: the fixed number of keys."""
    pages = Pages(k_pages, v_pages, block_table_BP, lengths_B)
    return implementation("attention_decode", backend).forward(q_BTHD, pages, left, right, softcap, scale, n_splits)


@_attention_decode.register_fake
def _(q_BTHD: Tensor, *_arguments: object) -> tuple[Tensor, Tensor]:
    n_batch, n_tokens, n_heads, _ = q_BTHD.shape
    dtype = torch.float64 if q_BTHD.dtype == torch.float64 else torch.float32
    return q_BTHD.new_empty(q_BTHD.shape), q_BTHD.new_empty((n_batch, n_heads, n_tokens), dtype=dtype)


@torch.library.custom_op("tilth::write_pages", mutates_args=("k_pages", "v_pages"))
def _write_pages(
    k_BTGD: Tensor, v_BTGD: Tensor, k_pages: Tensor, v_pages: Tensor, block_table_BP: Tensor, lengths_B: Tensor, backend: str
) -> None:
    implementation("attention_decode", backend).write(k_BTGD, v_BTGD, Pages(k_pages, v_pages, block_table_BP, lengths_B))


@_write_pages.register_fake
def _(*_arguments: object) -> None:
    return None
