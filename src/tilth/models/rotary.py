"""How fast each pair of channels turns with the position (RoPE), and what slows it down for longer texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tilth.errors import RecipeError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Which of the two it is shows in its keys: `linear` of Chen et al. 2023, or that of Llama 3.1.
LINEAR = frozenset({"factor"})
LLAMA3 = LINEAR | {"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}


def check_scaling(scaling: object) -> dict[str, float]:
    """The scaling as a mapping of positive numbers with the keys of LINEAR or of LLAMA3; raises RecipeError."""
    if not isinstance(scaling, Mapping) or set(scaling) not in (LINEAR, LLAMA3):
        fix = f"give {', '.join(sorted(LINEAR))} (linear), or {', '.join(sorted(LLAMA3))} (llama3)"
        raise RecipeError(f"the model's rope_scaling is {scaling!r}", "ModelConfig.rope_scaling", fix)
    for name, value in scaling.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise RecipeError(f"rope_scaling has {name} = {value!r}", "ModelConfig.rope_scaling", "it must be a positive number")
    if len(scaling) > 1 and scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
        fix = "low_freq_factor must be below high_freq_factor"
        raise RecipeError("rope_scaling has its two frequencies the wrong way round", "ModelConfig.rope_scaling", fix)
    return dict(scaling)


def frequencies(theta: float, n_pairs: int, scaling: Mapping[str, float] | None, device: torch.device) -> Tensor:
    """Radians per position of the n_pairs pairs, (R,) fp64: theta^(-i / n_pairs), then as `scaling` has it.

    linear divides all of them by `factor`. llama3 divides those that turn less than low_freq_factor times within
    original_max_position_embeddings, keeps those that turn more than high_freq_factor times, and blends in between.
    Sources: Su et al. 2021, section 3.4.3; Llama 3.1 (Grattafiori et al. 2024) as released.
    """
    import torch

    plain_R = theta ** -(torch.arange(n_pairs, device=device, dtype=torch.float64) / n_pairs)
    if scaling is None:
        return plain_R
    if set(scaling) == LINEAR:
        return plain_R / scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns_R = plain_R * scaling["original_max_position_embeddings"] / (2 * math.pi)
    kept_R = ((turns_R - low) / (high - low)).clamp(0, 1)
    return plain_R * (kept_R + (1 - kept_R) / scaling["factor"])
