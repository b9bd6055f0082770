"""licences/2: claims of a licence with their evidence, for each occurrence of a document."""

from __future__ import annotations

import pyarrow as pa

from tilth.contracts.contract import DOC_ID, ROW, SHARD, contract

LICENCES = contract(
    "licences",
    2,
    [
        DOC_ID,
        SHARD,
        ROW,
        pa.field("origin", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("spdx", pa.string(), nullable=False),  # an SPDX expression
        pa.field("scope", pa.string(), nullable=False),  # file, ancestor, repository, declared (by the recipe)
        pa.field("evidence_path", pa.string(), nullable=False),
        pa.field("evidence_swhid", pa.string()),
        pa.field("tool", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("effective", pa.bool_(), nullable=False),  # this claim (among others, perhaps) is in force
        pa.field("tool_version", pa.string(), nullable=False),
        pa.field("first_line", pa.int32()),  # of the evidence, from 1
        pa.field("last_line", pa.int32()),
        pa.field("strictness", pa.int8(), nullable=False),  # 0 no conditions, 1 permissive, 2-4 copyleft, 5 unknown
    ],
)
