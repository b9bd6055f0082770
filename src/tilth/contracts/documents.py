"""documents/1: what was read; occurrences/1: where its content was seen; rejects/1: what could not be read."""

from __future__ import annotations

import pyarrow as pa

from tilth.contracts.contract import DOC_ID, ROW, SHARD, contract

DOCUMENTS = contract(
    "documents",
    1,
    [
        DOC_ID,
        SHARD,
        ROW,
        pa.field("source", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("text_swhid", pa.string(), nullable=False),  # of the text's UTF-8 bytes
        pa.field("raw_swhid", pa.string(), nullable=False),  # of the archived bytes
        pa.field("encoding", pa.string(), nullable=False),  # how raw bytes became characters
        pa.field("extraction", pa.string(), nullable=False),  # how characters became text, with its version
        pa.field("n_bytes", pa.int64(), nullable=False),  # UTF-8 bytes of the text
        pa.field("n_chars", pa.int64(), nullable=False),
        pa.field("language", pa.string()),  # as the source declares it: a programming language, html lang
        pa.field("meta", pa.map_(pa.string(), pa.string()), nullable=False),
    ],
    key=("shard", "row"),
)

OCCURRENCES = contract(
    "occurrences",
    1,
    [
        DOC_ID,
        SHARD,
        ROW,
        pa.field("kind", pa.string(), nullable=False),  # git, warc, file, package
        pa.field("origin", pa.string(), nullable=False),  # repository, archive, or package==version
        pa.field("snapshot", pa.string()),  # swh:1:snp:
        pa.field("revision", pa.string()),  # swh:1:rev:
        pa.field("directory", pa.string()),  # swh:1:dir:
        pa.field("path", pa.string(), nullable=False),
        pa.field("mode", pa.string()),  # as git writes it: 100644
        pa.field("record_id", pa.string()),  # WARC-Record-ID
        pa.field("offset", pa.int64()),  # bytes into the archive
        pa.field("date", pa.string()),  # ISO 8601
    ],
)

REJECTS = contract(
    "rejects",
    1,
    [
        SHARD,
        pa.field("source", pa.string(), nullable=False),
        pa.field("location", pa.string(), nullable=False),  # file@offset, or a path
        pa.field("reason", pa.string(), nullable=False),  # one snake_case word
        pa.field("detail", pa.string(), nullable=False),
    ],
)
