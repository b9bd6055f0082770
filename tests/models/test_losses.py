"""Cross entropy against its definition, the fused head against the plain one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tilth.models.losses import linear_cross_entropy, token_cross_entropy


def _targets(ignored: float = 0.3) -> Tensor:
    targets = torch.randint(0, 11, (3, 9))
    targets[torch.rand(3, 9) < ignored] = -100
    targets[0, 0] = 4
    return targets


def test_sum_and_count_by_hand() -> None:
    logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.2, 0.2, 0.6]]]))
    loss, count = token_cross_entropy(logits, torch.tensor([[0, 2, -100]]))
    assert float(loss) == pytest.approx(-math.log(0.5) - math.log(0.8))
    assert int(count) == 2


@pytest.mark.parametrize("chunk_tokens", [1, 4, 27, 512])
def test_fused_head_equals_the_plain_one(chunk_tokens: int) -> None:
    hidden = torch.randn(3, 9, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 6, dtype=torch.float64, requires_grad=True)
    targets = _targets()
    plain, plain_count = token_cross_entropy(hidden.float() @ weight.float().T, targets)
    exact = torch.nn.functional.cross_entropy(
        (hidden @ weight.T).flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"
    )
    fused, count = linear_cross_entropy(hidden, weight, targets, chunk_tokens)
    assert count == plain_count
    assert float(fused.detach()) == pytest.approx(float(exact.detach()), rel=1e-13)
    assert float(plain.detach()) == pytest.approx(float(exact.detach()), rel=1e-5)
    wanted = torch.autograd.grad(exact / 7, (hidden, weight))
    for ours, theirs in zip(torch.autograd.grad(fused / 7, (hidden, weight)), wanted, strict=True):
        assert (ours - theirs).abs().max() < 1e-14


def test_the_loss_of_each_token_is_given_beside_the_sum() -> None:
    hidden, weight, targets = torch.randn(3, 9, 6, requires_grad=True), torch.randn(11, 6), _targets()
    each = torch.full((3, 9), float("nan"))
    loss, _ = linear_cross_entropy(hidden, weight, targets, 4, each)
    wanted = torch.nn.functional.cross_entropy((hidden @ weight.T).flatten(0, 1), targets.flatten(), reduction="none")
    torch.testing.assert_close(each.flatten(), wanted.detach())
    assert torch.equal(each == 0, targets == -100)
    plain, _ = linear_cross_entropy(hidden, weight, targets, 4)
    assert torch.equal(loss, plain)


def test_fused_gradients_match_finite_differences() -> None:
    hidden = torch.randn(1, 5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[3, -100, 0, 6, 6]])
    assert torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, targets, 2)[0], (hidden, weight))


def test_nothing_to_predict_is_zero_and_not_nan() -> None:
    hidden, weight = torch.randn(1, 4, 6, requires_grad=True), torch.randn(11, 6, requires_grad=True)
    loss, count = linear_cross_entropy(hidden, weight, torch.full((1, 4), -100))
    loss.backward()
    assert (float(loss.detach()), int(count)) == (0.0, 0)
    assert weight.grad is not None
    assert torch.count_nonzero(weight.grad) == 0


def test_extreme_logits_stay_finite() -> None:
    hidden = torch.full((1, 2, 1), 1e4, requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    loss, _ = linear_cross_entropy(hidden, weight, torch.tensor([[1, 0]]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(2e4)
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


def test_no_gradient_is_made_when_none_is_asked_for() -> None:
    hidden, weight, targets = torch.randn(3, 9, 6), torch.randn(11, 6), _targets()
    loss, _ = linear_cross_entropy(hidden, weight, targets)
    assert not loss.requires_grad
    assert float(loss) == pytest.approx(float(token_cross_entropy(hidden @ weight.T, targets)[0]), rel=1e-5)
