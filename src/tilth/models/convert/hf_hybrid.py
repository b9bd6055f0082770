"""HF's hybrids of Mamba-2 and attention with an MLP in every layer: Bamba (rotary positions) and GraniteMoeHybrid (none)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from tilth.errors import SourceError, did_you_mean
from tilth.models.config import ModelConfig
from tilth.models.convert import parts
from tilth.models.convert.hf_llama import COMMON, LAYER_NORMS, read_rope, write_rope
from tilth.models.convert.hf_mamba import NO_LIMIT
from tilth.models.convert.parts import Fields, Format, Rule, Settings

_FIELDS: Fields = COMMON | {
    "d_state": ("mamba_d_state", 256),
    "d_conv": ("mamba_d_conv", 4),
    "expand": ("mamba_expand", 2),
    "ssm_head_dim": ("mamba_d_head", "auto"),
    "n_groups": ("mamba_n_groups", 1),
    "chunk_size": ("mamba_chunk_size", 256),
    "norm_eps": ("rms_norm_eps", ...),
}
_FIXED = {"hidden_act": "silu", "attention_bias": False, "mamba_proj_bias": False}
# transformers 5 renamed the kinds of layers
_LETTERS = {"mamba": "M", "attention": "A", "linear_attention": "M", "full_attention": "A"}
_BAMBA_NORM, _BAMBA_MLP = "pre_ff_layernorm.weight", [f"feed_forward.{name}_proj.weight" for name in ("gate", "up", "down")]
_GRANITE = "granitemoehybrid"
_GRANITE_MLP = {
    "mlp.gate_up_proj.weight": "shared_mlp.input_linear.weight",
    "mlp.out_proj.weight": "shared_mlp.output_linear.weight",
}
# what Granite multiplies activations by; each goes into a weight beside it
_MULTIPLIERS = ("embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier")


def read_bamba(settings: Settings) -> ModelConfig:
    """Raises SourceError for what BambaConfig allows and Tilth has not."""
    parts.accept_only(settings, {"mlp_bias": False})
    attended = settings.get("attn_layer_indices") or ()
    letters = ("A" if i in attended else "M" for i in range(parts.need(settings, "num_hidden_layers")))
    # the class sets 0.5 whatever the config says, unless rope_parameters say otherwise
    return _read(settings, letters, d_ff=parts.need(settings, "intermediate_size"), **read_rope(settings, share=0.5))


def read_granite(settings: Settings) -> ModelConfig:
    """Its multipliers are no part of the config, see granite_rules. Raises SourceError."""
    parts.accept_only(settings, {"num_local_experts": 0, "partial_rotary_factor": 1.0})
    kinds = settings.get("layer_types") or settings.get("layers_block_type") or parts.need(settings, "layer_types")
    for kind in kinds:
        if kind not in _LETTERS:
            raise SourceError(f"the checkpoint has a layer of kind {kind!r}", "config.json", did_you_mean(str(kind), _LETTERS))
    rope = read_rope(settings) if settings.get("position_embedding_type") == "rope" else {"rope_theta": None}
    return _read(settings, (_LETTERS[kind] for kind in kinds), d_ff=parts.need(settings, "shared_intermediate_size"), **rope)


def _read(settings: Settings, letters: Iterable[str], **others: Any) -> ModelConfig:
    parts.accept_only(settings, _FIXED | NO_LIMIT)
    fields = parts.read_fields(settings, _FIELDS)
    if fields["ssm_head_dim"] in ("auto", None):
        fields["ssm_head_dim"] = fields["expand"] * fields["d_model"] // settings.get("mamba_n_heads", 128)
    embedding, logits, _, _ = _multipliers(settings)
    # one table cannot hold both multipliers
    fields["tie_embeddings"] &= embedding == logits == 1
    return ModelConfig(layers="".join(letters), **fields, **others)


def _multipliers(settings: Settings) -> tuple[float, float, float, float | None]:
    if settings.get("model_type") != _GRANITE:
        return 1.0, 1.0, 1.0, None
    embedding, logits, residual, scores = (float(settings.get(name, 1.0)) for name in _MULTIPLIERS)
    return embedding, 1 / logits, residual, scores


def bamba_rules(config: ModelConfig, settings: Settings) -> list[Rule]:
    """Bamba's names of our tensors."""
    found, norms = _rules(config, settings, "model.final_layernorm.weight"), LAYER_NORMS | {"mlp_norm.weight": _BAMBA_NORM}
    for i in range(len(config.pattern)):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        if config.mlp_width:
            found += parts.swiglu(f"{ours}.mlp", f"{theirs}.feed_forward", config) + parts.renamed(ours, theirs, norms)
        else:
            found.append(_without_mlp(ours, theirs, _BAMBA_NORM, _BAMBA_MLP))
    return found


