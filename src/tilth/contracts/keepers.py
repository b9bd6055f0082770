"""keepers/1: the clusters that decide what a corpus keeps, and the one member of each that its rule keeps; by method, too."""

from __future__ import annotations

import pyarrow as pa

from tilth.contracts.contract import DOC_ID, ROW, SHARD, UUID, contract

KEEPERS = contract(
    "keepers",
    1,
    [
        DOC_ID,
        SHARD,
        ROW,
        pa.field("cluster_id", UUID, nullable=False),  # doc_id of the first member by (shard, row)
        pa.field("is_keeper", pa.bool_(), nullable=False),  # true for exactly one member
        pa.field("is_exact_keeper", pa.bool_(), nullable=False),  # true for exactly one of the members with the same text
        pa.field("similarity", pa.float32(), nullable=False),  # to its most similar match, by any deciding method
    ],
    key=("shard", "row"),
)

METHOD_KEEPERS = contract(
    "method_keepers",
    1,
    [
        SHARD,
        ROW,
        pa.field("method", pa.string(), nullable=False),
        pa.field("is_keeper", pa.bool_(), nullable=False),  # true for exactly one member of each cluster of this method
    ],
    key=("shard", "row", "method"),
)
