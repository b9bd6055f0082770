"""Analytic counts of a config: parameters and training FLOPs, without building the model."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tilth.models.config import ModelConfig

BACKWARD_AND_FORWARD = 3


def count_parameters(config: ModelConfig) -> int:
    """Number of values in Decoder(config).parameters(), tied ones once."""
    matrices, vectors = _matrices(config), _vectors(config)
    total = sum(matrices[letter] + vectors[letter] for letter in config.pattern)
    total += len(config.pattern) * 3 * config.d_model * config.mlp_width
    # one norm weight before each sublayer (in each shard of a desync model), and one before the head
    total += (config.n_sublayers * config.desync_ranks + 1) * config.d_model
    tables = 1 if config.tie_embeddings else 2
    classes = config.n_classes * (config.d_model + 1)
    return total + tables * config.padded_vocab_size * config.d_model + classes


def count_mixer_parameters(config: ModelConfig, layers: Iterable[int]) -> int:
    """Number of values of the mixers of `layers`, counted from 0."""
    matrices, vectors = _matrices(config), _vectors(config)
    return sum(matrices[config.pattern[number]] + vectors[config.pattern[number]] for number in layers)


def count_training_flops(config: ModelConfig, seq_len: int, layers: Collection[int] | None = None) -> float:
    """FLOPs of one token's forward and backward pass (backward = 2 x forward), as model FLOPs; of `layers` alone, without head.

    Counted: every matrix product at 2 per multiply-add, the head included, attention over the
    (seq_len + 1) / 2 keys that a causal token sees on average, or all of them, the chunked form of the SSD
    (Mamba-2 paper, section 6), 6 per state of a Mamba-1 scan, and the convolution; with rcps both strands.
    Not counted: the embedding look-up, norms and activations.
    """
    matrices = _matrices(config)
    sequence = {
        "A": _attention_products(config, seq_len),
        "M": _directions(config) * _ssd_products(config, seq_len),
        "D": _directions(config) * _ssd_products(config, seq_len),
        "S": _directions(config) * 6 * config.d_inner * config.d_state,
    }
    letters = config.pattern if layers is None else [config.pattern[number] for number in layers]
    forward = sum(2 * matrices[letter] + sequence[letter] for letter in letters)
    forward += len(letters) * 6 * config.d_model * config.mlp_width
    forward += 2 * config.padded_vocab_size * config.d_model if layers is None else 0
    return float(BACKWARD_AND_FORWARD * forward) * (2 if config.rcps else 1)


def _matrices(config: ModelConfig) -> dict[str, int]:
    """Values of a mixer's matrices and convolutions: each takes part in one multiply-add a token."""
    heads = 2 * config.n_heads + 2 * config.kv_heads
    mamba1 = config.d_inner * (config.d_conv + 2 * config.dt_width + 2 * config.d_state)
    mamba2_rows = config.d_inner + config.conv_width + config.n_ssm_heads
    mamba2 = config.d_model * (mamba2_rows + config.d_inner) + _directions(config) * config.conv_width * config.d_conv
    return {
        "A": config.d_model * heads * config.attention_head_dim,
        "M": mamba2,
        "D": mamba2,
        "S": 3 * config.d_model * config.d_inner + _directions(config) * mamba1,
    }


def _vectors(config: ModelConfig) -> dict[str, int]:
    """The other values of a mixer: biases, gated norm, and what each head or channel has of its own."""
    mamba1 = config.d_inner * (3 + config.d_state)  # convolution bias, dt_bias, D, and A_log for each state
    mamba2 = config.conv_width + config.d_inner + 3 * config.n_ssm_heads
    discrete = config.conv_width + config.d_inner + config.n_ssm_heads  # convolution bias, z_bias, D
    sizes = {"M": mamba2, "D": discrete, "S": mamba1}
    return {"A": 0} | {letter: _directions(config) * size for letter, size in sizes.items()}


def _directions(config: ModelConfig) -> int:
    return 2 if config.bidirectional else 1


def _attention_products(config: ModelConfig, seq_len: int) -> float:
    # scores and weighted values: 2 products of 2 FLOPs per key and channel
    n_keys = seq_len if config.bidirectional else (seq_len + 1) / 2
    return 4 * config.n_heads * config.attention_head_dim * n_keys


def _ssd_products(config: ModelConfig, seq_len: int) -> float:
    chunk = min(config.chunk_size, seq_len)
    inside = 2 * config.n_groups * config.d_state * chunk + 2 * config.d_inner * chunk
    across = 4 * config.d_inner * config.d_state
    return inside + across
