"""One step of the recurrence in Triton: a program reads and writes the states of some channels of a row and head once."""

# Triton reads the annotations of a kernel: only tl.constexpr may stand there.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tilth.kernels.launches import launch
from tilth.kernels.ssd_step.inputs import StepInputs

_LARGEST_STATE = 512


def forward(state_BHPN: Tensor, inputs: StepInputs, dt_softplus: bool, dt_min: float, dt_max: float) -> Tensor:
    """Return y_BHP; the states are updated in place."""
    n_rows, n_heads, head_dim = inputs.x_BHP.shape
    n_groups, d_state = inputs.B_BGN.shape[1:]
    if d_state > _LARGEST_STATE:
        raise ValueError(f"the Triton ssd_step holds N <= {_LARGEST_STATE}; got N = {d_state}")
    x, dt, A, B, C, D, z, bias, indices = (None if tensor is None else tensor.contiguous() for tensor in inputs)
    y = torch.empty_like(x)
    if y.numel() == 0 or d_state == 0:
        return y
    found = launch("ssd_step", "step", x, "any")
    block_n = max(16, triton.next_power_of_2(d_state))
    block_p = max(1, min(found.pop("NUMBERS") // block_n, triton.next_power_of_2(head_dim)))
    # A kernel never reads what was not given: any pointer will do there.
    D, z, bias, indices = (x if tensor is None else tensor for tensor in (D, z, bias, indices))
    _step_kernel[(triton.cdiv(head_dim, block_p) * n_heads * n_rows,)](
        state_BHPN, x, dt, A, B, C, D, z, bias, indices, y, n_heads, head_dim, d_state, dt_min, dt_max,
        HEADS_PER_GROUP=n_heads // n_groups, D_DIMS=0 if inputs.D_H is None else inputs.D_H.dim(),
        HAS_Z=inputs.z_BHP is not None, HAS_BIAS=inputs.dt_bias_H is not None, SOFTPLUS=dt_softplus,
        HAS_INDICES=inputs.state_indices_B is not None, BLOCK_P=block_p, BLOCK_N=block_n, **found,
    )  # fmt: skip
    return y


@triton.jit
def _step_kernel(
    state_ptr, x_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, indices_ptr, y_ptr,
    n_heads, head_dim, d_state, dt_min, dt_max,
    HEADS_PER_GROUP: tl.constexpr, D_DIMS: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr, HAS_INDICES: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    h = tl.program_id(0) % n_heads
    n_slices = tl.cdiv(head_dim, BLOCK_P)
    p = tl.program_id(0) // n_heads % n_slices * BLOCK_P + tl.arange(0, BLOCK_P)
    b = (tl.program_id(0) // n_heads // n_slices).to(tl.int64)
    n = tl.arange(0, BLOCK_N)
    is_p = p < head_dim
    x_offsets = (b * n_heads + h) * head_dim + p
    number = b
    if HAS_INDICES:
        number = tl.load(indices_ptr + b).to(tl.int64)
        if number < 0:
            tl.store(y_ptr + x_offsets, tl.zeros([BLOCK_P], y_ptr.dtype.element_ty), mask=is_p)
            return
    dt = tl.load(dt_ptr + b * n_heads + h).to(tl.float32)
    if HAS_BIAS:
        dt += tl.load(bias_ptr + h).to(tl.float32)
    if SOFTPLUS:
        # log(1 + e) is e where 1 + e is rounded to 1, and what the sum rounds is divided out elsewhere.
        e = tl.exp(-tl.abs(dt))
        u = 1.0 + e
        dt = tl.maximum(dt, 0.0) + tl.where(u == 1.0, e, tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0)))
    dt = tl.minimum(tl.maximum(dt, dt_min), dt_max)
    decay = tl.exp(dt * tl.load(A_ptr + h).to(tl.float32))
    n_offsets = (b * (n_heads // HEADS_PER_GROUP) + h // HEADS_PER_GROUP) * d_state + n
    x = tl.load(x_ptr + x_offsets, mask=is_p, other=0.0).to(tl.float32)
    B = tl.load(B_ptr + n_offsets, mask=n < d_state, other=0.0).to(tl.float32)
    C = tl.load(C_ptr + n_offsets, mask=n < d_state, other=0.0).to(tl.float32)
    own = state_ptr + (number * n_heads + h) * head_dim * d_state
    state_offsets = p[:, None] * d_state + n[None, :]
    state_mask = is_p[:, None] & (n < d_state)[None, :]
    state = tl.load(own + state_offsets, mask=state_mask, other=0.0).to(tl.float32)
    state = state * decay + (x * dt)[:, None] * B[None, :]
    tl.store(own + state_offsets, state.to(state_ptr.dtype.element_ty), mask=state_mask)
    y = tl.sum(state * C[None, :], axis=1)
    if D_DIMS == 1:
        y += tl.load(D_ptr + h).to(tl.float32) * x
    if D_DIMS == 2:
        y += tl.load(D_ptr + h * head_dim + p, mask=is_p, other=0.0).to(tl.float32) * x
    if HAS_Z:
        z = tl.load(z_ptr + x_offsets, mask=is_p, other=0.0).to(tl.float32)
        e = tl.exp(-tl.abs(z))
        y = y * z * tl.where(z >= 0.0, 1.0, e) / (1.0 + e)
    tl.store(y_ptr + x_offsets, y.to(y_ptr.dtype.element_ty), mask=is_p)
