"""Which states are worth keeping: where a request's prefill is cut for one, and how many a path may hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Admission:
    """At most two checkpoints a request (arXiv 2411.19379, 4.1): after the last token, and where its input leaves a known path.

    keeps_branch_points False: only the first of the two. max_checkpoints_per_path bounds those between a root and a leaf: the
    new one counts, and one that was never a branch point goes for it, the shallowest first (None: no bound).
    """

    keeps_branch_points: bool = True
    max_checkpoints_per_path: int | None = None

    def branch_point(self, n_reused: int, n_known: int, n_tokens: int) -> int | None:
        """Where to cut the prefill of n_tokens, of which n_known are in the tree and n_reused come with a state; None: nowhere.

        The last token is always read, so that there are logits to go on from.
        """
        cut = min(n_known, n_tokens - 1)
        return cut if self.keeps_branch_points and cut > n_reused else None
