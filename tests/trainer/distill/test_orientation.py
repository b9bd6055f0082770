"""Matrix orientation is its definition, loop for loop; a teacher that a student can express is recovered."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tilth.errors import RecipeError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.mixers.discrete_mamba2 import DiscreteMamba2
from tilth.tokenize.order import SequencePlan
from tilth.trainer.data import Batch
from tilth.trainer.distill.orientation import Orientation
from tilth.trainer.distill.student import make_student, student_config
from tilth.trainer.next_token import NextToken

LENGTHS = [[5, 1, 8], [14]]


@pytest.fixture(autouse=True)
def _same_draws(fixed_seed: None) -> None:
    pass


def make_batch() -> Batch:
    ids_BT = torch.randint(0, 43, (2, 14))
    numbers = [torch.arange(len(row)).repeat_interleave(torch.tensor(row)) for row in LENGTHS]
    arranged = [
        Orientation(Decoder(ModelConfig(vocab_size=8, d_model=8, layers="A", n_heads=1))).arrange(
            (ids.numpy(), ids.numpy(), segments.to(torch.int32).numpy()), SequencePlan((), ()), 0, 0
        )
        for ids, segments in zip(ids_BT, numbers, strict=True)
    ]
    ids_BT, targets_BT, segments_BT = (torch.from_numpy(np.stack(column)) for column in zip(*arranged, strict=True))
    return ids_BT, targets_BT, segments_BT


def softmax_matrix(mixer: Any, x_TD: np.ndarray, theta: float | None) -> np.ndarray:
    """(H, T, T) of one document, with rotations as complex numbers."""
    heads, groups, width = mixer.n_heads, mixer.n_kv_heads, mixer.head_dim
    q, k, _ = np.split(
        (x_TD @ mixer.qkv_proj.weight.detach().numpy().T).reshape(len(x_TD), -1, width), [heads, heads + groups], 1
    )
    if theta is not None:
        turns = np.exp(1j * np.arange(len(x_TD))[:, None, None] * theta ** (-np.arange(width // 2) / (width // 2)))
        q, k = (
            np.concatenate([p.real, p.imag], -1)
            for p in ((h[..., : width // 2] + 1j * h[..., width // 2 :]) * turns for h in (q, k))
        )
    found = np.zeros((heads, len(x_TD), len(x_TD)))
    for h, t in np.ndindex(found.shape[:2]):
        scores = np.exp([q[t, h] @ k[s, h // (heads // groups)] / math.sqrt(width) for s in range(t + 1)])
        found[h, t, : t + 1] = scores / scores.sum()
    return found


def discrete_matrix(mixer: Any, x_TD: np.ndarray) -> np.ndarray:
    """(H, T, T) of one document, the convolution and the decays written out."""
    inner, width, groups = mixer.d_inner, mixer.n_groups * mixer.d_state, mixer.n_groups
    rows = x_TD @ mixer.in_proj.weight.detach().numpy().T
    taps, bias = mixer.conv_weight.detach().numpy(), mixer.conv_bias.detach().numpy()
    mixed = np.zeros((len(x_TD), inner + 2 * width)) + bias
    for t in range(len(x_TD)):
        for lag in range(min(taps.shape[1], t + 1)):
            mixed[t] += taps[:, -1 - lag] * rows[t - lag, : inner + 2 * width]
    B, C = (part.reshape(len(x_TD), groups, -1) for part in (mixed[:, inner : inner + width], mixed[:, inner + width :]))
    decay = 1 / (1 + np.exp(rows[:, -mixer.n_heads :]))
    found = np.zeros((mixer.n_heads, len(x_TD), len(x_TD)))
    for h, t in np.ndindex(found.shape[:2]):
        for s in range(t + 1):
            found[h, t, s] = C[t, h] @ B[s, h] * np.prod(decay[s + 1 : t + 1, h])
    return found


def read_by_mixers(model: Decoder, batch: Batch) -> list[np.ndarray]:
    """What each mixer reads in a plain forward pass."""
    read: list[Tensor] = []
    hooks = [
        block.get_submodule("mixer").register_forward_pre_hook(lambda _, given: read.append(given[0])) for block in model.blocks
    ]
    model(batch[0], batch[2])
    for hook in hooks:
        hook.remove()
    return [x.detach().numpy() for x in read]


@pytest.mark.parametrize("theta", [10_000.0, None])
def test_it_is_the_mean_over_heads_of_the_norms_of_the_differences(
    theta: float | None, make_model: Callable[..., Decoder]
) -> None:
    teacher = make_model("AAA", rope_theta=theta).double()
    student = make_student(teacher, student_config(teacher.config, "DAD"))
    with torch.no_grad():
        for name, weight in student.named_parameters():
            weight += 0.1 * torch.randn_like(weight) * ("mixer." in name)
    batch = make_batch()
    read, wanted = read_by_mixers(teacher, batch), list[float]()
    for row, lengths in enumerate(LENGTHS):
        total = 0.0
        for number in (0, 2):
            old, new = (model.get_submodule(f"blocks.{number}.mixer") for model in (teacher, student))
            difference = np.zeros((4, 14, 14))
            for start, length in zip(np.cumsum([0, *lengths[:-1]]), lengths, strict=True):
                here = slice(start, start + length)
                x_TD = read[number][row, here]
                # the teacher's rotations are fp32 tables
                difference[:, here, here] = discrete_matrix(new, x_TD) - softmax_matrix(old, x_TD, theta)
            total += sum(math.sqrt((difference[h] ** 2).sum()) for h in range(4)) / 4
        wanted.append(total)
    each_BT = torch.full((2, 14), 9.0, dtype=torch.float64)
    loss, count = Orientation(teacher).loss(student, batch, each_BT)
    assert count == 2
    assert loss.item() == pytest.approx(sum(wanted), rel=1e-10 if theta is None else 1e-6)
    np.testing.assert_allclose(each_BT[:, 0], wanted, rtol=1e-6)
    assert not each_BT[:, 1:].any()
    scores, n = Orientation(teacher).score(student, batch)
    assert (scores["loss"].item(), n) == (loss.item(), 2)


def test_sequences_add_up_and_one_without_a_target_counts_nothing(make_model: Callable[..., Decoder]) -> None:
    teacher = make_model("AA").double()
    student, batch = make_student(teacher, student_config(teacher.config, "DD")), make_batch()
    objective = Orientation(teacher)
    whole, _ = objective.loss(student, batch)
    parts = [objective.loss(student, (batch[0][i : i + 1], batch[1][i : i + 1], batch[2][i : i + 1])) for i in range(2)]
    assert sum(float(loss.detach()) for loss, _ in parts) == pytest.approx(whole.item(), rel=1e-12)
    batch[1][1] = -100  # read for company only
    alone, count = objective.loss(student, batch)
    assert count == 1
    assert alone.item() == pytest.approx(parts[0][0].item(), rel=1e-12)
    assert isinstance(objective.for_validation(None), NextToken)


def test_a_row_has_one_target_and_stays_as_it_is(make_model: Callable[..., Decoder]) -> None:
    ids, targets, segments = np.arange(6), np.full(6, -100), np.array([0, 0, 1, 1, 1, 2], np.int32)
    shown, asked, same = Orientation(make_model("A")).arrange((ids, targets, segments), SequencePlan((), ()), 3, 1)
    assert (shown.tolist(), same.tolist()) == (ids.tolist(), segments.tolist())
    assert (asked != -100).nonzero()[0].tolist() == [0]
    assert asked.dtype == np.int64


@pytest.mark.parametrize("letter", ["D", "M"])
def test_only_what_makes_the_matrix_of_a_replaced_mixer_has_a_gradient(letter: str, make_model: Callable[..., Decoder]) -> None:
    teacher = make_model("AAA")
    student = make_student(teacher, student_config(teacher.config, f"{letter}A{letter}"))
    Orientation(teacher).loss(student, make_batch())[0].backward()
    found = {name for name, p in student.named_parameters() if p.grad is not None and p.grad.any()}
    parts = {"in_proj.weight", "conv_weight", "conv_bias"} | ({"dt_bias", "A_log"} if letter == "M" else set())
    assert found == {f"blocks.{number}.mixer.{part}" for number in (0, 2) for part in parts}
    assert all(p.grad is None for p in teacher.parameters())
    assert all(".mixer." in name for name, p in student.named_parameters() if p.grad is not None)


def test_a_layer_is_oriented_whatever_the_others_are(make_model: Callable[..., Decoder]) -> None:
    teacher = make_model("AAA").double()
    student, batch = make_student(teacher, student_config(teacher.config, "DAD")), make_batch()

    def gradient(model: Decoder) -> tuple[float, Tensor]:
        model.zero_grad()
        loss, _ = Orientation(teacher).loss(model, batch)
        loss.backward()
        grad = model.get_parameter("blocks.2.mixer.in_proj.weight").grad
        assert grad is not None
        return loss.item(), grad.clone()

    loss, grad = gradient(student)
    others = [p for name, p in student.named_parameters() if not name.startswith(("blocks.0.mixer.", "blocks.2.mixer."))]
    with torch.no_grad():
        for parameter in others:
            parameter.normal_()
    assert gradient(student)[0] == loss
    with torch.no_grad():
        student.get_parameter("blocks.0.mixer.in_proj.weight").normal_()
    changed, same = gradient(student)
    assert changed != loss
    assert torch.equal(same, grad)


def linear_teacher(make_model: Callable[..., Decoder], layers: str = "AA") -> tuple[Decoder, ModelConfig]:
    """A model whose attention is linear and decays, so that a student can express it; and that student's config."""
    teacher = make_model(layers, scale=1.0, d_model=16, n_heads=2, n_kv_heads=2, d_ff=24).double()
    config = student_config(teacher.config, "D" * len(layers))
    for block in teacher.blocks:
        mixer = DiscreteMamba2(config).double()
        with torch.no_grad():
            mixer.in_proj.weight.mul_(2)
        block.mixer = mixer
    return teacher, config


