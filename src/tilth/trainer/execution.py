"""How the blocks are run, not what they compute: products in half precision, recomputation, compilation."""

from __future__ import annotations

from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from tilth.models.block import Block
from tilth.models.decoder import Decoder
from tilth.trainer.config import TrainConfig


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """The context of a forward pass: with precision "bfloat16" its matrix products are bf16.

    Parameters, their gradients, the residual stream, norms, the scans' A and dt, and losses stay fp32.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16")


def wrap_sublayers(model: Decoder, config: TrainConfig) -> None:
    """Compile each mixer and MLP of `model`, recompute each sublayer in the backward pass, as `config` asks.

    A sublayer is a function (B, T, D) -> (B, T, D) whose output the residual may add later, after an all-reduce of its
    own: what is recomputed is the sublayer alone, from the input that it had, whatever the topology.
    """
    for block in (module for module in model.modules() if isinstance(module, Block)):
        if config.compile:
            for layer in (block.mixer, block.mlp) if block.has_mlp else (block.mixer,):
                # not the module: what gathers its shards, before and after, cannot be part of a graph
                layer.forward = torch.compile(layer.forward, fullgraph=True)  # type: ignore[method-assign]
        if config.recompute:
            for name in ("_mix", "_transform"):
                # no dropout, so no random state to keep
                run = partial(checkpoint, getattr(block, name), use_reentrant=False, preserve_rng_state=False)
                setattr(block, name, run)
