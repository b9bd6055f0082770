"""The numbers that Gopher's filter rules compare (arXiv:2112.11446, appendix A.1.1 and table A1), as datatrove computes them.

Words are those of spaCy's English tokeniser, whatever the language, so that a predicate with the published thresholds
keeps what datatrove 0.10's `GopherQualityFilter` and `GopherRepetitionFilter` keep by default. Nothing is rounded.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.registry import BatchScores, batch_signal

Ints = npt.NDArray[np.int64]
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_TOP = tuple(f"gopher_top_{n}gram_char_frac" for n in (2, 3, 4))
_DUPE = tuple(f"gopher_dupe_{n}gram_char_frac" for n in range(5, 11))
_PARTS = (
    "gopher_dupe_paragraph_frac",
    "gopher_dupe_paragraph_char_frac",
    "gopher_dupe_line_frac",
    "gopher_dupe_line_char_frac",
)


@batch_signal(
    "gopher",
    version=2,
    columns={
        "gopher_n_words": pa.int64(),
        "gopher_mean_word_length": pa.float64(),
        "gopher_hash_word_ratio": pa.float64(),
        "gopher_ellipsis_word_ratio": pa.float64(),
        "gopher_bullet_line_frac": pa.float64(),
        "gopher_ellipsis_line_frac": pa.float64(),
        "gopher_alphabetic_word_frac": pa.float64(),
        "gopher_n_stop_words": pa.int64(),
    },
)
def gopher(batch: TextBatch) -> BatchScores:
    """Gopher's rules of quality: words that are not punctuation alone and their length in characters, symbols for each
    word, shares of lines, the share of words with a letter, and how many of eight stop words occur.
    """
    from tilth.quality_signals.rules import texts
    from tilth.quality_signals.rules.characters import character_classes
    from tilth.quality_signals.rules.kernels import counts

    stops = texts.hashes_of(STOP_WORDS)
    found = np.empty((len(batch), 10), np.int64)
    done = 0
    for part in texts.parts_of(batch):
        words, out = part.words, found[done : done + len(part)]
        counts.count_words(
            part.codes, part.starts, words.firsts, words.lasts, words.hashes, words.ends, character_classes(), stops, out
        )
        done += len(part)
    column = found.T
    n_words, n_lines, n_counted = column[counts.N_WORDS], column[counts.N_LINES], column[counts.N_COUNTED]
    columns = {
        "gopher_n_words": pa.array(np.ascontiguousarray(n_counted)),
        "gopher_mean_word_length": ratio(column[counts.N_COUNTED_CHARS], n_counted),
        "gopher_hash_word_ratio": ratio(column[counts.N_HASHES], n_words),
        "gopher_ellipsis_word_ratio": ratio(column[counts.N_ELLIPSES], n_words),
        "gopher_bullet_line_frac": ratio(column[counts.N_BULLETS], n_lines),
        "gopher_ellipsis_line_frac": ratio(column[counts.N_ELLIPSIS_ENDS], n_lines),
        "gopher_alphabetic_word_frac": ratio(column[counts.N_ALPHABETIC], n_words),
        "gopher_n_stop_words": pa.array(np.ascontiguousarray(column[counts.N_STOPS])),
    }
    return BatchScores(columns, {"no words": n_counted == 0, "no lines": n_lines == 0})


@batch_signal("gopher_repetition", version=2, columns={name: pa.float64() for name in (*_PARTS, *_TOP, *_DUPE)})
def gopher_repetition(batch: TextBatch) -> BatchScores:
    """Gopher's rules of repetition, as fractions of 1: of paragraphs and lines that were seen before in the text, of its
    characters in these, in the most frequent n-gram, and in n-grams that were seen before (not in their first occurrence).

    A text with fewer than n words has 0 for n-grams; a top share counts the n-gram of a text that repeats nothing, too.
    """
    from tilth.quality_signals.rules import texts
    from tilth.quality_signals.rules.characters import character_classes
    from tilth.quality_signals.rules.kernels import counts

    parts, tops, dupes = (np.empty((len(batch), n), np.int64) for n in (6, 3, 6))
    n_chars = np.empty(len(batch), np.int64)
    done = 0
    for part in texts.parts_of(batch):
        here, words = slice(done, done + len(part)), part.words
        n_chars[here] = np.diff(part.starts)
        counts.count_repeated_parts(part.codes, part.starts, character_classes(), parts[here])
        spans = words.hashes, words.firsts, words.lasts, words.ends
        counts.count_repeated_words(part.codes, *spans, tops[here], dupes[here])
        done += len(part)
    column = parts.T
    shares = (
        ratio(column[counts.N_SAME_PARAGRAPHS], column[counts.N_PARAGRAPHS] * (n_chars > 0)),
        ratio(column[counts.SAME_PARAGRAPH_CHARS], n_chars),
        ratio(column[counts.N_SAME_PARTS], column[counts.N_PARTS] * (n_chars > 0)),
        ratio(column[counts.SAME_PART_CHARS], n_chars),
        *(ratio(top, n_chars) for top in tops.T),
        *(ratio(dupe, n_chars) for dupe in dupes.T),
    )
    return BatchScores(dict(zip((*_PARTS, *_TOP, *_DUPE), shares)), {"no text": n_chars == 0})


def ratio(part: Ints, whole: Ints) -> pa.Array:
    """part / whole (float64), null where the whole is 0; not rounded, since a threshold is compared with it."""
    none = whole == 0
    return pa.array(part / np.where(none, 1, whole), pa.float64(), mask=none)
