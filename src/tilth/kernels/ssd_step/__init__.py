"""`ssd_step`: one token of the Mamba-2 recurrence for every row, with the states updated in place."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tilth.kernels.backend import check_device, check_float, check_shape, choose_backend, direct, implementation
from tilth.kernels.rows import refuse
from tilth.kernels.ssd_step.inputs import StepInputs


def ssd_step(
    state_BHPN: Tensor,
    x_BHP: Tensor,
    dt_BH: Tensor,
    A_H: Tensor,
    B_BGN: Tensor,
    C_BGN: Tensor,
    *,
    D_H: Tensor | None = None,
    z_BHP: Tensor | None = None,
    dt_bias_H: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    state_indices_B: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Return y_BHP in the dtype of x, as `ssd_scan` would for one more token; `state_BHPN` becomes the state after it.

    With `state_indices_B` (int32) the states are a pool (S, H, P, N) of which row b uses the one of that number: no two
    rows the same; a row of number -1 is skipped, its y is 0. D is (H,) or (H, P). There are no gradients.
    Each row may have parameters of its own: then A, D and dt_bias are all (B, H), and there is no pool.
    Source: Dao and Gu 2024, "Transformers are SSMs", equation 1.
    Raises ValueError for shapes or dtypes that do not fit (and on the CPU for indices outside the pool), BackendError for a
    backend that cannot run.
    """
    inputs = StepInputs(x_BHP, dt_BH, A_H, B_BGN, C_BGN, D_H, z_BHP, dt_bias_H, state_indices_B)
    _check(state_BHPN, inputs)
    low, high = dt_limit
    if not low <= high:
        raise ValueError(f"dt_limit is {dt_limit}; expected two numbers, the smaller one first")
    if A_H.dim() == 2:
        state_BHPN, inputs = state_BHPN.flatten(0, 1).unsqueeze(0), inputs.one_row()
    name = choose_backend(x_BHP, backend)
    with torch.no_grad():
        y_BHP = direct(_ssd_step)(state_BHPN, *inputs, dt_softplus, float(low), float(high), name)
    return y_BHP.view(x_BHP.shape)


def _check(state_BHPN: Tensor, inputs: StepInputs) -> None:
    if inputs.x_BHP.dim() != 3:
        raise ValueError(f"x_BHP has shape {tuple(inputs.x_BHP.shape)}; expected 3 dimensions (B, H, P)")
    if inputs.B_BGN.dim() != 3:
        raise ValueError(f"B_BGN has shape {tuple(inputs.B_BGN.shape)}; expected 3 dimensions (B, G, N)")
    n_rows, n_heads, head_dim = inputs.x_BHP.shape
    n_groups, d_state = inputs.B_BGN.shape[1:]
    if n_groups == 0 or n_heads % n_groups:
        raise ValueError(f"{n_heads} heads cannot share {n_groups} groups: H must be a multiple of G")
    indices = inputs.state_indices_B
    heads, letters = ((n_heads,), "H") if inputs.A_H.dim() == 1 else ((n_rows, n_heads), "B, H")
    is_wide = inputs.D_H is not None and inputs.D_H.dim() == 2 and len(heads) == 1
    if len(heads) == 2:
        refuse(state_indices_B=indices)
    n_states = n_rows if indices is None or state_BHPN.dim() != 4 else state_BHPN.shape[0]
    check_shape("state_BHPN", state_BHPN, (n_states, n_heads, head_dim, d_state), "B or pool, H, P, N")
    check_float("state_BHPN", state_BHPN)
    if not state_BHPN.is_contiguous():
        raise ValueError(f"state_BHPN has strides {state_BHPN.stride()}; expected a contiguous tensor, which is updated in place")
    shapes = {
        "x_BHP": ((n_rows, n_heads, head_dim), "B, H, P"),
        "dt_BH": ((n_rows, n_heads), "B, H"),
        "A_H": (heads, letters),
        "B_BGN": ((n_rows, n_groups, d_state), "B, G, N"),
        "C_BGN": ((n_rows, n_groups, d_state), "B, G, N"),
        "D_H": ((n_heads, head_dim), "H, P") if is_wide else (heads, letters),
        "z_BHP": ((n_rows, n_heads, head_dim), "B, H, P"),
        "dt_bias_H": (heads, letters),
    }
    given = {name: tensor for name, tensor in inputs._asdict().items() if tensor is not None}
    for name, tensor in given.items():
        if name in shapes:
            check_shape(name, tensor, *shapes[name])
            check_float(name, tensor)
    if indices is not None:
        check_shape("state_indices_B", indices, (n_rows,), "B")
        if indices.dtype != torch.int32:
            raise ValueError(f"state_indices_B is {indices.dtype}; expected int32")
    check_device(inputs.x_BHP, state_BHPN=state_BHPN, **given)


@torch.library.custom_op("tilth::ssd_step", mutates_args=("state_BHPN",))
def _ssd_step(
    state_BHPN: Tensor,
    x_BHP: Tensor,
    dt_BH: Tensor,
    A_H: Tensor,
    B_BGN: Tensor,
    C_BGN: Tensor,
    D_H: Tensor | None,
    z_BHP: Tensor | None,
    dt_bias_H: Tensor | None,
    state_indices_B: Tensor | None,
    dt_softplus: bool,
    dt_min: float,
    dt_max: float,
    backend: str,
) -> Tensor:
    inputs = StepInputs(x_BHP, dt_BH, A_H, B_BGN, C_BGN, D_H, z_BHP, dt_bias_H, state_indices_B)
    inputs.check_indices(state_BHPN.shape[0])
    y_BHP: Tensor = implementation("ssd_step", backend).forward(state_BHPN, inputs, dt_softplus, dt_min, dt_max)
    return y_BHP


@_ssd_step.register_fake
def _(state_BHPN: Tensor, x_BHP: Tensor, *_others: object) -> Tensor:
    return x_BHP.new_empty(x_BHP.shape)
