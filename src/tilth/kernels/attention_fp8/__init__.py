"""`attention_fp8`: the forward of attention with e4m3 products, and `quantize_blocks`, which makes its inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.attention_fp8.blocks import check_rotation, n_blocks
from tilth.kernels.backend import check_device, check_float, check_shape, choose_backend, implementation
from tilth.kernels.softmax_options import Window, softmax_scale, window_limits

HEAD_SIZES = (64, 128, 256)
BLOCK_SIZES = (32, 64, 128)
"""Rows that share a scale: a multiple of what one FP8 product of the tensor cores sums over."""


def attention_fp8(
    q_BTHD: Tensor,
    k_BTGD: Tensor,
    v_BTGD: Tensor,
    *,
    causal: bool = True,
    window: Window = None,
    scale: float | None = None,
    block_size: int = 128,
    hadamard: bool = True,
    return_lse: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return softmax(scale * q k^T) v computed in e4m3, (B, Tq, H, D) in the dtype of q, which may be 16 or 32 bits wide.

    q, k and v are quantised with one scale for every `block_size` rows of a head; q and k before that turned by one random
    orthogonal matrix where `hadamard`, which leaves their products and spreads an outlier over the whole head. The softmax
    is float32, its weights e4m3. Causal, window, scale, grouped heads, fewer queries than keys and `return_lse` are those
    of `attention`; D is 64, 128 or 256. There is no gradient.
    On the data of the paper (outliers in one of a thousand values) the error is, at D = 128, 0.35 of that of FP8 with one
    scale a tensor over 16,384 keys, 0.37 over 8,192, 0.39 over 4,096 and 0.55 over 1,024; `error.py` measures it.
    A cache that is read more than once is better quantised once: `quantize_blocks`, then `attention_fp8_blocks`.
    Source: Shah et al. 2024, "FlashAttention-3", section 3.3.
    Raises ValueError for shapes, dtypes or options that do not fit, BackendError for a backend that cannot run: the Triton
    kernels need a GPU of compute capability 9.0, the first generation whose wgmma multiplies FP8.
    """
    for name, tensor in (("q_BTHD", q_BTHD), ("k_BTGD", k_BTGD), ("v_BTGD", v_BTGD)):
        _check_values(name, tensor)
        if tensor.dtype != q_BTHD.dtype:
            raise ValueError(f"{name} is {tensor.dtype}, but q_BTHD is {q_BTHD.dtype}; they must be the same")
    _check_heads(q_BTHD, k_BTGD, v_BTGD)
    chosen = choose_backend(q_BTHD, backend)
    q8, q_scales = quantize_blocks(q_BTHD, block_size=block_size, hadamard=hadamard, backend=chosen)
    k8, k_scales = quantize_blocks(k_BTGD, block_size=block_size, hadamard=hadamard, backend=chosen)
    v8, v_scales = quantize_blocks(v_BTGD, block_size=block_size, tokens_last=True, backend=chosen)
    return attention_fp8_blocks(
        q8,
        k8,
        v8,
        q_scales_BNH=q_scales,
        k_scales_BNG=k_scales,
        v_scales_BNG=v_scales,
        block_size=block_size,
        causal=causal,
        window=window,
        scale=scale,
        dtype=q_BTHD.dtype,
        return_lse=return_lse,
        backend=chosen,
    )


