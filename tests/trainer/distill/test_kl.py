"""The divergences are torch's, of tokens and not of batches, whatever the chunks; buckets are what brute force says."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tilth.trainer.distill.kl import Buckets, divergence, linear_distillation, of_hidden, of_stored, top_k

V, D, E = 13, 6, 5


def draw(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Hidden and head of a student and of a teacher of another width, and targets of which some do not count."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (n, D), (V, D), (n, E), (V, E)
    hidden, weight, hidden_t, weight_t = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
    targets = torch.randint(0, V, (n,), generator=generator)
    targets[torch.rand(n, generator=generator) < 0.3] = -100
    return hidden, weight, hidden_t, weight_t, targets


def naive(
    student_SV: Tensor, teacher_SV: Tensor, targets_S: Tensor, is_reverse: bool, temperature: float, ce_weight: float
) -> Tensor:
    """By torch's own functions: the loss of each token, 0 where none is."""
    log_q, log_p = (torch.log_softmax(logits / temperature, -1) for logits in (student_SV, teacher_SV))
    of, against = (log_p, log_q) if is_reverse else (log_q, log_p)
    kl_S = functional.kl_div(of, against, log_target=True, reduction="none").sum(-1)
    ce_S = functional.cross_entropy(student_SV, targets_S, ignore_index=-100, reduction="none")
    return torch.where(targets_S != -100, (1 - ce_weight) * kl_S + ce_weight * ce_S, 0)


SETTINGS = [(reverse, temperature, ce) for reverse in (False, True) for temperature in (1.0, 2.5) for ce in (0.0, 0.3, 1.0)]