def granite_rules(config: ModelConfig, settings: Settings) -> list[Rule]:
    """Granite's names of our tensors; its multipliers go into the tables, the queries and what writes to the stream."""
    found, residual = _rules(config, settings, "model.norm.weight"), _multipliers(settings)[2]
    for i in range(len(config.pattern)):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        if config.mlp_width:
            found += parts.renamed(ours, theirs, LAYER_NORMS | _GRANITE_MLP)
        else:
            found.append(_without_mlp(ours, theirs, LAYER_NORMS["mlp_norm.weight"], [*_GRANITE_MLP.values()]))
    return [parts.scaled(rule, residual if rule.ours.endswith("out_proj.weight") else 1.0) for rule in found]


def _without_mlp(ours: str, theirs: str, norm: str, matrices: list[str]) -> Rule:
    """The norm of a block without an MLP; theirs has one all the same, of width 0, and its norm."""
    names = (LAYER_NORMS["mixer_norm.weight"], norm, *matrices)

    def write(weight_D: Tensor) -> list[Tensor]:
        *wide, last = (weight_D.new_zeros(0, len(weight_D)) for _ in matrices)
        return [weight_D, torch.ones_like(weight_D), *wide, last.T]

    return Rule(f"{ours}.mixer_norm.weight", tuple(f"{theirs}.{name}" for name in names), lambda weight, *rest: weight, write)


def _rules(config: ModelConfig, settings: Settings, final_norm: str) -> list[Rule]:
    """What both classes share: the tables, the norm at the end and the mixers."""
    embedding, logits, _, scores = _multipliers(settings)
    head = "model.embed_tokens.weight" if settings.get("tie_word_embeddings") else "lm_head.weight"
    factors = {"embedding.weight": embedding, "head.weight": logits}
    found = parts.ends(config, final_norm, "model.embed_tokens.weight", head)
    found = [parts.scaled(rule, factors.get(rule.ours, 1.0)) for rule in found]
    for i, letter in enumerate(config.pattern):
        ours, theirs = f"blocks.{i}.mixer", f"model.layers.{i}"
        if letter == "M":
            found += parts.mamba2(ours, f"{theirs}.mamba", has_bias=settings.get("mamba_conv_bias", True))
            continue
        qkv, out = parts.attention(ours, f"{theirs}.self_attn", config)
        ratio = 1.0 if scores is None else scores * math.sqrt(config.attention_head_dim)
        found += [parts.scaled(qkv, ratio, config.n_heads * config.attention_head_dim), out]
    return found


def write_bamba(config: ModelConfig) -> dict[str, Any]:
    """Bamba's config; write_rope overrides its 0.5 of rotated channels."""
    attended = [i for i, letter in enumerate(config.pattern) if letter == "A"]
    own = {"architectures": ["BambaForCausalLM"], "model_type": "bamba", "attn_layer_indices": attended, "mlp_bias": False}
    return {**_write(config), **own, "intermediate_size": config.d_ff, **write_rope(config)}


def write_granite(config: ModelConfig) -> dict[str, Any]:
    """Granite's config without experts or positions, its scores scaled as ours are."""
    kinds = ["attention" if letter == "A" else "mamba" for letter in config.pattern]
    own = {"architectures": ["GraniteMoeHybridForCausalLM"], "model_type": _GRANITE, "layer_types": kinds}
    none = {"num_local_experts": 0, "num_experts_per_tok": 0, "position_embedding_type": None}
    multipliers = dict.fromkeys(_MULTIPLIERS, 1.0) | {"attention_multiplier": _write(config)["head_dim"] ** -0.5}
    # the cache of transformers 5.23 cannot count the tokens of a model without attention
    sizes = {"shared_intermediate_size": config.d_ff, "use_cache": "A" in config.pattern}
    return {**_write(config), **own, **none, **multipliers, **sizes}


def _write(config: ModelConfig) -> dict[str, Any]:
    found = {**parts.write_fields(config, _FIELDS), **_FIXED, "num_hidden_layers": len(config.pattern), "mamba_conv_bias": True}
    # the classes want sizes of both mixers even where no layer has them
    if "A" not in config.pattern:
        found |= {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": config.d_model}
    if "M" not in config.pattern:
        return found | {"mamba_d_head": config.d_inner, "mamba_n_heads": 1, "mamba_n_groups": 1}
    return found | {"mamba_n_heads": config.n_ssm_heads}


BAMBA = Format("HF Bamba", read_bamba, bamba_rules)
GRANITE = Format("HF GraniteMoeHybrid", read_granite, granite_rules)
