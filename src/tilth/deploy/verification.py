"""What a delta costs and what it keeps, measured on the files as they lie on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tilth.deploy.delta import Delta, add_in_place
from tilth.deploy.delta_file import load_delta
from tilth.deploy.overlay import logits_of
from tilth.deploy.teacher import Teacher
from tilth.deploy.token_batches import TokenBatch
from tilth.errors import DeltaError
from tilth.models.decoder import Decoder
from tilth.models.losses import token_cross_entropy
from tilth.models.weights import WEIGHTS_FILE, load_model, weights_digest

BF16_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class Verification:
    """How base, fine-tune and base + delta do on the same held-out sequences, and how large the delta is.

    loss_*: mean cross entropy in nats per token; accuracy_*: share of tokens that are the likeliest; agreement: share of
    positions where base + delta and fine-tune have the same likeliest token; logit errors are between these two. task_*: share
    of a task's answers that greedy decoding gives exactly, task_accuracy_* of their tokens (None = no task was given).
    size_bytes is the delta file, full_size_bytes the fine-tune's model.safetensors as it is stored (often fp32), ratio the one
    over the other; bf16_bytes is what all its weights take in bf16, bf16_ratio that over the file. The file's bytes by kind:
    matrix_bytes of the blocks, table_bytes of embedding and head, other_bytes of all else with the header; matrix_bf16_bytes
    is what the encoded matrices take in bf16.
    """

    loss_base: float
    loss_tuned: float
    loss_delta: float
    accuracy_base: float
    accuracy_tuned: float
    accuracy_delta: float
    agreement: float
    max_logit_error: float
    mean_squared_logit_error: float
    n_predictions: int
    task_base: float | None = None
    task_tuned: float | None = None
    task_delta: float | None = None
    task_accuracy_base: float | None = None
    task_accuracy_tuned: float | None = None
    task_accuracy_delta: float | None = None
    n_task_answers: int = 0
    size_bytes: int
    full_size_bytes: int
    ratio: float
    bf16_bytes: int
    bf16_ratio: float
    matrix_bytes: int
    table_bytes: int
    other_bytes: int
    matrix_bf16_bytes: int


@torch.no_grad()
def verify(
    base_folder: Path,
    tuned_folder: Path,
    delta_path: Path,
    batches: Sequence[TokenBatch],
    task: Sequence[TokenBatch] = (),
) -> Verification:
    """Compare base, fine-tune and base + delta, each read from disk, on the same sequences; one model is held at a time.

    task: prompts with answers, whose tokens alone count, a row each. Raises DeltaError when the delta is damaged, was made for
    another base or from another fine-tune, or when no position of the sequences counts.
    """
    base_folder, tuned_folder, delta_path = Path(base_folder), Path(tuned_folder), Path(delta_path)
    delta = load_delta(delta_path)
    if not any(bool(batch.kept.any()) for batch in batches):
        raise DeltaError("there is no token to verify on", where=f"{len(batches)} batches", fix="Give longer documents.")
    tuned = load_model(tuned_folder)
    _check_tuned(tuned, delta, tuned_folder)
    n_weights = sum(parameter.numel() for parameter in tuned.parameters())
    teacher = Teacher.of(tuned, batches)
    readings = {"tuned": _read(tuned, teacher)}
    tasks = {"tuned": _answer(tuned, task)}
    del tuned
    model = load_model(base_folder)
    readings["base"], tasks["base"] = _read(model, teacher), _answer(model, task)
    add_in_place(delta, model.state_dict())
    readings["delta"], tasks["delta"] = _read(model, teacher), _answer(model, task)
    found: dict[str, float | None] = {}
    for name in ("base", "tuned", "delta"):
        found |= {f"loss_{name}": readings[name].loss, f"accuracy_{name}": readings[name].accuracy}
        found |= {f"task_{name}": tasks[name][0], f"task_accuracy_{name}": tasks[name][1]}
    ours = readings["delta"]
    return Verification(
        **found,  # type: ignore[arg-type]  # of three models, each what its name says
        agreement=ours.agreement,
        max_logit_error=ours.largest_error,
        mean_squared_logit_error=ours.mean_squared_error,
        n_predictions=ours.n_predictions,
        n_task_answers=sum(len(batch.ids_BT) for batch in task),
        **_sizes(delta, delta_path.stat().st_size, (tuned_folder / WEIGHTS_FILE).stat().st_size, BF16_BYTES * n_weights),  # type: ignore[arg-type]
    )


@dataclass(frozen=True)
class _Reading:
    """A model's reading of the teacher's batches."""

    loss: float
    accuracy: float
    agreement: float
    largest_error: float
    mean_squared_error: float
    n_predictions: int


def _read(model: Decoder, teacher: Teacher) -> _Reading:
    loss, n_right, n_agreeing, largest, squares, n_values, n_predictions = 0.0, 0, 0, 0.0, 0.0, 0, 0
    for number, batch in enumerate(teacher.batches):
        logits_SV = logits_of(model, batch)
        wanted_SV, targets_S = teacher.logits(number), batch.targets_BT[batch.kept]
        loss += token_cross_entropy(logits_SV, targets_S)[0].item()
        likeliest_S = logits_SV.argmax(1)
        n_right += int((likeliest_S == targets_S).sum())
        n_agreeing += int((likeliest_S == wanted_SV.argmax(1)).sum())
        error_SV = (logits_SV - wanted_SV).double()
        largest = max(largest, error_SV.abs().max().item())
        squares += error_SV.square().sum().item()
        n_values += error_SV.numel()
        n_predictions += len(targets_S)
    shares = (loss / n_predictions, n_right / n_predictions, n_agreeing / n_predictions)
    return _Reading(*shares, largest, squares / n_values, n_predictions)


def _answer(model: Decoder, task: Sequence[TokenBatch]) -> tuple[float | None, float | None]:
    """The share of answers whose every token is the likeliest after those before it, which is greedy decoding; and of tokens."""
    n_exact, n_rows, n_right, n_tokens = 0, 0, 0, 0
    for batch in task:
        is_right_S = logits_of(model, batch).argmax(1) == batch.targets_BT[batch.kept]
        rows_S = batch.kept.nonzero()[:, 0]
        wrong_B = torch.zeros(len(batch.ids_BT)).index_add(0, rows_S, (~is_right_S).float())
        n_exact += int((wrong_B == 0).sum())
        n_rows += len(batch.ids_BT)
        n_right += int(is_right_S.sum())
        n_tokens += len(is_right_S)
    return (n_exact / n_rows, n_right / n_tokens) if n_rows else (None, None)


def _check_tuned(tuned: Decoder, delta: Delta, folder: Path) -> None:
    if weights_digest(tuned.state_dict()) != delta.tuned_digest:
        raise DeltaError("the delta was made from another fine-tune", where=str(folder), fix="Give the run that was deployed.")


def _sizes(delta: Delta, size_bytes: int, full_size_bytes: int, bf16_bytes: int) -> dict[str, float]:
    matrices = delta.of_kind("matrices").values()
    matrix_bytes = sum(own.n_bytes for own in matrices)
    table_bytes = sum(own.n_bytes for own in delta.of_kind("tables").values())
    return {
        "size_bytes": size_bytes,
        "full_size_bytes": full_size_bytes,
        "ratio": full_size_bytes / size_bytes,
        "bf16_bytes": bf16_bytes,
        "bf16_ratio": bf16_bytes / size_bytes,
        "matrix_bytes": matrix_bytes,
        "table_bytes": table_bytes,
        "other_bytes": size_bytes - matrix_bytes - table_bytes,
        "matrix_bf16_bytes": sum(BF16_BYTES * torch.Size(own.shape).numel() for own in matrices),
    }