def test_a_linear_teacher_is_recovered_by_construction(make_model: Callable[..., Decoder]) -> None:
    teacher, config = linear_teacher(make_model)
    student = Decoder(config).double()
    for old, new in zip(teacher.blocks, student.blocks, strict=True):
        new.get_submodule("mixer").load_state_dict(old.get_submodule("mixer").state_dict())
    loss, _ = Orientation(teacher).loss(student, make_batch())
    assert loss.item() == 0
    loss.backward()
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    assert gradients
    assert not any(grad.any() or grad.isnan().any() for grad in gradients)


def test_a_linear_teacher_is_recovered_by_training(make_model: Callable[..., Decoder]) -> None:
    teacher, config = linear_teacher(make_model, "A")
    student = Decoder(config).double()
    objective, steps, losses = Orientation(teacher), 400, []
    optimizer = torch.optim.Adam(student.parameters(), lr=1, betas=(0.9, 0.95))
    for step in range(steps):
        # the gradient of a norm does not shrink with it, so the rate must
        optimizer.param_groups[0]["lr"] = 3e-2 * (1 - step / steps)
        ids = torch.randint(0, 43, (4, 10))
        loss, count = objective.loss(student, (ids, ids, torch.zeros(4, 10, dtype=torch.int32)))
        optimizer.zero_grad()
        (loss / count).backward()
        optimizer.step()
        losses.append(float(loss.detach() / count))
    assert losses[-1] < 0.02 * losses[0]


