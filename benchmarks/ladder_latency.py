"""What ladder hides: two ranks over gloo, each all-reduce delayed by as long as a sublayer computes.

    python benchmarks/ladder_latency.py [--layers 16] [--milliseconds 20] [--quick]

Every sublayer of a real decoder (attention and MLP, cut in two) is made to take the same time, forward and backward, and
every sum over the ranks arrives that much later than gloo brings it. In theory 2n sublayers take 2n (c + d) in the standard
topology and 2n max(c, d) + d as a ladder: 1.94 at 16 layers. The peer of a row is the standard topology.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from results import append, row
from torch import Tensor

from tilth.models.block import Block
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.sharding import shard
from tilth.models.tensor_ranks import TensorRanks

ROUNDS = 5
TOPOLOGIES = ("standard", "ladder")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--milliseconds", type=float, default=20)
    parser.add_argument("--quick", action="store_true", help="write nothing")
    parser.add_argument("--rank", type=int)
    parser.add_argument("--meeting")
    options = parser.parse_args()
    if options.rank is None:
        with tempfile.TemporaryDirectory() as folder:
            own = [sys.executable, __file__, *sys.argv[1:], "--meeting", str(Path(folder) / "meeting"), "--rank"]
            ranks = [subprocess.Popen([*own, str(rank)]) for rank in range(2)]
            codes = [process.wait() for process in ranks]
        if any(codes):
            sys.exit("a rank failed")
        return
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{options.meeting}", rank=options.rank, world_size=2)
    measure(options)
    dist.destroy_process_group()


def measure(options: argparse.Namespace) -> None:
    seconds = options.milliseconds / 1000
    ranks = Late(options.rank, 2, seconds=seconds)
    models = {name: slow_decoder(name, options.layers, ranks, seconds) for name in TOPOLOGIES}
    times: dict[str, dict[str, list[float]]] = {way: {name: [] for name in TOPOLOGIES} for way in ("forward", "backward")}
    for _ in range(ROUNDS):
        for name, model in models.items():
            forward, backward = once(model)
            times["forward"][name].append(forward)
            times["backward"][name].append(backward)
    if options.rank:
        return
    rows = []
    for way, by_name in times.items():
        standard, ladder = (statistics.median(by_name[name]) for name in TOPOLOGIES)
        size = f"{options.layers} layers, {options.milliseconds:g} ms each"
        notes = f"two ranks, medians of {ROUNDS}, in turns; the law says {law(options.layers):.2f}"
        rows.append(row(f"ladder under late all-reduces, {way}", size, ladder, "s", standard, notes, threads=1))
        print(f"{way}: standard {standard:.3f} s, ladder {ladder:.3f} s, {standard / ladder:.2f}x", flush=True)
    if not options.quick:
        append(rows)


def law(n_layers: int) -> float:
    """The ratio where a sum takes as long as a sublayer."""
    return 2 * n_layers * 2 / (2 * n_layers + 1)


@dataclass(frozen=True)
class Late(TensorRanks):
    """Ranks whose sums arrive `seconds` after gloo brought them, on a thread of their own."""

    seconds: float = 0.0

    def start_sum(self, tensor: Tensor) -> Any:
        return _Late(super().start_sum(tensor), self.seconds)


class _Late:
    def __init__(self, work: Any, seconds: float) -> None:
        self.thread = threading.Thread(target=lambda: (work.wait(), time.sleep(seconds)))
        self.thread.start()

    def wait(self) -> None:
        self.thread.join()


def slow_decoder(topology: str, n_layers: int, ranks: TensorRanks, seconds: float) -> Decoder:
    """This rank's slice of a small model whose sublayers take `seconds` each way."""
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=256, d_model=64, layers=f"A*{n_layers}", n_heads=4, residual=topology)
    part = shard(Decoder(config), ranks)
    for block in part.blocks:
        assert isinstance(block, Block)
        for name in ("_mix", "_transform"):
            setattr(block, name, lasting(getattr(block, name), seconds))
    return part


def lasting(sublayer: Any, seconds: float) -> Any:
    def slow(x: Tensor, **options: Any) -> Tensor:
        began = time.perf_counter()
        y = sublayer(_Begin.apply(x, timer := [0.0], seconds), **options)
        time.sleep(max(0.0, seconds - (time.perf_counter() - began)))
        ended: Tensor = _End.apply(y, timer)
        return ended

    return slow


class _Begin(torch.autograd.Function):
    """Where a sublayer's backward ends: it waits until the time is over."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, timer: list[float], seconds: float) -> Tensor:
        ctx.timer, ctx.seconds = timer, seconds
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        time.sleep(max(0.0, ctx.timer[0] + ctx.seconds - time.perf_counter()))
        return grad, None, None


class _End(torch.autograd.Function):
    """Where a sublayer's backward begins."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, timer: list[float]) -> Tensor:
        ctx.timer = timer
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.timer[0] = time.perf_counter()
        return grad, None


def once(model: Decoder) -> tuple[float, float]:
    """Seconds of a forward and of a backward pass."""
    ids = torch.randint(0, 256, (1, 32), generator=torch.Generator().manual_seed(0))
    dist.barrier()
    began = time.perf_counter()
    loss, _ = model.loss(ids, ids)
    between = time.perf_counter()
    loss.backward()
    ended = time.perf_counter()
    return between - began, ended - between


if __name__ == "__main__":
    main()
