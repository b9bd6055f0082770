"""Hidden-state alignment is its definition, loop for loop, and alone it brings a student near its teacher."""

from __future__ import annotations

import copy
import math
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tilth.errors import RecipeError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.layout import lay_out
from tilth.tokenize.order import SequencePlan
from tilth.trainer.data import Batch
from tilth.trainer.distill.alignment import Alignment
from tilth.trainer.distill.student import make_student, student_config
from tilth.trainer.next_token import NextToken


@pytest.fixture(autouse=True)
def _same_draws(fixed_seed: None) -> None:
    pass


def make_batch() -> Batch:
    targets = torch.randint(0, 43, (2, 14))
    targets[0, 5] = targets[1, -1] = -100
    return torch.randint(0, 43, (2, 14)), targets, torch.tensor([[0] * 6 + [1] * 8, [0] * 14], dtype=torch.int32)


def streams_of(model: Decoder, batch: Batch) -> list[Tensor]:
    """What each layer's norm reads in a plain forward pass, and the last norm."""
    read: list[Tensor] = []
    norms = [*(block.get_submodule("mixer_norm") for block in model.blocks), model.norm]
    hooks = [norm.register_forward_pre_hook(lambda _, given: read.append(given[0].detach())) for norm in norms]
    model(batch[0], batch[2])
    for hook in hooks:
        hook.remove()
    return read


@pytest.mark.parametrize("d_ff", [48, 0])
def test_it_is_the_distance_of_each_token_summed_over_the_layers(d_ff: int, make_model: Callable[..., Decoder]) -> None:
    teacher = make_model("AAA", d_ff=d_ff).double()
    student, batch = make_student(teacher, student_config(teacher.config, "DAM")), make_batch()
    streams, layout = streams_of(teacher, batch), lay_out(teacher.config, batch[0], batch[2], 0)
    wanted = np.zeros((2, 14))
    for number in (0, 2):
        block: Any = student.blocks[number]
        x = streams[number] + block.mixer(block.mixer_norm(streams[number]), layout)
        x = x + block.mlp(block.mlp_norm(x)) if d_ff else x
        difference = (x - streams[number + 1]).detach().numpy()
        for b, t in np.ndindex(2, 14):
            if batch[1][b, t] != -100:
                wanted[b, t] += math.sqrt(sum(value**2 for value in difference[b, t]))
    each_BT = torch.full((2, 14), 9.0, dtype=torch.float64)
    loss, count = Alignment(teacher).loss(student, batch, each_BT)
    assert count == 26
    assert loss.item() == pytest.approx(wanted.sum(), rel=1e-12)
    np.testing.assert_allclose(each_BT, wanted, rtol=1e-12)
    scores, n = Alignment(teacher).score(student, batch)
    assert (scores["loss"].item(), n) == (loss.item(), 26)


def test_it_is_nothing_where_the_layers_are_the_same(make_model: Callable[..., Decoder]) -> None:
    """A hybrid whose attention is replaced by nothing that acts: with outputs of zero, both layers write the same."""
    teacher = make_model("AA", d_ff=0).double()
    student = make_student(teacher, student_config(teacher.config, "DA"))
    with torch.no_grad():
        for model in (teacher, student):
            model.get_parameter("blocks.0.mixer.out_proj.weight").zero_()
    loss, _ = Alignment(teacher).loss(student, make_batch())
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)


def test_only_replaced_layers_have_gradients_and_only_their_mixers_if_the_rest_is_frozen(
    make_model: Callable[..., Decoder],
) -> None:
    teacher = make_model("AAA")
    student = make_student(teacher, student_config(teacher.config, "DAM"))
    Alignment(teacher).loss(student, make_batch())[0].backward()
    found = {name for name, p in student.named_parameters() if p.grad is not None and p.grad.any()}
    assert found == {name for name, _ in student.named_parameters() if name.startswith(("blocks.0.", "blocks.2."))}
    student.zero_grad()
    mixers = {name for name in found if ".mixer." in name}
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name in mixers)
    Alignment(teacher).loss(student, make_batch())[0].backward()
    assert {name for name, p in student.named_parameters() if p.grad is not None} == mixers
    assert all(p.grad is None for p in teacher.parameters())