def quantize_blocks(
    x_BTHD: Tensor,
    *,
    block_size: int = 128,
    hadamard: bool = False,
    signs_D: Tensor | None = None,
    tokens_last: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (x8_BTHD in float8_e4m3fn, scales_BNH in float32), with x about x8 times the scale of its block.

    Block n of a head is its rows n * block_size to (n + 1) * block_size, and its scale its largest size / 448.
    `hadamard` multiplies every row by diag(signs) H / sqrt(D) first: H is the Hadamard matrix, D a power of two, and
    `signs_D` are +1 and -1, random but always the same ones where not given. `tokens_last` changes where the values lie
    and not their shape: the tokens of a channel side by side, as the tensor cores want the values of attention.
    Source: Shah et al. 2024, section 3.3; Chee et al. 2023, "QuIP", for the incoherent processing.
    Raises ValueError for shapes, dtypes or options that do not fit, BackendError for a backend that cannot run.
    """
    _check_values("x_BTHD", x_BTHD)
    _check_block_size(block_size)
    check_rotation(x_BTHD, hadamard, signs_D)
    return _quantize_blocks(x_BTHD, block_size, hadamard, signs_D, tokens_last, choose_backend(x_BTHD, backend))


def attention_fp8_blocks(
    q8_BTHD: Tensor,
    k8_BTGD: Tensor,
    v8_BTGD: Tensor,
    *,
    q_scales_BNH: Tensor,
    k_scales_BNG: Tensor,
    v_scales_BNG: Tensor,
    block_size: int = 128,
    causal: bool = True,
    window: Window = None,
    scale: float | None = None,
    dtype: torch.dtype = torch.bfloat16,
    return_lse: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return `attention_fp8` of what `quantize_blocks` made, in `dtype`; `scale` is 1 / sqrt(D) where not given.

    q8 and k8 must have been turned by the same signs, or neither. v8 is fastest with `tokens_last`. float64 in place of
    e4m3 is for the reference, as the truth of comparisons, and gives float64.
    Raises ValueError for shapes, dtypes or options that do not fit, BackendError for a backend that cannot run.
    """
    for name, tensor in (("q8_BTHD", q8_BTHD), ("k8_BTGD", k8_BTGD), ("v8_BTGD", v8_BTGD)):
        if tensor.dtype not in (torch.float8_e4m3fn, torch.float64):
            raise ValueError(f"{name} is {tensor.dtype}; expected float8_e4m3fn, from quantize_blocks")
    _check_heads(q8_BTHD, k8_BTGD, v8_BTGD, ("q8_BTHD", "k8_BTGD", "v8_BTGD"))
    _check_block_size(block_size)
    for name, scales, of in (
        ("q_scales_BNH", q_scales_BNH, q8_BTHD),
        ("k_scales_BNG", k_scales_BNG, k8_BTGD),
        ("v_scales_BNG", v_scales_BNG, v8_BTGD),
    ):
        check_shape(name, scales, (of.shape[0], n_blocks(of.shape[1], block_size), of.shape[2]), "B, blocks, heads")
        if scales.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name} is {scales.dtype}; expected float32, from quantize_blocks")
        check_device(q8_BTHD, **{name: scales})
    if dtype not in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        raise ValueError(f"dtype is {dtype}; expected bfloat16, float16 or float32")
    if q8_BTHD.dtype == torch.float64:
        dtype = torch.float64
    left, right = window_limits(window, causal)
    scale = softmax_scale(scale, q8_BTHD.shape[-1])
    chosen = choose_backend(q8_BTHD, backend)
    scales = (q_scales_BNH, k_scales_BNG, v_scales_BNG)
    o_BTHD, lse_BHT = _attention_fp8(q8_BTHD, k8_BTGD, v8_BTGD, *scales, block_size, left, right, scale, dtype, chosen)
    return (o_BTHD, lse_BHT) if return_lse else o_BTHD


def _check_values(name: str, tensor: Tensor) -> None:
    check_float(name, tensor)
    if tensor.dim() != 4:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected 4 dimensions (B, T, heads, D)")
    if tensor.shape[3] not in HEAD_SIZES:
        raise ValueError(f"{name} has heads of size {tensor.shape[3]}; expected one of {HEAD_SIZES}")
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} requires a gradient, and FP8 has none: detach it, or call under torch.no_grad()")


def _check_block_size(block_size: int) -> None:
    if block_size not in BLOCK_SIZES:
        raise ValueError(f"block_size is {block_size}; expected one of {BLOCK_SIZES}")


