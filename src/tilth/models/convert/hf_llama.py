"""HF's LlamaForCausalLM, and the rotary positions that it shares with HF's hybrids."""

from __future__ import annotations

from typing import Any

from tilth.errors import SourceError
from tilth.models.config import ModelConfig
from tilth.models.convert import parts
from tilth.models.convert.parts import Fields, Format, Rule, Settings
from tilth.models.rotary import LINEAR, LLAMA3

COMMON: Fields = {
    "vocab_size": ("vocab_size", ...),
    "d_model": ("hidden_size", ...),
    "n_heads": ("num_attention_heads", ...),
    "n_kv_heads": ("num_key_value_heads", None),
    "head_dim": ("head_dim", None),
    "norm_eps": ("rms_norm_eps", 1e-6),
    "tie_embeddings": ("tie_word_embeddings", False),
}
_FIELDS: Fields = COMMON | {"d_ff": ("intermediate_size", ...)}
_FIXED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
LAYER_NORMS = {"mixer_norm.weight": "input_layernorm.weight", "mlp_norm.weight": "post_attention_layernorm.weight"}
_SCALINGS = {"default": frozenset[str](), "linear": LINEAR, "llama3": LLAMA3}


def read_config(settings: Settings) -> ModelConfig:
    """Raises SourceError for what Llama allows and Tilth has not."""
    parts.accept_only(settings, _FIXED | {"partial_rotary_factor": 1.0})
    layers = f"A*{parts.need(settings, 'num_hidden_layers')}"
    return ModelConfig(layers=layers, **parts.read_fields(settings, _FIELDS), **read_rope(settings))


def write_llama(config: ModelConfig) -> dict[str, Any]:
    """Their config."""
    own = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": len(config.pattern)}
    return {**own, **parts.write_fields(config, _FIELDS), **_FIXED, **write_rope(config)}


def rules(config: ModelConfig, settings: Settings) -> list[Rule]:
    """Their names of our tensors."""
    found = parts.ends(config, "model.norm.weight", "model.embed_tokens.weight")
    for i in range(len(config.pattern)):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        found += parts.attention(f"{ours}.mixer", f"{theirs}.self_attn", config)
        found += parts.swiglu(f"{ours}.mlp", f"{theirs}.mlp", config) + parts.renamed(ours, theirs, LAYER_NORMS)
    return found


def read_rope(settings: Settings, *, share: float = 1.0) -> dict[str, Any]:
    """Our settings of `rope_parameters` (transformers 5), or of `rope_theta` and `rope_scaling` (before it).

    share is that of a config which names none. Raises SourceError for a scaling that rotary.py has not.
    """
    found = {"rope_theta": settings.get("rope_theta") or 10_000.0}
    found |= {name: value for name, value in (settings.get("rope_parameters") or {}).items() if value is not None}
    found |= settings.get("rope_scaling") or {}
    kind = found.get("rope_type", found.get("type", "default"))
    if kind not in _SCALINGS:
        raise SourceError(
            f"the checkpoint's positions are scaled by `{kind}`", "config.json", f"Tilth has {', '.join(_SCALINGS)}"
        )
    scaling = {name: parts.need({**settings, **found}, name) for name in sorted(_SCALINGS[kind])}
    share = float(found.get("partial_rotary_factor", share))
    return {"rope_theta": float(found["rope_theta"]), "rope_share": share, "rope_scaling": scaling or None}


def write_rope(config: ModelConfig) -> dict[str, Any]:
    """The settings that transformers 5 reads, and those that transformers 4 does."""
    kind = next(kind for kind, names in _SCALINGS.items() if names == set(config.rope_scaling or {}))
    parameters = {"rope_type": kind, "rope_theta": config.rope_theta, **(config.rope_scaling or {})}
    parameters["partial_rotary_factor"] = config.rope_share
    old = {"rope_theta": config.rope_theta, "rope_scaling": None if kind == "default" else parameters}
    return {"rope_parameters": parameters, **old}


LLAMA = Format("HF Llama", read_config, rules)
