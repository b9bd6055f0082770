"""The mixer of Llamba and Phi-Mamba (Bick et al. 2024, MOHAWK): Mamba-2 with a decay of its own, made to imitate attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from tilth.models.config import ModelConfig
from tilth.models.layout import SequenceLayout
from tilth.models.mixers.mamba2 import Mamba2
from tilth.models.sharding import Cuts
from tilth.models.states import Mamba2State

GATE_OF_ONE = 1.278464542761  # silu of it is 1
# Below it a decay is 1 in fp32, and x divided by the step could overflow
LEAST_STEP = 1e-8


class DiscreteMamba2(Mamba2):
    """out_proj((scan + D x) silu(z + z_bias)); the rows of in_proj are [x, B, C, z, a].

    The state decays by exp(-softplus(a)) and takes x B^T as it is, not times a step; the convolution has no activation,
    and nothing is normalised. Freshly made it hands values on: its convolution is the identity, and its gate is 1.
    """

    no_weight_decay = ("D", "z_bias", "conv_bias")
    keep_fp32 = ("D",)

    def __init__(self, config: ModelConfig, n_shards: int = 1, projections: bool = True) -> None:
        super().__init__(config, n_shards, projections)
        del self.dt_bias, self.A_log, self.norm
        self.z_bias = nn.Parameter(torch.full((self.d_inner,), GATE_OF_ONE))
        if projections:
            with torch.no_grad():
                self.in_proj.weight[sum(self.conv_parts) : sum(self.conv_parts) + self.d_inner] = 0

    @torch.no_grad()
    def reset_ssm_parameters(self) -> None:
        """The convolution hands its inputs on, D is one."""
        self.conv_weight.zero_()
        self.conv_weight[:, -1] = 1
        self.conv_bias.zero_()
        self.D.fill_(1.0)

    def mix(self, rows_BTR: Tensor, layout: SequenceLayout, state: Mamba2State | None = None, reverse: bool = False) -> Tensor:
        """What lies between the projections, (B, T, rows of in_proj) -> (B, T, d_inner); reverse reads from the end."""
        xBC_BTC, z_BTI, a_BTH = rows_BTR.split([sum(self.conv_parts), self.d_inner, self.n_heads], dim=-1)
        x_BTHP, B_BTGN, C_BTGN = self.convolve(xBC_BTC, layout, state, reverse, None)
        wide = torch.promote_types(rows_BTR.dtype, torch.float32)
        x_BTHP = x_BTHP.to(wide)
        step_BTH = softplus(a_BTH.to(wide)).clamp(min=LEAST_STEP)
        # the scan multiplies x by the step that decays the state, so x is divided by it first
        stepped = (x_BTHP / step_BTH.unsqueeze(-1), step_BTH, -torch.ones_like(self.D, dtype=wide), B_BTGN, C_BTGN)
        y_BTHP = self.scan(*stepped, layout, state, reverse) + self.D[..., None, :, None] * x_BTHP
        return y_BTHP.flatten(-2).to(rows_BTR.dtype) * silu(z_BTI + self.z_bias[..., None, :])

    def matrices(self, x_BTD: Tensor, layout: SequenceLayout) -> Tensor:
        """As Mamba-2's; there is no step that x is multiplied by."""
        xBC_BTC, _, a_BTH = self.in_proj(x_BTD).split([sum(self.conv_parts), self.d_inner, self.n_heads], dim=-1)
        _, B_BTGN, C_BTGN = self.convolve(xBC_BTC, layout, None, False, None)
        step_BTH = softplus(a_BTH.to(torch.promote_types(a_BTH.dtype, torch.float32))).clamp(min=LEAST_STEP)
        return self.decayed_products(C_BTGN, B_BTGN, -step_BTH, layout)

    @classmethod
    def cuts(cls, config: ModelConfig) -> Cuts:
        """As Mamba-2's, with the rows of in_proj in their own order."""
        conv, heads, inner = [config.d_inner] + 2 * [config.n_groups * config.d_state], [config.n_ssm_heads], [config.d_inner]
        rows = {"in_proj.weight": conv + inner + heads, "conv_weight": conv, "conv_bias": conv, "z_bias": inner, "D": heads}
        return {"out_proj.weight": (1, inner)} | {name: (0, parts) for name, parts in rows.items()}
