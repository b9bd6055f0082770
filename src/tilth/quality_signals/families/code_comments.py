"""How much of a source file is comments: the measure behind SantaCoder's filter (arXiv:2301.03988, section 4.1)."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa

from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.registry import BatchScores, batch_signal


@batch_signal(
    "code_comments", version=1, columns={"n_comment_chars": pa.int64(), "comment_fraction": pa.float64()}, needs=("language",)
)
def code_comments(batch: TextBatch) -> BatchScores:
    """Characters in comments, their marks included, and in Python's docstrings; and their share of all characters.

    Strings are passed over, so that marks in them count for nothing. Undefined for languages whose comments
    `fused.comment_styles` does not know; the language is linguist's name.
    """
    from tilth.quality_signals.fused.comment_styles import style_numbers, style_tables
    from tilth.quality_signals.fused.kernels.code_shape import count_characters
    from tilth.quality_signals.fused.kernels.comments import comment_characters

    numbers = style_numbers()
    styles = np.array([numbers.get(language, -1) for language in batch.fields["language"].to_pylist()], np.int64)
    found = np.empty(len(batch), np.int64)
    comment_characters(batch.data, batch.offsets, styles, *style_tables(), found)
    offsets = batch.offsets
    sizes = [count_characters(batch.data, start, end) for start, end in itertools.pairwise(offsets)]
    n_chars = np.array(sizes, np.int64)
    is_unknown = styles < 0
    is_empty = ~is_unknown & (n_chars == 0)
    columns = {
        "n_comment_chars": pa.array(found, mask=is_unknown),
        "comment_fraction": pa.array(found / np.maximum(n_chars, 1), mask=is_unknown | is_empty),
    }
    return BatchScores(columns, {"no comment style is known for the language": is_unknown, "empty text": is_empty})
