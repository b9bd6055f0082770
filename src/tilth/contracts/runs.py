"""losses/1: a row for each optimiser step of a run, as `metrics.jsonl` is published for SQL."""

from __future__ import annotations

import pyarrow as pa

from tilth.contracts.contract import contract

LOSSES = contract(
    "losses",
    1,
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("loss", pa.float64(), nullable=False),  # nats per token
        pa.field("lr", pa.float64(), nullable=False),
        pa.field("grad_norm", pa.float64(), nullable=False),
        pa.field("n_tokens", pa.int64(), nullable=False),  # target tokens of this step
        pa.field("validation_loss", pa.float64()),  # only at steps that evaluated
    ],
    key=("step",),
)
