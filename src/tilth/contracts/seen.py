"""seen/1: documents whose key a Bloom filter had met before them; nothing says which document that was."""

from __future__ import annotations

import pyarrow as pa

from tilth.contracts.contract import DOC_ID, ROW, SHARD, contract

SEEN = contract(
    "seen",
    1,
    [
        DOC_ID,
        SHARD,
        ROW,
        pa.field("method", pa.string(), nullable=False),  # what was compared: exact, normal_text, url
        pa.field("error_rate", pa.float64(), nullable=False),  # at most this share of new documents is here by mistake
    ],
    key=("shard", "row"),
)
