"""`linear_cross_entropy`: the loss of a vocabulary head whose logits are never whole; `cross_entropy`, of logits that exist."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tilth.kernels.backend import check_device, check_float, check_shape, choose_backend, implementation
from tilth.kernels.linear_cross_entropy.chunks import chunk_size
from tilth.kernels.linear_cross_entropy.terms import Terms

REDUCTIONS = ("sum", "none")


def linear_cross_entropy(
    hidden_SD: Tensor,
    weight_VD: Tensor,
    targets_S: Tensor,
    *,
    bias_V: Tensor | None = None,
    token_weights_S: Tensor | None = None,
    ignore_index: int = -100,
    z_loss: float = 0.0,
    softcap: float = 0.0,
    label_smoothing: float = 0.0,
    reduction: str = "sum",
    each_S: Tensor | None = None,
    chunk_tokens: int | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cross entropy of hidden @ weight.T + bias with the targets, how many targets count, and the loss's z part.

    Loss and z part are sums, each token weighted by `token_weights_S` where given, or one value a token (S,) for
    reduction "none"; in float32 (float64 for float64 input). `z_loss` adds z_loss * lse^2 a token (Chowdhery et al. 2022,
    PaLM, section 5); the z part is that share of the loss, for logging: no gradient flows through it. `softcap` makes
    logits softcap * tanh(logits / softcap) (Gemma 2). A target of `ignore_index` does not count.

    The logits exist for `chunk_tokens` tokens at a time, by default a twentieth of all (256 where that is more). For the
    sum the gradients are made there and then, in the forward: three products in all. Reduction "none" must wait for the
    gradient of each token's loss and makes the logits again, a fourth product: where the weights of the tokens are known
    before, give `token_weights_S`; where the loss of each token is only to be looked at, give a tensor `each_S` to be
    filled with it, unweighted and 0 where ignored: the sum has it anyway, and no gradient flows through it. The products run
    in the dtype of hidden_SD, or that of autocast; the gradient of the weight is summed in float32.

    Shapes: hidden_SD (S, D), weight_VD (V, D), targets_S (S,) int64 or int32, bias_V (V,), each_S (S,).
    Raises ValueError for inputs that do not fit, and on the CPU for a target outside 0 <= target < V. On a GPU, where a
    look at the targets would wait for the device, such a target makes its loss and its gradient NaN.
    """
    _check_matrix("hidden_SD", hidden_SD)
    _check_matrix("weight_VD", weight_VD)
    check_shape("weight_VD", weight_VD, (weight_VD.shape[0], hidden_SD.shape[1]), "V, D")
    n_classes = weight_VD.shape[0]
    if bias_V is not None:
        check_float("bias_V", bias_V)
        check_shape("bias_V", bias_V, (n_classes,), "V")
    targets_S = _check_targets(targets_S, hidden_SD.shape[0], n_classes)
    if token_weights_S is not None:
        check_float("token_weights_S", token_weights_S)
        check_shape("token_weights_S", token_weights_S, (hidden_SD.shape[0],), "S")
    if each_S is not None:
        check_float("each_S", each_S)
        check_shape("each_S", each_S, (hidden_SD.shape[0],), "S")
    tensors = {"weight_VD": weight_VD, "targets_S": targets_S, "bias_V": bias_V}
    check_device(hidden_SD, **tensors, token_weights_S=token_weights_S, each_S=each_S)
    terms = _check_terms(ignore_index, z_loss, softcap, label_smoothing)
    _check_reduction(reduction)
    if chunk_tokens is not None and chunk_tokens < 1:
        raise ValueError(f"chunk_tokens is {chunk_tokens}; expected at least 1")
    dtype, size = _product_dtype(hidden_SD), chunk_tokens or chunk_size(hidden_SD.shape[0])
    name = choose_backend(hidden_SD, backend)
    count = (targets_S != ignore_index).sum()
    if reduction == "none":
        loss_S, lse_S = _per_token(hidden_SD, weight_VD, bias_V, targets_S, *terms, dtype, size, name)
        z_S = z_loss * lse_S.square()
        _fill(each_S, loss_S)
        return (loss_S, count, z_S) if token_weights_S is None else (loss_S * token_weights_S, count, z_S * token_weights_S)
    # Known here and not inside the operator: a head that is frozen, or an evaluation, makes no gradients.
    is_hidden_trained = torch.is_grad_enabled() and hidden_SD.requires_grad
    is_head_trained = torch.is_grad_enabled() and (weight_VD.requires_grad or (bias_V is not None and bias_V.requires_grad))
    loss, z, loss_S, *_ = _summed(
        hidden_SD, weight_VD, bias_V, targets_S, token_weights_S, *terms, dtype, size, is_hidden_trained, is_head_trained, name
    )
    _fill(each_S, loss_S)
    return loss, count, z


def _fill(each_S: Tensor | None, loss_S: Tensor) -> None:
    if each_S is not None:
        each_S.copy_(loss_S.detach())


