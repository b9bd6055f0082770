"""What a decoder remembers of the tokens it has read: keys and values, convolution inputs, SSM states."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tilth.models.config import ModelConfig


@dataclass
class AttentionState:
    """Keys and values of the tokens read so far, in buffers (B, capacity, G, D) that double when full.

    n_tokens are those of the longest row; where the rows differ, DecoderStates.lengths_B has them.
    """

    keys: Tensor
    values: Tensor
    n_tokens: int = 0

    def append(self, k_BTGD: Tensor, v_BTGD: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values of rows of one length; returns all of them, (B, n_tokens, G, D) each."""
        start = self.n_tokens
        self._advance(k_BTGD.shape[1])
        self.keys[:, start : self.n_tokens] = k_BTGD
        self.values[:, start : self.n_tokens] = v_BTGD
        return self.keys[:, : self.n_tokens], self.values[:, : self.n_tokens]

    def append_one(self, k_B1GD: Tensor, v_B1GD: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Store one token as the last of the lengths_B (int32) of each row; returns both buffers and the place of each row.

        For kernels.attention_decode: a row of a buffer is one page, so the places are a table (B, 1) int32 of pages.
        """
        self._advance(1)
        rows_B = torch.arange(len(lengths_B), device=lengths_B.device, dtype=torch.int32)
        self.keys[rows_B, lengths_B - 1] = k_B1GD[:, 0]
        self.values[rows_B, lengths_B - 1] = v_B1GD[:, 0]
        return self.keys, self.values, rows_B.unsqueeze(1)

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` tokens of each row."""
        if capacity > self.keys.shape[1]:
            self.keys = _grow(self.keys, self.n_tokens, capacity)
            self.values = _grow(self.values, self.n_tokens, capacity)

    def _advance(self, n_new: int) -> None:
        end = self.n_tokens + n_new
        if end > self.keys.shape[1]:
            self.reserve(max(end, 2 * self.keys.shape[1]))
        self.n_tokens = end


@dataclass
class Mamba2State:
    """The last d_conv - 1 inputs of the convolution (B, d_conv - 1, C) and the fp32 SSM state (B, H, P, N)."""

    conv_inputs: Tensor
    ssm_BHPN: Tensor


@dataclass
class Mamba1State:
    """The last d_conv - 1 inputs of the convolution (B, d_conv - 1, C) and the fp32 SSM state (B, C, N)."""

    conv_inputs: Tensor
    ssm_BCN: Tensor


MixerState = AttentionState | Mamba2State | Mamba1State


@dataclass
class DecoderStates:
    """One state per layer; n_tokens have been read by the longest row, lengths_B (int32) by each, None where all are equal."""

    layers: list[MixerState] = field(default_factory=list)
    n_tokens: int = 0
    lengths_B: Tensor | None = None

    def advance(self, n_new: int) -> None:
        """Count n_new more tokens of every row."""
        self.n_tokens += n_new
        if self.lengths_B is not None:
            self.lengths_B = self.lengths_B + n_new


def empty_states(config: ModelConfig, batch: int, device: torch.device, dtype: torch.dtype, capacity: int = 64) -> DecoderStates:
    """States before the first token, for `batch` rows; capacity is the room for keys before they must grow."""
    layers = [_empty(letter, config, batch, device, dtype, capacity) for letter in config.pattern]
    return DecoderStates(layers)


def _empty(letter: str, config: ModelConfig, batch: int, device: torch.device, dtype: torch.dtype, capacity: int) -> MixerState:
    if letter == "A":
        shape = (batch, capacity, config.kv_heads, config.attention_head_dim)
        return AttentionState(*(torch.zeros(shape, device=device, dtype=dtype) for _ in range(2)))
    # zeros stand for "before the document": the convolution pads with them and the recurrence starts there
    wide = {"device": device, "dtype": torch.promote_types(dtype, torch.float32)}
    if letter == "S":
        conv_inputs = torch.zeros(batch, config.d_conv - 1, config.d_inner, device=device, dtype=dtype)
        return Mamba1State(conv_inputs, torch.zeros(batch, config.d_inner, config.d_state, **wide))
    conv_inputs = torch.zeros(batch, config.d_conv - 1, config.conv_width, device=device, dtype=dtype)
    return Mamba2State(conv_inputs, torch.zeros(batch, config.n_ssm_heads, config.ssm_head_dim, config.d_state, **wide))


def _grow(buffer: Tensor, n_tokens: int, capacity: int) -> Tensor:
    bigger = buffer.new_zeros(buffer.shape[0], capacity, *buffer.shape[2:])
    bigger[:, :n_tokens] = buffer[:, :n_tokens]
    return bigger
