"""The Mamba-2 mixer (Dao & Gu 2024), with taps and state that restart at each document."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from tilth.kernels import causal_conv1d, causal_conv1d_update, ssd_scan, ssd_step
from tilth.models.config import ModelConfig
from tilth.models.layout import SequenceLayout, pairs_read
from tilth.models.linear import Linear
from tilth.models.norm import RMSNorm
from tilth.models.sharding import Cuts
from tilth.models.states import Mamba2State

DT_RANGE = (1e-3, 0.1)
DT_FLOOR = 1e-4
A_RANGE = (1.0, 16.0)


class Mamba2(nn.Module):
    """out_proj(RMSNorm(SSD(x, dt, A, B, C) + D x, gated by silu(z))); the rows of in_proj are [z, x, B, C, dt].

    A_log, dt_bias and D stay fp32 under mixed precision and are never decayed: pulling them to 0
    would pull every head to the same memory length. It may be one of n_shards slices of whole heads and groups,
    whose outputs add up to the mixer's. Without `projections` it is what lies between them, for another mixer to use.
    """

    no_weight_decay: tuple[str, ...] = ("A_log", "dt_bias", "D", "conv_bias")
    keep_fp32: tuple[str, ...] = ("A_log", "dt_bias", "D")

    def __init__(self, config: ModelConfig, n_shards: int = 1, projections: bool = True) -> None:
        super().__init__()
        self.d_state, self.head_dim, self.chunk_size = config.d_state, config.ssm_head_dim, config.chunk_size
        self.n_heads = config.n_ssm_heads // n_shards
        self.n_groups = config.n_groups // n_shards
        self.d_inner = self.n_heads * self.head_dim
        self.conv_parts = [self.d_inner] + 2 * [self.n_groups * self.d_state]
        conv_width = sum(self.conv_parts)
        if projections:
            self.in_proj = Linear(config.d_model, self.d_inner + conv_width + self.n_heads)
            self.out_proj = Linear(self.d_inner, config.d_model)
        self.conv_weight = nn.Parameter(torch.empty(conv_width, config.d_conv))
        self.conv_bias = nn.Parameter(torch.empty(conv_width))
        self.dt_bias = nn.Parameter(torch.empty(self.n_heads))
        self.A_log = nn.Parameter(torch.empty(self.n_heads))
        self.D = nn.Parameter(torch.ones(self.n_heads))
        self.norm = RMSNorm(self.d_inner, config.norm_eps, self.n_groups)
        self.reset_ssm_parameters()

    @torch.no_grad()
    def reset_ssm_parameters(self) -> None:
        """dt log-uniform in DT_RANGE after the softplus, A uniform in A_RANGE, D one, convolution as nn.Conv1d."""
        draw_dt_bias(self.dt_bias)
        self.A_log.uniform_(*A_RANGE).log_()
        self.D.fill_(1.0)
        bound = 1 / math.sqrt(self.conv_weight.shape[1])
        self.conv_weight.uniform_(-bound, bound)
        self.conv_bias.uniform_(-bound, bound)

    def forward(self, x_BTD: Tensor, layout: SequenceLayout, state: Mamba2State | None = None) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model); a state is read and then replaced by that after the T tokens."""
        return self.out_proj(self.mix(self.in_proj(x_BTD), layout, state))

    def mix(self, rows_BTR: Tensor, layout: SequenceLayout, state: Mamba2State | None = None, reverse: bool = False) -> Tensor:
        """What lies between the projections, (B, T, rows of in_proj) -> (B, T, d_inner); reverse reads from the end."""
        z_BTI, xBC_BTC, dt_BTH = rows_BTR.split([self.d_inner, sum(self.conv_parts), self.n_heads], dim=-1)
        x_BTHP, B_BTGN, C_BTGN = self.convolve(xBC_BTC, layout, state, reverse, "silu")
        # exp(dt A) over a long document: bf16 would round decays near 1 to 1, so the kernels take A and dt in fp32 at least
        A_H = -torch.exp(self.A_log.to(torch.promote_types(rows_BTR.dtype, torch.float32)))
        options = {"D_H": self.D, "dt_bias_H": self.dt_bias, "dt_softplus": True}
        y_BTHP = self.scan(x_BTHP, dt_BTH, A_H, B_BTGN, C_BTGN, layout, state, reverse, **options)
        mixed: Tensor = self.norm(y_BTHP.flatten(-2), gate=z_BTI)
        return mixed

    def matrices(self, x_BTD: Tensor, layout: SequenceLayout) -> Tensor:
        """What the scan of each head multiplies its T inputs by, (B, T, d_model) -> (B, H, T, T), fp32 at least.

        Its inputs are the x that passed the convolution; what D adds, the gate and the norm are no part of it.
        Source: Dao and Gu 2024, "Transformers are SSMs", section 3.
        """
        _, xBC_BTC, dt_BTH = self.in_proj(x_BTD).split([self.d_inner, sum(self.conv_parts), self.n_heads], dim=-1)
        _, B_BTGN, C_BTGN = self.convolve(xBC_BTC, layout, None, False, "silu")
        step_BTH = softplus(dt_BTH.to(torch.promote_types(dt_BTH.dtype, torch.float32)) + self.dt_bias)
        return self.decayed_products(C_BTGN, B_BTGN, -step_BTH * self.A_log.exp(), layout) * step_BTH.mT.unsqueeze(2)

    def decayed_products(self, C_BTGN: Tensor, B_BTGN: Tensor, log_decay_BTH: Tensor, layout: SequenceLayout) -> Tensor:
        """C_t B_s times the decays of the tokens after s up to t, (B, H, T, T); 0 where t does not read s."""
        wide = log_decay_BTH.dtype
        with torch.autocast(C_BTGN.device.type, enabled=False):
            products_BGTT = torch.einsum("btgn,bsgn->bgts", C_BTGN.to(wide), B_BTGN.to(wide))
        total_BHT = log_decay_BTH.cumsum(1).mT
        # masked before the exponential, which overflows where s is after t
        between_BHTT = (total_BHT.unsqueeze(3) - total_BHT.unsqueeze(2)).masked_fill(~pairs_read(layout), -math.inf)
        return products_BGTT.repeat_interleave(self.n_heads // self.n_groups, dim=1) * between_BHTT.exp()

    def convolve(
        self, xBC_BTC: Tensor, layout: SequenceLayout, state: Mamba2State | None, reverse: bool, activation: str | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x, B and C by heads and groups after the convolution; a state gets its last inputs."""
        if state is not None and xBC_BTC.shape[1] == 1 and self.conv_weight.shape[-1] > 1:
            mixed_BTC = causal_conv1d_update(xBC_BTC, state.conv_inputs, self.conv_weight, self.conv_bias, activation=activation)
            return self._by_heads(mixed_BTC)
        mixed_BTC, conv_inputs_BKC = causal_conv1d(
            xBC_BTC,
            self.conv_weight,
            self.conv_bias,
            activation=activation,
            segments_BT=layout.segments_BT,
            initial_state_BKC=None if state is None else state.conv_inputs,
            return_final_state=True,
            reverse=reverse,
        )
        if state is not None:
            state.conv_inputs = conv_inputs_BKC
        return self._by_heads(mixed_BTC)

    def _by_heads(self, mixed_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, B, C = mixed_BTC.split(self.conv_parts, dim=-1)
        B_BTGN, C_BTGN = (t.unflatten(-1, (self.n_groups, self.d_state)) for t in (B, C))
        return x.unflatten(-1, (self.n_heads, self.head_dim)), B_BTGN, C_BTGN

    def scan(
        self,
        x_BTHP: Tensor,
        dt_BTH: Tensor,
        A_H: Tensor,
        B_BTGN: Tensor,
        C_BTGN: Tensor,
        layout: SequenceLayout,
        state: Mamba2State | None,
        reverse: bool,
        **options: Any,
    ) -> Tensor:
        """The scan's y; a state becomes the one after the last token."""
        # autocast would make the scan's own products, and so its fp32 states, bf16
        with torch.autocast(x_BTHP.device.type, enabled=False):
            if state is not None and x_BTHP.shape[1] == 1:
                one = (t[:, 0] for t in (B_BTGN, C_BTGN))
                return ssd_step(state.ssm_BHPN, x_BTHP[:, 0], dt_BTH[:, 0], A_H, *one, **options).unsqueeze(1)
            y_BTHP, final_BHPN = ssd_scan(
                x_BTHP,
                dt_BTH,
                A_H,
                B_BTGN,
                C_BTGN,
                segments_BT=layout.segments_BT,
                initial_state_BHPN=None if state is None else state.ssm_BHPN,
                chunk_size=self.chunk_size,
                reverse=reverse,
                **options,
            )
        if state is not None:
            state.ssm_BHPN = final_BHPN
        return y_BTHP

    @classmethod
    def cuts(cls, config: ModelConfig) -> Cuts:
        """How the parameters are cut into slices of whole heads and groups."""
        conv, heads, inner = [config.d_inner] + 2 * [config.n_groups * config.d_state], [config.n_ssm_heads], [config.d_inner]
        rows = {"in_proj.weight": inner + conv + heads, "conv_weight": conv, "conv_bias": conv, "norm.weight": inner}
        rows |= dict.fromkeys(("dt_bias", "A_log", "D"), heads)
        return {"out_proj.weight": (1, inner)} | {name: (0, parts) for name, parts in rows.items()}


@torch.no_grad()
def draw_dt_bias(dt_bias: Tensor) -> None:
    """Fill dt_bias so that softplus(dt_bias) is log-uniform in DT_RANGE (Gu & Dao 2023)."""
    dt = torch.empty_like(dt_bias).uniform_(*(math.log(bound) for bound in DT_RANGE)).exp().clamp(min=DT_FLOOR)
    # the inverse of softplus, in the form that does not overflow
    dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))
