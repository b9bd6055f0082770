"""A text while it is written: markers, whose places are kept, and words between them."""

from __future__ import annotations

from tilth.tokenize.thread_markers import write_places


class MarkedText:
    """`mark` sets a marker; `add` writes words, in which nothing is a marker whatever they say."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._places: list[int] = []
        self.n_bytes = 0

    def mark(self, marker: str, words: str = "") -> None:
        """A marker, and words behind it."""
        self._places.append(self.n_bytes)
        self.add(marker)
        self.add(words)

    def add(self, words: str) -> None:
        """Words alone."""
        self._parts.append(words)
        self.n_bytes += len(words.encode())

    @property
    def text(self) -> str:
        """All that was written."""
        return "".join(self._parts)

    @property
    def places(self) -> str:
        """Where the markers begin, as meta has it."""
        return write_places(self._places)
