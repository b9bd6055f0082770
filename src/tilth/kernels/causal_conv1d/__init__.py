"""`causal_conv1d`: the short depthwise convolution in front of a scan, with packed documents and states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tilth.kernels.backend import check_device, check_float, check_shape, choose_backend, direct, implementation
from tilth.kernels.causal_conv1d.inputs import ConvInputs, check_activation, check_taps
from tilth.kernels.causal_conv1d.state import final_state
from tilth.kernels.rows import channels_as_rows, refuse, rows_as_channels

# Written out, so that the functions below need not repeat it: torch would infer it from their signatures.
_INPUTS = "Tensor x_BTC, Tensor weight_CK, Tensor? bias_C, Tensor? segments_BT, Tensor? initial_state_BKC"
_OPTIONS = "str? activation, bool reverse, str backend"


def causal_conv1d(
    x_BTC: Tensor,
    weight_CK: Tensor,
    bias_C: Tensor | None = None,
    *,
    activation: str | None = None,
    segments_BT: Tensor | None = None,
    initial_state_BKC: Tensor | None = None,
    return_final_state: bool = False,
    reverse: bool = False,
    backend: str | None = None,
) -> Any:
    """Return act(bias + sum_j weight[:, K-1-j] x_{t-j}) (B, T, C) in the dtype of x, and the final state if asked for.

    K is 1 to 8, the sum runs in float32 at least, `activation` is None or "silu". Taps never reach into the document
    before: a new one begins wherever `segments_BT` (int32) changes along T. `initial_state_BKC` (B, K-1, C) holds the
    inputs before the first token, in the order of time, zeros if None; it belongs to the first document. The final
    state, in the dtype of x, is the initial state of the tokens that follow. With `reverse` time runs the other way:
    y_t reads x_t to x_{t+K-1}, the initial state holds the inputs after the last token, the final one the first inputs.
    x_BTC may be a slice of wider rows (any strides of B and T): it is not copied. Each row may have taps of its own, weight
    (B, C, K) and bias (B, C); then there are no segments.
    Source: Gu and Dao 2023, "Mamba", figure 3.
    Raises ValueError for shapes, dtypes or devices that do not fit, BackendError for a backend that cannot run.
    """
    if weight_CK.dim() == 3:
        refuse(segments_BT=segments_BT)
        x, weight, bias = _one_row(x_BTC, weight_CK, bias_C)
        initial = None if initial_state_BKC is None else rows_as_channels(initial_state_BKC).unsqueeze(0)
        options: dict[str, Any] = {"activation": activation, "initial_state_BKC": initial, "reverse": reverse, "backend": backend}
        y, final = causal_conv1d(x, weight, bias, return_final_state=True, **options)
        y_BTC, final_BKC = (channels_as_rows(t[0], len(x_BTC)) for t in (y, final))
        return (y_BTC, final_BKC) if return_final_state else y_BTC
    inputs = ConvInputs(x_BTC, weight_CK, bias_C, segments_BT, initial_state_BKC)
    inputs.check()
    check_activation(activation)
    y_BTC = direct(_causal_conv1d)(*inputs, activation, reverse, choose_backend(x_BTC, backend))
    return (y_BTC, final_state(inputs, reverse)) if return_final_state else y_BTC


def causal_conv1d_update(
    x_BTC: Tensor,
    state_BKC: Tensor,
    weight_CK: Tensor,
    bias_C: Tensor | None = None,
    *,
    activation: str | None = None,
    state_indices_B: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Return the convolution (B, T, C) of new tokens after those that `state_BKC` (B, K-1, C) remembers, for decoding.

    K is 2 to 8. The states are replaced in place by those after the T tokens. With `state_indices_B` (int32 or int64)
    row b uses the state of that index, so `state_BKC` may hold any number of states; no two rows may use the same one,
    and a row of index -1 is skipped: its outputs are 0. No gradient flows. Each row may have taps of its own, weight
    (B, C, K) and bias (B, C); then there are no indices.
    Raises ValueError for shapes, dtypes or devices that do not fit, BackendError for a backend that cannot run.
    """
    if weight_CK.dim() == 3:
        refuse(state_indices_B=state_indices_B)
        check_shape("state_BKC", state_BKC, (len(x_BTC), weight_CK.shape[2] - 1, x_BTC.shape[-1]), "B, K - 1, C")
        x, weight, bias = _one_row(x_BTC, weight_CK, bias_C)
        state = rows_as_channels(state_BKC).unsqueeze(0)
        y = causal_conv1d_update(x, state, weight, bias, activation=activation, backend=backend)
        state_BKC.copy_(channels_as_rows(state[0], len(x_BTC)))
        return channels_as_rows(y[0], len(x_BTC))
    check_taps(x_BTC, weight_CK, bias_C, fewest=2)
    check_activation(activation)
    n_batch, _, n_channels = x_BTC.shape
    n_states = n_batch if state_indices_B is None else state_BKC.shape[0]
    check_shape("state_BKC", state_BKC, (n_states, weight_CK.shape[1] - 1, n_channels), "B, K - 1, C")
    check_float("state_BKC", state_BKC)
    if state_indices_B is not None:
        check_shape("state_indices_B", state_indices_B, (n_batch,), "B")
        if state_indices_B.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"state_indices_B is {state_indices_B.dtype}; expected int32 or int64")
    check_device(x_BTC, state_BKC=state_BKC, state_indices_B=state_indices_B)
    return direct(_update)(x_BTC, state_BKC, weight_CK, bias_C, activation, state_indices_B, choose_backend(x_BTC, backend))


