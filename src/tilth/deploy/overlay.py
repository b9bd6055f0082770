"""A base that computes as base + delta, while no more than one of its matrices at a time is held decoded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tilth.deploy.codecs import Codec, Parts, find_codec
from tilth.deploy.delta import Delta
from tilth.deploy.token_batches import TokenBatch
from tilth.kernels import linear
from tilth.models.block import Block
from tilth.models.decoder import Decoder

# of each tensor, its trained parts, differentiable: they stand in for those of the delta
Scales = Mapping[str, Parts]


@contextlib.contextmanager
def overlaid(base: Decoder, delta: Delta, scales: Scales | None = None) -> Iterator[None]:
    """In the block base is base + delta, differentiable in the scales; a backward pass belongs into it as well.

    Each layer of a changed matrix multiplies with base + difference, and under autograd each mixer and MLP keeps no more than
    its input: the rest is computed again. Base is as it was when the block ends.
    """
    scales, matrices = scales or {}, delta.of_kind("matrices")
    forwards: dict[nn.Module, Callable[..., Any]] = {}
    tensors: dict[str, Tensor] = {}
    for name, own in delta.encoded.items():
        codec, trained, weight = find_codec(own.codec), scales.get(name, {}), base.get_parameter(name).detach()
        if name in matrices:
            module = base.get_submodule(name.removesuffix(".weight"))
            forwards[module] = partial(_multiply, codec, own.parts, trained, weight)
        else:
            tensors[name] = codec.rebuild(own.parts | dict(trained), weight)
    if torch.is_grad_enabled():
        for block in base.blocks.modules():
            if isinstance(block, Block):
                forwards |= {part: partial(checkpoint, part.forward, use_reentrant=False) for part in _parts(block)}
    with _tensors_of(base, tensors), _forwards_of(forwards):
        yield


@contextlib.contextmanager
def _forwards_of(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module in forwards:
            module.__dict__.pop("forward", None)


@contextlib.contextmanager
def _tensors_of(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """The tensors stand where the parameters of those names stood: torch.func.functional_call, but for a backward pass, too."""
    places = {name: (model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in tensors}
    before = {name: module._parameters[leaf] for name, (module, leaf) in places.items()}
    try:
        for name, (module, leaf) in places.items():
            module._parameters[leaf] = tensors[name]  # type: ignore[assignment]  # no parameter: it carries a gradient on
        yield
    finally:
        for name, (module, leaf) in places.items():
            module._parameters[leaf] = before[name]


def logits_of(model: Decoder, batch: TokenBatch) -> Tensor:
    """fp32 (S, V) at the positions that count."""
    return linear(model.hidden(batch.ids_BT, batch.segments_BT)[batch.kept], model.head_weight).float()


def _parts(block: Block) -> list[nn.Module]:
    return [block.mixer, block.mlp] if block.has_mlp else [block.mixer]


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
