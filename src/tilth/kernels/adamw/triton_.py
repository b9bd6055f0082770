"""AdamW in Triton: one launch over a table of chunks, so that a thousand small tensors cost no more than their bytes.

The table tells each program its tensor and where in it to begin; the pointers lie in a table too, as numbers. bfloat16 is
read and written as bare 16-bit words: the rounding, by noise or to the nearest, is integer arithmetic.
"""

# Triton reads the annotations of a kernel: only tl.constexpr may stand there.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from tilth.kernels.adamw.rounding import FACTORS
from tilth.kernels.adamw.rule import Rule
from tilth.kernels.launches import launch

_FACTOR_1, _FACTOR_2 = tl.constexpr(FACTORS[0]), tl.constexpr(FACTORS[1])


def step(
    parameters: list[Tensor],
    gradients: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    grad_scale: Tensor | None,
    keys: list[int] | None,
    rule: Rule,
) -> None:
    """Change parameters and moments in place: one launch for each combination of dtypes in the lists."""
    by_dtypes: dict[tuple[torch.dtype, ...], list[int]] = {}
    for i, parameter in enumerate(parameters):
        if parameter.numel():
            by_dtypes.setdefault((parameter.dtype, gradients[i].dtype, exp_avgs[i].dtype), []).append(i)
    for dtypes, members in by_dtypes.items():
        columns = [[column[i] for i in members] for column in (parameters, gradients, exp_avgs, exp_avg_sqs)]
        _launch(columns, dtypes, grad_scale, None if keys is None else [keys[i] for i in members], rule)


def _launch(
    columns: list[list[Tensor]],
    dtypes: tuple[torch.dtype, ...],
    grad_scale: Tensor | None,
    keys: list[int] | None,
    rule: Rule,
) -> None:
    device, n_tensors = columns[0][0].device, len(columns[0])
    pointers = [[tensor.data_ptr() for tensor in column] for column in columns]
    sizes = tuple(tensor.numel() for tensor in columns[0])
    options = launch("adamw", "step", columns[0][0], "list")
    chunks = _chunks(sizes, options["CHUNK"], device)
    table = torch.tensor([*pointers, sizes, keys or [0] * n_tensors], pin_memory=device.type == "cuda")
    is_bf16 = [dtype == torch.bfloat16 for dtype in dtypes]
    _step_kernel[(len(chunks),)](
        table.to(device, non_blocking=True), chunks, chunks if grad_scale is None else grad_scale.float(), n_tensors,
        rule.kept, 1 - rule.beta1, rule.beta2, 1 - rule.beta2, rule.step_size, 1 / rule.root_of_correction, rule.eps,
        P_BF16=is_bf16[0], G_BF16=is_bf16[1], M_BF16=is_bf16[2], HAS_SCALE=grad_scale is not None,
        STOCHASTIC=keys is not None and (is_bf16[0] or is_bf16[2]),
        ALIGNED=all(pointer % 16 == 0 for column in pointers for pointer in column), **options,
    )  # fmt: skip


