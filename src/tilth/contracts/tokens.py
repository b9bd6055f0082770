"""tokens/1: a folder with `tokens.bin` (flat little-endian uint16, or uint32 where the vocabulary exceeds 65,536),
`index.parquet` with this schema, `tokens.json` (type, counts, separator) and the `tokenizer.json` that made them."""

from __future__ import annotations

import pyarrow as pa

from tilth.contracts.contract import DOC_ID, ROW, SHARD, contract

TOKENS_INDEX = contract(
    "tokens",
    1,
    [
        DOC_ID,  # of a training form: of the first file of a repository; token_spans/1 has them all
        SHARD,
        ROW,
        pa.field("offset", pa.int64(), nullable=False),  # in tokens, into tokens.bin
        pa.field("length", pa.int64(), nullable=False),  # in tokens, with the separator that ends the document
    ],
    key=("offset",),  # a document of weight 2 stands here twice
)
