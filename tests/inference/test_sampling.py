"""sample(): the distribution that it promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tilth.inference.sampling import sample

LOGITS = torch.tensor([2.0, 0.5, 1.0, -1.0, 0.0])


def _frequencies(temperature: float, top_k: int | None = None, n: int = 40_000) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    drawn = sample(LOGITS.expand(n, -1), generator, temperature, top_k)
    return torch.bincount(drawn, minlength=5) / n


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_frequencies_follow_the_softmax(temperature: float) -> None:
    wanted = torch.exp(LOGITS / temperature)
    # 5 standard errors at 40,000 draws
    assert (_frequencies(temperature) - wanted / wanted.sum()).abs().max() < 0.0125


def test_top_k_renormalises_over_the_k_largest() -> None:
    wanted = torch.tensor([1.0, 0, 1, 0, 0]) * torch.exp(LOGITS)
    found = _frequencies(1.0, top_k=2)
    assert (found - wanted / wanted.sum()).abs().max() < 0.0125
    assert found[[1, 3, 4]].tolist() == [0, 0, 0]


def test_top_k_beyond_the_vocabulary_is_no_limit() -> None:
    assert torch.equal(_frequencies(1.0, top_k=5), _frequencies(1.0, top_k=99))


def test_greedy_takes_the_largest_of_each_row() -> None:
    logits = torch.stack([LOGITS, -LOGITS])
    assert sample(logits, torch.Generator()).tolist() == [0, 3]


def test_a_tiny_temperature_is_greedy_and_finite() -> None:
    drawn = sample(1e4 * LOGITS.expand(50, -1), torch.Generator().manual_seed(0), 1e-6)
    assert drawn.unique().tolist() == [0]
