"""deploy(): from two model folders and tokens to delta.safetensors and delta.json, the same bytes every time."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from tilth.artifacts.atomic import write_atomically
from tilth.deploy.acceptance import MAX_LOSS, check_acceptable, check_max_loss
from tilth.deploy.choice import Choice
from tilth.deploy.delta import compress
from tilth.deploy.delta_file import CONTRACT, save_delta
from tilth.deploy.distill import Distillation, distill
from tilth.deploy.saved_tensors import SavedTensors
from tilth.deploy.teacher import Teacher
from tilth.deploy.token_batches import TokenBatch, read_batches
from tilth.deploy.verification import Verification, verify
from tilth.models.weights import load_model
from tilth.tokenize.shards import TokenSet

DELTA_FILE = "delta.safetensors"
DELTA_JSON = "delta.json"
BATCH_SIZE = 4
N_VERIFY_BATCHES = 4


def deploy(
    base_folder: Path,
    tuned_folder: Path,
    tokens: TokenSet,
    out_folder: Path,
    *,
    distill_steps: int,
    seq_len: int,
    seed: int,
    choice: Choice | None = None,
    held_out: TokenSet | None = None,
    task: Sequence[TokenBatch] = (),
    max_loss: float = MAX_LOSS,
    on_step: Callable[[int, float], None] | None = None,
) -> Verification:
    """Write the delta of a fine-tune to out_folder (made if missing), after verifying the file that was written.

    Verifies on the first 4 batches of 4 sequences in the order of `seed`, of held_out where it is given (what the fine-tune was
    not trained on), so that the figures of other settings compare; distils on distill_steps batches of `tokens`: other
    sequences, as long as the tokens last. One model is held at a time. Raises DeltaError when the two are not models of one
    shape, when base + delta loses more than max_loss allows (see acceptance; no file is left then), and what load_model and
    TokenSet raise.
    """
    check_max_loss(max_loss)
    out_folder, choice = Path(out_folder), choice or Choice()
    out_folder.mkdir(parents=True, exist_ok=True)
    with _one_thread():
        read = partial(read_batches, batch_size=BATCH_SIZE, seq_len=seq_len, seed=seed)
        delta = compress(SavedTensors(base_folder), SavedTensors(tuned_folder), choice)
        teacher = Teacher.of(load_model(Path(tuned_folder)), read(tokens, n_batches=distill_steps, first=N_VERIFY_BATCHES))
        distilled = distill(load_model(Path(base_folder)), teacher, delta, n_steps=distill_steps, on_step=on_step)
        del teacher
        batches = read(tokens if held_out is None else held_out, n_batches=N_VERIFY_BATCHES)
        with _kept_if_accepted(out_folder / DELTA_FILE) as candidate:
            save_delta(candidate, distilled.delta, delta.base_digest)
            verification = verify(base_folder, tuned_folder, candidate, batches, task)
            check_acceptable(verification, max_loss)
    settings: dict[str, object] = {"distill_steps": distill_steps, "seq_len": seq_len, "seed": seed, "tokens": tokens.digest}
    settings |= asdict(choice) | {"held_out": held_out and held_out.digest, "max_loss": max_loss}
    _write_description(out_folder / DELTA_JSON, distilled, verification, settings)
    return verification


@contextlib.contextmanager
def _kept_if_accepted(path: Path) -> Iterator[Path]:
    """A file to write beside `path`, which it becomes if the block ends well: a store would serve whatever lies there."""
    candidate = path.with_name(f".{path.name}.candidate")
    try:
        yield candidate
        candidate.replace(path)
    finally:
        candidate.unlink(missing_ok=True)


def _write_description(path: Path, distilled: Distillation, verification: Verification, settings: dict[str, object]) -> None:
    delta = distilled.delta
    described = {
        "contract": CONTRACT,
        "base_digest": delta.base_digest,
        "tuned_digest": delta.tuned_digest,
        "codecs": dict(sorted(Counter(own.codec for own in delta.encoded.values()).items())),
        "settings": settings,
        "distillation": {"loss_start": distilled.loss_start, "loss_best": distilled.loss_best, "best_step": distilled.best_step},
        "verification": asdict(verification),
    }
    write_atomically(path, (json.dumps(described, indent=1) + "\n").encode())


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    # sums are split by the number of threads, and another split is another last bit in the scales
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
