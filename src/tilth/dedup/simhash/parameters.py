"""How SimHash looks at a text and how near two fingerprints must be."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from tilth.errors import RecipeError

N_BITS = 64
_MOST_DISTANCE = 12


@dataclass(frozen=True)
class SimHash:
    """Documents match when their 64-bit fingerprints (Charikar 2002) differ in at most `max_distance` bits.

    A fingerprint is made of shingles of `n` words, or of `n` characters without white space, of the normal text.
    `SimHash(n=6, unit="characters", max_distance=5)` is what RedPajama-V1 did to books. Nothing is compared but
    fingerprints, so this is an estimate of likeness where MinHash is verified: at 3 bits of 64 nearly all matches are near
    copies, while short texts on one subject can match at 5 and more. Raises RecipeError for values that cannot be.
    """

    n: int = 3
    unit: Literal["words", "characters"] = "words"
    max_distance: int = 3
    max_bucket: int = 1000  # candidates that agree in a block are compared pair by pair up to this many fingerprints
    n_representatives: int = 32  # more of them with so many representatives

    def __post_init__(self) -> None:
        if self.unit not in ("words", "characters"):
            raise RecipeError(f"SimHash has no unit `{self.unit}`", fix="`words` or `characters`")
        if not 0 <= self.max_distance <= _MOST_DISTANCE:
            where, fix = str(self), "3 finds copies with few changes, 5 is RedPajama-V1's"
            raise RecipeError(f"`max_distance` must be from 0 to {_MOST_DISTANCE} bits", where, fix)
        if self.n < 1 or self.max_bucket < 2 or self.n_representatives < 1:
            where, fix = str(self), "leave them out"
            raise RecipeError("`n` and `n_representatives` must be at least 1, `max_bucket` at least 2", where, fix)

    @property
    def threshold(self) -> float:
        """The similarity, 1 - distance / 64, from which on documents match."""
        return 1 - self.max_distance / N_BITS

    def label(self) -> str:
        """What decides the fingerprints, as canonical JSON."""
        return json.dumps({name: asdict(self)[name] for name in ("n", "unit")}, sort_keys=True)