def _one_row(x_BTC: Tensor, weight_BCK: Tensor, bias_BC: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the channels of all rows as those of one row (1, T, B * C), with the taps of each."""
    if x_BTC.dim() != 3:
        raise ValueError(f"x_BTC has shape {tuple(x_BTC.shape)}; expected 3 dimensions (B, T, C)")
    n_batch, _, n_channels = x_BTC.shape
    check_shape("weight_CK", weight_BCK, (n_batch, n_channels, weight_BCK.shape[2]), "B, C, K")
    if bias_BC is not None:
        check_shape("bias_C", bias_BC, (n_batch, n_channels), "B, C")
        bias_BC = bias_BC.flatten()
    return rows_as_channels(x_BTC).unsqueeze(0), weight_BCK.flatten(0, 1), bias_BC


@torch.library.custom_op("tilth::causal_conv1d", mutates_args=(), schema=f"({_INPUTS}, {_OPTIONS}) -> Tensor")
def _causal_conv1d(*arguments: Any) -> Tensor:
    *tensors, activation, reverse, backend = arguments
    return implementation("causal_conv1d", backend).forward(ConvInputs(*tensors), activation, reverse)


@torch.library.custom_op(
    "tilth::causal_conv1d_backward",
    mutates_args=(),
    schema=f"(Tensor dy_BTC, {_INPUTS}, {_OPTIONS}) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _causal_conv1d_backward(dy_BTC: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """The gradients of x, weight, bias and initial state; the last two are empty where not given."""
    *tensors, activation, reverse, backend = arguments
    return implementation("causal_conv1d", backend).backward(dy_BTC, ConvInputs(*tensors), activation, reverse)


@torch.library.custom_op("tilth::causal_conv1d_update", mutates_args=("state_BKC",))
def _update(
    x_BTC: Tensor,
    state_BKC: Tensor,
    weight_CK: Tensor,
    bias_C: Tensor | None,
    activation: str | None,
    state_indices_B: Tensor | None,
    backend: str,
) -> Tensor:
    module = implementation("causal_conv1d", backend)
    return module.update(x_BTC, state_BKC, weight_CK, bias_C, activation, state_indices_B)


@_causal_conv1d.register_fake
def _(x_BTC: Tensor, *_arguments: Any) -> Tensor:
    return x_BTC.new_empty(x_BTC.shape)


@_causal_conv1d_backward.register_fake
def _(dy_BTC: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    inputs = ConvInputs(*arguments[: len(ConvInputs._fields)])
    differentiable = (*inputs[:3], inputs.initial_state_BKC)
    return tuple(dy_BTC.new_empty((0,)) if t is None else t.new_empty(t.shape) for t in differentiable)


@_update.register_fake
def _(x_BTC: Tensor, *_arguments: Any) -> Tensor:
    return x_BTC.new_empty(x_BTC.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.activation, ctx.reverse, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, dy_BTC: Tensor) -> tuple[Tensor | None, ...]:
    inputs = ConvInputs(*ctx.saved_tensors)
    dx, dweight, dbias, dinitial = _causal_conv1d_backward(dy_BTC, *inputs, ctx.activation, ctx.reverse, ctx.backend)
    dbias = None if inputs.bias_C is None else dbias
    dinitial = None if inputs.initial_state_BKC is None else dinitial
    return dx, dweight, dbias, None, dinitial, None, None, None


_causal_conv1d.register_autograd(_differentiate, setup_context=_save)
