"""Traces with all their tokens, as the artifact of the Marconi paper (arXiv 2411.19379) has them: one JSON object a request.

{"session_id": s, "turn_id": k, "ts": seconds, "input_tokens": [...], "output_tokens": [...]}; num_input_tokens and
num_output_tokens may stand beside them and must then agree. Any trace can be written so: only ts and tokens are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tilth.inference.replay.request import TraceRequest
from tilth.inference.replay.traces.lines import Line, json_lines

FIELDS = ("ts", "input_tokens", "output_tokens")


def read(path: Path) -> Iterator[TraceRequest]:
    """The requests in the order of the file. Raises UserError with the number of a bad line."""
    for line in json_lines(path):
        input_N, output_M = _tokens(line, "input_tokens"), _tokens(line, "output_tokens")
        if not len(input_N):
            line.refuse("`input_tokens` is empty")
        yield TraceRequest(line.number_of("ts"), input_N, output_M)


def _tokens(line: Line, name: str) -> np.ndarray:
    ids = line.integers_of(name)
    if ids and max(ids) >= 2**31:
        line.refuse(f"`{name}` has an id beyond 2,147,483,647")
    told = line.fields.get(f"num_{name}", len(ids))
    if told != len(ids):
        line.refuse(f"`num_{name}` is {told!r}, but there are {len(ids):,}")
    return np.array(ids, dtype=np.int32)
