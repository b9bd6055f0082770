"""How a model is laid over the processes: copies that share a batch, shards of the parameters (FSDP2), slices of the layers."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from tilth.models.block import Block
from tilth.models.decoder import Decoder, mark_parameters
from tilth.models.sharding import gather, is_replicated, shard
from tilth.models.tensor_ranks import TensorRanks
from tilth.trainer.world import World

BUCKET_ELEMENTS = 8_000_000  # gradients that are summed in one call


def lay_out(model: Decoder, world: World, is_sharded: bool) -> Decoder:
    """The part of a whole `model` that this process trains, on its device.

    With several tensor ranks that is a slice of every layer; with `is_sharded`, of that, a shard of every parameter.
    Raises RecipeError when the model cannot be cut.
    """
    if world.tensor_size > 1:
        model = shard(model, TensorRanks(world.tensor_rank, world.tensor_size, world.group("tensor")))
    if is_sharded and world.data_size > 1:
        _shard_parameters(model, world)
    else:
        model.to(world.device)
    mark_parameters(model)
    for name, parameter in model.named_parameters():
        parameter._is_slice = model.ranks.size > 1 and not is_replicated(model, name)
    return model


def _shard_parameters(model: Decoder, world: World) -> None:
    """FSDP2 over the processes that share a batch; it brings each part to its device as it cuts it.

    A mixer or MLP is gathered when it is called and dropped after it, forward and backward, so that little more
    than one of them is whole at any time. Gradients are summed, not averaged: the loss was divided by all targets.
    """
    assert world.mesh is not None
    mesh = world.mesh["data"]
    for block in [module for module in model.modules() if isinstance(module, Block)]:
        # the norms are small: they stay with the embedding and the head
        for layer in (block.mixer, block.mlp) if block.has_mlp else (block.mixer,):
            fully_shard(layer, mesh=mesh)
        if hasattr(block.mixer, "matrices"):
            register_fsdp_forward_method(block.mixer, "matrices")
    # Dropped after the forward too: what a validation gathered must not outlive the next update.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # else FSDP2 asks for a product that gloo does not know
    for method in ("loss", "measure", "classify", "layer_outputs", "layer_matrices"):
        register_fsdp_forward_method(model, method)


def add_up_gradients(model: nn.Module, world: World) -> None:
    """Make each gradient that of the whole batch: its sum over the processes that hold the parameter."""
    if world.size == 1:
        return
    # What an objective does not use has no gradient in any process, and no optimiser touches it.
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    if world.data_size > 1:
        # FSDP2 summed those of shards on the way
        _add_up((p.grad for p in parameters if not isinstance(p, DTensor)), world.group("data"))
    if world.tensor_size > 1:
        _add_up((local(p.grad) for p in parameters if not p._is_slice), world.group("tensor"))


def add_up_slices(values: Tensor, world: World) -> None:
    """Replace values, of which each tensor rank computed a part, by their sum."""
    if world.tensor_size > 1:
        dist.all_reduce(values, group=world.group("tensor"))


def clip_gradients(model: nn.Module, max_norm: float, world: World) -> float:
    """Scale all gradients so that their joint norm is at most `max_norm`; returns the norm before.

    The norm is that of the whole model: over shards and slices, what several processes hold is counted once.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    grads = [local(parameter.grad) for parameter in parameters]
    counted = [grad for parameter, grad in zip(parameters, grads, strict=True) if _counts_here(parameter, world)]
    square = float(nn.utils.get_total_norm(counted)) ** 2
    norm = math.sqrt(world.add_up([square])[0])
    if norm > max_norm:
        for grad in grads:
            grad.mul_(max_norm / (norm + 1e-6))
    return norm


def whole_model(model: Decoder, world: World) -> Decoder:
    """The model with all its parameters, on the CPU of the first process, to be saved; every process must call it."""
    if world.tensor_size == 1 and not isinstance(model, FSDPModule):
        return model
    state = {name: _unsharded(tensor).cpu() for name, tensor in model.state_dict().items()}
    with torch.device("meta"):
        part, whole = Decoder(model.config, model.ranks), Decoder(model.config)
    part.load_state_dict(state, assign=True)
    state = gather(part)
    if world.is_first:
        whole.load_state_dict(state, assign=True)
    return whole


def _unsharded(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """The part of `tensor` that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _counts_here(parameter: Tensor, world: World) -> bool:
    return (isinstance(parameter, DTensor) or world.data_rank == 0) and (parameter._is_slice or world.tensor_rank == 0)


def _add_up(grads: Iterable[Tensor], group: dist.ProcessGroup) -> None:
    bucket: list[Tensor] = []
    for grad in grads:
        bucket.append(grad)
        if sum(grad.numel() for grad in bucket) >= BUCKET_ELEMENTS:
            _add_up_bucket(bucket, group)
            bucket = []
    if bucket:
        _add_up_bucket(bucket, group)


def _add_up_bucket(grads: list[Tensor], group: dist.ProcessGroup) -> None:
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    dist.all_reduce(flat, group=group)
    for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))
