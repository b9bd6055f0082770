"""What a search for near-duplicates takes: documents and bytes at hand, and estimates of disk, memory and time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tilth.corpus.columns import Fields, read_columns
from tilth.dedup.minhash.parameters import MinHashParameters
from tilth.pipeline.dedup_files import WHERE, Search, find_pieces

# Fitted to runs of 150,000 documents of 1,610 bytes and of 1 and 10 million of 520 (benchmarks/results.csv, 2026-11-28, less the
# start of a process), memory to the last two. Beyond these sizes they are extrapolated.
SECONDS_PER_MB, SECONDS_PER_KEY = 0.0100, 236e-9
PUBLISHED_SECONDS_PER_MB = 0.07  # more, for the SHA-1 of every n-gram: 17 MB of texts of 220 words, RedPajama-V2's 13-grams
BYTES_PER_DOCUMENT, BASE_BYTES = 114, 286 << 20
# Assumed: a third of the documents are candidates, and a shingle, 8 bytes, begins at every sixth byte of a text.
CANDIDATE_SHARE, BYTES_PER_SHINGLE_SET = 0.35, 1.4


@dataclass(frozen=True)
class Estimate:
    """For so many documents and bytes of text: what lies on disk meanwhile, what is in memory at most, and CPU hours."""

    n_documents: int
    n_bytes: int
    spill_bytes: int
    memory_bytes: int
    cpu_hours: float


def estimate(n_documents: int, n_bytes: int, parameters: MinHashParameters) -> Estimate:
    """From the sizes of what is written for each document, and the rates above."""
    index_bytes = n_documents * (8 * parameters.n_bands + 4 + 8 + 8 + 16)  # bands, size, key, offset, id
    set_bytes = int(CANDIDATE_SHARE * BYTES_PER_SHINGLE_SET * n_bytes)
    rate = SECONDS_PER_MB + (PUBLISHED_SECONDS_PER_MB if parameters.definition != "tilth" else 0.0)
    seconds = rate * n_bytes / 1e6 + SECONDS_PER_KEY * n_documents * parameters.n_bands
    return Estimate(
        n_documents, n_bytes, index_bytes + set_bytes, BASE_BYTES + BYTES_PER_DOCUMENT * n_documents, seconds / 3600
    )  # fmt: skip


def measure(search: Search) -> tuple[int, int]:
    """(bytes, documents) of the files, the documents told from the first block of each file."""
    n_bytes, n_documents = 0, 0.0
    for piece, file in find_pieces(search).pieces.values():
        if piece.start:  # the first of a file speaks for all of it
            continue
        n_bytes += file.size_bytes
        first = next(read_columns(piece, Fields(search.text), WHERE), None)
        if first is not None and len(first.texts):
            lengths = np.diff(np.frombuffer(first.texts.buffers()[1], np.int64)[: len(first.texts) + 1])
            n_documents += file.size_bytes / max(1.0, float(lengths.mean()))
    return n_bytes, round(n_documents)
