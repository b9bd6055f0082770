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
TAG = re.compile(r"<(?!https?:|ftp:|mailto:|!--)/?[a-zA-Z!][^<>\n]{0,300}>")
# Comments that begin with a word: m4, batch files, Texinfo, FORTRAN 77.
COMMENT_WORD = re.compile(r"^[ \t]*(?:dnl|DNL|rem|REM|Rem|@rem|@REM|@c|@comment)\b|^[cC](?=[ \t]|$)", re.MULTILINE)
LINE_BREAK_IN_STRING = re.compile(r"\\[nrt](?![a-z]{2})")
PLUS = re.compile(r"(gpl[ -]?v?[ -]?[0-9.]*[0-9])\+")
COPYRIGHT_LINE = re.compile(r"^\W*(?:portions? )?(?:copyright\b|\(c\)|©)(?=.{0,60}(?:\d{4}|\(c\)|©|[<\[{]|\bby\b|yyyy|year))")
WORD_BYTES = b"0123456789abcdefghijklmnopqrstuvwxyz\n"
TO_WORDS = bytes(byte if byte in WORD_BYTES else ord(" ") for byte in range(256))
SPELLING = {"licence": "license", "licences": "licenses", "licenced": "licensed", "copyrights": "copyright", "https": "http"}
# The word before the look at what is around it: so the engine jumps from one to the next.
MISSPELT = {wrong: (re.compile(rf"{wrong}\b(?<=\b{wrong})"), right) for wrong, right in SPELLING.items()}


@dataclass(frozen=True)
class NormalText:
    """The words of a text, lower case, on its lines; of `text` only letters, digits, gaps, spaces and line ends are left."""

    text: str

    @cached_property
    def words(self) -> str:
        """All words, one space between them."""
        words = " ".join(self.text.split())
        for wrong, (pattern, right) in MISSPELT.items():
            if wrong in words:
                words = pattern.sub(right, words)
        return words

    def line_at(self, position: int) -> int:
        """The line, from 1, of the word at a position in `words`."""
        return self.line_of(self.words.count(" ", 0, position))

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(len(line.split()) for line in self.text.split("\n")))

    def line_of(self, word: int) -> int:
        """The line, from 1, of a word, counted from 0."""
        return bisect_right(self._ends, word) + 1

    def without(self, spans: Sequence[tuple[int, int]]) -> NormalText:
        """The text without some words (from first to last, counted from 0); each gap is the word `|`, which is in no phrase."""
        lines, at = [], 0
        left = sorted(spans)
        for line in self.text.split("\n"):
            kept: list[str] = []
            for word in line.split():
                while left and at > left[0][1]:
                    left.pop(0)
                if not left or at < left[0][0]:
                    kept.append(word)
                elif at == left[0][0]:
                    kept.append(GAP)
                at += 1
            lines.append(" ".join(kept))
        return NormalText("\n".join(lines))

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last line with a word, from 1; (1, 1) if there is none."""
        used = [i for i, line in enumerate(self.text.split("\n"), 1) if line.strip()]
        return (used[0], used[-1]) if used else (1, 1)


def normal_text(text: str, *, without_copyright: bool = False) -> NormalText:
    """Comment marks, HTML and punctuation go, line by line; with `without_copyright` also lines that say whose it is."""
    if "&" in text:
        text = html.unescape(html.unescape(text))
    text = COMMENT_WORD.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = LINE_BREAK_IN_STRING.sub(" ", TAG.sub(" ", text)).lower()
    text = PLUS.sub(r"\1 or later", text)
    if without_copyright:
        text = "\n".join("" if COPYRIGHT_LINE.match(line) else line for line in text.split("\n"))
    return NormalText(text.encode("ascii", "replace").translate(TO_WORDS).decode("ascii"))
