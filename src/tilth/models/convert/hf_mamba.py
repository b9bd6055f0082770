"""HF's MambaForCausalLM and Mamba2ForCausalLM: layers of one kind, without MLPs."""

from __future__ import annotations

import math
from typing import Any

from tilth.models.config import ModelConfig
from tilth.models.convert import parts
from tilth.models.convert.parts import Fields, Format, Rule, Settings

_COMMON: Fields = {
    "vocab_size": ("vocab_size", ...),
    "d_model": ("hidden_size", ...),
    "d_state": ("state_size", ...),
    "d_conv": ("conv_kernel", 4),
    "expand": ("expand", 2),
    "norm_eps": ("layer_norm_epsilon", 1e-5),
}
_MAMBA: Fields = _COMMON | {"dt_rank": ("time_step_rank", "auto"), "tie_embeddings": ("tie_word_embeddings", True)}
_MAMBA2: Fields = _COMMON | {
    "ssm_head_dim": ("head_dim", ...),
    "n_groups": ("n_groups", 8),
    "chunk_size": ("chunk_size", 256),
    "tie_embeddings": ("tie_word_embeddings", False),
}
_FIXED = {"hidden_act": "silu", "use_bias": False}
NO_LIMIT = {"time_step_limit": [0.0, math.inf]}


def read_mamba(settings: Settings) -> ModelConfig:
    """Raises SourceError for what MambaConfig allows and Tilth has not."""
    parts.accept_only(settings, _FIXED)
    fields = parts.read_fields(settings, _MAMBA)
    fields["dt_rank"] = None if fields["dt_rank"] == "auto" else fields["dt_rank"]
    return ModelConfig(layers=f"S*{parts.need(settings, 'num_hidden_layers')}", d_ff=0, **fields)


def read_mamba2(settings: Settings) -> ModelConfig:
    """Raises SourceError for what Mamba2Config allows and Tilth has not."""
    parts.accept_only(settings, _FIXED | NO_LIMIT)
    layers = f"M*{parts.need(settings, 'num_hidden_layers')}"
    return ModelConfig(layers=layers, d_ff=0, **parts.read_fields(settings, _MAMBA2))


def write_mamba(config: ModelConfig) -> dict[str, Any]:
    """The config of MambaForCausalLM."""
    own = {"architectures": ["MambaForCausalLM"], "model_type": "mamba", "num_hidden_layers": len(config.pattern)}
    return {**own, **parts.write_fields(config, _MAMBA), **_FIXED, "use_conv_bias": True}


def write_mamba2(config: ModelConfig) -> dict[str, Any]:
    """The config of Mamba2ForCausalLM."""
    own = {"architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2", "num_hidden_layers": len(config.pattern)}
    own |= {"num_heads": config.n_ssm_heads, "use_conv_bias": True}
    return {**own, **parts.write_fields(config, _MAMBA2), **_FIXED}


def rules(config: ModelConfig, settings: Settings) -> list[Rule]:
    """Their names of our tensors."""
    found = parts.ends(config, "backbone.norm_f.weight", "backbone.embeddings.weight")
    mixer = parts.mamba2 if config.pattern[0] == "M" else parts.mamba1
    for i in range(len(config.pattern)):
        ours, theirs = f"blocks.{i}", f"backbone.layers.{i}"
        found += mixer(f"{ours}.mixer", f"{theirs}.mixer", has_bias=settings.get("use_conv_bias", True))
        found.append(parts.same(f"{ours}.mixer_norm.weight", f"{theirs}.norm.weight"))
    return found


MAMBA = Format("HF Mamba", read_mamba, rules)
MAMBA2 = Format("HF Mamba2", read_mamba2, rules)