@functools.lru_cache(maxsize=16)
def _chunks(sizes: tuple[int, ...], chunk: int, device: torch.device) -> Tensor:
    """Return (n_chunks, 2) int32: the tensor of each chunk and which of its chunks it is."""
    counts = torch.tensor([-(-size // chunk) for size in sizes])
    tensors = torch.arange(len(sizes)).repeat_interleave(counts)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    return torch.stack([tensors, torch.arange(len(tensors)) - first], dim=1).to(torch.int32).to(device)


@triton.jit
def _pointer(entry_ptr, IS_BF16: tl.constexpr, ALIGNED: tl.constexpr):
    """Return the pointer that lies in the table as a number."""
    address = tl.load(entry_ptr)
    if IS_BF16:
        pointer = address.to(tl.pointer_type(tl.int16))
    else:
        pointer = address.to(tl.pointer_type(tl.float32))
    if ALIGNED:  # the compiler cannot know of a number from memory what it knows of an argument
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def _widen(x, IS_BF16: tl.constexpr):
    if IS_BF16:
        x = (x.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return x


@triton.jit
def _narrow(x, bits, IS_BF16: tl.constexpr, STOCHASTIC: tl.constexpr):
    """Return what is stored: float32, or bfloat16 rounded by the low 16 of `bits`, or to the nearest and even."""
    if IS_BF16:
        word = x.to(tl.uint32, bitcast=True)
        if STOCHASTIC:
            up = bits & 0xFFFF
        else:
            up = 0x7FFF + ((word >> 16) & 1)
        # Infinity stays, and NaN must not be carried over into the sign.
        is_finite = (word & 0x7F800000) != 0x7F800000
        is_nan = (word & 0x7FFFFFFF) > 0x7F800000
        word = tl.where(is_finite, word + up, tl.where(is_nan, word | 0x400000, word))
        x = (word >> 16).to(tl.uint16).to(tl.int16, bitcast=True)
    return x


@triton.jit
def _mix(x):
    x = x ^ (x >> 16)
    x = x * _FACTOR_1
    x = x ^ (x >> 15)
    x = x * _FACTOR_2
    return x ^ (x >> 16)


@triton.jit
def _step_block(
    p_ptr, g_ptr, m_ptr, v_ptr, first, size, key, scale,
    kept, one_minus_beta1, beta2, one_minus_beta2, step_size, correction, eps,
    P_BF16: tl.constexpr, G_BF16: tl.constexpr, M_BF16: tl.constexpr, STOCHASTIC: tl.constexpr,
    MASKED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Step BLOCK elements; without a mask where all are inside, since a mask that ends anywhere forbids wide loads."""
    i = first + tl.arange(0, BLOCK)
    inside = None
    if MASKED:
        inside = i < size
    p = _widen(tl.load(p_ptr + i, mask=inside), P_BF16)
    g = _widen(tl.load(g_ptr + i, mask=inside), G_BF16) * scale
    m = _widen(tl.load(m_ptr + i, mask=inside), M_BF16)
    v = _widen(tl.load(v_ptr + i, mask=inside), M_BF16)
    m = m + one_minus_beta1 * (g - m)
    v = beta2 * v + one_minus_beta2 * g * g
    p = p * kept - step_size * (m / (tl.sqrt_rn(v) * correction + eps))
    bits = tl.zeros([BLOCK], dtype=tl.uint32)
    if STOCHASTIC:
        bits = _mix(_mix(key ^ (i >> 16).to(tl.uint32)) ^ (i & 0xFFFF).to(tl.uint32))
    tl.store(p_ptr + i, _narrow(p, bits, P_BF16, STOCHASTIC), mask=inside)
    tl.store(m_ptr + i, _narrow(m, bits >> 16, M_BF16, STOCHASTIC), mask=inside)
    tl.store(v_ptr + i, _narrow(v, _mix(bits), M_BF16, STOCHASTIC), mask=inside)


@triton.jit
def _step_kernel(
    table_ptr, chunks_ptr, scale_ptr, n_tensors,
    kept, one_minus_beta1, beta2, one_minus_beta2, step_size, correction, eps,
    P_BF16: tl.constexpr, G_BF16: tl.constexpr, M_BF16: tl.constexpr, HAS_SCALE: tl.constexpr,
    STOCHASTIC: tl.constexpr, ALIGNED: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0).to(tl.int64)
    entry_ptr = table_ptr + tl.load(chunks_ptr + 2 * chunk).to(tl.int64)
    first = tl.load(chunks_ptr + 2 * chunk + 1).to(tl.int64) * CHUNK
    p_ptr = _pointer(entry_ptr, P_BF16, ALIGNED)
    g_ptr = _pointer(entry_ptr + n_tensors, G_BF16, ALIGNED)
    m_ptr = _pointer(entry_ptr + 2 * n_tensors, M_BF16, ALIGNED)
    v_ptr = _pointer(entry_ptr + 3 * n_tensors, M_BF16, ALIGNED)
    size = tl.load(entry_ptr + 4 * n_tensors)
    key = tl.load(entry_ptr + 5 * n_tensors).to(tl.uint32)
    scale = 1.0
    if HAS_SCALE:
        scale = tl.load(scale_ptr)
    if first + CHUNK <= size:
        for start in range(0, CHUNK, BLOCK):
            _step_block(
                p_ptr, g_ptr, m_ptr, v_ptr, first + start, size, key, scale,
                kept, one_minus_beta1, beta2, one_minus_beta2, step_size, correction, eps,
                P_BF16, G_BF16, M_BF16, STOCHASTIC, False, BLOCK,
            )  # fmt: skip
    else:
        for tail in range(0, size - first, BLOCK):
            _step_block(
                p_ptr, g_ptr, m_ptr, v_ptr, first + tail, size, key, scale,
                kept, one_minus_beta1, beta2, one_minus_beta2, step_size, correction, eps,
                P_BF16, G_BF16, M_BF16, STOCHASTIC, True, BLOCK,
            )  # fmt: skip
