"""token_spans/1: which tokens of a token set come from which bytes of which document; they tile `tokens.bin`."""

from __future__ import annotations

import pyarrow as pa

from tilth.contracts.contract import UUID, contract

TOKEN_SPANS = contract(
    "token_spans",
    1,
    [
        pa.field("token_start", pa.int64(), nullable=False),  # into tokens.bin
        pa.field("token_end", pa.int64(), nullable=False),  # exclusive
        # text: byte for byte as it was read; edited: tokens that touch an edit; synthetic: the training form's own
        pa.field("kind", pa.string(), nullable=False),
        pa.field("part", pa.string()),  # of a text that is filled in: prefix, middle, suffix; else whole; null: synthetic
        pa.field("doc_id", UUID),  # null: tokens of no one document
        pa.field("shard", pa.string()),
        pa.field("row", pa.int32()),
        pa.field("start", pa.int64()),  # UTF-8 bytes of the text that was trained on; null: synthetic
        pa.field("end", pa.int64()),  # exclusive
        pa.field("source_start", pa.int64()),  # UTF-8 bytes of the text as it was read, before any edit
        pa.field("source_end", pa.int64()),  # exclusive
    ],
    key=("token_start",),
)