@pytest.mark.parametrize(("is_reverse", "temperature", "ce_weight"), SETTINGS)
@pytest.mark.parametrize("chunk", [None, 1, 3, 7])
def test_loss_and_gradients_are_those_of_torch(is_reverse: bool, temperature: float, ce_weight: float, chunk: int | None) -> None:
    hidden, weight, hidden_t, weight_t, targets = draw(17)
    ours, theirs = ([tensor.clone().requires_grad_() for tensor in (hidden, weight)] for _ in range(2))
    each = torch.full((17,), 9.0, dtype=torch.float64)
    teacher = of_hidden(hidden_t, weight_t, temperature)
    loss, count = linear_distillation(
        *ours, targets, teacher, is_reverse=is_reverse, temperature=temperature, ce_weight=ce_weight, chunk_tokens=chunk,
        each_S=each,
    )  # fmt: skip
    wanted_S = naive(theirs[0] @ theirs[1].T, hidden_t @ weight_t.T, targets, is_reverse, temperature, ce_weight)
    torch.testing.assert_close(loss, wanted_S.sum(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(each, wanted_S.detach(), rtol=1e-12, atol=1e-12)
    assert int(count) == int((targets != -100).sum()) < 17
    for found, wanted in zip(
        torch.autograd.grad(loss * 0.7, ours), torch.autograd.grad(wanted_S.sum() * 0.7, theirs), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


def test_a_mean_is_one_over_tokens_however_they_are_cut_into_sequences() -> None:
    """torch's "batchmean" over (B, T, V) would give T times as much for one sequence as for T of one token."""
    hidden, weight, hidden_t, weight_t, targets = draw(24)
    targets[:] = 1
    loss, count = linear_distillation(hidden, weight, targets, of_hidden(hidden_t, weight_t, 1.0))
    parts = [
        linear_distillation(hidden[part], weight, targets[part], of_hidden(hidden_t[part], weight_t, 1.0))
        for part in (slice(0, 5), slice(5, 24))
    ]
    torch.testing.assert_close(sum(part for part, _ in parts), loss, rtol=1e-12, atol=0)
    twice, twice_count = linear_distillation(
        hidden.repeat(2, 1), weight, targets.repeat(2), of_hidden(hidden_t.repeat(2, 1), weight_t, 1.0)
    )
    torch.testing.assert_close(twice / twice_count, loss / count, rtol=1e-12, atol=0)
    wanted = functional.kl_div(
        (hidden @ weight.T).log_softmax(-1), (hidden_t @ weight_t.T).log_softmax(-1), log_target=True, reduction="batchmean"
    )
    torch.testing.assert_close(loss / count, wanted, rtol=1e-12, atol=0)  # of rows (tokens, V), where both agree


def brute_force(student_SV: Tensor, log_p: Tensor, ids: Tensor, is_reverse: bool) -> Tensor:
    """Bucket by bucket, in plain probabilities."""
    total = student_SV.new_zeros(())
    for row, logits in enumerate(student_SV):
        q = torch.softmax(logits, -1)
        own = ids[row].tolist()
        buckets = [[i] for i in own] + ([[i for i in range(V) if i not in own]] if len(own) < V else [])
        for number, bucket in enumerate(buckets):
            p_b, q_b = log_p[row, number].exp(), q[bucket].sum()
            total = total + (q_b * (q_b / p_b).log() if is_reverse else p_b * (p_b / q_b).log())
    return total


@pytest.mark.parametrize("is_reverse", [False, True])
@pytest.mark.parametrize("k", [1, 4, V - 1, V])
def test_top_k_counts_all_others_together(k: int, is_reverse: bool) -> None:
    hidden, weight, hidden_t, weight_t, targets = draw(9, seed=k)
    targets[:] = 0
    said = top_k(of_hidden(hidden_t, weight_t, 1.5)(torch.arange(9)), k)
    assert said.ids is not None
    torch.testing.assert_close(said.log_p.exp().sum(-1), torch.ones(9, dtype=torch.float64), rtol=1e-12, atol=0)
    ours, theirs = ([tensor.clone().requires_grad_() for tensor in (hidden, weight)] for _ in range(2))
    loss, _ = linear_distillation(
        *ours, targets, of_stored(said.log_p, said.ids, 1.5), is_reverse=is_reverse, temperature=1.5, chunk_tokens=4
    )
    wanted = brute_force(theirs[0] @ theirs[1].T / 1.5, said.log_p, said.ids, is_reverse)
    torch.testing.assert_close(loss, wanted, rtol=1e-10, atol=1e-12)
    for found, own in zip(torch.autograd.grad(loss, ours), torch.autograd.grad(wanted, theirs), strict=True):
        torch.testing.assert_close(found, own, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("is_reverse", [False, True])
def test_top_k_is_at_most_the_whole_divergence_and_all_ids_are_it(is_reverse: bool) -> None:
    """Data processing: coarser buckets tell less apart."""
    hidden, weight, hidden_t, weight_t, targets = draw(40)
    targets[:] = 0
    settings: dict[str, Any] = {"is_reverse": is_reverse}
    whole, _ = linear_distillation(hidden, weight, targets, of_hidden(hidden_t, weight_t, 1.0), **settings)
    found = []
    for k in range(1, V + 1):
        said = top_k(of_hidden(hidden_t, weight_t, 1.0)(torch.arange(40)), k)
        found.append(float(linear_distillation(hidden, weight, targets, of_stored(*said, 1.0), **settings)[0]))
    assert all(low <= high + 1e-12 for low, high in itertools.pairwise(found))
    assert found[0] < 0.9 * float(whole)
    assert found[-1] == pytest.approx(float(whole), rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_stored_in_half_precision_it_is_the_teacher_to_that_rounding(temperature: float) -> None:
    hidden, weight, hidden_t, weight_t, targets = draw(40)
    wanted, _ = linear_distillation(hidden, weight, targets, of_hidden(hidden_t, weight_t, temperature), temperature=temperature)
    log_p = (hidden_t @ weight_t.T).log_softmax(-1).half()
    found, _ = linear_distillation(hidden, weight, targets, of_stored(log_p, None, temperature), temperature=temperature)
    assert 0 < abs(float(found - wanted)) < 1e-3 * float(wanted)


def test_certain_teachers_and_students_stay_finite() -> None:
    """A logit of 1e4 is a probability of 1 and others of 0: no NaN from 0 * log 0."""
    for k in (2, V):
        logits = torch.full((1, V), -1e4)
        logits[0, 3] = 1e4
        said = top_k(Buckets(torch.log_softmax(logits, -1)), k)
        for reverse in (False, True):
            for log_q in (torch.log_softmax(logits, -1), torch.log_softmax(torch.zeros(1, V), -1)):
                loss, gradient = divergence(log_q, said, is_reverse=reverse)
                assert bool(torch.isfinite(loss).all())
                assert bool(torch.isfinite(gradient).all())


def test_no_target_is_no_loss_and_no_question_to_the_teacher() -> None:
    hidden, weight, *_ = draw(4)

    def refuses(places: Tensor) -> Buckets:
        raise AssertionError(f"was asked about {places}")

    weight.requires_grad_()
    loss, count = linear_distillation(hidden, weight, torch.full((4,), -100), refuses)
    loss.backward()
    assert (float(loss.detach()), int(count)) == (0.0, 0)
    assert weight.grad is not None
    assert not weight.grad.any()


def test_products_follow_autocast_and_sums_do_not() -> None:
    hidden, weight, hidden_t, weight_t, targets = (
        tensor.float() if tensor.is_floating_point() else tensor for tensor in draw(40)
    )
    hidden.requires_grad_()
    wanted, _ = linear_distillation(hidden, weight, targets, of_hidden(hidden_t, weight_t, 1.0))
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = linear_distillation(hidden, weight, targets, of_hidden(hidden_t, weight_t, 1.0))
    assert found.dtype == torch.float32
    assert 0 < abs(float(found.detach() - wanted.detach())) < 0.02 * float(wanted.detach())
    (gradient,) = torch.autograd.grad(found, [hidden])
    assert gradient.dtype == torch.float32
