"""What is compared: Tilth's policies, the paper's, and what engines do, each over the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tilth.errors import UserError, did_you_mean
from tilth.inference.cache.costs import StateCosts
from tilth.inference.cache.policies.greedy_dual import GreedyDual
from tilth.inference.cache.policies.hit_density import HitDensity
from tilth.inference.cache.policies.lru import LRU
from tilth.inference.cache.policies.policy import Policy
from tilth.inference.cache.policies.superseded import SupersededFirst
from tilth.inference.cache.policies.tuned_flop_aware import TunedFlopAware
from tilth.inference.cache.prefix_cache import PrefixCache
from tilth.inference.cache.selector import Selector
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


def _with(policy: Callable[[], Policy]) -> Callable[[StateCosts, int], Cache]:
    return lambda costs, capacity: PrefixCache(costs, capacity, policy())


def _block_lru(costs: StateCosts, capacity: int) -> Cache:
    return AlignedCache(PrefixCache(costs, capacity, LRU()))


def _sglang() -> Policy:
    return LRU(only_leaves=True, touches_path=True)


def _greedy_dual() -> Policy:
    return SupersededFirst(GreedyDual())


def _hit_density() -> Policy:
    return SupersededFirst(HitDensity())


_ALL = (
    Contender("vllm+", "the paper's baseline: a state every 32 tokens, the least recently used block goes", BlockCache),
    Contender("block-lru", "block engines today: last states and junctions on a grid of 512 tokens, LRU", _block_lru),
    Contender("sglang+", "the paper's: its admission, LRU over leaves, a hit refreshes the whole path", _with(_sglang)),
    Contender("marconi", "the paper's policy, its weight tuned once as it says", _with(TunedFlopAware)),
    Contender("lru", "Tilth's tree; the least recently used goes, wherever it is", _with(LRU), is_ours=True),
    Contender("greedy-dual", "superseded states, then GreedyDual-Size-Frequency", _with(_greedy_dual), is_ours=True),
    Contender("hit-density", "superseded states, then the lowest learned rate of return", _with(_hit_density), is_ours=True),
    Contender("tilth", "the default: whichever of its orders does best in shadow caches", _with(Selector), is_ours=True),
)
CONTENDERS = {one.name: one for one in _ALL}


def contender(name: str) -> Contender:
    """By its name, with or without "+int8". Raises UserError for one that is not there, or whose states have no 8 bits."""
    plain = name.removesuffix(INT8)
    if plain not in CONTENDERS:
        raise UserError(f"there is no policy `{plain}`", "--policy", did_you_mean(plain, CONTENDERS))
    if plain != name and not CONTENDERS[plain].is_ours:
        ours = ", ".join(one.name for one in _ALL if one.is_ours)
        raise UserError(f"the states of `{plain}` are kept as they are", "--policy", f"8 bits go with {ours}.")
    return CONTENDERS[plain]


def chosen_policies(names: Iterable[str] | None, with_int8: bool) -> list[str]:
    """The names, each once (None: all there are), and where 8 bits are wanted, ours with them too. Raises UserError."""
    chosen = [name.strip() for name in names] if names is not None else list(CONTENDERS)
    if with_int8:
        chosen += [f"{name}{INT8}" for name in chosen if not name.endswith(INT8) and contender(name).is_ours]
    for name in chosen:
        contender(name)
    return list(dict.fromkeys(chosen))
