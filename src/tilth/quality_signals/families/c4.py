"""The rules of C4 (arXiv:1910.10683, section 2.2) and mC4 as numbers, as datatrove computes them, and its removals as edits.

The thresholds and phrases of datatrove 0.10's `C4QualityFilter`, which follows the code published with C4: faults are
looked for line by line in a fixed order, and sentences are those of spaCy's English sentenciser. A column that
ends in `_any_end` is for the rules without "a line ends in a terminal mark", as FineWeb uses them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tilth.quality_signals.edits import edit_table
from tilth.quality_signals.fused.text_batch import MOST_LINES, TextBatch
from tilth.quality_signals.registry import BatchScores, batch_signal

if TYPE_CHECKING:
    from tilth.quality_signals.rules.texts import Texts

Ints = npt.NDArray[np.int64]
TOO_MANY_LINES = f"more than {MOST_LINES} lines"
PHRASES = (
    "lorem ipsum",
    "javascript",
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
# Reasons of removal in the order in which the faults are looked for; the two that are None condemn the page, not the line.
REASONS = ("c4_long_word", "c4_no_terminal_mark", "c4_few_words", None, "c4_javascript", None, "c4_policy")
_COUNTS = (
    "c4_n_lines",
    "c4_n_kept_lines",
    "c4_n_long_word_lines",
    "c4_n_no_terminal_mark_lines",
    "c4_n_few_words_lines",
    "c4_n_lorem_ipsum_lines",
    "c4_n_javascript_lines",
    "c4_n_curly_bracket_lines",
    "c4_n_policy_lines",
    "c4_n_sentences",
    "c4_n_lorem_ipsum_lines_any_end",
    "c4_n_curly_bracket_lines_any_end",
    "c4_n_sentences_any_end",
    "c4_third_longest_line",
)
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_SPANS = pa.list_(pa.int64())


@batch_signal(
    "c4",
    version=3,
    columns={
        **{name: pa.int64() for name in _COUNTS},
        "c4_removed_line_starts": _SPANS,
        "c4_removed_line_ends": _SPANS,
        "c4_removed_line_reasons": pa.list_(pa.string()),
    },
)
def c4(batch: TextBatch) -> BatchScores:
    """Lines of each kind (each line counts for the first fault alone), sentences on the lines that are left, and the
    length of the third longest line (mC4's rule of three paragraphs, in characters). Removed lines are spans in
    characters, the line break included. Undefined for a text of more than MOST_LINES lines.
    """
    from tilth.quality_signals.rules import texts
    from tilth.quality_signals.rules.kernels import pages

    counts, removed_counts, spans, reasons = [], [], [], []
    parts = texts.parts_of(batch)
    undefined = undefined_of(parts)
    for part in parts:
        lines = judge(part)
        counts.append(_counts_of(part, lines))
        gone = lines.removed
        text = lines.table[gone, pages.TEXT]
        removed_counts.append(np.bincount(text, minlength=len(part)))
        spans.append(lines.table[gone][:, (pages.START, pages.NEXT)] - part.starts[text][:, None])
        reasons.append(lines.first_fault[gone])
    firsts = np.concatenate(([0], np.cumsum(np.concatenate(removed_counts)))) if removed_counts else np.zeros(1, np.int64)
    offsets = pa.array(firsts.astype(np.int32), mask=np.append(undefined, False))
    found = np.concatenate(counts) if counts else np.empty((0, len(_COUNTS)), np.int64)
    span = np.concatenate(spans) if spans else np.empty((0, 2), np.int64)
    kind = np.concatenate(reasons) if reasons else np.empty(0, np.int64)
    names = pa.DictionaryArray.from_arrays(pa.array(kind.astype(np.int32)), pa.array([reason or "" for reason in REASONS]))
    columns = {name: pa.array(np.ascontiguousarray(column), mask=undefined) for name, column in zip(_COUNTS, found.T)}
    columns["c4_removed_line_starts"] = pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(span[:, 0])))
    columns["c4_removed_line_ends"] = pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(span[:, 1])))
    columns["c4_removed_line_reasons"] = pa.ListArray.from_arrays(offsets, names.cast(pa.string()))
    return BatchScores(columns, {TOO_MANY_LINES: undefined})


def c4_edits(texts: pa.Array, needs_terminal_mark: bool = True) -> pa.Table:
    """What C4 takes out of texts that it keeps, as edits (see `edits.EDITS`): applied, they give datatrove's text.

    Lines without a place in C4 go with their line breaks, reason as in `REASONS`; citations such as [12] go from the
    lines that stay; white space at their ends and odd line breaks give way to one line feed. A text for which the signals
    `c4` are undefined stays as it is.
    """
    from tilth.quality_signals.rules.texts import in_parts

    edits: list[tuple[int, int, int, str, str]] = []
    done = 0
    for part in in_parts(texts):
        lines = judge(part)
        fault = lines.first_fault if needs_terminal_mark else lines.first_fault_any_end
        edits += _edits_of(part, lines.table, fault, done)
        done += len(part)
    return edit_table(edits)


@dataclass(frozen=True)
class Lines:
    """The lines of a part: the table that `pages.judge_lines` fills, and for each the place of its first fault or -1."""

    table: Ints
    kept: npt.NDArray[np.uint32]
    first_fault: Ints
    first_fault_any_end: Ints

    @property
    def removed(self) -> npt.NDArray[np.bool_]:
        """Lines that go while their page may stay."""
        return np.isin(self.first_fault, [place for place, reason in enumerate(REASONS) if reason])


def undefined_of(parts: Sequence[Texts]) -> npt.NDArray[np.bool_]:
    """Which texts have more than MOST_LINES lines, and so are judged as if they had none."""
    found = [np.full(len(part), not len(judge(part).table) and len(part.codes) > MOST_LINES) for part in parts]
    return np.concatenate([np.zeros(0, bool), *found])


def judge(part: Texts) -> Lines:
    """Look for the faults of each line; kept with the part, since C4 and FineWeb both ask."""
    kept: Lines | None = vars(part).get("_c4_lines")
    if kept is None:
        kept = vars(part)["_c4_lines"] = _judge(part)
    return kept


def text_left(part: Texts) -> Texts:
    """The texts that C4's removals leave without its rule of terminal marks; those of condemned pages too."""
    from tilth.quality_signals.rules.characters import character_classes
    from tilth.quality_signals.rules.kernels import pages
    from tilth.quality_signals.rules.texts import Texts

    lines = judge(part)
    codes, starts = np.empty(len(part.codes), np.uint32), np.empty(len(part) + 1, np.int64)
    used = pages.join_lines(lines.kept, lines.table, lines.first_fault_any_end < 0, character_classes(), codes, starts)
    return Texts(codes[:used], starts)


def _judge(part: Texts) -> Lines:
    from tilth.quality_signals.rules.characters import character_classes
    from tilth.quality_signals.rules.kernels import pages

    classes = character_classes()
    lengths = np.array(list(map(len, PHRASES)))
    phrases = np.zeros((len(PHRASES), lengths.max()), np.uint32)
    for row, phrase in enumerate(PHRASES):
        phrases[row, : len(phrase)] = list(map(ord, phrase))
    n_lines = pages.count_lines(part.codes, part.starts, classes)
    # A part of so many lines is one long text.
    codes, starts = (part.codes, part.starts) if n_lines <= MOST_LINES else (part.codes[:0], np.zeros(2, np.int64))
    table = np.empty((n_lines if n_lines <= MOST_LINES else 0, 8), np.int64)
    kept = np.empty(len(codes), np.uint32)
    used = pages.judge_lines(codes, starts, classes, phrases, lengths, table, kept)
    faults = table[:, pages.FAULTS]
    return Lines(table, kept[:used], _lowest_bit(faults), _lowest_bit(faults & ~pages.NO_TERMINAL))


def _lowest_bit(faults: Ints) -> Ints:
    """The place of the lowest bit, -1 for none."""
    return np.where(faults == 0, -1, np.log2(np.maximum(faults & -faults, 1)).astype(np.int64))


def _counts_of(part: Texts, lines: Lines) -> Ints:
    from tilth.quality_signals.rules.kernels import pages

    text, n = lines.table[:, pages.TEXT], len(part)
    by_fault, any_end = (
        np.bincount(8 * text + fault + 1, minlength=8 * n).reshape(n, 8)  # the first column for none
        for fault in (lines.first_fault, lines.first_fault_any_end)
    )
    stays = lines.first_fault_any_end < 0
    sentences = np.zeros(len(text), np.int64)
    sentences[stays] = _sentences(lines, stays)
    third = np.empty(n, np.int64)
    pages.third_longest(part.codes, part.starts, third)
    strict = np.bincount(text, weights=np.where(lines.first_fault < 0, sentences, 0), minlength=n).astype(np.int64)
    lax = np.bincount(text, weights=sentences, minlength=n).astype(np.int64)
    strict_columns = (by_fault.sum(axis=1), *by_fault.T, strict)
    return np.stack((*strict_columns, any_end[:, 4], any_end[:, 6], lax, third), axis=1)


def _sentences(lines: Lines, stays: npt.NDArray[np.bool_]) -> Ints:
    """How many sentences each of the lines that stay has, once its citations are out."""
    from tilth.quality_signals.rules import texts
    from tilth.quality_signals.rules.characters import character_classes
    from tilth.quality_signals.rules.kernels import pages

    spans = lines.table[stays][:, (pages.KEPT, pages.KEPT_END)]
    lengths = spans[:, 1] - spans[:, 0]
    starts = np.concatenate(([0], np.cumsum(lengths)))
    codes = np.empty(int(starts[-1]), np.uint32)
    pages.gather(lines.kept, spans, codes)
    words = texts.cut(texts.Texts(codes, starts), texts.english_tables(), keeps_space=True)
    found = np.empty(len(spans), np.int64)
    pages.count_sentences(codes, words.firsts, words.lasts, words.ends, character_classes(), found)
    return found


def _edits_of(part: Texts, table: Ints, fault: Ints, first_row: int) -> Iterator[tuple[int, int, int, str, str]]:
    from tilth.quality_signals.rules.kernels import pages

    bounds = np.searchsorted(table[:, pages.TEXT], np.arange(len(part) + 1))
    for number in range(len(part)):
        here = slice(bounds[number], bounds[number + 1])
        origin = part.starts[number]
        text = part.codes[origin : part.starts[number + 1]].tobytes().decode("utf-32-le")
        rows = (table[here, pages.START : pages.NEXT + 1] - origin).tolist()
        for edit in _edits_of_text(text, rows, fault[here].tolist()):
            yield first_row + number, *edit


def _edits_of_text(text: str, lines: list[list[int]], faults: list[int]) -> Iterator[tuple[int, int, str, str]]:
    stay = [_without(text, body, body_end) if fault < 0 else [] for (_, body, body_end, _), fault in zip(lines, faults)]
    _strip(text, stay)
    filled = [number for number, spans in enumerate(stay) if spans] or [0]
    for number, ((start, _, body_end, following), spans, fault) in enumerate(zip(lines, stay, faults)):
        if fault >= 0:
            yield start, following, "", REASONS[fault] or "c4_page"
            continue
        done = start
        for first, end in spans:
            if first > done:
                yield done, first, "", "c4_white_space" if done == start else "c4_citation"
            done = end
        feed = "\n" if filled[0] <= number < filled[-1] else ""
        if text[done:following] != feed:
            yield done, following, feed, "c4_line_break" if done >= body_end else "c4_citation"


def _without(text: str, start: int, end: int) -> list[list[int]]:
    """Spans of the line text[start:end] outside its citations."""
    cuts = [start, *(place for found in _CITATION.finditer(text, start, end) for place in found.span()), end]
    return [[first, last] for first, last in zip(cuts[::2], cuts[1::2]) if first < last or first == start == end]


def _strip(text: str, lines: list[list[list[int]]]) -> None:
    """Take white space off both ends of all lines together, as it may be there once citations are gone."""
    for spans in lines:
        while spans and not (kept := text[slice(*spans[0])].lstrip()):
            spans.pop(0)
        if spans:
            spans[0][0] = spans[0][1] - len(kept)
            break
    for spans in reversed(lines):
        while spans and not (kept := text[slice(*spans[-1])].rstrip()):
            spans.pop()
        if spans:
            spans[-1][1] = spans[-1][0] + len(kept)
            break
