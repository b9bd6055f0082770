"""Repeated passages: of every span of three sentences the first copy stays, as in C4 (Raffel et al., JMLR 21, section 2.2).

FineWeb's code (datatrove, `sentence_dedup`) does the same and then looks at what is left: spans of few words can stay, and
documents of which too little is left go. Here both are settings, and everything that goes is a span of edits/1; a document
that goes is cut to nothing and its row stays.

The stages are those of lines.py, with windows of sentences instead of lines: `sentence_run` of each shard, `merge_runs` and
`repeated_lines` for all, `sentence_edits` of each shard. "First" means first by (shard, row, sentence), so the result does
not depend on the order of runs or the number of workers. A sentence goes when any span goes that it is in. So where the
first copy of a span overlaps a later copy of another, its sentences go with that one, as in both models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numba import njit

from tilth.dedup.passages.first_copies import Repeated, with_first_copies
from tilth.dedup.passages.lines import Batches, ShardLines, cuts, of_shard, repeated_flags, sorted_run
from tilth.dedup.passages.sentence_tiles import Tiles, sentence_tiles

_REPEATED, _TOO_SHORT = 1, 2
_REASONS = ("", "repeated_sentences", "too_short_after_cuts")
# Odd 64-bit constants, splitmix64's.
_MULTIPLIER, _MIXER = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True)
class Limits:
    """What may be left of a document. A document from which nothing goes is never looked at.

    `min_span_words`: a run of sentences with fewer words stays. `min_words`, `min_sentences`: with less left all goes.
    """

    min_span_words: int = 0
    min_words: int = 0
    min_sentences: int = 0


def sentence_run(documents: Batches, n: int = 3, by_line: bool = False) -> pa.Table:
    """Stage 1: the distinct spans of `n` sentences (lines, with `by_line`) of one shard as a sorted run (LINE_RUN).

    `documents` has the columns shard, row (ascending) and text; more are ignored. Documents of fewer sentences have no
    span. Memory: about 90 bytes a sentence. Raises ContractError for documents of several shards or out of order.
    """
    return sorted_run(_windows(_sentences(documents, by_line), n))


def sentence_edits(
    documents: Batches, repeated: Batches, n: int = 3, by_line: bool = False, limits: Limits | None = None
) -> pa.Table:
    """Stage 3: what to cut from the documents of one shard (edits/1), ascending, given the repeated spans of all.

    Every copy of a span but the first goes, with the reason `repeated_sentences`; what else goes by `limits` has the reason
    `too_short_after_cuts`. Raises ContractError where `repeated` is not ascending or of other documents.
    """
    return _cut_sentences(documents, repeated, n, by_line, limits or Limits())[0]


def sentence_cuts(documents: Batches, repeated: Repeated, n: int = 3) -> pa.Table:
    """As `sentence_edits` without limits, with the columns of FIRST_COPIES: of the span that each cut begins with."""
    edits, windows, firsts = _cut_sentences(documents, repeated(), n, False, Limits())
    return with_first_copies(edits, windows.hashes[firsts], np.ones(len(firsts), np.bool_), repeated, "line")


def _cut_sentences(
    documents: Batches, repeated: Batches, n: int, by_line: bool, limits: Limits
) -> tuple[pa.Table, ShardLines, np.ndarray]:
    """The edits, the spans of the shard, and the one that begins where an edit begins (-1 where the limits alone cut)."""
    found = _sentences(documents, by_line)
    windows = _windows(found, n)
    flags = repeated_flags(windows, repeated, keep_first=True)
    tiles = found.tiles
    settings = (n, limits.min_span_words, limits.min_words, limits.min_sentences)
    documents_cut, starts, ends, kinds, firsts = _spans(
        tiles.n_sentences, tiles.n_chars, tiles.starts, tiles.n_words, flags, *settings
    )
    return cuts(windows, documents_cut, starts, ends, kinds, _REASONS), windows, firsts


@dataclass(frozen=True)
class _ShardSentences:
    """All sentences of one shard in order of (row, sentence)."""

    shard: str
    rows: np.ndarray
    tiles: Tiles


def _sentences(documents: Batches, by_line: bool) -> _ShardSentences:
    shard, rows, parts = of_shard(documents, lambda texts: sentence_tiles(texts, by_line))
    none = sentence_tiles(pa.array([], pa.string()))
    return _ShardSentences(shard, rows, Tiles(*(np.concatenate(column) for column in zip(*parts, none, strict=True))))


def _windows(found: _ShardSentences, n: int) -> ShardLines:
    """The spans of `n` sentences within documents, in the place of lines."""
    hashes, counts = found.tiles.hashes, found.tiles.n_sentences
    n_windows = np.maximum(counts - n + 1, 0)
    firsts = np.cumsum(counts, dtype=np.int64) - counts
    before = np.cumsum(n_windows, dtype=np.int64) - n_windows
    starts = np.arange(int(n_windows.sum())) + np.repeat(firsts - before, n_windows)
    state = np.full(len(starts), n, np.uint64)
    for place in range(n):
        state = (state ^ hashes[starts + place]) * _MULTIPLIER
        state ^= state >> np.uint64(32)
    state = (state ^ (state >> np.uint64(27))) * _MIXER
    return ShardLines(found.shard, found.rows, n_windows.astype(np.int32), state, np.zeros(0, np.int32))


@njit(cache=True, nogil=True)
def _spans(n_sentences, n_chars, starts, n_words, flags, n, min_span_words, min_words, min_sentences):  # type: ignore[no-untyped-def]
    """Document, start, end, reason and first window of each span to cut, in characters; neighbours of one reason are one."""
    documents, begins = np.empty(len(starts), np.int64), np.empty(len(starts), np.int64)
    ends, kinds = np.empty(len(starts), np.int64), np.empty(len(starts), np.int8)
    reasons, windows = np.zeros(len(starts), np.int8), np.empty(len(starts), np.int64)
    n_spans = first = window = 0
    for document in range(len(n_sentences)):
        stop = first + n_sentences[document]
        first_window = window
        for start in range(first, stop - n + 1):
            if flags[window]:
                reasons[start : start + n] = _REPEATED
            window += 1
        words_left, sentences_left = _what_stays(reasons, n_words, first, stop, min_span_words)
        is_cut = sentences_left < stop - first
        if is_cut and (words_left < min_words or sentences_left < min_sentences):
            for sentence in range(first, stop):
                if reasons[sentence] == 0:
                    reasons[sentence] = _TOO_SHORT
        previous = 0
        for sentence in range(first, stop):
            end = starts[sentence + 1] if sentence + 1 < stop else n_chars[document]
            reason = reasons[sentence]
            if reason != 0 and reason == previous:
                ends[n_spans - 1] = end
            elif reason != 0:
                documents[n_spans], begins[n_spans] = document, starts[sentence]
                ends[n_spans], kinds[n_spans] = end, reason
                windows[n_spans] = first_window + sentence - first if reason == _REPEATED else -1
                n_spans += 1
            previous = reason
        first = stop
    kept = slice(0, n_spans)
    return documents[kept].copy(), begins[kept].copy(), ends[kept].copy(), kinds[kept].copy(), windows[kept].copy()


@njit(cache=True, nogil=True)
def _what_stays(reasons, n_words, first, stop, min_span_words):  # type: ignore[no-untyped-def]
    """Let short runs stay after all; gives the words and sentences that stay."""
    words_left = sentences_left = 0
    at = first
    while at < stop:
        end, words = at, 0
        while end < stop and (reasons[end] != 0) == (reasons[at] != 0):
            words += n_words[end]
            end += 1
        if reasons[at] != 0 and words < min_span_words:
            reasons[at:end] = 0
        if reasons[at] == 0:
            words_left += words
            sentences_left += end - at
        at = end
    return words_left, sentences_left
