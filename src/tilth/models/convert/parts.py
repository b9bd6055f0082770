"""What a format is: how its settings map to a config and back, and which of its tensors make up each of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tilth.errors import SourceError
from tilth.models.config import ModelConfig

Settings = Mapping[str, Any]
# ours -> (theirs, what a config that lacks it means); ... = no config may lack it
Fields = dict[str, tuple[str, Any]]


@dataclass(frozen=True)
class Rule:
    """One tensor of ours and those of theirs that hold it; with none of theirs, ours is zero.

    read makes ours of theirs. write makes theirs of ours; where a format is only read, it need not be exact, but has
    the shapes, by which an import is checked.
    """

    ours: str
    theirs: tuple[str, ...]
    read: Callable[..., Tensor]
    write: Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Format:
    """A format; title is its name for users.

    ignored is a pattern of names that hold nothing a model needs (buffers that follow from the config). copies says of
    names, by a pattern and what it becomes, that they must hold the same as another: a tied tensor, saved twice.
    """

    title: str
    read_config: Callable[[Settings], ModelConfig]
    rules: Callable[[ModelConfig, Settings], list[Rule]]
    ignored: str = r".*rotary_emb\.inv_freq"
    copies: tuple[str, str] = (r"$^", "")


def read_fields(settings: Settings, fields: Fields) -> dict[str, Any]:
    """Our settings of theirs. Raises SourceError for one that must be there."""
    return {
        ours: need(settings, theirs) if default is ... else settings.get(theirs, default)
        for ours, (theirs, default) in fields.items()
    }


def write_fields(config: ModelConfig, fields: Fields) -> dict[str, Any]:
    """Their settings of ours."""
    return {theirs: getattr(config, ours) for ours, (theirs, _) in fields.items()}


def need(settings: Settings, name: str) -> Any:
    """A setting that must be there. Raises SourceError."""
    if settings.get(name) is None:
        fix = "use the config.json that came with the weights"
        raise SourceError(f"the checkpoint's config has no `{name}`", "config.json", fix)
    return settings[name]


def accept_only(settings: Settings, fixed: Mapping[str, Any]) -> None:
    """Raise SourceError for a setting that is there and differs: no model here can have its value."""
    for name, value in fixed.items():
        if settings.get(name, value) not in (value, None):
            fix = f"Tilth reads checkpoints with {name} = {value!r} only"
            raise SourceError(f"the checkpoint has {name} = {settings[name]!r}", "config.json", fix)


def same(ours: str, theirs: str) -> Rule:
    """The same tensor under another name."""
    return Rule(ours, (theirs,), lambda tensor: tensor, lambda tensor: [tensor])


def renamed(ours: str, theirs: str, names: Mapping[str, str]) -> list[Rule]:
    """Several tensors that only have other names; a prefix stands before each."""
    return [same(f"{ours}.{name}", f"{theirs}.{other}") for name, other in names.items()]


def rows(ours: str, theirs: Sequence[str], sizes: Sequence[int]) -> Rule:
    """Ours is the rows of theirs, one tensor after the other, with `sizes` rows each."""
    return Rule(ours, tuple(theirs), lambda *parts: torch.cat(parts), lambda tensor: tensor.split(list(sizes)))


def taps(ours: str, theirs: str, *, has_bias: bool = True) -> list[Rule]:
    """Weight and bias of a depthwise convolution: our (C, K) is their (C, 1, K)."""
    weight = Rule(f"{ours}.conv_weight", (f"{theirs}.weight",), lambda w: w.squeeze(1), lambda w: [w.unsqueeze(1)])
    bias = same(f"{ours}.conv_bias", f"{theirs}.bias")
    return [weight, bias if has_bias else replace(bias, theirs=(), write=lambda tensor: [])]


def ends(config: ModelConfig, norm: str, embedding: str, head: str = "lm_head.weight", row_multiple: int = 1) -> list[Rule]:
    """What lies before and after the layers: embedding, head and norm.

    The rows of their tables are vocab_size, rounded up to row_multiple; ours are padded with rows of zeros.
    """
    n_rows = -(-config.vocab_size // row_multiple) * row_multiple

    def resize(table: Tensor, n: int) -> Tensor:
        resized = table.new_zeros(n, table.shape[1])
        resized[: config.vocab_size] = table[: config.vocab_size]
        return resized

    names = {"embedding.weight": embedding} | ({} if config.tie_embeddings else {"head.weight": head})
    tables = [
        Rule(ours, (name,), lambda t: resize(t, config.padded_vocab_size), lambda t: [resize(t, n_rows)])
        for ours, name in names.items()
    ]
    return [*tables, same("norm.weight", norm)]


def attention(ours: str, theirs: str, config: ModelConfig) -> list[Rule]:
    """An attention layer with q_proj, k_proj, v_proj and o_proj."""
    sizes = [heads * config.attention_head_dim for heads in (config.n_heads, config.kv_heads, config.kv_heads)]
    names = [f"{theirs}.{letter}_proj.weight" for letter in "qkv"]
    return [rows(f"{ours}.qkv_proj.weight", names, sizes), same(f"{ours}.out_proj.weight", f"{theirs}.o_proj.weight")]


def mamba2(ours: str, theirs: str, *, has_bias: bool = True) -> list[Rule]:
    """A Mamba-2 layer under the names of mamba_ssm, which all of HF's classes kept."""
    names = ("in_proj.weight", "dt_bias", "A_log", "D", "norm.weight", "out_proj.weight")
    return [*renamed(ours, theirs, {name: name for name in names}), *taps(ours, f"{theirs}.conv1d", has_bias=has_bias)]


def mamba1(ours: str, theirs: str, *, has_bias: bool = True) -> list[Rule]:
    """A Mamba layer under the names of mamba_ssm, which HF's class kept."""
    return [*projections(ours, theirs), *mamba1_scan(ours, theirs, has_bias=has_bias)]


def projections(ours: str, theirs: str) -> list[Rule]:
    """The two matrices round a mixer."""
    return renamed(ours, theirs, {name: name for name in ("in_proj.weight", "out_proj.weight")})


def mamba1_scan(ours: str, theirs: str, *, has_bias: bool = True) -> list[Rule]:
    """What lies between the projections of a Mamba layer."""
    names = {name: name for name in ("x_proj.weight", "dt_proj.weight", "A_log", "D")} | {"dt_bias": "dt_proj.bias"}
    return [*renamed(ours, theirs, names), *taps(ours, f"{theirs}.conv1d", has_bias=has_bias)]


def swiglu(ours: str, theirs: str, config: ModelConfig) -> list[Rule]:
    """An MLP with gate_proj, up_proj and down_proj."""
    names = [f"{theirs}.gate_proj.weight", f"{theirs}.up_proj.weight"]
    joined = rows(f"{ours}.gate_up_proj.weight", names, 2 * [config.mlp_width])
    return [joined, same(f"{ours}.out_proj.weight", f"{theirs}.down_proj.weight")]


def scaled(rule: Rule, factor: float, n_rows: int | None = None) -> Rule:
    """The rule with what is read multiplied by factor, in its first n_rows alone if given."""

    def read(*parts: Tensor) -> Tensor:
        tensor = rule.read(*parts).clone()
        # in fp32 and rounded once: bf16 would round the factor, too
        tensor[:n_rows] = (tensor[:n_rows].float() * factor).to(tensor.dtype)
        return tensor

    return rule if factor == 1 else replace(rule, read=read)
