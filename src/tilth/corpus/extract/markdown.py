"""Markdown without what is not prose in it, as edits: front matter, and comments outside of code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

LANGUAGES = frozenset({"Markdown", "MDX", "RMarkdown"})  # linguist's names
FRONT_MATTER, COMMENT = "front_matter", "comment"

# YAML as Jekyll has it, TOML as Hugo has it, and how each ends. Lines between two rules that are no fields are text.
_FENCE = re.compile(r"\ufeff?(---|\+\+\+)[ \t]*\r?\n")
_END = {
    "---": re.compile(r"^(?:---|\.\.\.)[ \t]*\r?(?:\n|\Z)", re.MULTILINE),
    "+++": re.compile(r"^\+\+\+[ \t]*\r?(?:\n|\Z)", re.MULTILINE),
}
_FIELD = {
    "---": re.compile(r"\s*(?:#.*|[\"']?[\w.@$-][^:\n]{0,100}:(?:\s.*|)|-\s.*)?"),
    "+++": re.compile(r"\s*(?:#.*|\[.*|[\"']?[\w.-]+[\"']?\s*=.*)?"),
}
_MARKS = re.compile(r"^ {0,3}(?P<fence>`{3,}|~{3,})[^\n]*|^(?: {4}|\t)[^\n]*|(?P<ticks>`+)|<!--", re.MULTILINE)
_PARAGRAPH_END = re.compile(r"\n[ \t]*\r?\n")


class Change(NamedTuple):
    """A span of the text (characters, end exclusive), what stands in its place, and why."""

    start: int
    end: int
    replacement: str
    reason: str


def markdown_edits(text: str, front_matter: bool = True, comments: bool = True) -> list[Change]:
    """The cuts that leave the prose of a Markdown text; what stands in code (fenced, indented, between backticks) stays."""
    start = _front_matter_end(text)
    found = [Change(0, start, "", FRONT_MATTER)] if start and front_matter else []
    return [*found, *(_comments(text, start) if comments else [])]


def _front_matter_end(text: str) -> int:
    """Where the text goes on behind its front matter; 0 if it has none."""
    opened = _FENCE.match(text)
    if opened is None:
        return 0
    closed = _END[opened[1]].search(text, opened.end())
    if closed is None:
        return 0
    first = next((line for line in text[opened.end() : closed.start()].split("\n") if line.strip()), "")
    return closed.end() if _FIELD[opened[1]].fullmatch(first.rstrip("\r")) else 0


def _comments(text: str, start: int) -> Iterator[Change]:
    at, paragraphs = start, _Paragraphs(text)
    while mark := _MARKS.search(text, at):
        at = mark.end()
        if mark["fence"]:
            at = _fence_end(text, at, mark["fence"])
        elif mark["ticks"]:
            at = paragraphs.code_end(at, mark["ticks"])
        elif mark[0] == "<!--":
            end = text.find("-->", at)
            if end < 0:
                return
            begin, at = _with_line(text, mark.start(), end + 3)
            yield Change(begin, at, "", COMMENT)


def _fence_end(text: str, at: int, fence: str) -> int:
    """The end of a block of code: at a fence of the same mark, at least as long; without one the text ends in it."""
    closed = re.compile(rf"^ {{0,3}}{fence[0]}{{{len(fence)},}}[ \t]*\r?$", re.MULTILINE).search(text, at)
    return closed.end() if closed else len(text)


class _Paragraphs:
    """Where code between backticks ends. What was looked for in vain is not looked for again in the same paragraph."""

    def __init__(self, text: str) -> None:
        self._text, self._end = text, -1
        self._missing: set[int] = set()

    def code_end(self, at: int, ticks: str) -> int:
        """Behind the next run of as many backticks; `at`, as they are letters then, where the paragraph has none."""
        if at > self._end:
            end = _PARAGRAPH_END.search(self._text, at)
            self._end, self._missing = end.start() if end else len(self._text), set()
        if len(ticks) in self._missing:
            return at
        closed = re.compile(rf"(?<!`){ticks}(?!`)").search(self._text, at, self._end)
        if closed is None:
            self._missing.add(len(ticks))
        return closed.end() if closed else at


def _with_line(text: str, start: int, end: int) -> tuple[int, int]:
    """A comment that is alone on its lines goes with the end of its line."""
    after = re.compile(r"[ \t]*\r?\n").match(text, end)
    if after is None:  # looked at first: so what stands before is looked at once a line, however many comments it has
        return start, end
    before = text[text.rfind("\n", 0, start) + 1 : start]
    return (start, end) if before.strip() else (start - len(before), after.end())
