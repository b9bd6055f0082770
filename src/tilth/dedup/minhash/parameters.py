"""How near is near: the parameters of MinHash deduplication, and what they imply."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from tilth.errors import RecipeError

Definition = Literal["tilth", "datasketch", "datasketch-legacy"]  # of the minima
# What a shingle is a sequence of (tilth.dedup.texts.tokens); nucleotides: characters, and the same on the other strand of DNA.
Unit = Literal["words", "characters", "nucleotides"]


@dataclass(frozen=True)
class MinHashParameters:
    """Documents are duplicates when the exact Jaccard similarity of their n-token shingle sets is >= `threshold`.

    Pairs are proposed by MinHash with banding (Broder 1997; Leskovec, Rajaraman, Ullman, chapter 3). `recall` is the
    wanted probability that a pair exactly at the threshold is proposed; bands and rows follow from it within
    `max_permutations`, unless `bands` gives them as (bands, rows). Raises RecipeError for values that cannot be.
    """

    n: int = 5
    threshold: float = 0.7
    recall: float = 0.98
    max_permutations: int = 256
    seed: int = 0
    max_bucket: int = 32  # buckets up to this size are compared pair by pair
    n_representatives: int = 8  # larger ones with this many representatives
    unit: Unit = "words"  # tokens: words, characters or nucleotides
    bands: tuple[int, int] | None = None
    definition: Definition = "tilth"  # tilth: sketches (`sketch.py`); datasketch: its minima (`published_minima.py`)

    def __post_init__(self) -> None:
        if not (0 < self.threshold <= 1 and 0 < self.recall < 1):
            raise RecipeError(
                "`threshold` must be in (0, 1] and `recall` in (0, 1)", where=str(self), fix="for example 0.7 and 0.98"
            )
        if self.n < 1 or self.max_bucket < 2 or self.n_representatives < 1:
            raise RecipeError(
                "`n` and `n_representatives` must be at least 1, `max_bucket` at least 2", where=str(self), fix="leave them out"
            )
        if self.unit not in get_args(Unit):
            raise RecipeError(f"there is no unit `{self.unit}`", where=str(self), fix=f"One of {', '.join(get_args(Unit))}.")
        if self.definition not in get_args(Definition):
            raise RecipeError(
                f"there is no definition `{self.definition}`", str(self), f"One of {', '.join(get_args(Definition))}."
            )
        if self.unit == "nucleotides" and self.definition != "tilth":
            raise RecipeError("nobody else compares both strands", where=str(self), fix="leave `definition` out")
        if self.bands is not None:
            if len(self.bands) != 2 or min(self.bands) < 1:
                raise RecipeError("`bands` are (bands, rows), both at least 1", where=str(self), fix="for example (14, 8)")
        elif self._bands_of(1) > self.max_permutations:
            fix = f"allow {self._bands_of(1)} permutations, or lower `recall`"
            raise RecipeError(f"{self.max_permutations} permutations cannot reach recall {self.recall}", where=str(self), fix=fix)

    @cached_property
    def n_rows(self) -> int:
        """Permutations in a band: as many as fit, since more rows propose fewer pairs in vain."""
        if self.bands is not None:
            return self.bands[1]
        rows = 1
        while self._bands_of(rows + 1) * (rows + 1) <= self.max_permutations:
            rows += 1
        return rows

    @property
    def n_bands(self) -> int:
        """Number of bands, the fewest that reach `recall`."""
        return self.bands[0] if self.bands is not None else self._bands_of(self.n_rows)

    @property
    def n_permutations(self) -> int:
        """Permutations that are really used."""
        return self.n_bands * self.n_rows

    def candidate_probability(self, similarity: float) -> float:
        """Probability that a pair of this Jaccard similarity shares a band."""
        return 1.0 - (1.0 - similarity**self.n_rows) ** self.n_bands

    def explain(self) -> str:
        """The choice in words and the recall it gives."""
        marks = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
        chances = ", ".join(f"{mark:g}: {self.candidate_probability(mark):.4f}" for mark in marks)
        wanted = "as given" if self.bands is not None else f"wanted {self.recall:g}"
        return (
            f"{self.n_bands} bands of {self.n_rows} rows ({self.n_permutations} permutations) of {self.n} {self.unit}; "
            f"a pair at the threshold {self.threshold:g} is proposed with probability "
            f"{self.candidate_probability(self.threshold):.4f} ({wanted}); by similarity: {chances}"
        )

    def label(self) -> str:
        """Canonical JSON of what signatures depend on; signatures with another label cannot be compared."""
        fields = {name: getattr(self, name) for name in ("n", "seed", "unit", "definition", "n_bands", "n_rows")}
        return json.dumps(fields, sort_keys=True)

    def _bands_of(self, rows: int) -> int:
        hit = self.threshold**rows
        return 1 if hit >= 1 else math.ceil(math.log(1 - self.recall) / math.log1p(-hit))


# What others published, with verification on top: datatrove's FineWeb (arXiv:2406.17557), The Stack v2 (arXiv:2402.19173).
PRESETS: dict[str, MinHashParameters] = {
    "fineweb": MinHashParameters(threshold=0.75, bands=(14, 8)),
    "stack-v2": MinHashParameters(threshold=0.7, bands=(25, 10)),
}
