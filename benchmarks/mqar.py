"""Multi-query associative recall (Arora et al. 2023, Zoology): a hybrid with one attention layer against pure Mamba-2.

    python benchmarks/mqar.py [--seeds 3] [--steps 600] [--quick]

A row shows 4 pairs of a key and a value, drawn anew, and then asks for the value of each key, in another order; the target
of a key that is asked again is its value. 16 keys and 16 values, so guessing among the four values seen gives 0.25. Both models
have two layers, d64, a state of 2 numbers per channel, and as many parameters (the MLP makes up the difference), steps and
rows; each seed draws other weights and other rows. Accuracy is that of 4,096 questions of rows never trained on.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator

import torch
from results import append, row
from torch import Tensor

from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder

KEYS, VALUES, PAIRS = 16, 16, 4
BATCH, LR = 64, 5e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--d-state", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="write nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    configs = {"hybrid": config("MA", options.d_state), "pure": config("MM", options.d_state)}
    found: dict[str, list[float]] = {name: [] for name in configs}
    began = time.process_time()
    for seed in range(options.seeds):
        for name, model_config in configs.items():
            found[name].append(accuracy(trained(model_config, options.steps, seed)))
            print(f"seed {seed} {name} ({model_config.n_parameters()} parameters): {found[name][-1]:.3f}", flush=True)
    hybrid, pure = (statistics.mean(found[name]) for name in ("hybrid", "pure"))
    notes = (
        f"ours: layers MA, peer: MM, both d64 d_state {options.d_state}, {configs['hybrid'].n_parameters()} and "
        f"{configs['pure'].n_parameters()} parameters, {options.steps} steps of {BATCH} rows; seeds: hybrid "
        f"{' '.join(f'{x:.3f}' for x in found['hybrid'])}, pure {' '.join(f'{x:.3f}' for x in found['pure'])}; "
        f"above 1 the peer is better; {time.process_time() - began:.0f} s CPU"
    )
    made = row(f"MQAR accuracy, {PAIRS} pairs", f"{options.seeds} seeds", hybrid, "share", pure, notes, threads=1)
    if options.quick:
        print(made["notes"])
    else:
        append([made])


def config(layers: str, d_state: int) -> ModelConfig:
    """Two layers of width 64; the MLPs bring the number of parameters to that of the hybrid with d_ff 128."""
    shared = {
        "vocab_size": KEYS + VALUES,
        "d_model": 64,
        "n_heads": 2,
        "d_state": d_state,
        "ssm_head_dim": 16,
        "rope_theta": None,
    }
    wanted = ModelConfig(layers="MA", d_ff=128, **shared).n_parameters()
    return min(
        (ModelConfig(layers=layers, d_ff=d_ff, **shared) for d_ff in range(64, 193)),
        key=lambda config: abs(config.n_parameters() - wanted),
    )


def rows(seed: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches: ids (batch, 3 * PAIRS) and targets, -100 but where a key is asked again."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        keys = torch.rand(batch, KEYS, generator=generator).topk(PAIRS).indices
        values = KEYS + torch.randint(VALUES, (batch, PAIRS), generator=generator)
        order = torch.rand(batch, PAIRS, generator=generator).argsort()
        shown = torch.stack([keys, values], dim=2).flatten(1)
        ids = torch.cat([shown, keys.gather(1, order)], dim=1)
        targets = torch.cat([torch.full_like(shown, -100), values.gather(1, order)], dim=1)
        yield ids, targets


def trained(model_config: ModelConfig, steps: int, seed: int) -> Decoder:
    torch.manual_seed(seed)
    model = Decoder(model_config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps, pct_start=0.1)
    for _, (ids, targets) in zip(range(steps), rows(1_000 + seed, BATCH), strict=False):
        total, count = model.loss(ids, targets)
        optimizer.zero_grad()
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model


@torch.no_grad()
def accuracy(model: Decoder) -> float:
    ids, targets = next(rows(999_999, 4096 // PAIRS))
    asked = targets != -100
    return float((model(ids).argmax(-1) == targets)[asked].double().mean())


if __name__ == "__main__":
    main()
