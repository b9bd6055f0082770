"""deploy(): from two model folders and tokens to delta.safetensors and delta.json, the same bytes every time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from tilth.artifacts.atomic import write_atomically
from tilth.deploy.codec import compress
from tilth.deploy.delta_file import CONTRACT, save_delta
from tilth.deploy.distill import Distillation, distill
from tilth.deploy.token_batches import read_batches
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
    on_step: Callable[[int, float], None] | None = None,
) -> Verification:
    """Write the delta of a fine-tune to out_folder (made if missing), and verify the file that was written.

    Verifies on the first 4 batches of 4 sequences in the order of `seed`, so that the figures of
    other distill_steps compare, and distils on the distill_steps batches after them: other
    sequences, as long as the tokens last. Raises DeltaError when the two are not models of one
    shape, and what load_model and TokenSet raise.
    """
    out_folder = Path(out_folder)
    out_folder.mkdir(parents=True, exist_ok=True)
    with _one_thread():
        base, tuned = load_model(Path(base_folder)), load_model(Path(tuned_folder))
        delta = compress(base.state_dict(), tuned.state_dict())
        read = partial(read_batches, tokens, batch_size=BATCH_SIZE, seq_len=seq_len, seed=seed)
        batches = read(n_batches=distill_steps, first=N_VERIFY_BATCHES)
        distilled = distill(base, tuned, delta, batches, n_steps=distill_steps, on_step=on_step)
        save_delta(out_folder / DELTA_FILE, distilled.delta, delta.base_digest)
        verification = verify(base_folder, tuned_folder, out_folder / DELTA_FILE, read(n_batches=N_VERIFY_BATCHES))
    settings: dict[str, object] = {"distill_steps": distill_steps, "seq_len": seq_len, "seed": seed, "tokens": tokens.digest}
    _write_description(out_folder / DELTA_JSON, distilled, verification, settings)
    return verification


def _write_description(path: Path, distilled: Distillation, verification: Verification, settings: dict[str, object]) -> None:
    delta = distilled.delta
    described = {
        "contract": CONTRACT,
        "codec": delta.codec,
        "version": delta.version,
        "base_digest": delta.base_digest,
        "tuned_digest": delta.tuned_digest,
        "n_encoded": len(delta.encoded),
        "n_rounded": len(delta.rounded),
        "n_whole": len(delta.whole),
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
