"""Near-duplicates of source files by what stands below the licence notice at their top."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pyarrow as pa

from tilth.corpus.extract import licence_header
from tilth.dedup.minhash.parameters import MinHashParameters


@dataclass(frozen=True)
class CodeMinHash(MinHashParameters):
    """MinHashParameters for code: `Corpus(near_duplicates=CodeMinHash(threshold=0.7))`.

    Files are compared without the comments at their top that hold a copyright or licence notice
    (`corpus/extract/licence_header.py`), by which short files of one project, or of one licence, are alike whatever they do.
    The texts of the corpus keep their notices.
    """

    def label(self) -> str:
        """That of MinHashParameters, and what is not compared."""
        return json.dumps({**json.loads(super().label()), "without": WITHOUT}, sort_keys=True)


WITHOUT = f"licence headers {licence_header.VERSION}"


def compared_texts(near: MinHashParameters, texts: pa.Array) -> pa.Array:
    """What is compared of each of `texts`."""
    if not isinstance(near, CodeMinHash):
        return texts
    return pa.array((licence_header.strip_licence_header(text) for text in texts.to_pylist()), texts.type, size=len(texts))
