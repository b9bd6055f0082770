"""A decoder cut for tensor parallelism: each rank holds whole heads, groups and hidden channels of every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tilth.errors import RecipeError
from tilth.models.config import ModelConfig

if TYPE_CHECKING:
    from tilth.models.decoder import Decoder
    from tilth.models.tensor_ranks import TensorRanks

Cuts = Mapping[str, tuple[int, list[int]]]
"""Parameter of a module -> the axis it is cut along, and the sizes of the parts that are cut one by one ([q, k, v])."""


def check_cuts(config: ModelConfig, n_shards: int) -> None:
    """Raise RecipeError unless n_shards ranks can share the model, each with an equal slice of every layer."""
    if config.desync_ranks > 1 and n_shards not in (1, config.desync_ranks):
        raise _bad(n_shards, f"a desync model of {config.desync_ranks} ranks is computed by as many, or by one")
    n_shards = max(n_shards, config.desync_ranks)
    if n_shards == 1:
        return
    if "S" in config.pattern:
        raise _bad(n_shards, "mamba1 (S) cannot be cut, since it reads all its channels; use mamba2 (M), or shard=True")
    sizes = {"mlp_width": config.mlp_width}
    if "A" in config.pattern:
        sizes |= {"n_heads": config.n_heads, "n_kv_heads": config.kv_heads}
    if "M" in config.pattern or "D" in config.pattern:
        # the gated norm is over a group: a group that spans ranks would cost another collective
        sizes |= {"SSM heads": config.n_ssm_heads, "n_groups": config.n_groups}
    for name, size in sizes.items():
        if size % n_shards:
            raise _bad(n_shards, f"{name}={size} must be a multiple of it")


def shard(model: Decoder, ranks: TensorRanks) -> Decoder:
    """The slice of a whole model that belongs to ranks.rank; shares the memory of what is not cut."""
    from tilth.models.decoder import Decoder, mark_parameters

    with torch.device("meta"):
        part = Decoder(model.config, ranks)
    whole, cuts = model.state_dict(), parameter_cuts(part)
    part.load_state_dict({name: _slice(whole[name], cuts.get(name), ranks) for name in part.state_dict()}, assign=True)
    mark_parameters(part)
    return part


def gather(model: Decoder) -> dict[str, Tensor]:
    """The whole model's state, on the CPU, from the slices of all ranks; every rank must call it."""
    cuts, ranks = parameter_cuts(model), model.ranks
    own = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    if ranks.size == 1:
        return own
    parts: list[dict[str, Tensor]] = [{} for _ in range(ranks.size)]
    dist.all_gather_object(parts, own, group=ranks.group)
    whole: dict[str, Tensor] = {}
    for name in sorted({name for part in parts for name in part}):
        found = [part[name] for part in parts if name in part]
        whole[name] = _join(found, cuts[name]) if name in cuts else found[0]
    return whole


def parameter_cuts(model: Decoder) -> Cuts:
    """The cuts of all parameters that are cut, by their full names; the shards of a desync model are whole already."""
    if model.config.desync_ranks > 1:
        return {}
    found: dict[str, tuple[int, list[int]]] = {}
    for path, module in model.named_modules():
        cuts: Cuts = module.cuts(model.config) if isinstance(module, nn.Module) and hasattr(module, "cuts") else {}
        found |= {f"{path}.{name}": cut for name, cut in cuts.items()}
    return found


def is_replicated(model: Decoder, name: str) -> bool:
    """Whether all ranks hold the same parameter, whose gradient is then the sum of theirs."""
    return name not in parameter_cuts(model) and not (model.config.desync_ranks > 1 and name.startswith("blocks."))


def _slice(whole: Tensor, cut: tuple[int, list[int]] | None, ranks: TensorRanks) -> Tensor:
    if cut is None:
        return whole
    axis, parts = cut
    return torch.cat([part.chunk(ranks.size, axis)[ranks.rank] for part in whole.split(parts, axis)], axis)


def _join(slices: Sequence[Tensor], cut: tuple[int, list[int]]) -> Tensor:
    axis, parts = cut
    local = [size // len(slices) for size in parts]
    by_part = zip(*(piece.split(local, axis) for piece in slices), strict=True)
    return torch.cat([torch.cat(pieces, axis) for pieces in by_part], axis)


def _bad(n_shards: int, problem: str) -> RecipeError:
    return RecipeError(f"the model cannot be cut into {n_shards} slices: {problem}", where="tensor_parallel")
