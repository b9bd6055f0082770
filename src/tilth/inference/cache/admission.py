"""Which states are worth keeping: at branch points, found among what is here or what was, and how many on a path."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Admission:
    """At most two checkpoints a request (arXiv 2411.19379, 4.1): after the last token, and where its input leaves a known path.

    keeps_branch_points False: only the first of the two. recalls_evicted: a path is known, too, when its keys were evicted and
    its tokens are remembered (the paper knows only what is in its tree). max_checkpoints_per_path bounds those between a root
    and a leaf: for a new one goes the shallowest that never was a branch point (None: no bound).
    """

    keeps_branch_points: bool = True
    recalls_evicted: bool = True
    max_checkpoints_per_path: int | None = None


AS_PUBLISHED = Admission(recalls_evicted=False)
