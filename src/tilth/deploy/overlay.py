"""A base that computes as base + delta, while no more than one of its matrices at a time is held decoded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tilth.deploy.codecs import Codec, Parts, find_codec
from tilth.deploy.delta import Delta, Encoded
from tilth.deploy.token_batches import TokenBatch
from tilth.kernels import linear
from tilth.models.decoder import Decoder

# of each tensor, its trained parts, differentiable: they stand in for those of the delta
Scales = Mapping[str, Parts]


def overlaid_logits(base: Decoder, delta: Delta, batch: TokenBatch, scales: Scales | None = None) -> Tensor:
    """fp32 (S, V) of base + delta at the positions that count; differentiable in the scales."""
    scales = scales or {}
    matrices = delta.of_kind("matrices")
    rest = {
        f"model.{name}": find_codec(own.codec).rebuild(own.parts | dict(scales.get(name, {})), base.get_parameter(name).detach())
        for name, own in delta.encoded.items()
        if name not in matrices
    }
    with _products_of(base, matrices, scales):
        hidden_SD, head_VD = functional_call(_Kept(base), rest, (batch,))
    return linear(hidden_SD, head_VD).float()


class _Kept(nn.Module):
    """Hidden states at the positions that count, and the head."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """(S, D) and (V, D)."""
        return self.model.hidden(batch.ids_BT, batch.segments_BT)[batch.kept], self.model.head_weight


@contextlib.contextmanager
def _products_of(base: Decoder, matrices: Mapping[str, Encoded], scales: Scales) -> Iterator[None]:
    """Each layer of a changed matrix multiplies with base + difference while the block runs."""
    modules = {name: base.get_submodule(name.removesuffix(".weight")) for name in matrices}
    try:
        for name, own in matrices.items():
            module = modules[name]
            module.forward = partial(_multiply, find_codec(own.codec), own.parts, scales.get(name, {}), module.weight.detach())
        yield
    finally:
        for module in modules.values():
            module.__dict__.pop("forward", None)


def _multiply(codec: Codec, parts: Parts, scales: Parts, base_NK: Tensor, x: Tensor) -> Tensor:
    product: Tensor = _Product.apply(x, codec, parts, list(scales), base_NK, *scales.values())
    return product


class _Product(torch.autograd.Function):
    """x @ (base + difference).T; the sum is made anew in the backward pass, so that no layer holds a second matrix."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codec: Codec, parts: Parts, names: list[str], base_NK: Tensor, *scales: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        ctx.save_for_backward(x, *scales)
        ctx.rebuild = lambda given: codec.rebuild(parts | dict(zip(names, given, strict=True)), base_NK)
        return linear(x, ctx.rebuild(scales))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x and of the scales."""
        x, *scales = ctx.saved_tensors
        leaves = [scale.detach().requires_grad_() for scale in scales]
        with torch.enable_grad():
            weight_NK = ctx.rebuild(leaves)
        found: tuple[Tensor, ...] = ()
        if leaves:
            dweight_NK = dy.flatten(0, -2).T @ x.flatten(0, -2)
            found = torch.autograd.grad(weight_NK, leaves, dweight_NK)
        return dy @ weight_NK.detach() if ctx.needs_input_grad[0] else None, None, None, None, None, *found
