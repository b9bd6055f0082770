"""Caduceus (Schiff et al. 2024; kuleshov-group/caduceus): Mamba layers that read DNA both ways, PS also both strands alike."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tilth.errors import ContractError
from tilth.models.config import ModelConfig
from tilth.models.convert import parts
from tilth.models.convert.mamba_ssm import mamba1_settings
from tilth.models.convert.parts import Format, Rule, Settings

_FIXED = {"rms_norm": True, "bidirectional": True, "bidirectional_strategy": "add", "bidirectional_weight_tie": True}


def read_config(settings: Settings) -> ModelConfig:
    """Raises SourceError for what CaduceusConfig allows and Tilth has not."""
    parts.accept_only(settings, _FIXED)
    multiple, is_rcps = settings.get("pad_vocab_size_multiple", 8), settings.get("rcps", False)
    vocab_size = -(-parts.need(settings, "vocab_size") // multiple) * multiple
    pairs = settings.get("complement_map") or {}
    return ModelConfig(
        vocab_size=vocab_size,
        d_model=parts.need(settings, "d_model"),
        layers=f"S*{parts.need(settings, 'n_layer')}",
        d_ff=0,
        norm_eps=settings.get("norm_epsilon", 1e-5),
        tie_embeddings=True,
        bidirectional=True,
        # the ids that pad the vocabulary pair with themselves
        complement=tuple(int(pairs.get(str(i), i)) for i in range(vocab_size)) if pairs else None,
        rcps=is_rcps,
        # the fused norm, by which the released weights were trained, exchanges the strands
        rcps_swap=is_rcps and settings.get("fused_add_norm", True),
        **mamba1_settings(settings.get("ssm_cfg") or {}),
    )


def rules(config: ModelConfig, settings: Settings) -> list[Rule]:
    """Their names of our tensors; where the norms are not fused, PS has them one module deeper."""
    stem, deeper = "caduceus.backbone", ".submodule" if config.rcps else ""
    norm = deeper if not settings.get("fused_add_norm", True) else ""
    embedding = f"{stem}.embeddings.word_embeddings{'.embedding' if config.rcps else ''}.weight"
    table, final = parts.ends(config, f"{stem}.norm_f{norm}.weight", embedding)
    found = [_with_complement(table, config) if config.rcps else table, final]
    for i in range(len(config.pattern)):
        ours, theirs = f"blocks.{i}.mixer", f"{stem}.layers.{i}.mixer{deeper}"
        found += parts.mamba1(f"{ours}.forwards", f"{theirs}.mamba_fwd")
        found += parts.mamba1_scan(f"{ours}.backwards", f"{theirs}.mamba_rev")
        found.append(parts.same(f"blocks.{i}.mixer_norm.weight", f"{stem}.layers.{i}.norm{norm}.weight"))
    return found


def _with_complement(table: Rule, config: ModelConfig) -> Rule:
    """The embedding, once the pairs that PS computed with (buffers) are found to be those of its config."""
    pairs = torch.tensor(config.complement)

    def read(weight_VD: Tensor, *buffers: Tensor) -> Tensor:
        if not all(torch.equal(buffer, pairs) for buffer in buffers):
            # a config that was read from JSON has its pairs in the order of text: 0, 1, 10, 11, 2
            fix = "mend complement_map in config.json: it pairs each id with that of its complement"
            raise ContractError("the weights were trained with other complements than the config has", "complement_map", fix)
        return weight_VD

    names = ("caduceus.backbone.embeddings.word_embeddings.complement_map", "lm_head.complement_map")
    return replace(table, theirs=(*table.theirs, *names), read=read, write=lambda weight: [*table.write(weight), pairs, pairs])


_TIED = (r"(.*)mamba_rev\.(in|out)_proj\.weight", r"\1mamba_fwd.\2_proj.weight")
CADUCEUS = Format("Caduceus", read_config, rules, copies=_TIED)
