"""MambaInLlama (Wang et al. 2024; jxiw/MambaInLlama): a Llama in which Mamba-2 layers made of the attention replace some.

Its mixers keep the grouped-query shape: x and B have as few heads as the keys, and are repeated after the convolution.
Here the rows are repeated once, on reading; the rest is a Mamba-2 with as many groups as heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tilth.models.config import ModelConfig
from tilth.models.convert import hf_llama, parts
from tilth.models.convert.parts import Format, Rule, Settings


def read_config(settings: Settings) -> ModelConfig:
    """The Llama's config, with that of its Mamba layers under `mamba_config`. Raises SourceError."""
    llama, mamba = hf_llama.read_config(settings), parts.need(settings, "mamba_config")
    ssm = parts.need(mamba, "ssm_cfg")
    # its gated norm has an eps of its own, which no config says
    same_size = {"d_model": llama.d_model, "n_layer": len(llama.pattern), "intermediate_size": llama.d_ff, "rms_norm_eps": 1e-5}
    parts.accept_only(mamba, same_size | {"d_inner": llama.d_model * ssm.get("expand", 1)})
    parts.accept_only(ssm, {"bias": False, "rmsnorm": True, "norm_before_gate": False, "D_has_hdim": False, "conv_bias": True})
    attended = parts.need(mamba, "attn_layers")
    changed = {
        "layers": "".join("A" if i in attended else "M" for i in range(len(llama.pattern))),
        "d_state": parts.need(ssm, "d_state"),
        "ssm_head_dim": ssm["d_state"],
        "n_groups": parts.need(ssm, "ngroups"),
        "expand": ssm.get("expand", 1),
        "d_conv": ssm.get("d_conv", 4),
        "chunk_size": ssm.get("chunk_size", 256),
    }
    return ModelConfig(**llama.to_dict() | changed)


def rules(config: ModelConfig, settings: Settings) -> list[Rule]:
    """Llama's names, and those of the mixers that replaced its attention."""
    replaced = [f"blocks.{i}.mixer." for i, letter in enumerate(config.pattern) if letter == "M"]
    found = [rule for rule in hf_llama.rules(config, settings) if not rule.ours.startswith(tuple(replaced))]
    mamba = settings["mamba_config"]
    n_heads, is_repeated_first = mamba["d_xb"] // config.d_state, mamba["ssm_cfg"].get("repeat_kv_before_conv", False)
    inner, few = config.d_inner, mamba["d_xb"]
    cut = {"in_proj.weight": [inner, few, few, inner + config.n_ssm_heads]}
    if not is_repeated_first:
        cut |= {"conv_weight": [0, few, few, inner], "conv_bias": [0, few, few, inner]}
    for prefix in replaced:
        for rule in parts.mamba2(prefix[:-1], f"model.layers.{prefix.split('.')[1]}.mamba"):
            sizes = cut.get(rule.ours.removeprefix(prefix))
            found.append(_repeated(rule, sizes, config.n_ssm_heads // n_heads, config.d_state) if sizes else rule)
    return found


def _repeated(rule: Rule, sizes: Sequence[int], times: int, head_dim: int) -> Rule:
    """The rule with each head of the second and third part of the rows `times` times in sequence."""

    def by_head(tensor: Tensor, change: Callable[[Tensor], Tensor], parts: Sequence[int]) -> Tensor:
        first, x, B, last = tensor.split(list(parts))
        x, B = (change(part.unflatten(0, (-1, head_dim))).flatten(0, 1) for part in (x, B))
        return torch.cat([first, x, B, last])

    def read(*tensors: Tensor) -> Tensor:
        return by_head(rule.read(*tensors), lambda heads: heads.repeat_interleave(times, 0), sizes)

    many = [sizes[0], sizes[1] * times, sizes[2] * times, sizes[3]]
    return replace(rule, read=read, write=lambda ours: rule.write(by_head(ours, lambda heads: heads[::times], many)))


MAMBA_IN_LLAMA = Format("MambaInLlama", read_config, rules)
