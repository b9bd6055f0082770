"""sample(): the distribution that it promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tilth.errors import UserError
from tilth.inference.sampling import Sampling, sample

LOGITS = torch.tensor([2.0, 0.5, 1.0, -1.0, 0.0])
N = 40_000


def _frequencies(**how: Any) -> Tensor:
    uniform = torch.rand(N, generator=torch.Generator().manual_seed(11))
    return torch.bincount(sample(LOGITS.expand(N, -1), uniform, Sampling(**{"temperature": 1.0} | how)), minlength=5) / N


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_frequencies_follow_the_softmax(temperature: float) -> None:
    wanted = torch.exp(LOGITS / temperature)
    # 5 standard errors at 40,000 draws
    assert (_frequencies(temperature=temperature) - wanted / wanted.sum()).abs().max() < 0.0125


# the probabilities are 0.563, 0.126, 0.207, 0.028 and 0.076
@pytest.mark.parametrize(
    ("how", "kept"),
    [
        ({"top_k": 2}, [0, 2]),
        ({"top_p": 0.55}, [0]),
        ({"top_p": 0.76}, [0, 2]),
        ({"top_p": 0.8}, [0, 1, 2]),
        ({"min_p": 0.2}, [0, 1, 2]),
        ({"min_p": 1.0}, [0]),
        ({"allowed_ids": (1, 3, 4)}, [1, 3, 4]),
        ({"allowed_ids": (1, 3, 4), "top_k": 2}, [1, 4]),
        ({"top_k": 3, "top_p": 0.8}, [0, 2]),
        ({"top_k": 99}, [0, 1, 2, 3, 4]),
    ],
)
def test_limits_renormalise_over_what_they_keep(how: dict[str, Any], kept: list[int]) -> None:
    weights = torch.zeros(5)
    weights[kept] = LOGITS[kept].exp()
    found = _frequencies(**how)
    assert (found - weights / weights.sum()).abs().max() < 0.0125
    assert found[weights == 0].sum() == 0


def test_a_row_depends_on_its_own_logits_and_chance_alone() -> None:
    logits, uniform = torch.randn(6, 50), torch.rand(6)
    how = Sampling(temperature=0.9, top_k=20, top_p=0.9)
    alone = torch.cat([sample(logits[i : i + 1], uniform[i : i + 1], how) for i in range(6)])
    assert torch.equal(sample(logits, uniform, how), alone)


def test_the_ends_of_chance_draw_the_first_and_the_last_possible_token() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).expand(2, -1)
    uniform = torch.tensor([0.0, 1 - 2**-24])
    assert sample(logits, uniform, Sampling(temperature=1.0)).tolist() == [1, 2]


def test_greedy_takes_the_largest_allowed_of_each_row() -> None:
    logits = torch.stack([LOGITS, -LOGITS])
    assert sample(logits, torch.zeros(2), Sampling()).tolist() == [0, 3]
    assert sample(logits, torch.zeros(2), Sampling(allowed_ids=(1, 2))).tolist() == [2, 1]


def test_a_tiny_temperature_is_greedy_and_finite() -> None:
    drawn = sample(1e4 * LOGITS.expand(50, -1), torch.rand(50), Sampling(temperature=1e-6))
    assert drawn.unique().tolist() == [0]


@pytest.mark.parametrize(
    "how",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}, {"min_p": -0.1},
     {"min_p": 2.0}, {"allowed_ids": ()}],
)  # fmt: skip
def test_impossible_settings_are_refused(how: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(how))):
        Sampling(**how)
