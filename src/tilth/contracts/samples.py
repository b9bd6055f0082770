"""samples/1: a chain of thought that a model was asked for, what it answered, and at which second of the evaluation."""

from __future__ import annotations

import pyarrow as pa

from tilth.contracts.contract import contract

SAMPLES = contract(
    "samples",
    1,
    [
        pa.field("problem", pa.string(), nullable=False),  # its own id, or the number of its line
        pa.field("branch", pa.int32(), nullable=False),  # of the problem's n, from 0
        pa.field("question", pa.string(), nullable=False),
        pa.field("reference", pa.string(), nullable=False),  # the right answer, as it is written
        pa.field("text", pa.string(), nullable=False),  # what was said, without the prompt; or why it was refused
        pa.field("answer", pa.string()),  # canonical; null where none could be read
        pa.field("is_correct", pa.bool_()),  # null for what was cancelled or refused
        pa.field("n_tokens", pa.int32(), nullable=False),  # that were drawn; 0 for a duplicate
        pa.field("finish_reason", pa.string(), nullable=False),  # stop, length, cancelled, refused, duplicate
        pa.field("started", pa.float64(), nullable=False),  # second at which its request was handed in, before the prefill
        pa.field("finished", pa.float64(), nullable=False),  # second at which it could be used: its answer read, and scored
        pa.field("score", pa.float64()),  # the verifier's probability that it is right; null without one
        pa.field("batch", pa.int32(), nullable=False),  # rows that were drawn at once
    ],
    key=("problem", "branch"),
)
