"""Times batched greedy generation of the hybrid on the CPU against `generate` of HF transformers with the same weights.

    python benchmarks/generation.py [--threads 1] [--rounds 5] [--new 64] [--quick]

8 and 64 prompts of 32 to 128 tokens, drawn evenly, and 64 new tokens for each; both keep states. Ours is generate_batch, which
reads prompts by length; the peer pads them on the left, as transformers asks for. Then a batch of prompts of equal length, which
nobody pads. Told besides: how many rows have the same tokens in both. In turns in one process; medians of CPU time of
the process, and of wall time. Needs benchmarks/peers_models.txt.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from hybrid_peer import HYBRID, check_same, hf_twin
from results import append, row, spread
from torch import Tensor

from tilth.inference.generate import generate_batch
from tilth.models.decoder import Decoder

SHORTEST, LONGEST, PADDING = 32, 128, 0
Prompts = list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="write nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    model = Decoder(HYBRID)
    peer = hf_twin(model).eval()
    check_same(model, peer)
    rows = []
    for n_prompts in (8, 64):
        lengths = torch.randint(SHORTEST, LONGEST + 1, (n_prompts,)).tolist()
        for name, prompts in (("32-128", draw(lengths)), ("64", draw([64] * n_prompts))):
            calls = {
                "ours": lambda p=prompts: generate_batch(model, p, options.new),
                "hf": lambda p=prompts: by_hf(peer, p, options.new),
            }
            rows += measure(name, prompts, calls, options)
    if not options.quick:
        append(rows)


def draw(lengths: list[int]) -> Prompts:
    return [torch.randint(1, HYBRID.vocab_size, (length,)).tolist() for length in lengths]


def by_hf(peer: Any, prompts: Prompts, n_new: int) -> list[list[int]]:
    longest = max(map(len, prompts))
    ids = torch.tensor([[PADDING] * (longest - len(prompt)) + prompt for prompt in prompts])
    seen = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    found: Tensor = peer.generate(ids, attention_mask=seen, max_new_tokens=n_new, do_sample=False, pad_token_id=PADDING)
    return found[:, longest:].tolist()


def measure(
    name: str, prompts: Prompts, calls: dict[str, Callable[[], list[list[int]]]], options: argparse.Namespace
) -> list[dict[str, str]]:
    times: dict[str, list[tuple[float, float]]] = {caller: [] for caller in calls}
    tokens = {caller: call() for caller, call in calls.items()}
    for _ in range(options.rounds):
        for caller, call in calls.items():
            began = time.process_time(), time.perf_counter()
            call()
            times[caller].append((time.process_time() - began[0], time.perf_counter() - began[1]))
    same = sum(ours == hf for ours, hf in zip(tokens["ours"], tokens["hf"], strict=True))
    rows = []
    for clock, which in enumerate(("CPU time", "wall")):
        found = {caller: [pair[clock] for pair in pairs] for caller, pairs in times.items()}
        medians = {caller: statistics.median(values) for caller, values in found.items()}
        n_tokens = len(prompts) * options.new
        notes = (
            f"peer: transformers {transformers.__version__}, GraniteMoeHybrid, left padding; new tokens/s "
            f"{n_tokens / medians['ours']:.0f} and {n_tokens / medians['hf']:.0f}; "
            f"{same} of {len(prompts)} rows have the peer's tokens; "
            f"p10-p90 ours {spread(found['ours'])}, peer {spread(found['hf'])}; torch {torch.__version__}"
        )
        size = f"B{len(prompts)}, prompts of {name}, {options.new} new, d256 MMMA fp32"
        rows.append(row(f"generation, {which}", size, medians["ours"], "s", medians["hf"], notes, threads=options.threads))
        print("  ".join(rows[-1][key] for key in ("what", "size", "ours", "peer", "ratio", "notes")), flush=True)
    return rows


if __name__ == "__main__":
    main()
