"""HF's Mamba2ForCausalLM: Mamba-2 layers without MLPs."""

from __future__ import annotations

import math
from typing import Any

from tilth.models.config import ModelConfig
from tilth.models.convert import parts
from tilth.models.convert.parts import Fields, Format, Rule, Settings

_FIELDS: Fields = {
    "vocab_size": ("vocab_size", ...),
    "d_model": ("hidden_size", ...),
    "d_state": ("state_size", ...),
    "d_conv": ("conv_kernel", 4),
    "expand": ("expand", 2),
    "ssm_head_dim": ("head_dim", ...),
    "n_groups": ("n_groups", 8),
    "chunk_size": ("chunk_size", 256),
    "norm_eps": ("layer_norm_epsilon", 1e-5),
    "tie_embeddings": ("tie_word_embeddings", False),
}
_FIXED = {"hidden_act": "silu", "use_bias": False}
NO_LIMIT = {"time_step_limit": [0.0, math.inf]}


def read_config(settings: Settings) -> ModelConfig:
    """Raises SourceError for what Mamba2Config allows and Tilth has not."""
    parts.accept_only(settings, _FIXED | NO_LIMIT)
    return ModelConfig(layers=f"M*{parts.need(settings, 'num_hidden_layers')}", d_ff=0, **parts.read_fields(settings, _FIELDS))


def write_mamba2(config: ModelConfig) -> dict[str, Any]:
    """Their config."""
    own = {"architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2", "num_hidden_layers": len(config.pattern)}
    return {**own, **parts.write_fields(config, _FIELDS), **_FIXED, "num_heads": config.n_ssm_heads, "use_conv_bias": True}


def rules(config: ModelConfig, settings: Settings) -> list[Rule]:
    """Their names of our tensors."""
    found = parts.ends(config, "backbone.norm_f.weight", "backbone.embeddings.weight")
    for i in range(len(config.pattern)):
        ours, theirs = f"blocks.{i}", f"backbone.layers.{i}"
        found += parts.mamba2(f"{ours}.mixer", f"{theirs}.mixer", has_bias=settings.get("use_conv_bias", True))
        found.append(parts.same(f"{ours}.mixer_norm.weight", f"{theirs}.norm.weight"))
    return found


MAMBA2 = Format("HF Mamba2", read_config, rules)