def cross_entropy(
    logits_SV: Tensor,
    targets_S: Tensor,
    *,
    ignore_index: int = -100,
    z_loss: float = 0.0,
    softcap: float = 0.0,
    label_smoothing: float = 0.0,
    reduction: str = "sum",
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss, count and z part as `linear_cross_entropy` does, for logits (S, V) that exist already.

    The logits are kept for the backward, and nothing else of their size; they are not changed.
    Raises ValueError for inputs that do not fit, and on the CPU for a target outside 0 <= target < V; on a GPU such a
    target makes its loss and its gradient NaN.
    """
    _check_matrix("logits_SV", logits_SV)
    targets_S = _check_targets(targets_S, *logits_SV.shape)
    check_device(logits_SV, targets_S=targets_S)
    terms = _check_terms(ignore_index, z_loss, softcap, label_smoothing)
    _check_reduction(reduction)
    loss_S, lse_S = _of_logits(logits_SV, targets_S, *terms, choose_backend(logits_SV, backend))
    z_S, count = z_loss * lse_S.square(), (targets_S != ignore_index).sum()
    return (loss_S, count, z_S) if reduction == "none" else (loss_S.sum(), count, z_S.sum())


def _check_matrix(name: str, tensor: Tensor) -> None:
    check_float(name, tensor)
    if tensor.dim() != 2 or tensor.shape[1] == 0:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected 2 dimensions, the last of at least 1")


def _check_targets(targets_S: Tensor, n_tokens: int, n_classes: int) -> Tensor:
    check_shape("targets_S", targets_S, (n_tokens,), "S")
    if targets_S.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"targets_S is {targets_S.dtype}; expected int64 or int32")
    if n_classes == 0:
        raise ValueError("weight_VD has 0 rows; expected a vocabulary of at least 1")
    return targets_S.long()


def _check_terms(ignore_index: int, z_loss: float, softcap: float, label_smoothing: float) -> tuple[int, float, float, float]:
    for name, value in (("z_loss", z_loss), ("softcap", softcap)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value}; expected a finite number of at least 0")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing is {label_smoothing}; expected 0 <= label_smoothing < 1")
    return ignore_index, float(z_loss), float(softcap), float(label_smoothing)


def _check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}; expected one of {REDUCTIONS}")


def _product_dtype(hidden_SD: Tensor) -> torch.dtype:
    device = hidden_SD.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_SD.dtype


def _sums_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


@torch.library.custom_op("tilth::linear_cross_entropy", mutates_args=())
def _summed(
    hidden_SD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_S: Tensor,
    token_weights_S: Tensor | None,
    ignore_index: int,
    z_loss: float,
    softcap: float,
    label_smoothing: float,
    dtype: torch.dtype,
    chunk_tokens: int,
    is_hidden_trained: bool,
    is_head_trained: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss (), z (), loss_S, and the gradients of hidden, weight and bias; empty where they are not asked for."""
    terms, trained = Terms(ignore_index, z_loss, softcap, label_smoothing), (is_hidden_trained, is_head_trained)
    module = implementation("linear_cross_entropy", backend)
    loss_S, lse_S, *gradients = module.forward(
        hidden_SD, weight_VD, bias_V, targets_S, token_weights_S, terms, dtype, chunk_tokens, trained
    )
    z_S = z_loss * lse_S.square()
    weighted_S = loss_S if token_weights_S is None else loss_S * token_weights_S
    z = (z_S if token_weights_S is None else z_S * token_weights_S).sum(dtype=loss_S.dtype)
    return weighted_S.sum(dtype=loss_S.dtype), z, loss_S, *[hidden_SD.new_empty(0) if g is None else g for g in gradients]


@_summed.register_fake
def _(
    hidden_SD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_S: Tensor,
    token_weights_S: Tensor | None,
    ignore_index: int,
    z_loss: float,
    softcap: float,
    label_smoothing: float,
    dtype: torch.dtype,
    chunk_tokens: int,
    is_hidden_trained: bool,
    is_head_trained: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    sums, none = _sums_dtype(dtype), hidden_SD.new_empty(0)
    return (
        hidden_SD.new_empty((), dtype=sums),
        hidden_SD.new_empty((), dtype=sums),
        hidden_SD.new_empty(hidden_SD.shape[0], dtype=sums),
        hidden_SD.new_empty(hidden_SD.shape) if is_hidden_trained else none,
        weight_VD.new_empty(weight_VD.shape) if is_head_trained else hidden_SD.new_empty(0),
        bias_V.new_empty(bias_V.shape) if is_head_trained and bias_V is not None else hidden_SD.new_empty(0),
    )


def _save_summed(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.has_bias, ctx.has_weights = inputs[2] is not None, inputs[4] is not None
    ctx.is_hidden_trained, ctx.is_head_trained = inputs[11:13]
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[2:])


def _differentiate_summed(ctx: Any, dloss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    loss_S, dhidden, dweight, dbias = ctx.saved_tensors
    # The gradients are in the dtype of their tensors already: the scale (1 / tokens) comes after that cast, in float32
    # where the master weights are.
    return (
        dhidden * dloss if ctx.is_hidden_trained else None,
        dweight * dloss if ctx.is_head_trained else None,
        dbias * dloss if ctx.is_head_trained and ctx.has_bias else None,
        None,
        loss_S * dloss if ctx.has_weights else None,
        *[None] * 9,
    )


_summed.register_autograd(_differentiate_summed, setup_context=_save_summed)


@torch.library.custom_op("tilth::linear_cross_entropy_per_token", mutates_args=())
def _per_token(
    hidden_SD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_S: Tensor,
    ignore_index: int,
    z_loss: float,
    softcap: float,
    label_smoothing: float,
    dtype: torch.dtype,
    chunk_tokens: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """loss_S and lse_S."""
    module, terms = implementation("linear_cross_entropy", backend), Terms(ignore_index, z_loss, softcap, label_smoothing)
    loss_S, lse_S, *_ = module.forward(hidden_SD, weight_VD, bias_V, targets_S, None, terms, dtype, chunk_tokens, (False, False))
    return loss_S, lse_S


@_per_token.register_fake
def _(
    hidden_SD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_S: Tensor,
    ignore_index: int,
    z_loss: float,
    softcap: float,
    label_smoothing: float,
    dtype: torch.dtype,
    chunk_tokens: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    loss_S = hidden_SD.new_empty(hidden_SD.shape[0], dtype=_sums_dtype(dtype))
    return loss_S, torch.empty_like(loss_S)


def _save_per_token(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    hidden_SD, weight_VD, bias_V, targets_S, *ctx.options = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(hidden_SD, weight_VD, bias_V, targets_S)


def _differentiate_per_token(ctx: Any, dloss_S: Tensor, _dlse: Tensor) -> tuple[Tensor | None, ...]:
    hidden_SD, weight_VD, bias_V, targets_S = ctx.saved_tensors
    *options, backend = ctx.options
    is_hidden_trained, is_head_trained = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3])
    _, _, _, dhidden, dweight, dbias = _summed(
        hidden_SD, weight_VD, bias_V, targets_S, dloss_S, *options, is_hidden_trained, is_head_trained, backend
    )
    return (
        dhidden if is_hidden_trained else None,
        dweight if is_head_trained else None,
        dbias if is_head_trained and bias_V is not None else None,
        *[None] * 8,
    )


_per_token.register_autograd(_differentiate_per_token, setup_context=_save_per_token)


@torch.library.custom_op("tilth::cross_entropy", mutates_args=())
def _of_logits(
    logits_SV: Tensor, targets_S: Tensor, ignore_index: int, z_loss: float, softcap: float, label_smoothing: float, backend: str
) -> tuple[Tensor, Tensor]:
    """loss_S and lse_S."""
    terms = Terms(ignore_index, z_loss, softcap, label_smoothing)
    return implementation("linear_cross_entropy", backend).row_losses(logits_SV, targets_S, terms)


@torch.library.custom_op("tilth::cross_entropy_backward", mutates_args=())
def _of_logits_backward(
    dloss_S: Tensor,
    logits_SV: Tensor,
    targets_S: Tensor,
    lse_S: Tensor,
    ignore_index: int,
    z_loss: float,
    softcap: float,
    label_smoothing: float,
    backend: str,
) -> Tensor:
    terms = Terms(ignore_index, z_loss, softcap, label_smoothing)
    return implementation("linear_cross_entropy", backend).row_gradients(dloss_S, logits_SV, targets_S, lse_S, terms)


@_of_logits.register_fake
def _(
    logits_SV: Tensor, targets_S: Tensor, ignore_index: int, z_loss: float, softcap: float, label_smoothing: float, backend: str
) -> tuple[Tensor, Tensor]:
    loss_S = logits_SV.new_empty(logits_SV.shape[0], dtype=_sums_dtype(logits_SV.dtype))
    return loss_S, torch.empty_like(loss_S)


@_of_logits_backward.register_fake
def _(
    dloss_S: Tensor,
    logits_SV: Tensor,
    targets_S: Tensor,
    lse_S: Tensor,
    ignore_index: int,
    z_loss: float,
    softcap: float,
    label_smoothing: float,
    backend: str,
) -> Tensor:
    return logits_SV.new_empty(logits_SV.shape)


def _save_of_logits(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits_SV, targets_S, *ctx.options = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(logits_SV, targets_S, output[1])


def _differentiate_of_logits(ctx: Any, dloss_S: Tensor, _dlse: Tensor) -> tuple[Tensor | None, ...]:
    return _of_logits_backward(dloss_S, *ctx.saved_tensors, *ctx.options), *[None] * 6


_of_logits.register_autograd(_differentiate_of_logits, setup_context=_save_of_logits)
