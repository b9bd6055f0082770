"""Token hit rates of the prefix cache against the paper's policies and today's engines, and what an eviction takes.

python benchmarks/prefix_cache.py [--seeds 2] [--only lmsys] [--table]      about five minutes of processor time

The same trace, the same bytes and the same ledger for all; each request ends as it arrives, as in the paper's simulator
(arXiv 2411.19379). Traces are made (lmsys, sharegpt, swebench: seed 0 is the one that policies were designed on, the others are
held out) but for Mooncake's, which TILTH_TEST_DATA holds: its first 1,200 requests of up to 32k tokens, and apart from the other
cells its first 4,000, in which single hits weigh less. --table prints every cell and appends nothing.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from results import append, row

from tilth.inference.cache.costs import StateCosts
from tilth.inference.cache.prefix_cache import PrefixCache
from tilth.inference.replay.geometries import GEOMETRIES
from tilth.inference.replay.request import TraceRequest
from tilth.inference.replay.sweep import Cell, sweep
from tilth.inference.replay.synthetic import synthetic_trace
from tilth.inference.replay.traces.read import read_trace

OURS, INT8 = "tilth", "tilth+int8"
PEERS = ("vllm+", "block-lru", "sglang+", "marconi")
GIGABYTE = 10**9
MOONCAKE = "mooncake_traces/FAST25-release/traces/conversation_trace.jsonl"
MOONCAKE_REQUESTS = {"mooncake": 1_200, "mooncake-4000": 4_000}
# Workload, sessions a second, capacities in GB.
Shapes = dict[str, tuple[tuple[str, float, tuple[int, ...]], ...]]
SHAPES: Shapes = {
    "marconi-7b": (
        ("lmsys", 0.5, (1, 2, 3, 5, 10)),
        ("lmsys", 2.0, (1, 2, 3, 5, 10)),
        ("sharegpt", 0.5, (1, 2, 3, 5, 10)),
        ("sharegpt", 2.0, (1,)),
        ("swebench", 0.5, (5, 10, 20, 30)),
        ("mooncake", 0.0, (10, 20, 40)),
    ),
    "modern": (
        ("lmsys", 0.5, (2, 5, 10)),
        ("sharegpt", 0.5, (2, 5, 10)),
        ("swebench", 0.5, (5, 10, 20)),
        ("mooncake", 0.0, (20, 50)),
    ),
}
LONGER: Shapes = {
    "marconi-7b": (("mooncake-4000", 0.0, (10, 20, 40, 100)),),
    "modern": (("mooncake-4000", 0.0, (20, 50, 100)),),
}
TIMED = (("lmsys", 0.5, 5), ("sharegpt", 0.5, 5), ("swebench", 0.5, 10), ("mooncake", 0.0, 40))


@dataclass(frozen=True)
class Place:
    """One cell of the table: which trace, of which seed, at which capacity; and what each policy did there."""

    workload: str
    rate: float
    seed: int
    gigabytes: int
    cells: dict[str, Cell]

    @property
    def label(self) -> str:
        rate = f" {self.rate:g}/s" if self.rate else ""
        return f"{self.workload}{rate} {self.gigabytes} GB" + (f" seed {self.seed}" if self.seed else "")

    def ratio(self, peer: str, ours: str = OURS) -> float:
        return self.cells[ours].token_hit_rate / self.cells[peer].token_hit_rate


_traces: dict[tuple[str, float, int], list[TraceRequest]] = {}


def trace(workload: str, rate: float, seed: int) -> list[TraceRequest]:
    """Made or read once."""
    key = workload, rate, seed
    if key not in _traces:
        if workload in MOONCAKE_REQUESTS:
            path, limit = Path(os.environ["TILTH_TEST_DATA"]) / MOONCAKE, MOONCAKE_REQUESTS[workload]
            _traces[key] = read_trace(path, limit=limit, max_input=32_768)
        else:
            _traces[key] = synthetic_trace(workload, rate, seed)
    return _traces[key]


def places(shapes: Shapes, geometry: str, seeds: Sequence[int], only: str | None) -> Iterator[Place]:
    for workload, rate, capacities in shapes[geometry]:
        is_recorded = workload in MOONCAKE_REQUESTS
        if only not in (None, workload) or (is_recorded and not has_mooncake()):
            continue
        # a recorded trace has no seed
        for seed in seeds if not is_recorded else [seed for seed in seeds if not seed]:
            for gigabytes in capacities:
                names = [*PEERS, OURS, INT8]
                requests = trace(workload, rate, seed)
                cells = sweep(requests, GEOMETRIES[geometry], [gigabytes * GIGABYTE], names, is_instant=True)
                yield Place(workload, rate, seed, gigabytes, {cell.policy: cell for cell in cells})


def has_mooncake() -> bool:
    return (Path(os.environ.get("TILTH_TEST_DATA", "/nowhere")) / MOONCAKE).is_file()


def geomean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def compared(geometry: str, found: Sequence[Place], size: str) -> Iterator[dict[str, str]]:
    """A row for each peer: geometric means over the cells, their ratio, and the worst cell."""
    for ours in (OURS, INT8):
        mine = 100 * geomean([place.cells[ours].token_hit_rate for place in found])
        for peer in (*PEERS, OURS) if ours == INT8 else PEERS:
            ratios = sorted((place.ratio(peer, ours), place.label) for place in found)
            theirs = 100 * geomean([place.cells[peer].token_hit_rate for place in found])
            n_below = sum(ratio < 1 for ratio, _ in ratios)
            notes = (
                f"ratio: ours / peer; {n_below} of {len(ratios)} cells below it, the least {ratios[0][0]:.3f} ({ratios[0][1]})"
            )
            name = f"prefix cache token hits, {ours}, against {peer}"
            made = row(name, f"{geometry}, {size}", mine, "% of tokens, geomean", theirs, notes, threads=1)
            yield {**made, "ratio": f"{mine / theirs:.2f}"}


def bytes_over(found: Sequence[Place], size: str) -> dict[str, str]:
    over = [cell.high_water_bytes - cell.capacity_bytes for place in found for cell in place.cells.values()]
    return row("prefix cache, bytes over the capacity", size, max(0, *over), "B", notes=f"{len(over)} replays", threads=1)


def timed(geometry: str) -> Iterator[dict[str, str]]:
    """Time to first token with one machine that reads prompts in turn, against no reuse but a block's and today's engine."""
    for workload, rate, gigabytes in TIMED:
        if workload == "mooncake" and not has_mooncake():
            continue
        requests = trace(workload, rate, 0)
        cells = {cell.policy: cell for cell in sweep(requests, GEOMETRIES[geometry], [gigabytes * GIGABYTE], [*PEERS, OURS])}
        ours, block = cells[OURS], cells["block-lru"]
        p95 = ", ".join(f"{name} {cell.first_token_p95:.3g}" for name, cell in cells.items())
        p50 = ", ".join(f"{name} {cell.first_token_p50:.3g}" for name, cell in cells.items())
        size = f"{geometry}, {workload} {gigabytes} GB, 400 TFLOP/s"
        notes = f"peer: block-lru; p95: {p95}; p50: {p50}"
        yield row("prefix cache, time to first token p95", size, ours.first_token_p95, "s", block.first_token_p95, notes, 1)


def eviction(n_nodes: int = 100_000, n_timed: int = 4_000) -> dict[str, str]:
    """Processor time of single evictions from a cache with so many nodes, conversations of one shared beginning."""
    costs = StateCosts(kv_bytes=1, checkpoint_bytes=64, token_flops=1.0, pair_flops=0.0)
    cache, rng, now = PrefixCache(costs, 10**12), np.random.default_rng(0), 0.0
    known: list[np.ndarray] = []
    while cache.contents.tree.n_nodes < n_nodes:
        now += 0.1
        goes_on = bool(known) and rng.random() < 0.5
        begin = known[int(rng.integers(len(known)))] if goes_on else np.arange(8, dtype=np.int32)
        tokens = np.concatenate([begin, rng.integers(0, 2**31 - 1, 24, dtype=np.int32)])
        match = cache.match("base", tokens, now)
        cache.insert(match, tokens, None, {len(tokens): None}, now)
        cache.release(match)
        known.append(tokens)
    taken = []
    for _ in range(n_timed):
        started = time.process_time_ns()
        cache.evict_one()
        taken.append((time.process_time_ns() - started) / 1e6)
    p50, p99, most = np.percentile(taken, 50), np.percentile(taken, 99), max(taken)
    notes = f"p50 {p50:.3f}, most {most:.2f}; default policy"
    return row("prefix cache, one eviction p99", f"{n_nodes:,} nodes", float(p99), "ms", notes=notes, threads=1)


def print_table(found: Sequence[Place]) -> None:
    names = [*PEERS, OURS, INT8]
    print(f"{'':26}" + "".join(f"{name:>12}" for name in names) + f"{'/marconi':>10}{'/block':>8}  CPU s")
    for place in found:
        rates = "".join(f"{100 * place.cells[name].token_hit_rate:12.2f}" for name in names)
        seconds = sum(cell.cpu_seconds for cell in place.cells.values())
        print(f"{place.label:26}{rates}{place.ratio('marconi'):10.3f}{place.ratio('block-lru'):8.2f}{seconds:7.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not has_mooncake():
        print("TILTH_TEST_DATA has no Mooncake trace: its cells are left out")
    rows = []
    for geometry in SHAPES:
        found = list(places(SHAPES, geometry, range(options.seeds), options.only))
        longer = list(places(LONGER, geometry, range(options.seeds), options.only))
        print_table(found + longer)
        parts = {"seed 0": [p for p in found if not p.seed], "held out seeds": [p for p in found if p.seed]}
        for name, part in {**parts, "4,000 requests of Mooncake's": longer}.items():
            if part:
                rows += compared(geometry, part, f"{len(part)} cells, {name}")
        found += longer
        rows.append(bytes_over(found, f"{geometry}, {len(found)} cells"))
        rows += timed(geometry)
    rows.append(eviction())
    for values in rows if options.table else ():
        print("  ".join(values[name] for name in ("what", "size", "ours", "peer", "unit", "ratio", "notes") if values[name]))
    if not options.table:
        append(rows)


if __name__ == "__main__":
    main()
