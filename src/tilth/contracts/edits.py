"""edits/1: spans of a document's text that were replaced after it was read, and why."""

from __future__ import annotations

import pyarrow as pa

from tilth.contracts.contract import ROW, SHARD, contract

EDITS = contract(
    "edits",
    1,
    [
        SHARD,
        ROW,
        pa.field("start", pa.int64(), nullable=False),  # characters of the text as it was read
        pa.field("end", pa.int64(), nullable=False),  # exclusive
        pa.field("replacement", pa.string(), nullable=False),  # empty: the span was cut
        pa.field("reason", pa.string(), nullable=False),  # one snake_case word
    ],
)
