"""AdamW over two groups of parameters, and the learning rate of each step as a pure function."""

from __future__ import annotations

import math

import torch
from torch import nn

from tilth.trainer.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019); parameters marked `_no_weight_decay` and vectors do not decay."""
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        exempt = getattr(parameter, "_no_weight_decay", False) or parameter.ndim < 2
        (others if exempt else decaying).append(parameter)
    groups = [{"params": decaying, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=1e-8, fused=True)


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of the update that ends `step` (counted from 0).

    Warm-up is linear and reaches `lr` at its last step; then "cosine" falls to lr * min_lr_ratio at the last step of
    the run, and "wsd" (Hu et al. 2024, MiniCPM) stays level and falls linearly over the last `decay_share` of it.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    last = config.steps - 1
    if config.decay == "cosine":
        progress = (step - config.warmup_steps) / max(1, last - config.warmup_steps)
        height = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        n_decaying = max(1, round(config.steps * config.decay_share))
        height = min(1.0, (last - step) / n_decaying)
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * height)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group for the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr
