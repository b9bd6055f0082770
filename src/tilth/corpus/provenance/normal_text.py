"""Texts of licences and notices as words: what a comment, a page or another line width adds is gone, lines can be found again."""

from __future__ import annotations

import html
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

GAP = "|"
WORD = re.compile(r"[a-z0-9]+")
TAG = re.compile(r"<(?!https?:|ftp:|mailto:|!--)/?[a-zA-Z!][^<>\n]{0,300}>")
# Comments that begin with a word: m4, batch files, Texinfo, FORTRAN 77.
COMMENT_WORD = re.compile(r"^[ \t]*(?:dnl|DNL|rem|REM|Rem|@rem|@REM|@c|@comment)\b|^[cC](?=[ \t]|$)", re.MULTILINE)
LINE_BREAK_IN_STRING = re.compile(r"\\[nrt](?![a-z]{2})")
PLUS = re.compile(r"(gpl[ -]?v?[ -]?[0-9.]*[0-9])\+")
COPYRIGHT_LINE = re.compile(r"^\W*(?:portions? )?(?:copyright\b|\(c\)|©)(?=.{0,60}(?:\d{4}|\(c\)|©|[<\[{]|\bby\b|yyyy|year))")
SPELLING = {"licence": "license", "licences": "licenses", "licenced": "licensed", "copyrights": "copyright", "https": "http"}


@dataclass(frozen=True)
class NormalText:
    """The words of each line of a text, lower case."""

    lines: list[list[str]]

    @cached_property
    def words(self) -> str:
        """All words, one space between them."""
        return " ".join(word for line in self.lines for word in line)

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(len(line) for line in self.lines))

    def line_at(self, position: int) -> int:
        """The line, from 1, of the word at a position in `words`."""
        return self.line_of(self.words.count(" ", 0, position))

    def line_of(self, word: int) -> int:
        """The line, from 1, of a word, counted from 0."""
        return bisect_right(self._ends, word) + 1

    def without(self, spans: Sequence[tuple[int, int]]) -> NormalText:
        """The text without some words (from first to last, counted from 0); each gap is the word `|`, which is in no phrase."""
        lines, at = [], 0
        left = sorted(spans)
        for line in self.lines:
            kept: list[str] = []
            for word in line:
                while left and at > left[0][1]:
                    left.pop(0)
                if not left or at < left[0][0]:
                    kept.append(word)
                elif at == left[0][0]:
                    kept.append(GAP)
                at += 1
            lines.append(kept)
        return NormalText(lines)

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last line with a word, from 1; (1, 1) if there is none."""
        used = [i for i, line in enumerate(self.lines, 1) if line]
        return (used[0], used[-1]) if used else (1, 1)


def normal_text(text: str, *, without_copyright: bool = False) -> NormalText:
    """Comment marks, HTML and punctuation go, line by line; with `without_copyright` also lines that say whose it is."""
    if "&" in text:
        text = html.unescape(html.unescape(text))
    text = COMMENT_WORD.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = LINE_BREAK_IN_STRING.sub(" ", TAG.sub(" ", text)).lower()
    lines = []
    for line in PLUS.sub(r"\1 or later", text).split("\n"):
        is_owner = without_copyright and COPYRIGHT_LINE.match(line) is not None
        lines.append([] if is_owner else [SPELLING.get(word, word) for word in WORD.findall(line)])
    return NormalText(lines)
