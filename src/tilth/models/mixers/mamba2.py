"""The Mamba-2 mixer (Dao & Gu 2024), with taps and state that restart at each document."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tilth.kernels import causal_conv1d, causal_conv1d_update, ssd_scan, ssd_step
from tilth.models.config import ModelConfig
from tilth.models.layout import SequenceLayout
from tilth.models.linear import Linear
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
        self.in_proj = Linear(config.d_model, n_rows)
        self.conv_weight = nn.Parameter(torch.empty(config.conv_width, config.d_conv))
        self.conv_bias = nn.Parameter(torch.empty(config.conv_width))
        self.dt_bias = nn.Parameter(torch.empty(config.n_ssm_heads))
        self.A_log = nn.Parameter(torch.empty(config.n_ssm_heads))
        self.D = nn.Parameter(torch.ones(config.n_ssm_heads))
        self.norm = RMSNorm(config.d_inner, config.norm_eps, config.n_groups)
        self.out_proj = Linear(config.d_inner, config.d_model)
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
        mixed_BTC = self._convolve(xBC_BTC, layout, state)
        x, B, C = mixed_BTC.split([config.d_inner] + 2 * [config.n_groups * config.d_state], dim=-1)
        x_BTHP = x.unflatten(-1, (config.n_ssm_heads, config.ssm_head_dim))
        B_BTGN, C_BTGN = (t.unflatten(-1, (config.n_groups, config.d_state)) for t in (B, C))
        # exp(dt A) over a long document: bf16 would round decays near 1 to 1, so the kernels take A and dt in fp32 at least
        A_H = -torch.exp(self.A_log.to(torch.promote_types(x_BTD.dtype, torch.float32)))
        y_BTHP = self._scan(x_BTHP, dt_BTH, A_H, B_BTGN, C_BTGN, layout, state)
        return self.out_proj(self.norm(y_BTHP.flatten(-2), gate=z_BTI))

    def _convolve(self, xBC_BTC: Tensor, layout: SequenceLayout, state: Mamba2State | None) -> Tensor:
        """silu(conv(xBC)); a state becomes the inputs that the next token will see."""
        if state is not None and xBC_BTC.shape[1] == 1 and self.config.d_conv > 1:
            return causal_conv1d_update(xBC_BTC, state.conv_inputs, self.conv_weight, self.conv_bias, activation="silu")
        mixed_BTC, conv_inputs_BKC = causal_conv1d(
            xBC_BTC,
            self.conv_weight,
            self.conv_bias,
            activation="silu",
            segments_BT=layout.segments_BT,
            initial_state_BKC=None if state is None else state.conv_inputs,
            return_final_state=True,
        )
        if state is not None:
            state.conv_inputs = conv_inputs_BKC
        return mixed_BTC

    def _scan(
        self,
        x_BTHP: Tensor,
        dt_BTH: Tensor,
        A_H: Tensor,
        B_BTGN: Tensor,
        C_BTGN: Tensor,
        layout: SequenceLayout,
        state: Mamba2State | None,
    ) -> Tensor:
        """The scan's y; a state becomes the one after the last token."""
        options = {"D_H": self.D, "dt_bias_H": self.dt_bias, "dt_softplus": True}
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
                chunk_size=self.config.chunk_size,
                **options,
            )
        if state is not None:
            state.ssm_BHPN = final_BHPN
        return y_BTHP
