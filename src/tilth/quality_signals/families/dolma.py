"""The numbers of dolma's `gopher_v1` tagger (arXiv:2402.00159), which its recipe for Common Crawl compares.

Equal to what dolma 1.2 computes: words lie between white space, empty lines count, a repeated line or n-gram counts with its
first occurrence. The recipe's rule of repetition needs a tokeniser that is not published with the tagger; here it is
measured on the same words.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tilth.quality_signals.families.gopher import STOP_WORDS
from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.registry import BatchScores, batch_signal

_TOP = tuple(f"dolma_top_{n}gram_char_frac" for n in (2, 3, 4))
_DUPE = tuple(f"dolma_dupe_{n}gram_char_frac" for n in range(5, 11))


@batch_signal(
    "dolma",
    version=2,
    columns={
        "dolma_n_words": pa.int64(),
        "dolma_median_word_length": pa.float64(),
        "dolma_symbol_word_frac": pa.float64(),
        "dolma_alphabetic_word_frac": pa.float64(),
        "dolma_n_required_words": pa.int64(),
        "dolma_bullet_line_frac": pa.float64(),
        "dolma_ellipsis_line_frac": pa.float64(),
        "dolma_dupe_line_frac": pa.float64(),
        "dolma_dupe_line_char_frac": pa.float64(),
        **{name: pa.float64() for name in (*_TOP, *_DUPE)},
        "dolma_max_repetitions": pa.int64(),
    },
)
def dolma(batch: TextBatch) -> BatchScores:
    """Words, their median length in characters, shares of words, of lines and of the words' characters (fractions of 1; the
    latter may exceed 1), and how often in a row the same 1 to 13 words come at most (0 below three times).

    An empty text has 0 everywhere, as it has in dolma.
    """
    from tilth.quality_signals.rules import texts
    from tilth.quality_signals.rules.characters import character_classes
    from tilth.quality_signals.rules.kernels import counts

    stops = texts.hashes_of(STOP_WORDS)
    n = len(batch)
    found, medians = np.zeros((n, 11), np.int64), np.zeros(n, np.float64)
    tops, repeated, gram_chars = (np.zeros((n, columns), np.int64) for columns in (3, 11, 11))
    done = 0
    for part in texts.parts_of(batch):
        here = slice(done, done + len(part))
        outs = found[here], medians[here], tops[here], repeated[here], gram_chars[here]
        counts.count_spaced(part.codes, part.starts, character_classes(), stops, *outs)
        done += len(part)
    column = found.T
    n_words, n_chars = np.maximum(column[counts.D_WORDS], 1), np.maximum(column[counts.D_CHARS], 1)
    n_lines = np.maximum(column[counts.D_LINES], 1)
    values = {
        "dolma_n_words": column[counts.D_WORDS],
        "dolma_median_word_length": medians,
        "dolma_symbol_word_frac": column[counts.D_SYMBOLS] / n_words,
        "dolma_alphabetic_word_frac": column[counts.D_ALPHABETIC] / n_words,
        "dolma_n_required_words": column[counts.D_STOPS],
        "dolma_bullet_line_frac": column[counts.D_BULLETS] / n_lines,
        "dolma_ellipsis_line_frac": column[counts.D_ELLIPSIS_ENDS] / n_lines,
        "dolma_dupe_line_frac": column[counts.D_SAME_LINES] / n_lines,
        "dolma_dupe_line_char_frac": column[counts.D_SAME_LINE_CHARS] / n_chars,
        **{name: top / n_chars for name, top in zip(_TOP, tops.T)},
        **{name: repeated[:, size] / np.maximum(gram_chars[:, size], 1) for size, name in enumerate(_DUPE, 5)},
        "dolma_max_repetitions": column[counts.D_REPEATS],
    }
    return BatchScores({name: pa.array(np.ascontiguousarray(value)) for name, value in values.items()})
