"""AdamW over two groups of parameters, Muon beside it, and the learning rate of each step as a pure function."""

from __future__ import annotations

import math

import torch
from torch import nn

from tilth.models.decoder import Decoder
from tilth.trainer.config import TrainConfig


def make_optimizer(model: Decoder, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019), or for optimizer "muon" Muon on the hidden matrices and AdamW on the rest.

    Parameters marked `_no_weight_decay` and vectors do not decay. What is frozen has no part in it.
    """
    hidden = hidden_matrices(model) if config.optimizer == "muon" else []
    by_muon = {id(matrix) for matrix in hidden}
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad and id(parameter) not in by_muon:
            exempt = getattr(parameter, "_no_weight_decay", False) or parameter.ndim < 2
            (others if exempt else decaying).append(parameter)
    groups = [{"params": decaying, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    adamw = torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=1e-8, fused=True)
    return MuonBesideAdamW(hidden, adamw, config) if hidden else adamw


def hidden_matrices(model: Decoder) -> list[nn.Parameter]:
    """The weights of the linear maps inside the blocks but dt's: neither embedding nor head, taps of a convolution or vectors.

    A fused one, such as [q, k, v], is orthogonalised whole: by its parts the loss was the same (benchmarks/training.py).
    """
    maps = ((name, module) for name, module in model.blocks.named_modules() if isinstance(module, nn.Linear))
    return [module.weight for name, module in maps if module.weight.requires_grad and not name.endswith("dt_proj")]


class MuonBesideAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for `hidden`, with `adamw` for the rest: one optimiser with one state.

    Muon's update is scaled to the root mean square that AdamW's has, 0.2 * sqrt(larger dimension), so that one learning
    rate and one weight decay fit both (Liu et al. 2025, Moonlight); its momentum is the published 0.95, by Nesterov.
    """

    def __init__(self, hidden: list[nn.Parameter], adamw: torch.optim.AdamW, config: TrainConfig) -> None:
        muon = torch.optim.Muon(hidden, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
        self._parts = (muon, adamw)
        super().__init__(muon.param_groups + adamw.param_groups, {})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Step both, on the groups and the state that this object holds (a loaded checkpoint replaces them)."""
        muon, adamw = self._parts
        muon.param_groups, adamw.param_groups = self.param_groups[:1], self.param_groups[1:]
        for part in self._parts:
            part.state = self.state
            part.step()


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
