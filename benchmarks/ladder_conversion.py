"""The upper half of a trained model made into a ladder: what that costs, and what a tenth more tokens give back.

    python benchmarks/ladder_conversion.py [--seeds 3] [--steps 400] [--quick]

A transformer of 4 layers, d64, learns Python's standard library, tokenised into 512 pieces, from its source as installed;
the last tenth of the files is for validation. Then its layers 2 and 3 become a ladder and train on for a tenth of the steps;
the control trains on as it is, on the same batches at the same rate. A ladder from scratch is measured too. All losses are
of the same validation batches, in nats per token.
"""

from __future__ import annotations

import argparse
import statistics
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from results import append, row

from tilth.models.config import ModelConfig
from tilth.tokenize.bpe import Tokenizer, train_bpe
from tilth.tokenize.shards import write_tokens
from tilth.trainer.config import TrainConfig
from tilth.trainer.loop import TrainResult, train

CASES = ("standard", "ladder", "converted", "control")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="write nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {name: [] for name in (*CASES, "at once")}
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sets = token_sets(root)
        for seed in range(options.seeds):
            runs = study(root / str(seed), sets, options.steps, seed)
            for name in CASES:
                found[name].append(runs[name].validation_loss or float("nan"))
            found["at once"].append(runs["converted"].start_validation_loss or float("nan"))
            print(f"seed {seed}: " + ", ".join(f"{name} {values[-1]:.4f}" for name, values in found.items()), flush=True)
    if options.quick:
        return
    told = "; ".join(f"{name} {' '.join(f'{x:.4f}' for x in values)}" for name, values in found.items())
    notes = f"{told}; {time.process_time() - began:.0f} s CPU"
    means = {name: statistics.mean(values) for name, values in found.items()}
    size = f"{options.seeds} seeds, {options.steps} steps"
    append(
        [
            row(
                "upper half into a ladder, healed, against a control",
                size,
                means["converted"],
                "nats",
                means["control"],
                notes,
                1,
            ),
            row(
                "upper half into a ladder, healed, against before", size, means["converted"], "nats", means["standard"], notes, 1
            ),
            row("ladder from scratch against standard", size, means["ladder"], "nats", means["standard"], notes, 1),
        ]
    )


def token_sets(root: Path) -> dict[str, Path]:
    """Python's standard library, by file."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    tokenizer = Tokenizer(train_bpe(texts, 512))
    sets = {"train": texts[: len(texts) * 9 // 10], "validation": texts[len(texts) * 9 // 10 :]}
    for name, part in sets.items():
        (root / name).mkdir()
        ids = tokenizer.encode_batch(part)
        write_tokens(root / name, ((i.to_bytes(16, "big"), "stdlib/0", i, each) for i, each in enumerate(ids)), tokenizer)
    return {name: root / name for name in sets}


def study(root: Path, sets: dict[str, Path], steps: int, seed: int) -> dict[str, TrainResult]:
    """The four runs of a seed."""
    shape: dict[str, Any] = {"vocab_size": 512, "d_model": 64, "layers": "A*4", "n_heads": 4}
    half = {"residual": "ladder", "residual_from": 2}

    def run(name: str, changes: dict[str, Any], n_steps: int, lr: float, initial: str | None = None) -> TrainResult:
        settings = TrainConfig(
            steps=n_steps, seq_len=128, global_batch=8, lr=lr, warmup_steps=max(1, n_steps // 10), eval_batches=16,
            checkpoint_every=0, seed=seed + (1000 if initial else 0), device="cpu",
        )  # fmt: skip
        torch.manual_seed(seed)
        begun = root / initial if initial else None
        return train(ModelConfig.from_dict(shape | changes), settings, sets["train"], sets["validation"], root / name, begun)

    return {
        "standard": run("standard", {}, steps, 3e-3),
        "ladder": run("ladder", {"residual": "ladder"}, steps, 3e-3),
        "converted": run("converted", half, steps // 10, 1e-3, "standard"),
        "control": run("control", {}, steps // 10, 1e-3, "standard"),
    }


if __name__ == "__main__":
    main()
