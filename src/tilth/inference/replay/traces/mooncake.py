"""Mooncake's traces (FAST'25, arXiv 2407.00079): lengths, and a hash for each 512 tokens of the input that names its prefix.

{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}; equal ids at equal places mean equal tokens up to
there. The last block is short, and its hash names those tokens alone, so what a next turn shares of it, and of the output
before, cannot be told: the reuse found in these traces is a lower bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tilth.inference.replay.request import TraceRequest
from tilth.inference.replay.traces.lines import Line, json_lines

BLOCK = 512
MAX_BLOCKS = 2**31 // BLOCK
FIELDS = ("timestamp", "input_length", "output_length", "hash_ids")


def read(path: Path) -> Iterator[TraceRequest]:
    """The requests in the order of the file; the k-th block to appear becomes tokens 512 k ... 512 k + 511.

    Tokens of outputs are negative and in no other request. Raises UserError with the number of a bad line.
    """
    seen: dict[int, int] = {}
    n_written = 0
    for line in json_lines(path):
        n_input, n_output = line.count_of("input_length", minimum=1), line.count_of("output_length")
        output_M = -1 - (n_written + np.arange(n_output, dtype=np.int64)) % 2**31
        n_written += n_output
        yield TraceRequest(line.number_of("timestamp") / 1000, _input(line, n_input, seen), output_M.astype(np.int32))


def _input(line: Line, n_input: int, seen: dict[int, int]) -> np.ndarray:
    hashes = line.integers_of("hash_ids")
    if len(hashes) != -(-n_input // BLOCK):
        line.refuse(f"{n_input:,} tokens are {-(-n_input // BLOCK):,} blocks of {BLOCK}, but there are {len(hashes):,} hashes")
    ordinals = np.array([seen.setdefault(entry, len(seen)) for entry in hashes], dtype=np.int64)
    if len(seen) > MAX_BLOCKS:
        line.refuse(f"the trace has more than {MAX_BLOCKS:,} blocks; read less of it with `--limit`")
    tokens_KB = ordinals[:, None] * BLOCK + np.arange(BLOCK)
    return tokens_KB.reshape(-1)[:n_input].astype(np.int32)
