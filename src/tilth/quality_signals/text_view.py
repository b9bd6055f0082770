"""One document's text, and what families that look at one document at a time share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Any


class TextView:
    """A text with what is made of it once and only when asked for; `fields` holds what else a family asked for."""

    def __init__(self, text: str, fields: Mapping[str, Any] | None = None) -> None:
        self.text = text
        self.fields = fields or {}

    @cached_property
    def lines(self) -> list[str]:
        """Lines without their newline. Only `\\n` ends a line; a last newline opens no further line."""
        lines = self.text.split("\n")
        if not lines[-1]:
            lines.pop()
        return lines

    @cached_property
    def char_counts(self) -> Counter[str]:
        """How often each character occurs."""
        return Counter(self.text)
