"""Calls of attention_fp8 and quantize_blocks; none for a GPU that multiplies no FP8 by wgmma."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from kernel_calls.call import Call
from tilth.kernels import attention_fp8, attention_fp8_blocks, quantize_blocks
from tilth.kernels.backend import gpu_arch

OLDEST_GPU = 90
Sizes = tuple[int, int, int, int, int, int]


def gate_calls(dtype: torch.dtype) -> Iterator[Call]:
    """Every head size, with the quantisation of its inputs; a window, which is a kernel of its own.

    The type is that of what is quantised and of the output: one size of float16 stands for all, and one window.
    """
    if gpu_arch(torch.device("cpu")) < OLDEST_GPU:
        return
    for head_dim in (128,) if dtype == torch.float16 else (64, 128, 256):
        tensors = _values((1, 256, 256, 4, 2, head_dim), dtype, "cpu")
        yield Call(f"D={head_dim}", attention_fp8, tensors, gradients=False)
    if dtype == torch.bfloat16:
        yield Call("window", attention_fp8, _values((1, 256, 256, 4, 2, 128), dtype, "cpu"), {"window": 100}, gradients=False)


def check_calls(dtype: torch.dtype, device: str) -> Iterator[Call]:
    """The products of blocks that are quantised once, so that both sides multiply the same numbers; odd lengths."""
    if gpu_arch(torch.device(device)) < OLDEST_GPU:
        return
    for sizes, block_size, options in (
        ((2, 257, 257, 4, 4, 64), 128, {}),
        ((1, 1, 1, 1, 1, 128), 128, {}),
        ((2, 130, 999, 8, 2, 128), 128, {"causal": False}),
        ((1, 1024, 1024, 4, 1, 256), 128, {}),
        ((2, 513, 513, 4, 2, 128), 64, {"window": 100}),
        ((1, 300, 300, 4, 4, 64), 32, {"causal": False, "window": (50, 20)}),
        ((1, 4096, 4096, 2, 2, 128), 128, {}),
    ):
        tensors = _blocks(_values(sizes, dtype, device), block_size)
        name = f"B={sizes[0]} Tq={sizes[1]} Tk={sizes[2]} H={sizes[3]} G={sizes[4]} D={sizes[5]} block={block_size} {options}"
        yield Call(name, attention_fp8_blocks, tensors, {"block_size": block_size, "dtype": dtype, **options}, gradients=False)


def bench_calls(device: str) -> Iterator[Call]:
    """4k to 16k tokens of head size 128 and 16k of 64 and 256, causal and not; and the quantisation alone."""
    for n_tokens, head_dim, causal in (
        (4096, 128, False),
        (8192, 128, False),
        (16_384, 128, False),
        (16_384, 128, True),
        (16_384, 64, False),
        (16_384, 256, False),
    ):
        n_batch, heads = 16_384 // n_tokens, 2048 // head_dim
        values = _values((n_batch, n_tokens, n_tokens, heads, heads, head_dim), torch.bfloat16, device)
        yield Call(
            f"B={n_batch} T={n_tokens} H={heads} D={head_dim} causal={causal}",
            attention_fp8_blocks,
            _blocks(values, 128),
            {"causal": causal},
            gradients=False,
            forward_flops=4 * n_batch * heads * n_tokens**2 * head_dim / (2 if causal else 1),
            peers={"cuDNN bf16": _cudnn_on(values), "ours with quantisation": _quantising(values)},
        )
    x = values["q_BTHD"]
    yield Call(
        f"x {tuple(x.shape)} hadamard",
        quantize_blocks,
        {"x_BTHD": x},
        {"hadamard": True},
        gradients=False,
        forward_bytes=x.numel() * 3,
    )


def _values(sizes: Sizes, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    n_batch, n_queries, n_keys, heads, groups, head_dim = sizes
    generator = torch.Generator(device).manual_seed(0)
    shapes = {"q_BTHD": (n_queries, heads), "k_BTGD": (n_keys, groups), "v_BTGD": (n_keys, groups)}
    return {
        name: torch.randn(n_batch, *shape, head_dim, generator=generator, dtype=dtype, device=device)
        for name, shape in shapes.items()
    }


def _blocks(values: dict[str, Tensor], block_size: int) -> dict[str, Tensor | None]:
    q, k = (quantize_blocks(values[name], block_size=block_size, hadamard=True) for name in ("q_BTHD", "k_BTGD"))
    v = quantize_blocks(values["v_BTGD"], block_size=block_size, tokens_last=True)
    return {
        "q8_BTHD": q[0],
        "k8_BTGD": k[0],
        "v8_BTGD": v[0],
        "q_scales_BNH": q[1],
        "k_scales_BNG": k[1],
        "v_scales_BNG": v[1],
    }


def _cudnn_on(values: dict[str, Tensor]) -> Callable[..., Tensor]:
    """Return torch's attention through cuDNN on the values before they were quantised."""

    def cudnn(causal: bool, **_blocks: Tensor) -> Tensor:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        q, k, v = (tensor.transpose(1, 2) for tensor in values.values())
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)

    return cudnn


def _quantising(values: dict[str, Tensor]) -> Callable[..., Tensor]:
    """Return the operator that quantises its inputs in every call."""
    return lambda causal, **_blocks: attention_fp8(**values, causal=causal)
