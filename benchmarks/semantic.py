"""Semantic duplicates among made embeddings: CPU-seconds and recall against brute force over all pairs.

    python benchmarks/semantic.py [--vectors 50000] [--dimension 384] [--threshold 0.95] [--repeats 3] [--quick]

The vectors lie around 300 topics that share a direction, as sentence embeddings do; a tenth are near copies of others.
Recall is the share of all pairs with a cosine >= the threshold that end in one cluster. Set OPENBLAS_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from results import append, row, spread

from tilth.contracts import uuid_array, uuid_bytes
from tilth.dedup.semantic.duplicates import Semantic, semantic_duplicates
from tilth.dedup.semantic.hashed_ngrams import HashedNgrams

Vectors = npt.NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=50_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--threshold", type=float, default=0.95)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="2,000 vectors, and write nothing")
    options = parser.parse_args()
    n = 2_000 if options.quick else options.vectors
    vectors = made_vectors(n, options.dimension)
    ids = uuid_array([number.to_bytes(16, "big") for number in range(n)])
    documents = pa.table({"doc_id": ids, "shard": ["made/00000"] * n, "row": pa.array(range(n), pa.int32())})
    seconds = []
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as scratch:
            begun = time.process_time()
            marks = semantic_duplicates(
                documents, vectors.__getitem__, Semantic(HashedNgrams(), options.threshold), Path(scratch)
            )
            seconds.append(time.process_time() - begun)
    roots = np.arange(n)
    members, clusters = (
        [int.from_bytes(one, "big") for one in uuid_bytes(marks.column(name))] for name in ("doc_id", "cluster_id")
    )
    roots[members] = clusters
    brute, recall, n_pairs = brute_force(vectors, options.threshold, roots)
    ours = statistics.median(seconds)
    notes = f"recall {recall:.6f} of {n_pairs} pairs; {n / ours:.0f} vectors/s; peer: all pairs once"
    notes += f"; spread {spread(seconds)}" if len(seconds) > 1 else ""
    size = f"n={n} d={options.dimension} t={options.threshold:g}"
    measured = row("semantic duplicates", size, ours, "s CPU", brute, notes, threads=1)
    if options.quick:
        print(measured)
    else:
        append([measured])


def made_vectors(n: int, d: int) -> Vectors:
    chance = np.random.default_rng(0)
    topics, common = chance.standard_normal((300, d)), 0.4 * chance.standard_normal(d)
    vectors = common + topics[chance.integers(0, 300, n)] + 0.8 * chance.standard_normal((n, d))
    copies = np.flatnonzero(chance.random(n) < 0.1)
    noise = chance.uniform(0.02, 0.5, (len(copies), 1)) * chance.standard_normal((len(copies), d))
    vectors[copies] = vectors[chance.integers(0, n, len(copies))] + noise
    return vectors.astype(np.float32)


def brute_force(vectors: Vectors, threshold: float, roots: npt.NDArray[np.int64]) -> tuple[float, float, int]:
    """CPU-seconds for all products, the share of matching pairs that are in one cluster, and how many pairs match."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    begun, n_pairs, n_found = time.process_time(), 0, 0
    for first in range(0, len(units), 2048):
        left, right = np.nonzero(units[first : first + 2048] @ units.T >= threshold)
        left, right = (first + left)[first + left < right], right[first + left < right]
        n_pairs += len(left)
        n_found += int((roots[left] == roots[right]).sum())
    return time.process_time() - begun, n_found / max(1, n_pairs), n_pairs


if __name__ == "__main__":
    main()
