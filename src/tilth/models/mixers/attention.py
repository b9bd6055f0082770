"""Grouped-query attention, causal unless the model is bidirectional, with rotary positions that restart at each document."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from tilth.kernels import attention, attention_decode, rope
from tilth.models.config import ModelConfig
from tilth.models.layout import SequenceLayout, pairs_read
from tilth.models.linear import Linear
from tilth.models.sharding import Cuts
from tilth.models.states import AttentionState


class Attention(nn.Module):
    """Softmax attention of n_heads queries over n_kv_heads keys; the rows of qkv_proj are [q, k, v].

    It may be one of n_shards slices of whole heads, whose outputs add up to the mixer's.
    """

    def __init__(self, config: ModelConfig, n_shards: int = 1) -> None:
        super().__init__()
        self.is_causal = not config.bidirectional
        self.n_heads = config.n_heads // n_shards
        self.n_kv_heads = config.kv_heads // n_shards
        self.head_dim = config.attention_head_dim
        n_rows = (self.n_heads + 2 * self.n_kv_heads) * self.head_dim
        self.qkv_proj = Linear(config.d_model, n_rows)
        self.out_proj = Linear(self.n_heads * self.head_dim, config.d_model)

    def forward(self, x_BTD: Tensor, layout: SequenceLayout, state: AttentionState | None = None) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model); with a state, the T tokens follow those it holds, and join them."""
        return self.out_proj(self._attend(*self._by_heads(x_BTD, layout), layout, state).flatten(-2))

    def matrices(self, x_BTD: Tensor, layout: SequenceLayout) -> Tensor:
        """What each head multiplies the values of the T tokens by, (B, T, d_model) -> (B, H, T, T), fp32 at least.

        A row is a softmax over the tokens that it reads; the kernels never hold it whole.
        """
        q_BTHD, k_BTGD, _ = self._by_heads(x_BTD, layout)
        wide = torch.promote_types(q_BTHD.dtype, torch.float32)
        k_BTHD = k_BTGD.repeat_interleave(self.n_heads // self.n_kv_heads, dim=2)
        # autocast would round the scores, of which a softmax takes the exponential, to bf16
        with torch.autocast(x_BTD.device.type, enabled=False):
            scores_BHTT = torch.einsum("bthd,bshd->bhts", q_BTHD.to(wide) / math.sqrt(self.head_dim), k_BTHD.to(wide))
        return scores_BHTT.masked_fill(~pairs_read(layout, self.is_causal), -math.inf).softmax(-1)

    def _by_heads(self, x_BTD: Tensor, layout: SequenceLayout) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, turned by their positions."""
        heads = [self.n_heads, self.n_kv_heads, self.n_kv_heads]
        qkv = self.qkv_proj(x_BTD).unflatten(-1, (-1, self.head_dim))
        q_BTHD, k_BTGD, v_BTGD = qkv.split(heads, dim=-2)
        if layout.rotation is not None:
            cos_TR, sin_TR, rows_BT = layout.rotation
            q_BTHD = rope(q_BTHD, cos_TR, sin_TR, positions_BT=rows_BT)
            k_BTGD = rope(k_BTGD, cos_TR, sin_TR, positions_BT=rows_BT)
        return q_BTHD, k_BTGD, v_BTGD

    def _attend(
        self, q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, layout: SequenceLayout, state: AttentionState | None
    ) -> Tensor:
        if state is not None and layout.lengths_B is not None:
            keys, values, table_B1 = state.append_one(k_BTGD, v_BTGD, layout.lengths_B)
            return cast(Tensor, attention_decode(q_BTHD, keys, values, block_table_BP=table_B1, lengths_B=layout.lengths_B))
        if state is not None:
            k_BTGD, v_BTGD = state.append(k_BTGD, v_BTGD)
        return cast(Tensor, attention(q_BTHD, k_BTGD, v_BTGD, causal=self.is_causal, segments_BT=layout.segments_BT))

    @classmethod
    def cuts(cls, config: ModelConfig) -> Cuts:
        """How the parameters are cut into slices of whole heads."""
        queries, keys = (n * config.attention_head_dim for n in (config.n_heads, config.kv_heads))
        return {"qkv_proj.weight": (0, [queries, keys, keys]), "out_proj.weight": (1, [queries])}
