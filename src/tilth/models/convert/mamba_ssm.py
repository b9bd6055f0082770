"""Checkpoints of the mamba_ssm library (state-spaces/mamba): Mamba or Mamba-2 layers, some of them attention."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from tilth.errors import SourceError
from tilth.models.config import ModelConfig
from tilth.models.convert import parts
from tilth.models.convert.parts import Format, Rule, Settings

_MLP_MULTIPLE = 128
_FIXED_MAMBA2: dict[str, Any] = {"bias": False, "rmsnorm": True, "norm_before_gate": False, "D_has_hdim": False, "d_ssm": None}
_FIXED_MAMBA2 |= {"dt_limit": [0.0, math.inf]}
_FIXED_ATTENTION = {
    "causal": True, "d_conv": 0, "mlp_dim": 0, "qkv_proj_bias": False, "out_proj_bias": False, "softmax_scale": None,
    "rotary_emb_interleaved": False,
}  # fmt: skip


def read_config(settings: Settings) -> ModelConfig:
    """Raises SourceError for what the library allows and Tilth has not."""
    ssm, attended = settings.get("ssm_cfg") or {}, set(settings.get("attn_layer_idx") or ())
    parts.accept_only(settings, {"rms_norm": True})
    letters = {"Mamba1": "S", "Mamba2": "M"}
    kind = ssm.get("layer", "Mamba1")
    if kind not in letters:
        raise SourceError(f"the checkpoint has {kind} layers", "config.json", f"Tilth reads {' and '.join(letters)}")
    pattern = "".join("A" if i in attended else letters[kind] for i in range(parts.need(settings, "n_layer")))
    return ModelConfig(
        vocab_size=parts.need(settings, "vocab_size"),
        d_model=parts.need(settings, "d_model"),
        layers=pattern,
        d_ff=-(-settings.get("d_intermediate", 0) // _MLP_MULTIPLE) * _MLP_MULTIPLE,
        tie_embeddings=settings.get("tie_embeddings", True),
        **(mamba2_settings(ssm) if kind == "Mamba2" else mamba1_settings(ssm)),
        **(_attention_settings(settings.get("attn_cfg") or {}) if attended else {}),
    )


def mamba1_settings(ssm: Settings) -> dict[str, Any]:
    """The settings of Mamba layers, for their defaults in the library see its modules/mamba_simple.py."""
    parts.accept_only(ssm, {"bias": False, "conv_bias": True})
    rank = ssm.get("dt_rank", "auto")
    own = {"d_state": ssm.get("d_state", 16), "d_conv": ssm.get("d_conv", 4), "expand": ssm.get("expand", 2)}
    return own | ({} if rank == "auto" else {"dt_rank": rank})


def mamba2_settings(ssm: Settings) -> dict[str, Any]:
    """The settings of Mamba-2 layers, for their defaults in the library see its modules/mamba2.py."""
    parts.accept_only(ssm, _FIXED_MAMBA2)
    names = {"d_state": 128, "d_conv": 4, "expand": 2, "headdim": 64, "ngroups": 1, "chunk_size": 256}
    ours = {"headdim": "ssm_head_dim", "ngroups": "n_groups"}
    return {ours.get(name, name): ssm.get(name, default) for name, default in names.items()}


def _attention_settings(attention: Settings) -> dict[str, Any]:
    # of the library's own defaults: biases and both directions
    parts.accept_only({"qkv_proj_bias": True, "out_proj_bias": True, "causal": False, **attention}, _FIXED_ATTENTION)
    heads, rotated = parts.need(attention, "num_heads"), attention.get("rotary_emb_dim", 0)
    found = {"n_heads": heads, "n_kv_heads": attention.get("num_heads_kv"), "head_dim": attention.get("head_dim")}
    if not rotated:
        return found | {"rope_theta": None}
    share = rotated / parts.need(attention, "head_dim")
    return found | {"rope_theta": attention.get("rotary_emb_base", 10_000.0), "rope_share": share}


def rules(config: ModelConfig, settings: Settings) -> list[Rule]:
    """Their names of our tensors."""
    multiple = settings.get("pad_vocab_size_multiple", 8)
    found = parts.ends(config, "backbone.norm_f.weight", "backbone.embedding.weight", row_multiple=multiple)
    has_bias = (settings.get("ssm_cfg") or {}).get("conv_bias", True)
    for i, letter in enumerate(config.pattern):
        ours, theirs = f"blocks.{i}", f"backbone.layers.{i}"
        if letter == "A":
            names = {"qkv_proj.weight": "in_proj.weight", "out_proj.weight": "out_proj.weight"}
            found += parts.renamed(f"{ours}.mixer", f"{theirs}.mixer", names)
        elif letter == "S":
            found += parts.mamba1(f"{ours}.mixer", f"{theirs}.mixer")
        else:
            found += parts.mamba2(f"{ours}.mixer", f"{theirs}.mixer", has_bias=has_bias)
        found.append(parts.same(f"{ours}.mixer_norm.weight", f"{theirs}.norm.weight"))
        if config.mlp_width:
            found += parts.renamed(ours, theirs, {"mlp_norm.weight": "norm2.weight", "mlp.out_proj.weight": "mlp.fc2.weight"})
            # their fc1 is [up, gate], ours [gate, up]
            gate_up = parts.same(f"{ours}.mlp.gate_up_proj.weight", f"{theirs}.mlp.fc1.weight")
            found.append(replace(gate_up, read=lambda fc1: fc1.roll(config.mlp_width, 0)))
    return found


MAMBA_SSM = Format("state-spaces/mamba", read_config, rules)
