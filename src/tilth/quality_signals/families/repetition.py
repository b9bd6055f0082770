"""RedPajama-V2's signals of repeated word n-grams, equal to the published code at its eight decimals.

Definitions: arXiv:2411.12372 and the code published with it. Unlike Gopher's rule (arXiv:2112.11446) the
first occurrence of a repeated n-gram counts as repeated too.
"""

from __future__ import annotations

import pyarrow as pa

from tilth.quality_signals.fused.columns import shares
from tilth.quality_signals.fused.text_batch import MAX_BYTES, TextBatch
from tilth.quality_signals.registry import BatchScores, batch_signal

TOP_SIZES, DUPE_SIZES = (2, 3, 4), (5, 6, 7, 8, 9, 10)
_TOP = [f"rps_doc_frac_chars_top_{n}gram" for n in TOP_SIZES]
_DUPE = [f"rps_doc_frac_chars_dupe_{n}grams" for n in DUPE_SIZES]


@batch_signal("repetition", version=2, columns={name: pa.float64() for name in (*_TOP, *_DUPE)}, max_bytes=MAX_BYTES)
def repetition(batch: TextBatch) -> BatchScores:
    """Share of the characters in words that belong to the most frequent n-gram (top) or to any repeated n-gram (dupe).

    A top share can exceed 1, since overlapping occurrences count each. Documents without repetition score 0.
    """
    from tilth.quality_signals.fused.kernels.words import N_WORD_CHARS

    n_chars = batch.words.documents[:, N_WORD_CHARS]
    found = batch.repeated_chars.T
    return BatchScores({name: shares(part, n_chars, empty=0.0) for name, part in zip((*_TOP, *_DUPE), found)})
