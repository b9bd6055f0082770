"""When a row of generated tokens has ended: a stop token, its length, or going round in circles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tilth.errors import UserError

LONGEST_CIRCLE = 16


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """A row ends before a token of stop_ids, which is left out, and after its newest tokens are a circle run max_repeats times.

    A circle is 1 to LONGEST_CIRCLE tokens; max_repeats None lets rows repeat themselves. Raises UserError.
    """

    stop_ids: tuple[int, ...] = ()
    max_repeats: int | None = None

    def __post_init__(self) -> None:
        if self.max_repeats is not None and self.max_repeats < 2:
            raise UserError(f"max_repeats is {self.max_repeats}", fix="use at least 2 (once is no repeat), or None for no limit")

    def goes_in_circles(self, ids: Sequence[int]) -> bool:
        """Whether the end of ids is the same 1 to LONGEST_CIRCLE tokens max_repeats times in a row."""
        if self.max_repeats is None:
            return False
        for length in range(1, LONGEST_CIRCLE + 1):
            end = ids[-length * self.max_repeats :]
            if len(end) == length * self.max_repeats and end[length:] == end[:-length]:
                return True
        return False