def test_a_student_that_cannot_be_compared_is_refused(make_model: Callable[..., Decoder]) -> None:
    teacher, batch = make_model("AA"), make_batch()
    other_heads = student_config(teacher.config, "DA", {"ssm_head_dim": 16, "n_groups": 2})
    for student, message in (
        (copy.deepcopy(teacher), "nothing to make alike"),
        (make_model("A"), "the student has 1 layers, its teacher 2"),
        (make_model("MA", d_model=64), "the student's d_model is 64, its teacher's 32"),
        (make_student(teacher, other_heads, from_attention=False), "layer 0 of the student has 2 heads, that of its teacher 4"),
        (make_student(teacher, student_config(teacher.config, "AS", {"ssm_head_dim": 8}), False), "layer 1, S, is no one matrix"),
    ):
        with pytest.raises(RecipeError, match=message):
            Orientation(teacher).loss(student, batch)
    ladder = make_model("AA", residual="ladder")
    with pytest.raises(RecipeError, match="no one stream lies between two layers"):
        Orientation(ladder).loss(make_student(ladder, student_config(ladder.config, "DD")), batch)


def test_a_teacher_in_half_precision_teaches_in_fp32(make_model: Callable[..., Decoder]) -> None:
    teacher = make_model("AA", scale=1.0)
    student, batch = make_student(teacher, student_config(teacher.config, "DD")), make_batch()
    exact, _ = Orientation(teacher).loss(student, batch)
    rounded, _ = Orientation(copy.deepcopy(teacher).to(torch.bfloat16)).loss(student, batch)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)


def test_it_is_a_module_free_of_state() -> None:
    assert not isinstance(Orientation, nn.Module)
    assert (Orientation.scores, Orientation.reads_whole_documents) == (("loss",), False)
