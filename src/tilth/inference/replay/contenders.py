"""What is compared: Tilth's policies, the paper's, and what engines do, each over the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tilth.inference.cache.costs import StateCosts
from tilth.inference.cache.policies.lru import LRU
from tilth.inference.cache.prefix_cache import PrefixCache
from tilth.inference.replay.aligned_cache import AlignedCache
from tilth.inference.replay.block_cache import BlockCache
from tilth.inference.replay.replay import Cache

INT8 = "+int8"


@dataclass(frozen=True)
class Contender:
    """A cache by name. make gets the costs of the model and the capacity in bytes; is_ours: its checkpoints may be int8."""

    name: str
    what: str
    make: Callable[[StateCosts, int], Cache]
    is_ours: bool = False


_ALL = (
    Contender("vllm+", "the paper's baseline: a state every 32 tokens, least recently used blocks go", BlockCache),
    Contender(
        "block-lru",
        "block engines today: the last state and one at junctions, on a grid of 512 tokens, LRU",
        lambda costs, capacity: AlignedCache(PrefixCache(costs, capacity, LRU())),
    ),
    Contender(
        "sglang+",
        "the paper's: its admission, LRU over leaves, a hit refreshes the whole path",
        lambda costs, capacity: PrefixCache(costs, capacity, LRU(only_leaves=True, touches_path=True)),
    ),
    Contender(
        "lru", "Tilth's tree, least recently used", lambda costs, capacity: PrefixCache(costs, capacity, LRU()), is_ours=True
    ),
)
CONTENDERS = {contender.name: contender for contender in _ALL}
