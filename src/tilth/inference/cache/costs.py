"""What remembering costs in bytes, and what it saves in FLOPs: from a model's sizes, or as a paper counts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tilth.models.config import ModelConfig

MAMBA_LETTERS = "MDS"


@dataclass(frozen=True)
class StateCosts:
    """kv_bytes: keys and values of one token, all attention layers. checkpoint_bytes: all recurrent states of one position, as
    they lie in the cache. token_flops: a forward pass of one token apart from attention's products; pair_flops: those for each
    (query, key) pair, all attention layers.
    """

    kv_bytes: int
    checkpoint_bytes: int
    token_flops: float
    pair_flops: float

    def prefill_flops(self, start: int, end: int) -> float:
        """FLOPs of reading tokens start .. end - 1 after the start that are there; each sees all keys up to its own."""
        n_pairs = (end * (end + 1) - start * (start + 1)) / 2
        return self.token_flops * (end - start) + self.pair_flops * n_pairs

    def size_bytes(self, n_tokens: int, n_checkpoints: int) -> int:
        """Bytes of so many tokens' keys and values and so many checkpoints."""
        return self.kv_bytes * n_tokens + self.checkpoint_bytes * n_checkpoints

    @classmethod
    def of(cls, config: ModelConfig, kv_itemsize: int = 4, checkpoint_bytes: int | None = None) -> StateCosts:
        """Of a model of ours. checkpoint_bytes: what it takes in the cache, default: as the decoder holds it (fp32 states)."""
        from tilth.models.sizes import count_training_flops

        n_attention = config.pattern.count("A")
        kv_bytes = 2 * n_attention * config.kv_heads * config.attention_head_dim * kv_itemsize if n_attention else 0
        taps = config.d_conv - 1
        of_mamba2 = taps * config.conv_width * kv_itemsize + config.d_inner * config.d_state * 4
        of_mamba1 = taps * config.d_inner * kv_itemsize + config.d_inner * config.d_state * 4
        held = sum({"A": 0, "S": of_mamba1}.get(letter, of_mamba2) for letter in config.pattern)
        pair_flops = 4.0 * n_attention * config.n_heads * config.attention_head_dim if n_attention else 0.0
        one = count_training_flops(config, 1) / 3 - pair_flops
        return cls(kv_bytes, held if checkpoint_bytes is None else checkpoint_bytes, one, pair_flops)


def marconi_7b() -> StateCosts:
    """The paper's 7B hybrid (arXiv 2411.19379): 24 SSM, 4 attention and 28 MLP layers, 4096 channels, 128 states, fp16.

    Its own counts: no expansion of the SSM and no shared keys. 26.79 MB a checkpoint, 65.5 kB a token.
    """
    n_ssm, n_attention, n_mlp, width, n_states, itemsize = 24, 4, 28, 4096, 128, 2
    checkpoint = n_ssm * (width * n_states + (2 * width + 2 * n_states) * 4) * itemsize
    token = n_attention * 8 * width**2 + n_mlp * 16 * width**2 + n_ssm * (12 * width**2 + 16 * width * n_states + 10 * width)
    # the paper's 4 L^2 D are all pairs of a causal L x L: 8 D for each of L (L + 1) / 2
    return StateCosts(n_attention * 2 * width * itemsize, checkpoint, float(token), 8.0 * width * n_attention)


def modern_hybrid() -> StateCosts:
    """A hybrid of today with shared keys and fp32 states (the sizes of Qwen3-Next): 76 MB a checkpoint, 24.6 kB a token.

    36 linear-attention layers of 32 heads x 128 x 128 fp32 states with 8192 convolved channels, 12 attention layers of 2 keys
    of 256 channels in bf16; 3 B parameters are active for a token.
    """
    checkpoint = 36 * (32 * 128 * 128 * 4 + 8192 * 3 * 2)
    return StateCosts(12 * 2 * 2 * 256 * 2, checkpoint, 2 * 3.0e9, 4.0 * 12 * 16 * 256)
