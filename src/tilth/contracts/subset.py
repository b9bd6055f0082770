"""subset/1: the documents that a predicate selected, with weight and split."""

from __future__ import annotations

import pyarrow as pa

from tilth.contracts.contract import DOC_ID, ROW, SHARD, contract

SUBSET = contract(
    "subset",
    1,
    [
        DOC_ID,
        SHARD,
        ROW,
        pa.field("weight", pa.float32(), nullable=False),  # how often training sees it in a pass over the subset
        pa.field("split", pa.string(), nullable=False),  # train, validation
        pa.field("n_tokens", pa.int64()),
    ],
    key=("shard", "row"),
)