def test_a_layer_is_aligned_whatever_the_others_are(make_model: Callable[..., Decoder]) -> None:
    teacher = make_model("AAA").double()
    student, batch = make_student(teacher, student_config(teacher.config, "DAD")), make_batch()

    def gradient() -> tuple[float, Tensor]:
        student.zero_grad()
        loss, _ = Alignment(teacher).loss(student, batch)
        loss.backward()
        grad = student.get_parameter("blocks.2.mixer.in_proj.weight").grad
        assert grad is not None
        return loss.item(), grad.clone()

    loss, grad = gradient()
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if not name.startswith(("blocks.0.", "blocks.2.")):
                parameter.normal_()
    assert gradient()[0] == loss
    with torch.no_grad():
        for parameter in student.blocks[0].parameters():
            parameter.normal_()
    changed, same = gradient()
    assert changed != loss
    assert torch.equal(same, grad)


def test_it_takes_rows_as_they_are_and_depends_on_no_seed(make_model: Callable[..., Decoder]) -> None:
    objective, row = Alignment(make_model("A")), (np.arange(3), np.arange(3), np.zeros(3, np.int32))
    assert objective.arrange(row, SequencePlan((), ()), 0, 0) is row
    assert isinstance(objective.for_validation(None), NextToken)
    assert (Alignment.scores, Alignment.reads_whole_documents) == (("loss",), False)


def test_a_model_that_has_no_layers_to_align_is_refused(make_model: Callable[..., Decoder]) -> None:
    teacher, batch = make_model("AA"), make_batch()
    with pytest.raises(RecipeError, match="nothing to make alike"):
        Alignment(teacher).loss(copy.deepcopy(teacher), batch)
    ladder = make_student(teacher, student_config(teacher.config, "DD", {"residual": "ladder"}))
    with pytest.raises(RecipeError, match="with residual='ladder' no one stream lies between two layers"):
        Alignment(teacher).loss(ladder, batch)


def test_a_teacher_in_half_precision_teaches_in_fp32(make_model: Callable[..., Decoder]) -> None:
    teacher = make_model("AA", scale=1.0)
    student, batch = make_student(teacher, student_config(teacher.config, "DD")), make_batch()
    exact, _ = Alignment(teacher).loss(student, batch)
    rounded, _ = Alignment(copy.deepcopy(teacher).to(torch.bfloat16)).loss(student, batch)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)


@pytest.fixture(scope="module")
def text() -> Tensor:
    """Letters of the standard library as ids below 96."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[::8]
    letters = np.frombuffer(b"".join(file.read_bytes() for file in files), np.uint8)
    return torch.from_numpy((letters[letters < 128].astype(np.int64) - 31).clip(0))


def read(text: Tensor, generator: np.random.Generator, n_rows: int = 16, n_tokens: int = 48) -> Batch:
    rows = torch.stack(
        [text[start : start + n_tokens + 1] for start in generator.integers(len(text) - n_tokens - 1, size=n_rows)]
    )
    return rows[:, :-1], rows[:, 1:], torch.zeros(n_rows, n_tokens, dtype=torch.int32)


def fit(model: Decoder, loss: Callable[[Batch], tuple[Tensor, Tensor]], text: Tensor, steps: int, lr: float) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, betas=(0.9, 0.95))
    generator = np.random.default_rng(3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / 5) * (1 - step / steps)
        total, count = loss(read(text, generator))
        optimizer.zero_grad()
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


@pytest.fixture(scope="module")
def teacher(text: Tensor, one_thread: None) -> Decoder:
    torch.manual_seed(0)
    model = Decoder(ModelConfig(vocab_size=97, d_model=48, layers="A*2", n_heads=4, n_kv_heads=2, d_ff=96, chunk_size=32))
    fit(model, lambda batch: model.loss(*batch), text, 120, 8e-3)
    return model


@torch.no_grad()
def divergence(student: Decoder, teacher: Decoder, text: Tensor) -> float:
    """Mean KL divergence of the student's next letter from the teacher's, in nats."""
    ids, _, _ = read(text, np.random.default_rng(99), 64)
    log_p, log_q = (model(ids).log_softmax(-1) for model in (teacher, student))
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


@pytest.mark.parametrize("letter", ["D", "M"])
def test_aligned_layers_make_a_model_near_its_teacher_and_nearer_from_attention(
    letter: str, teacher: Decoder, text: Tensor
) -> None:
    """The control has the same steps, rates and batches, and mixers that are drawn."""
    config, near = student_config(teacher.config, 2 * letter), {}
    for from_attention in (True, False):
        torch.manual_seed(1)
        student = make_student(teacher, config, from_attention)
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(".mixer." in name)
        before, objective = divergence(student, teacher, text), Alignment(teacher)
        fit(student, lambda batch: objective.loss(student, batch), text, 40, 1e-2)  # noqa: B023
        near[from_attention] = divergence(student, teacher, text)
        assert near[from_attention] < 0.4 * before
    assert near[True] < 0.85 * near[False]
