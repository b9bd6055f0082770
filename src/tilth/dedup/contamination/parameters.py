"""What counts as overlap of a document with a benchmark."""

from __future__ import annotations

from dataclasses import dataclass

from tilth.errors import RecipeError


@dataclass(frozen=True)
class OverlapParameters:
    """n-grams of `n_words` words, texts of at least `min_words` as a whole, substrings of `n_characters` (0: none),
    n-grams of `n_code` units of code without regard to names and indents (0: none).

    Raises RecipeError for values that cannot be.
    """

    n_words: int = 13
    min_words: int = 8  # a shorter text is not looked for
    n_characters: int = 0  # letters and digits
    n_code: int = 0  # words, numbers and marks
    max_items: int = 10  # an n-gram in more items of a benchmark is not looked for

    def __post_init__(self) -> None:
        if not 1 <= self.min_words <= self.n_words or self.max_items < 1 or min(self.n_characters, self.n_code) < 0:
            what = "1 <= `min_words` <= `n_words`, `max_items` >= 1, `n_characters` and `n_code` >= 0 must hold"
            raise RecipeError(what, str(self), "The defaults are 8, 13, 10 and 0; GPT-4 took 50 characters.")
