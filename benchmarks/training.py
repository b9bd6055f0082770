"""What the settings of a run cost and bring on a CPU: half precision, recomputation, compilation, and Muon for AdamW.

python benchmarks/training.py [SEEDS]      3 seeds take about 20 CPU-minutes
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hybrid_peer import HYBRID
from results import append, row, spread
from torch import Tensor, nn

from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.trainer.config import TrainConfig
from tilth.trainer.execution import autocast, wrap_sublayers
from tilth.trainer.optim import hidden_matrices, learning_rate, make_optimizer, set_learning_rate

CPU = torch.device("cpu")
SETTINGS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"precision": "bfloat16"},
    "recompute": {"recompute": True},
    "compile": {"compile": True},
    "muon": {"optimizer": "muon"},
}
N_STEPS, WINDOW, N_ROWS = 300, 128, 8
SMALL = ModelConfig(vocab_size=256, d_model=96, layers="MMMA", n_heads=3, d_state=16, ssm_head_dim=32)
PARTS = {  # rows of the fused matrices of SMALL
    "qkv_proj": [96, 96, 96],
    "gate_up_proj": [SMALL.mlp_width] * 2,
    "in_proj": [SMALL.d_inner, SMALL.d_inner, 16, 16, SMALL.n_ssm_heads],
}


class Stepper:
    """One model with its settings; a call is one step."""

    def __init__(self, **options: Any) -> None:
        torch.manual_seed(0)
        self.model, self.config = Decoder(HYBRID), TrainConfig(steps=1, seq_len=256, global_batch=8, **options)
        wrap_sublayers(self.model, self.config)
        self.optimizer = make_optimizer(self.model, self.config)
        self.ids_BT = torch.randint(0, HYBRID.vocab_size, (8, 256))

    def loss(self) -> Tensor:
        with autocast(self.config, CPU):
            return self.model.loss(self.ids_BT, self.ids_BT.roll(-1, 1))[0] / self.ids_BT.numel()

    def __call__(self) -> float:
        """CPU seconds of a step."""
        began = time.process_time()
        self.optimizer.zero_grad()
        self.loss().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return time.process_time() - began

    def kept_bytes(self) -> int:
        """What is kept for the backward pass, the parameters apart."""
        ours = {parameter.untyped_storage().data_ptr() for parameter in self.model.parameters()}
        kept: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = 0 if storage.data_ptr() in ours else storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            self.loss()
        return sum(kept.values())


def time_settings() -> None:
    steppers = {name: Stepper(**options) for name, options in SETTINGS.items()}
    for stepper in steppers.values():
        stepper()
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    for _ in range(9):
        for name, stepper in steppers.items():
            seconds[name].append(1000 * stepper())
    kept = {name: stepper.kept_bytes() / 1e6 for name, stepper in steppers.items()}
    size = "hybrid d256 x 4 layers, 8 x 256 tokens"
    for name in list(SETTINGS)[1:]:
        notes = f"CPU time, peer: fp32, AdamW, eager; p10-p90 {spread(seconds[name])}, peer {spread(seconds['fp32'])}"
        ours, peer = (statistics.median(seconds[which]) for which in (name, "fp32"))
        append([row(f"training step, {name}", size, ours, "ms", peer, notes, threads=1)])
        if name in ("bf16", "recompute"):
            append([row(f"kept for the backward pass, {name}", size, kept[name], "MB", kept["fp32"], "peer: fp32", threads=1)])


class MuonByParts:
    """Muon that takes each part of a fused matrix by itself: what `make_optimizer` is compared with."""

    def __init__(self, model: Decoder, config: TrainConfig) -> None:
        hidden = {id(matrix) for matrix in hidden_matrices(model)}
        self.parts: list[tuple[nn.Parameter, int, nn.Parameter]] = []
        for name, matrix in model.named_parameters():
            if id(matrix) in hidden:
                sizes = PARTS.get(name.split(".")[-2], [len(matrix)])
                starts = [0, *np.cumsum(sizes)[:-1].tolist()]
                views = matrix.data.split(sizes)
                self.parts += [(matrix, start, nn.Parameter(view)) for start, view in zip(starts, views, strict=True)]
        rest = make_optimizer(model, config).param_groups[1:]
        self.optimizers = (
            torch.optim.Muon([part for *_, part in self.parts], weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW([{name: group[name] for name in ("params", "weight_decay", "betas")} for group in rest]),
        )
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self) -> None:
        for matrix, start, part in self.parts:
            assert matrix.grad is not None
            part.grad = matrix.grad[start : start + len(part)]
        for optimizer in self.optimizers:
            optimizer.step()


def text() -> np.ndarray:
    """Bytes of Python's own library."""
    files = sorted(Path(warnings.__file__).parent.glob("*.py"))[:80]
    return np.frombuffer(b"".join(path.read_bytes() for path in files), np.uint8).astype(np.int64)


def learn(kind: str, seed: int, data: np.ndarray) -> float:
    """The loss on bytes that were held out, in nats, after N_STEPS."""
    torch.manual_seed(seed)
    rng, model = np.random.default_rng(seed), Decoder(SMALL)
    optimizer = "adamw" if kind == "adamw" else "muon"
    config = TrainConfig(steps=N_STEPS, seq_len=WINDOW, global_batch=N_ROWS, lr=3e-3, warmup_steps=20, optimizer=optimizer)
    stepper: Any = MuonByParts(model, config) if kind == "muon by parts" else make_optimizer(model, config)
    train, held_out = data[: -len(data) // 10], data[-len(data) // 10 :]

    def loss(source: np.ndarray, draws: np.random.Generator, n_rows: int) -> Tensor:
        starts = draws.integers(0, len(source) - WINDOW, n_rows)
        windows = torch.from_numpy(np.stack([source[start : start + WINDOW + 1] for start in starts]))
        total, count = model.loss(windows[:, :-1], windows[:, 1:].contiguous())
        return total / count

    for step in range(N_STEPS):
        model.zero_grad()
        loss(train, rng, N_ROWS).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        set_learning_rate(stepper, learning_rate(step, config))
        stepper.step()
    with torch.no_grad():
        return float(loss(held_out, np.random.default_rng(99), 128))


def compare_optimizers(n_seeds: int) -> None:
    data = text()
    kinds = ("adamw", "muon", "muon by parts")
    found = {kind: [learn(kind, seed, data) for seed in range(n_seeds)] for kind in kinds}
    size = f"hybrid d96 x 4 layers, bytes of Python's library, {N_STEPS} steps of {N_ROWS} x {WINDOW}"
    for kind in kinds[1:]:
        each = {name: " ".join(f"{loss:.3f}" for loss in found[name]) for name in (kind, "adamw")}
        notes = f"held-out loss, the same lr 3e-3; peer: AdamW; seeds {each[kind]}, peer {each['adamw']}"
        append([row(kind, size, statistics.fmean(found[kind]), "nats", statistics.fmean(found["adamw"]), notes, threads=1)])


if __name__ == "__main__":
    torch.set_num_threads(1)
    time_settings()
    compare_optimizers(int(sys.argv[1]) if sys.argv[1:] else 3)
