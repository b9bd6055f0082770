"""contamination/1: spans of documents that are found in a benchmark, with the item that they are from."""

from __future__ import annotations

import pyarrow as pa

from tilth.contracts.contract import ROW, SHARD, contract

CONTAMINATION = contract(
    "contamination",
    1,
    [
        SHARD,
        ROW,
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),  # the item's own id, or the number of its line
        pa.field("field", pa.string(), nullable=False),  # prompt, choices[2]
        pa.field("method", pa.string(), nullable=False),  # ngram, whole (an item shorter than an n-gram), substring, code
        pa.field("start", pa.int64(), nullable=False),  # code points of the text
        pa.field("end", pa.int64(), nullable=False),  # exclusive
        pa.field("n_matched", pa.int64(), nullable=False),  # words of the span; substring: letters and digits; code: marks, too
        pa.field("coverage", pa.float32(), nullable=False),  # share of the field's n-grams that the document holds
    ],
)
