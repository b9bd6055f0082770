"""duplicates/1: members of duplicate clusters, marked and never deleted."""

from __future__ import annotations

import pyarrow as pa

from tilth.contracts.contract import DOC_ID, ROW, SHARD, UUID, contract

DUPLICATES = contract(
    "duplicates",
    1,
    [
        DOC_ID,
        SHARD,
        ROW,
        pa.field("method", pa.string(), nullable=False),  # exact, normal_text, url, minhash, simhash; digest: as published
        pa.field("threshold", pa.float32(), nullable=False),
        pa.field("cluster_id", UUID, nullable=False),  # doc_id of the first member by (shard, row)
        pa.field("matched_id", UUID, nullable=False),
        pa.field("is_keeper", pa.bool_(), nullable=False),  # the method's own choice; that of the corpus is in keepers/1
        pa.field("similarity", pa.float32(), nullable=False),  # verified, not estimated
    ],
    key=("shard", "row"),
)
