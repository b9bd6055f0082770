"""The Mamba-2 mixer (Dao & Gu 2024), with taps and state that restart at each document."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from tilth.kernels import causal_conv1d, ssd_scan
from tilth.models.config import ModelConfig
from tilth.models.layout import SequenceLayout
from tilth.models.norm import RMSNorm
from tilth.models.states import Mamba2State

DT_RANGE = (1e-3, 0.1)
DT_FLOOR = 1e-4
A_RANGE = (1.0, 16.0)


class Mamba2(nn.Module):
    """out_proj(RMSNorm(SSD(x, dt, A, B, C) + D x, gated by silu(z))); the rows of in_proj are [z, x, B, C, dt].

    A_log, dt_bias and D stay fp32 under mixed precision and are never decayed: pulling them to 0
    would pull every head to the same memory length.
    """

    no_weight_decay = ("A_log", "dt_bias", "D", "conv_bias")
    keep_fp32 = ("A_log", "dt_bias", "D")

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        n_rows = config.d_inner + config.conv_width + config.n_ssm_heads
        self.in_proj = nn.Linear(config.d_model, n_rows, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(config.conv_width, config.d_conv))
        self.conv_bias = nn.Parameter(torch.empty(config.conv_width))
        self.dt_bias = nn.Parameter(torch.empty(config.n_ssm_heads))
        self.A_log = nn.Parameter(torch.empty(config.n_ssm_heads))
        self.D = nn.Parameter(torch.ones(config.n_ssm_heads))
        self.norm = RMSNorm(config.d_inner, config.norm_eps, config.n_groups)
        self.out_proj = nn.Linear(config.d_inner, config.d_model, bias=False)
        self.reset_ssm_parameters()

    @torch.no_grad()
    def reset_ssm_parameters(self) -> None:
        """dt log-uniform in DT_RANGE after the softplus, A uniform in A_RANGE, D one, convolution as nn.Conv1d."""
        low, high = (math.log(bound) for bound in DT_RANGE)
        dt_H = torch.empty_like(self.dt_bias).uniform_(low, high).exp().clamp(min=DT_FLOOR)
        # the inverse of softplus, in the form that does not overflow
        self.dt_bias.copy_(dt_H + torch.log(-torch.expm1(-dt_H)))
        self.A_log.uniform_(*A_RANGE).log_()
        self.D.fill_(1.0)
        bound = 1 / math.sqrt(self.config.d_conv)
        self.conv_weight.uniform_(-bound, bound)
        self.conv_bias.uniform_(-bound, bound)

    def forward(self, x_BTD: Tensor, layout: SequenceLayout, state: Mamba2State | None = None) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model); a state is read and then replaced by that after the T tokens."""
        config = self.config
        sizes = [config.d_inner, config.conv_width, config.n_ssm_heads]
        z_BTI, xBC_BTC, dt_BTH = self.in_proj(x_BTD).split(sizes, dim=-1)
        mixed_BTC, conv_inputs_BKC = causal_conv1d(
            xBC_BTC,
            self.conv_weight,
            self.conv_bias,
            activation="silu",
            segments_BT=layout.segments_BT,
            initial_state_BKC=None if state is None else state.conv_inputs,
            return_final_state=True,
        )
        x, B, C = mixed_BTC.split([config.d_inner] + 2 * [config.n_groups * config.d_state], dim=-1)
        x_BTHP = x.unflatten(-1, (config.n_ssm_heads, config.ssm_head_dim))
        B_BTGN, C_BTGN = (t.unflatten(-1, (config.n_groups, config.d_state)) for t in (B, C))
        # exp(dt A) over a long document: bf16 would round decays near 1 to 1, so this path is fp32 at least
        wide = torch.promote_types(x_BTD.dtype, torch.float32)
        dt_BTH = softplus(dt_BTH.to(wide) + self.dt_bias.to(wide))
        A_H = -torch.exp(self.A_log.to(wide))
        y_BTHP, final_BHPN = self._scan(x_BTHP, dt_BTH, A_H, B_BTGN, C_BTGN, layout, state)
        if state is not None:
            state.conv_inputs = conv_inputs_BKC
            state.ssm_BHPN = final_BHPN
        return self.out_proj(self.norm(y_BTHP.flatten(-2), gate=z_BTI))

    def _scan(
        self,
        x_BTHP: Tensor,
        dt_BTH: Tensor,
        A_H: Tensor,
        B_BTGN: Tensor,
        C_BTGN: Tensor,
        layout: SequenceLayout,
        state: Mamba2State | None,
    ) -> tuple[Tensor, Tensor]:
        if state is not None and x_BTHP.shape[1] == 1:
            return _step(x_BTHP, dt_BTH, A_H, B_BTGN, C_BTGN, self.D, state.ssm_BHPN)
        # autocast would make the scan's own products, and so its fp32 states, bf16
        with torch.autocast(x_BTHP.device.type, enabled=False):
            return ssd_scan(
                x_BTHP,
                dt_BTH,
                A_H,
                B_BTGN,
                C_BTGN,
                D_H=self.D,
                segments_BT=layout.segments_BT,
                initial_state_BHPN=None if state is None else state.ssm_BHPN,
                chunk_size=self.config.chunk_size,
            )


def _step(
    x_B1HP: Tensor, dt_B1H: Tensor, A_H: Tensor, B_B1GN: Tensor, C_B1GN: Tensor, D_H: Tensor, S_BHPN: Tensor
) -> tuple[Tensor, Tensor]:
    # one token needs no chunk: padding it to chunk_size would do that many times the work
    x_BHP, dt_BH = x_B1HP[:, 0].to(dt_B1H.dtype), dt_B1H[:, 0]
    per_group = x_BHP.shape[1] // B_B1GN.shape[2]
    B_BHN, C_BHN = (t[:, 0].to(dt_B1H.dtype).repeat_interleave(per_group, dim=1) for t in (B_B1GN, C_B1GN))
    decay_BH11 = torch.exp(dt_BH * A_H)[..., None, None]
    S_BHPN = decay_BH11 * S_BHPN + (dt_BH[..., None] * x_BHP)[..., None] * B_BHN[:, :, None]
    y_BHP = torch.einsum("bhpn,bhn->bhp", S_BHPN, C_BHN) + D_H[:, None] * x_BHP
    return y_BHP.to(x_B1HP.dtype).unsqueeze(1), S_BHPN
