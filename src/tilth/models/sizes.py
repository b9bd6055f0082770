"""Analytic counts of a config: parameters and training FLOPs, without building the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tilth.models.config import ModelConfig

BACKWARD_AND_FORWARD = 3


def count_parameters(config: ModelConfig) -> int:
    """Number of values in Decoder(config).parameters(), tied ones once."""
    per_mixer = {"A": _attention_matrices(config), "M": _mamba2_matrices(config) + _mamba2_vectors(config)}
    total = sum(per_mixer[letter] for letter in config.pattern)
    total += len(config.pattern) * 3 * config.d_model * config.mlp_width
    # one norm weight before each sublayer, and one before the head
    total += (config.n_sublayers + 1) * config.d_model
    tables = 1 if config.tie_embeddings else 2
    return total + tables * config.padded_vocab_size * config.d_model


def count_training_flops(config: ModelConfig, seq_len: int) -> float:
    """FLOPs of one token's forward and backward pass (backward = 2 x forward), as model FLOPs.

    Counted: every matrix product at 2 per multiply-add, the head included, attention over the
    (seq_len + 1) / 2 keys that a causal token sees on average, the chunked form of the SSD
    (Mamba-2 paper, section 6) and the convolution. Not counted: the embedding look-up, norms and
    activations.
    """
    per_mixer = {
        "A": 2 * _attention_matrices(config) + _attention_products(config, seq_len),
        "M": 2 * _mamba2_matrices(config) + _ssd_products(config, seq_len),
    }
    forward = sum(per_mixer[letter] for letter in config.pattern)
    forward += len(config.pattern) * 6 * config.d_model * config.mlp_width
    forward += 2 * config.padded_vocab_size * config.d_model
    return float(BACKWARD_AND_FORWARD * forward)


def _attention_matrices(config: ModelConfig) -> int:
    heads = 2 * config.n_heads + 2 * config.kv_heads
    return config.d_model * heads * config.attention_head_dim


def _attention_products(config: ModelConfig, seq_len: int) -> float:
    # scores and weighted values: 2 products of 2 FLOPs per key and channel
    return 4 * config.n_heads * config.attention_head_dim * (seq_len + 1) / 2


def _mamba2_matrices(config: ModelConfig) -> int:
    rows = config.d_inner + config.conv_width + config.n_ssm_heads
    return config.d_model * (rows + config.d_inner) + config.conv_width * config.d_conv


def _mamba2_vectors(config: ModelConfig) -> int:
    # convolution bias, gated norm, and dt_bias, A_log, D of each head
    return config.conv_width + config.d_inner + 3 * config.n_ssm_heads


def _ssd_products(config: ModelConfig, seq_len: int) -> float:
    chunk = min(config.chunk_size, seq_len)
    inside = 2 * config.n_groups * config.d_state * chunk + 2 * config.d_inner * chunk
    across = 4 * config.d_inner * config.d_state
    return inside + across
