"""Which sequences of a run are read from the other strand of DNA, and what they are then: a pure function, without any state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tilth.tokenize.order import SequencePlan, hash_of


def is_turned(share: float, seed: int, step: int, sequence: int) -> bool:
    """Whether a sequence is read from the other strand: `share` of all are, whichever process reads them, and each by itself.

    Source of the hash: the finaliser of SplitMix64 (Steele, Lea and Flood 2014), as in `order.shuffled`.
    """
    return int(hash_of(seed, step, sequence)[0]) < share * 2**64


def mark_turned(plans: Sequence[SequencePlan], share: float, seed: int, step: int, first: int = 0) -> list[SequencePlan]:
    """The plans of the sequences `first`, `first` + 1, ... of `step`, with those marked that are read from the other strand."""
    if not share:
        return list(plans)
    return [replace(plan, is_turned=is_turned(share, seed, step, first + i)) for i, plan in enumerate(plans)]


def other_strand(tokens: np.ndarray, complement: np.ndarray) -> np.ndarray:
    """The reverse complement (n,) of ids (n,): the token at p comes to n - 1 - p as the one that pairs with it.

    `complement` (vocab_size,) has the id that pairs with each id.
    """
    return complement[tokens[::-1]]
