"""`causal_conv1d`: the short depthwise convolution in front of a scan, with packed documents and states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tilth.kernels.backend import check_device, check_float, check_shape, choose_backend, direct, implementation
from tilth.kernels.causal_conv1d.inputs import ConvInputs, check_activation, check_taps
from tilth.kernels.causal_conv1d.state import final_state

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
    x_BTC may be a slice of wider rows (any strides of B and T): it is not copied.
    Source: Gu and Dao 2023, "Mamba", figure 3.
    Raises ValueError for shapes, dtypes or devices that do not fit, BackendError for a backend that cannot run.
    """
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
    and a row of index -1 is skipped: its outputs are 0. No gradient flows.
    Raises ValueError for shapes, dtypes or devices that do not fit, BackendError for a backend that cannot run.
    """
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
