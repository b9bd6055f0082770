"""RedPajama-V2's signals of natural language, equal to the published code at its eight decimals.

Definitions: arXiv:2411.12372, table of quality signals, and the code published with it.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tilth.quality_signals.fused.columns import decimals, shares, whole_numbers
from tilth.quality_signals.fused.rounding import N_DECIMALS
from tilth.quality_signals.fused.text_batch import MAX_BYTES, TextBatch
from tilth.quality_signals.registry import BatchScores, batch_signal

__all__ = ["N_DECIMALS", "natural_language"]

NO_WORDS, NO_LINES = "no words", "no lines"


@batch_signal(
    "natural_language",
    version=3,
    columns={
        "rps_doc_word_count": pa.int64(),
        "rps_doc_mean_word_length": pa.float64(),
        "rps_doc_num_sentences": pa.int64(),
        "rps_doc_symbol_to_word_ratio": pa.float64(),
        "rps_doc_frac_lines_end_with_ellipsis": pa.float64(),
        "rps_doc_frac_no_alph_words": pa.float64(),
        "rps_doc_frac_all_caps_words": pa.float64(),
        "rps_doc_frac_unique_words": pa.float64(),
        "rps_doc_unigram_entropy": pa.float64(),
        "rps_doc_curly_bracket": pa.float64(),
        "rps_doc_lorem_ipsum": pa.float64(),
    },
    max_bytes=MAX_BYTES,
)
def natural_language(batch: TextBatch) -> BatchScores:
    """Counts and shares of words, sentences, symbols and lines (unit: words, or a fraction of 1 unless it says count)."""
    from tilth.quality_signals.fused.kernels import raw
    from tilth.quality_signals.fused.kernels import words as word

    counts = batch.raw_counts.T
    n_raw, no_raw = counts[raw.N_WORDS], counts[raw.N_WORDS] == 0
    words = batch.words.documents.T
    n_words, no_words = words[word.N_WORDS], words[word.N_WORDS] == 0
    n_lines = counts[raw.N_LINES]
    columns = {
        "rps_doc_word_count": whole_numbers(n_words),
        "rps_doc_mean_word_length": shares(words[word.N_WORD_CHARS], n_words),
        "rps_doc_num_sentences": whole_numbers(counts[raw.N_SENTENCES]),
        "rps_doc_symbol_to_word_ratio": shares(counts[raw.N_SYMBOLS], n_raw),
        "rps_doc_frac_lines_end_with_ellipsis": shares(counts[raw.N_ELLIPSIS_LINES], n_lines),
        "rps_doc_frac_no_alph_words": decimals(1.0 - counts[raw.N_ALPHABETIC] / np.maximum(n_raw, 1), no_raw),
        "rps_doc_frac_all_caps_words": shares(counts[raw.N_CAPITAL], n_raw),
        "rps_doc_frac_unique_words": shares(words[word.N_DISTINCT], n_words),
        "rps_doc_unigram_entropy": decimals(batch.words.entropies, no_words),
        "rps_doc_curly_bracket": shares(counts[raw.N_CURLY], counts[raw.N_CHARS], empty=0.0),
        "rps_doc_lorem_ipsum": shares(
            words[word.N_LOREM_IPSUM], words[word.N_WORD_CHARS] + np.maximum(n_words - 1, 0), empty=0.0
        ),
    }
    return BatchScores(columns, {NO_WORDS: no_raw | no_words, NO_LINES: n_lines == 0})
