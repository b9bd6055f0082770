"""document_losses/1: what a run lost on each document in each step; the order of the run says which tokens these were."""

from __future__ import annotations

import pyarrow as pa

from tilth.contracts.contract import contract

DOCUMENT_LOSSES = contract(
    "document_losses",
    1,
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("sequence", pa.int32(), nullable=False),  # of the step's global batch
        pa.field("piece", pa.int32(), nullable=False),  # of the sequence: one document, or the part of it that fits
        pa.field("subset", pa.string(), nullable=False),  # the source that the sequence is from
        pa.field("document", pa.int64(), nullable=False),  # row of that source's tokens/1
        pa.field("start", pa.int64(), nullable=False),  # in tokens, within the document
        pa.field("n_targets", pa.int32(), nullable=False),  # predicted tokens of the piece, at least 1
        pa.field("loss_sum", pa.float64(), nullable=False),  # nats, over these, before the step's update
    ],
    key=("step", "sequence", "piece"),
)
