"""Joins the main texts that two libraries found of one page: what both kept, and the prose between it that only one kept.

Two extractors that work differently rarely make the same mistake, so a line that both kept is main text. Of the others
only prose between agreed lines stays, and the heading between two paragraphs: what stands before the first or after the
last is most often a menu, a teaser or a comment. Where the two hardly agree one of them lost the text or took the whole
page: then the one with more prose is right.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import NamedTuple

# Chosen on Readability's pages, tried on goose3's (benchmarks/extraction.py); F1 hardly moves for 40 to 120 bytes,
# 0.15 to 0.25 agreed and 0.5 to 0.8 covered.
LONG_LINE_BYTES = 60  # of UTF-8: about as many Latin letters, or 20 Chinese characters
MIN_AGREED = 0.2
MIN_COVERED = 0.7
GRAM_WORDS = 4

# Scripts without spaces between words: a character is a word (Thai, Lao, Burmese, Khmer, kana, Han).
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
# Soft hyphens, joiners and marks of direction: one library keeps them, another does not.
INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
# Three dots end no sentence: they cut a teaser off.
SENTENCE_END = re.compile("(?<![.][.])[.!?\u3002\uff01\uff1f\u061f\u06d4\u0964][\"'\u201d\u2019\u00bb)\\]\u300d\u300f]*$")


class Source(Enum):
    """Whose text was taken."""

    BOTH = "both"
    FIRST = "first"
    SECOND = "second"


class Line(NamedTuple):
    """A line that is not blank, its words, its size, and whether a blank line stands before it."""

    text: str
    words: tuple[str, ...]
    n_bytes: int
    after_blank: bool

    @property
    def is_long(self) -> bool:
        """Longer than most titles and entries of menus."""
        return self.n_bytes >= LONG_LINE_BYTES

    @property
    def is_prose(self) -> bool:
        """Long, and it ends as a sentence does."""
        return self.is_long and SENTENCE_END.search(self.text[-8:]) is not None


def words_of(text: str) -> list[str]:
    """Words in lower case; of scripts without spaces, characters."""
    return WORD.findall(unicodedata.normalize("NFC", INVISIBLE.sub("", text)).lower())


def join(first: str, second: str) -> tuple[str, Source]:
    """The main text by two extractions of the same page, and whose it is.

    Agreed lines are those of `first`, with its blank lines; lines without a word in them are left out.
    """
    ours, theirs = list(_lines(first)), list(_lines(second))
    if not ours or not theirs:
        return (first, Source.FIRST) if ours else (second, Source.SECOND)
    ours_agreed, theirs_agreed = agreed(ours, theirs), agreed(theirs, ours)
    if not _mostly(ours, ours_agreed) or not _mostly(theirs, theirs_agreed):
        return (first, Source.FIRST) if _prose_bytes(ours) >= _prose_bytes(theirs) else (second, Source.SECOND)
    inserted = _between(theirs, theirs_agreed, ours)
    lone = _lone_prose(ours, ours_agreed)
    stays = [both or i in lone for i, both in enumerate(ours_agreed)]
    headings = _headings(ours, stays)
    kept: list[Line] = []
    for i, line in enumerate(ours):
        if stays[i] or i in headings:
            kept.append(line)
        kept += inserted.get(i, ())
    return "".join("\n" * (1 + line.after_blank) + line.text for line in kept).strip("\n"), Source.BOTH


def agreed(lines: list[Line], others: list[Line]) -> list[bool]:
    """For each line whether the other extraction has it too: as a line, or in lines that are broken elsewhere.

    A short line that is only part of another one counts between sure ones: alone, it may be a title that the text quotes.
    """
    same = {line.words for line in others}
    known = {line.words for line in lines}
    grams = _Grams([line.words for line in others if line.words not in known])
    found = [line.words in same or grams.cover(line.words) for line in lines]
    sure = [i for i, line in enumerate(lines) if found[i] and (line.is_long or line.words in same)]
    return [found[i] and sure[0] <= i <= sure[-1] for i in range(len(lines))] if sure else [False] * len(lines)


class _Grams:
    """The runs of words of some lines, by their length."""

    def __init__(self, lines: list[tuple[str, ...]]) -> None:
        self.lines = lines
        self.known: dict[int, set[tuple[str, ...]]] = {}

    def cover(self, words: tuple[str, ...]) -> bool:
        """Whether most runs of four words (of all, if there are two or three) are among them. One word alone says nothing."""
        n = min(GRAM_WORDS, len(words))
        if n < 2:
            return False
        if n not in self.known:
            self.known[n] = {gram for line in self.lines for gram in _runs(line, n)}
        known = self.known[n]
        return bool(known) and sum(gram in known for gram in _runs(words, n)) >= MIN_COVERED * (len(words) - n + 1)


def _runs(words: tuple[str, ...], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(n)), strict=False)


def _lines(text: str) -> Iterator[Line]:
    after_blank = False
    for line in text.split("\n"):
        if words := tuple(words_of(line)):
            yield Line(line.rstrip(), words, len(line.strip().encode("utf-8", "replace")), after_blank)
            after_blank = False
        else:
            after_blank = after_blank or not line.strip()


def _lone_prose(lines: list[Line], is_agreed: list[bool]) -> set[int]:
    """The lines of prose that only this extraction has, between agreed ones."""
    both = [i for i in range(len(lines)) if is_agreed[i]]
    return {i for i in range(both[0], both[-1]) if not is_agreed[i] and lines[i].is_prose} if both else set()


def _headings(lines: list[Line], stays: list[bool]) -> set[int]:
    """The single lines left out between two paragraphs, but for what recurs (`Advertisement`, `Share`).

    Behind the first paragraph of all stand the author and the date instead.
    """
    n_of = Counter(line.words for line in lines)
    found: set[int] = set()
    n_prose = 0
    for i in range(1, len(lines) - 1):
        n_prose += stays[i - 1] and lines[i - 1].is_prose
        between = stays[i - 1] and lines[i - 1].is_prose and stays[i + 1] and lines[i + 1].is_prose
        if between and not stays[i] and n_prose > 1 and n_of[lines[i].words] == 1:
            found.add(i)
    return found


def _between(lines: list[Line], is_agreed: list[bool], others: list[Line]) -> dict[int, list[Line]]:
    """The prose between agreed lines that only these lines have, by the index of the line of `others` that it follows."""
    index = {line.words: i for i, line in reversed(list(enumerate(others)))}
    lone = _lone_prose(lines, is_agreed)
    found: dict[int, list[Line]] = {}
    at = -1
    for i, line in enumerate(lines):
        if is_agreed[i]:
            at = max(at, index.get(line.words, -1))
        elif i in lone:
            found.setdefault(at, []).append(line)
    return found


def _mostly(lines: list[Line], is_agreed: list[bool]) -> bool:
    agreed_bytes = sum(line.n_bytes for line, both in zip(lines, is_agreed, strict=True) if both)
    return agreed_bytes > 0 and agreed_bytes >= MIN_AGREED * sum(line.n_bytes for line in lines)


def _prose_bytes(lines: Iterable[Line]) -> int:
    return sum(line.n_bytes for line in lines if line.is_prose)
