"""Where a feature lies on its sequence, as feature tables of GenBank, EMBL and DDBJ say: `complement(join(1..9,20..>30))`.

Source: INSDC, "The DDBJ/ENA/GenBank Feature Table Definition", 3.4 (operators and descriptors).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from tilth.corpus.formats.nucleotides import reverse_complement

MAX_DEPTH = 20
_RANGE = re.compile(r"[<>]?(\d{1,15})(?:\.\.[<>]?(\d{1,15}))?")
_OPERATOR = re.compile(r"(complement|join|order)\((.*)\)")


class LocationError(ValueError):
    """A location that gives no letters; `reason` is a word for rejects/1."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Span(NamedTuple):
    """Letters `start` to `end` (from 0, half open), on the strand `+` or `-`."""

    start: int
    end: int
    strand: str


class Location(NamedTuple):
    """Its spans in the order in which they are read."""

    spans: tuple[Span, ...]

    @property
    def start(self) -> int:
        """The first letter of all spans."""
        return min(span.start for span in self.spans)

    @property
    def end(self) -> int:
        """Behind the last letter of all spans."""
        return max(span.end for span in self.spans)

    @property
    def strand(self) -> str:
        """That of all spans, `.` where they are on both."""
        strands = {span.strand for span in self.spans}
        return strands.pop() if len(strands) == 1 else "."

    def cut(self, sequence: bytes) -> bytes:
        """What is read of the whole `sequence`."""
        pieces = [(sequence[span.start : span.end], span.strand) for span in self.spans]
        return b"".join(reverse_complement(piece) if strand == "-" else piece for piece, strand in pieces)


def parse_location(text: str, length: int, is_circular: bool = False) -> Location:
    """The location in a sequence of `length` letters. Raises LocationError.

    `order` is read as `join`, `<` and `>` (it goes on beyond what was sequenced) as the place that they precede; in a circular
    sequence a range may run over its end. What names no letters of this sequence is refused: another record's, the place
    between two letters, one of several places.
    """
    return Location(tuple(_spans("".join(text.split()), length, is_circular, 0)))


def _spans(text: str, length: int, is_circular: bool, depth: int) -> list[Span]:
    if depth > MAX_DEPTH:
        raise LocationError("too_deep", f"brackets in brackets, more than {MAX_DEPTH}")
    if operator := _OPERATOR.fullmatch(text):
        inner = [span for part in _split(operator[2]) for span in _spans(part, length, is_circular, depth + 1)]
        if operator[1] != "complement":
            return inner
        return [span._replace(strand="+" if span.strand == "-" else "-") for span in reversed(inner)]
    if ":" in text:
        raise LocationError("remote_location", f"`{text[:80]}` lies in another record")
    match = _RANGE.fullmatch(text)
    if match is None:
        raise LocationError("unknown_location", f"`{text[:80]}` names no range of letters")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= length or not 1 <= last <= length:
        raise LocationError("out_of_range", f"`{text[:80]}` of a sequence of {length}")
    if first <= last:
        return [Span(first - 1, last, "+")]
    if not is_circular:
        raise LocationError("unknown_location", f"`{text[:80]}` runs backwards")
    return [Span(first - 1, length, "+"), Span(0, last, "+")]


def _split(text: str) -> list[str]:
    """The parts between the commas that are in no brackets."""
    parts, depth, start = [], 0, 0
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == "," and not depth:
            parts.append(text[start:at])
            start = at + 1
        if depth < 0:
            break
    if depth:
        raise LocationError("unknown_location", f"`{text[:80]}` has brackets that do not match")
    return [*parts, text[start:]]
