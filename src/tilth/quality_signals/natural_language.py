"""RedPajama-V2's signals of natural language, equal to the published code at its eight decimals.

Definitions: arXiv:2411.12372, table of quality signals, and the code published with it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

import pyarrow as pa

from tilth.quality_signals.registry import Undefined, signal
from tilth.quality_signals.text_view import TextView

N_DECIMALS = 8  # as published, so that equality with published values is plain equality
NO_WORDS, NO_LINES = Undefined("no words"), Undefined("no lines")

_SENTENCE = re.compile(r"\b[^.!?]+[.!?]*")
_ASCII_LETTER = re.compile(r"[a-zA-Z]")


@signal(
    "natural_language",
    version=1,
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
)
def natural_language(view: TextView) -> dict[str, Any]:
    """Counts and shares of words, sentences, symbols and lines (unit: words, or a fraction of 1 unless it says count)."""
    return {
        "rps_doc_num_sentences": sum(1 for _ in _SENTENCE.finditer(view.text)),
        "rps_doc_frac_lines_end_with_ellipsis": _share_of_ellipsis_lines(view),
        "rps_doc_curly_bracket": _ratio(view.text.count("{") + view.text.count("}"), len(view.text), 0.0),
        "rps_doc_lorem_ipsum": _ratio(view.normalized.count("lorem ipsum"), len(view.normalized), 0.0),
        **_raw_word_signals(view),
        **_normalized_word_signals(view),
    }


def _raw_word_signals(view: TextView) -> dict[str, Any]:
    n_words, counts = view.n_raw_words, view.raw_word_counts
    n_symbols = view.text.count("#") + view.text.count("...") + view.text.count("…")
    n_alphabetic = sum(count for word, count in counts.items() if _ASCII_LETTER.search(word))
    n_capitals = sum(count for word, count in counts.items() if word.isupper())
    return {
        "rps_doc_symbol_to_word_ratio": _ratio(n_symbols, n_words, NO_WORDS),
        "rps_doc_frac_no_alph_words": round(1.0 - n_alphabetic / n_words, N_DECIMALS) if n_words else NO_WORDS,
        "rps_doc_frac_all_caps_words": _ratio(n_capitals, n_words, NO_WORDS),
    }


def _normalized_word_signals(view: TextView) -> dict[str, Any]:
    counts = Counter(view.words)
    n_words = len(view.words)
    return {
        "rps_doc_word_count": n_words,
        "rps_doc_mean_word_length": _ratio(int(view.word_lengths.sum()), n_words, NO_WORDS),
        "rps_doc_frac_unique_words": _ratio(len(counts), n_words, NO_WORDS),
        "rps_doc_unigram_entropy": round(entropy_nats(counts), N_DECIMALS) if n_words else NO_WORDS,
    }


def entropy_nats(counts: Counter[str]) -> float:
    """Shannon entropy of a non-empty count of things, in nats."""
    total = counts.total()
    # Words of equal count have equal terms, and fsum makes the order of terms irrelevant.
    terms = Counter(counts.values())
    return math.fsum(-n_things * (count / total) * math.log(count / total) for count, n_things in terms.items())


def _share_of_ellipsis_lines(view: TextView) -> float | Undefined:
    n_ellipsis = sum(line.rstrip().endswith(("...", "…")) for line in view.lines)
    return _ratio(n_ellipsis, len(view.lines), NO_LINES)


def _ratio(part: int, whole: int, empty: float | Undefined) -> float | Undefined:
    return round(part / whole, N_DECIMALS) if whole else empty
