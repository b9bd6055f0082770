"""Mooncake's traces (FAST'25, arXiv 2407.00079): lengths, and a hash for each 512 tokens of the input that names its prefix.

{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}; equal ids at equal places mean equal tokens up to
there. The last block is short and hashed as it is, so hashes cannot tell what a next turn shares of it and of the output.
Lengths can: in the conversation trace 3,862 requests go on after exactly the full blocks of an earlier one, nine in ten of
these are longer than its input and output together, by 28 tokens at the median. Such a request is taken for the next turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import numpy as np

from tilth.inference.replay.request import TraceRequest
from tilth.inference.replay.traces.lines import Line, json_lines

BLOCK = 512
MAX_BLOCKS = 2**31 // BLOCK
FIELDS = ("timestamp", "input_length", "output_length", "hash_ids")


def read(path: Path, joins_turns: bool = True) -> Iterator[TraceRequest]:
    """The requests in the order of the file; the k-th block to appear becomes tokens 512 k ... 512 k + 511.

    Tokens of outputs are negative, and no two are equal. A next turn begins with the input and the output before it; without
    joins_turns it shares full blocks alone, which is all that is certain. Raises UserError with the number of a bad line.
    """
    blocks, n_written = _Blocks(joins_turns), 0
    for line in json_lines(path):
        n_input, n_output = line.count_of("input_length", minimum=1), line.count_of("output_length")
        output_M = (-1 - (n_written + np.arange(n_output, dtype=np.int64)) % 2**31).astype(np.int32)
        n_written += n_output
        request = TraceRequest(line.number_of("timestamp") / 1000, blocks.tokens(line, n_input), output_M)
        blocks.note_end(line.integers_of("hash_ids"), request)
        yield request


class _Blocks:
    """The tokens of every hash so far."""

    def __init__(self, joins_turns: bool) -> None:
        self.joins_turns = joins_turns
        self.ordinals: dict[int, int] = {}
        self.joined: dict[int, np.ndarray] = {}  # blocks that begin with what an earlier request ended with
        self.ends: dict[int, np.ndarray] = {}  # last full block of a request -> its tokens after that block

    def tokens(self, line: Line, n_input: int) -> np.ndarray:
        """(n_input,) int32."""
        hashes = line.integers_of("hash_ids")
        if len(hashes) != -(-n_input // BLOCK):
            needed = -(-n_input // BLOCK)
            line.refuse(f"{n_input:,} tokens are {needed:,} blocks of {BLOCK}, but there are {len(hashes):,} hashes")
        n_known = sum(1 for _ in takewhile(self.ordinals.__contains__, hashes))
        ordinals = np.array([self.ordinals.setdefault(entry, len(self.ordinals)) for entry in hashes], dtype=np.int64)
        if len(self.ordinals) > MAX_BLOCKS:
            line.refuse(f"the trace has more than {MAX_BLOCKS:,} blocks; read less of it with `--limit`")
        tokens_KB = (ordinals[:, None] * BLOCK + np.arange(BLOCK)).astype(np.int32)
        for place, entry in enumerate(hashes):
            if entry in self.joined:
                tokens_KB[place] = self.joined[entry]
        self._join(hashes, n_known, n_input, tokens_KB)
        return tokens_KB.reshape(-1)[:n_input].copy()

    def note_end(self, hashes: list[int], request: TraceRequest) -> None:
        """A later request may go on from here."""
        n_full = len(request.input_N) // BLOCK
        if n_full and self.joins_turns:
            self.ends[hashes[n_full - 1]] = request.all_tokens()[n_full * BLOCK :]

    def _join(self, hashes: list[int], n_known: int, n_input: int, tokens_KB: np.ndarray) -> None:
        # one shared block is no evidence: all requests of a trace may begin with the same instruction
        end = self.ends.get(hashes[n_known - 1]) if n_known > 1 else None
        start = n_known * BLOCK
        if end is None or start + len(end) > n_input:
            return
        tokens_KB.reshape(-1)[start : start + len(end)] = end
        for place in range(n_known, -(-(start + len(end)) // BLOCK)):
            self.joined[hashes[place]] = tokens_KB[place].copy()
