"""The Mamba mixer (Gu & Dao 2023): a decay for each channel and state, and B, C and dt made of what passed the convolution."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tilth.kernels import causal_conv1d, selective_scan, selective_step
from tilth.models.config import ModelConfig
from tilth.models.layout import SequenceLayout
from tilth.models.linear import Linear
from tilth.models.mixers.mamba2 import draw_dt_bias
from tilth.models.states import Mamba1State


class Mamba1(nn.Module):
    """out_proj((scan(u, dt, A, B, C) + D u) silu(z)); the rows of in_proj are [x, z], those of x_proj [dt, B, C].

    A_log, dt_bias and D stay fp32 under mixed precision and are never decayed. The bias of dt_proj is dt_bias.
    Without `projections` it is what lies between them, for another mixer to use.
    """

    no_weight_decay = ("A_log", "dt_bias", "D", "conv_bias")
    keep_fp32 = ("A_log", "dt_bias", "D")

    def __init__(self, config: ModelConfig, n_shards: int = 1, projections: bool = True) -> None:
        super().__init__()
        assert n_shards == 1, "x_proj reads all channels, so ModelConfig cuts no Mamba-1"
        self.parts = [config.dt_width, config.d_state, config.d_state]
        if projections:
            self.in_proj = Linear(config.d_model, 2 * config.d_inner)
            self.out_proj = Linear(config.d_inner, config.d_model)
        self.conv_weight = nn.Parameter(torch.empty(config.d_inner, config.d_conv))
        self.conv_bias = nn.Parameter(torch.empty(config.d_inner))
        self.x_proj = Linear(config.d_inner, sum(self.parts))
        self.dt_proj = Linear(config.dt_width, config.d_inner)
        self.dt_bias = nn.Parameter(torch.empty(config.d_inner))
        self.A_log = nn.Parameter(torch.empty(config.d_inner, config.d_state))
        self.D = nn.Parameter(torch.ones(config.d_inner))
        self.reset_ssm_parameters()

    @torch.no_grad()
    def reset_ssm_parameters(self) -> None:
        """dt as in Mamba-2, A = 1..d_state in each channel (S4D-real), D one, convolution as nn.Conv1d."""
        draw_dt_bias(self.dt_bias)
        bound = self.parts[0] ** -0.5
        self.dt_proj.weight.uniform_(-bound, bound)
        self.A_log.copy_(torch.arange(1, self.A_log.shape[1] + 1).log())
        bound = 1 / math.sqrt(self.conv_weight.shape[1])
        self.conv_weight.uniform_(-bound, bound)
        self.conv_bias.uniform_(-bound, bound)

    def forward(self, x_BTD: Tensor, layout: SequenceLayout, state: Mamba1State | None = None) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model); a state is read and then replaced by that after the T tokens."""
        return self.out_proj(self.mix(self.in_proj(x_BTD), layout, state))

    def mix(self, rows_BTR: Tensor, layout: SequenceLayout, state: Mamba1State | None = None, reverse: bool = False) -> Tensor:
        """What lies between the projections, (B, T, rows of in_proj) -> (B, T, d_inner); reverse reads from the end."""
        x_BTC, z_BTC = rows_BTR.chunk(2, dim=-1)
        u_BTC, conv_inputs_BKC = causal_conv1d(
            x_BTC,
            self.conv_weight,
            self.conv_bias,
            activation="silu",
            segments_BT=layout.segments_BT,
            initial_state_BKC=None if state is None else state.conv_inputs,
            return_final_state=True,
            reverse=reverse,
        )
        dt_BTR, B_BTN, C_BTN = self.x_proj(u_BTC).split(self.parts, dim=-1)
        dt_BTC = self.dt_proj(dt_BTR)
        A_CN = -torch.exp(self.A_log.to(torch.promote_types(rows_BTR.dtype, torch.float32)))
        options = {"D_C": self.D, "dt_bias_C": self.dt_bias, "dt_softplus": True}
        if state is not None:
            state.conv_inputs = conv_inputs_BKC
        # autocast would make the scan's own products, and so its fp32 states, bf16
        with torch.autocast(u_BTC.device.type, enabled=False):
            if state is not None and u_BTC.shape[1] == 1:
                one = (t[:, :1] for t in (B_BTN, C_BTN))  # the one token's axis stands for the one group's
                y_BC = selective_step(u_BTC[:, 0], state.ssm_BCN, dt_BTC[:, 0], A_CN, *one, z_BC=z_BTC[:, 0], **options)
                return y_BC.unsqueeze(1)
            y_BTC, final_BCN = selective_scan(
                u_BTC,
                dt_BTC,
                A_CN,
                B_BTN.unsqueeze(2),
                C_BTN.unsqueeze(2),
                z_BTC=z_BTC,
                segments_BT=layout.segments_BT,
                initial_state_BCN=None if state is None else state.ssm_BCN,
                reverse=reverse,
                **options,
            )
            if state is not None:
                state.ssm_BCN = final_BCN
            return y_BTC
