"""The paper's order: recency and FLOPs saved for each byte (arXiv 2411.19379, 4.2), re-implemented from its description."""

from __future__ import annotations

import numpy as np

from tilth.inference.cache.admission import AS_PUBLISHED
from tilth.inference.cache.candidates import Candidates, Worth
from tilth.inference.cache.policies.policy import LAST, Policy
from tilth.inference.cache.tree import Node

LEAST_AGE = 1e-3  # seconds


class FlopAware(Policy):
    """Lowest norm(recency) + alpha * norm(FLOPs saved / bytes) first, among the nodes with at most one child.

    FLOPs and bytes are those beyond the parent; norm scales the candidates' least and largest to 0 and 1, anew for every
    victim. A node with a child loses its state, and its keys join the child's; a leaf goes whole. A hit refreshes the used
    node alone.

    recency is the time since a use, negative (is_inverse False, the default), or 1 / that time. The paper leaves it open; the
    second is so skewed that all but the newest few are alike.
    """

    admission = AS_PUBLISHED

    def __init__(self, alpha: float = 0.0, is_inverse: bool = False) -> None:
        self.alpha, self.is_inverse = alpha, is_inverse
        self.name = "flop-aware"

    @property
    def arm(self) -> str:
        """With the weight in use."""
        return f"{self.name}({self.alpha:g})"

    def priority(self, node: Node, worth: Worth) -> float:
        """Only whether it is a candidate at all: the score changes with all others and with time."""
        return node.tick + (LAST if worth.n_children > 1 else 0.0)

    def victim(self, candidates: Candidates, now: float) -> Node:
        """The lowest score of all candidates now; of equal ones the least recently used."""
        is_late_N = candidates.priority >= LAST
        if not self.alpha or is_late_N.all():
            return candidates.lowest()
        age_N = np.maximum(now - candidates.last_use, LEAST_AGE)
        recency_N = 1 / age_N if self.is_inverse else -age_N
        score_N = _norm(recency_N, is_late_N) + self.alpha * _norm(candidates.efficiency, is_late_N)
        score_N[is_late_N] = np.inf
        return candidates.nodes[int(score_N.argmin())]


def _norm(values_N: np.ndarray, is_out_N: np.ndarray) -> np.ndarray:
    low = values_N.min(where=~is_out_N, initial=np.inf)
    high = values_N.max(where=~is_out_N, initial=-np.inf)
    return (values_N - low) / (high - low) if high > low else np.zeros_like(values_N)
