"""What a delta costs and what it keeps, measured on the files as they lie on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tilth.deploy.delta_file import apply_delta, load_delta
from tilth.deploy.token_batches import TokenBatch
from tilth.errors import DeltaError
from tilth.models.decoder import Decoder
from tilth.models.losses import token_cross_entropy
from tilth.models.weights import WEIGHTS_FILE, load_model, weights_digest

BF16_BYTES = 2


@dataclass(frozen=True)
class Verification:
    """Losses are mean cross entropy in nats per token; logit errors are between base + delta and the fine-tune.

    size_bytes is the delta file, full_size_bytes the fine-tune's model.safetensors as it is stored
    (often fp32), ratio the one over the other. encoded_bytes are the packed matrices with their
    scales, encoded_bf16_bytes what the same matrices take in bf16.
    """

    loss_base: float
    loss_tuned: float
    loss_delta: float
    max_logit_error: float
    mean_squared_logit_error: float
    n_predictions: int
    size_bytes: int
    full_size_bytes: int
    ratio: float
    encoded_bytes: int
    encoded_bf16_bytes: int


@torch.no_grad()
def verify(base_folder: Path, tuned_folder: Path, delta_path: Path, batches: Sequence[TokenBatch]) -> Verification:
    """Compare base, fine-tune and base + delta, each read from disk, on the same sequences.

    Raises DeltaError when the delta is damaged, was made for another base or from another
    fine-tune, or when no position of the sequences counts.
    """
    base_folder, tuned_folder, delta_path = Path(base_folder), Path(tuned_folder), Path(delta_path)
    rebuilt = apply_delta(delta_path, base_folder)
    base, tuned = load_model(base_folder), load_model(tuned_folder)
    delta = load_delta(delta_path)
    if weights_digest(tuned.state_dict()) != delta.tuned_digest:
        raise DeltaError(
            "the delta was made from another fine-tune", where=str(tuned_folder), fix="Give the run that was deployed."
        )
    sums = _compare(base, tuned, rebuilt, batches)
    size_bytes, full_size_bytes = delta_path.stat().st_size, (tuned_folder / WEIGHTS_FILE).stat().st_size
    parts = [part for matrix in delta.encoded.values() for part in matrix.parts.values()]
    return Verification(
        *sums,
        size_bytes=size_bytes,
        full_size_bytes=full_size_bytes,
        ratio=full_size_bytes / size_bytes,
        encoded_bytes=sum(part.numel() * part.element_size() for part in parts),
        encoded_bf16_bytes=sum(BF16_BYTES * n * k for n, k in (matrix.shape for matrix in delta.encoded.values())),
    )


def _compare(
    base: Decoder, tuned: Decoder, rebuilt: Decoder, batches: Sequence[TokenBatch]
) -> tuple[float, float, float, float, float, int]:
    losses = [0.0, 0.0, 0.0]
    largest, squares, n_values, n_predictions = 0.0, 0.0, 0, 0
    for batch in batches:
        if not bool(batch.kept.any()):
            continue
        targets_S = batch.targets_BT[batch.kept]
        logits = [model(batch.ids_BT, batch.segments_BT)[batch.kept].float() for model in (base, tuned, rebuilt)]
        for i, logits_SV in enumerate(logits):
            losses[i] += token_cross_entropy(logits_SV, targets_S)[0].item()
        error_SV = (logits[2] - logits[1]).double()
        largest = max(largest, error_SV.abs().max().item())
        squares += error_SV.square().sum().item()
        n_values += error_SV.numel()
        n_predictions += len(targets_S)
    if not n_predictions:
        raise DeltaError("there is no token to verify on", where=f"{len(batches)} batches", fix="Give longer documents.")
    loss_base, loss_tuned, loss_delta = (loss / n_predictions for loss in losses)
    return loss_base, loss_tuned, loss_delta, largest, squares / n_values, n_predictions
