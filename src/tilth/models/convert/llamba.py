"""Llamba (Bick et al. 2025; cartesia-ai/edge): DiscreteMamba2 layers, each with Llama's MLP."""

from __future__ import annotations

from tilth.models.config import ModelConfig
from tilth.models.convert import parts
from tilth.models.convert.hf_llama import LAYER_NORMS
from tilth.models.convert.parts import Format, Rule, Settings


def read_config(settings: Settings) -> ModelConfig:
    """Raises SourceError for what LlambaConfig allows and Tilth has not."""
    # the norms of its blocks have an eps of their own, which no config says
    parts.accept_only(settings, {"lm_head_bias": False, "norm_epsilon": 1e-5})
    ssm, mlp = parts.need(settings, "ssm_cfg"), parts.need(settings, "mlp_cfg")
    parts.accept_only(ssm, {"bias": False, "activation": "identity"})
    parts.accept_only(mlp, {"bias": False, "act_fn": "silu"})
    d_model, expand, heads = parts.need(settings, "d_model"), ssm.get("expand", 1), ssm.get("n_v_heads", 32)
    return ModelConfig(
        vocab_size=parts.need(settings, "vocab_size"),
        d_model=d_model,
        layers=f"D*{parts.need(settings, 'n_layer')}",
        d_ff=parts.need(mlp, "intermediate_size"),
        d_state=ssm.get("d_state", 64),
        expand=expand,
        ssm_head_dim=max(1, expand * d_model // heads),
        n_groups=ssm.get("n_qk_heads", 32),
        d_conv=ssm.get("d_conv", 4),
        chunk_size=ssm.get("chunk_size", 128),
        tie_embeddings=settings.get("tie_embeddings", False),
    )


def rules(config: ModelConfig, settings: Settings) -> list[Rule]:
    """Their names of our tensors."""
    multiple = settings.get("pad_vocab_size_multiple", 8)
    found = parts.ends(config, "backbone.final_layernorm.weight", "backbone.embedding.weight", row_multiple=multiple)
    mixer = {name: name for name in ("in_proj.weight", "out_proj.weight", "z_bias", "D")}
    for i in range(len(config.pattern)):
        ours, theirs = f"blocks.{i}", f"backbone.layers.{i}"
        found += parts.renamed(f"{ours}.mixer", f"{theirs}.mixer", mixer) + parts.renamed(ours, theirs, LAYER_NORMS)
        found += parts.taps(f"{ours}.mixer", f"{theirs}.mixer.conv1d", has_bias=settings["ssm_cfg"].get("conv_bias", True))
        found += parts.swiglu(f"{ours}.mlp", f"{theirs}.mlp", config)
    return found


LLAMBA = Format("Llamba", read_config, rules)