def _check_heads(q: Tensor, k: Tensor, v: Tensor, names: tuple[str, str, str] = ("q_BTHD", "k_BTGD", "v_BTGD")) -> None:
    for name, tensor in zip(names, (q, k, v), strict=True):
        if tensor.dim() != 4 or tensor.shape[3] not in HEAD_SIZES:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected (B, T, heads, D) with D one of {HEAD_SIZES}")
    if k.shape != v.shape:
        raise ValueError(f"{names[1]} has shape {tuple(k.shape)} and {names[2]} {tuple(v.shape)}; they must be equal")
    if k.shape[0] != q.shape[0] or k.shape[3] != q.shape[3]:
        raise ValueError(
            f"{names[1]} has shape {tuple(k.shape)}; expected batch {q.shape[0]} and D {q.shape[3]} as in {names[0]}"
        )
    if k.shape[2] == 0 or q.shape[2] % k.shape[2]:
        raise ValueError(f"{names[0]}: {q.shape[2]} heads cannot share {k.shape[2]} groups: H must be a multiple of G")
    check_device(q, **{names[1]: k, names[2]: v})


@torch.library.custom_op("tilth::quantize_blocks", mutates_args=())
def _quantize_blocks(
    x_BTHD: Tensor, block_size: int, hadamard: bool, signs_D: Tensor | None, tokens_last: bool, backend: str
) -> tuple[Tensor, Tensor]:
    x8_BTHD = _empty_like(x_BTHD, tokens_last)
    module = implementation("attention_fp8", backend)
    return x8_BTHD, module.quantize(x_BTHD, x8_BTHD, block_size, hadamard, signs_D)


@_quantize_blocks.register_fake
def _(
    x_BTHD: Tensor, block_size: int, _hadamard: bool, _signs_D: Tensor | None, tokens_last: bool, _backend: str
) -> tuple[Tensor, Tensor]:
    n_batch, n_tokens, n_heads, _ = x_BTHD.shape
    shape = (n_batch, n_blocks(n_tokens, block_size), n_heads)
    return _empty_like(x_BTHD, tokens_last), x_BTHD.new_empty(shape, dtype=torch.float32)


def _empty_like(x_BTHD: Tensor, tokens_last: bool) -> Tensor:
    n_batch, n_tokens, n_heads, head_dim = x_BTHD.shape
    if not tokens_last:
        return x_BTHD.new_empty(x_BTHD.shape, dtype=torch.float8_e4m3fn)
    # 16 bytes are the unit of a copy to shared memory: every channel begins at a multiple of them.
    lying = x_BTHD.new_empty((n_batch, n_heads, head_dim, (n_tokens + 15) // 16 * 16), dtype=torch.float8_e4m3fn)
    return lying[..., :n_tokens].permute(0, 3, 1, 2)


@torch.library.custom_op("tilth::attention_fp8", mutates_args=())
def _attention_fp8(
    q8_BTHD: Tensor,
    k8_BTGD: Tensor,
    v8_BTGD: Tensor,
    q_scales_BNH: Tensor,
    k_scales_BNG: Tensor,
    v_scales_BNG: Tensor,
    block_size: int,
    left: int,
    right: int,
    scale: float,
    dtype: torch.dtype,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Second output: the log of the sum of exponentials of each row (B, H, Tq)."""
    tensors = (q8_BTHD, k8_BTGD, v8_BTGD, q_scales_BNH, k_scales_BNG, v_scales_BNG)
    return implementation("attention_fp8", backend).forward(*tensors, block_size, left, right, scale, dtype)


@_attention_fp8.register_fake
def _(q8_BTHD: Tensor, *arguments: object) -> tuple[Tensor, Tensor]:
    n_batch, n_queries, n_heads, _ = q8_BTHD.shape
    kept = torch.float64 if q8_BTHD.dtype == torch.float64 else torch.float32
    return q8_BTHD.new_empty(q8_BTHD.shape, dtype=arguments[-2]), q8_BTHD.new_empty((n_batch, n_heads, n_queries), dtype=kept)
