"""Which text of the SPDX License List a licence file is: the same words in the same order, else nearly the same set of words.

`spdx_texts.npz` holds hashes, no text: of each licence its normal texts and its set of words. scripts/spdx_texts.py makes it.
The list is the work of the SPDX Workgroup, a Linux Foundation project (https://spdx.org/licenses/); its identifiers are used.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from tilth.corpus.provenance.normal_text import NormalText

DATA = "spdx_texts.npz"
ALIKE = 0.90  # Dice of the sets of words from which a text is taken for a licence
TIE = 0.012  # so near to the best, the licence that is met more often is meant
# Met most often, the most frequent first. Their near twins differ in a name (Pixar) or a trailing clause (BSD-3-Clause-HP).
COMMON = (
    "MIT", "Apache-2.0", "BSD-3-Clause", "BSD-2-Clause", "ISC", "GPL-3.0-only", "GPL-2.0-only", "LGPL-2.1-only", "LGPL-3.0-only",
    "AGPL-3.0-only", "MPL-2.0", "Unlicense", "CC0-1.0", "0BSD", "Zlib", "BSL-1.0", "EPL-2.0", "EPL-1.0", "PSF-2.0", "Python-2.0",
    "CC-BY-4.0", "CC-BY-SA-4.0", "Artistic-2.0", "OFL-1.1", "LGPL-2.0-only", "BSD-4-Clause", "HPND", "CDDL-1.0", "GPL-1.0-only",
    "GFDL-1.1-only", "GFDL-1.2-only", "GFDL-1.3-only", "X11", "NCSA",
)  # fmt: skip
MIN_WORDS = 12  # fewer say too little to be called alike


class TextMatch(NamedTuple):
    """A licence of the list; `score` is 1 for the same words in the same order, else Dice's coefficient of the two sets."""

    spdx: str
    score: float
    is_exact: bool


@dataclass(frozen=True)
class SpdxTexts:
    """Sets of words: `owners` (sets,) is the licence of each, `sizes` (sets,) counts its words.

    `starts` (words + 1,) cuts `holders` into the sets that hold a word.
    """

    version: str
    names: tuple[str, ...]
    exact: dict[int, str]
    word_ids: dict[int, int]
    owners: np.ndarray[Any, np.dtype[np.int64]]
    sizes: np.ndarray[Any, np.dtype[np.int64]]
    starts: np.ndarray[Any, np.dtype[np.int64]]
    holders: np.ndarray[Any, np.dtype[np.int64]]

    def exact_match(self, text: NormalText) -> TextMatch | None:
        """The licence whose text this is, word for word."""
        name = self.exact.get(text_hash(text.words))
        return None if name is None else TextMatch(name, 1.0, True)

    def match(self, text: NormalText) -> TextMatch | None:
        """The licence whose text this is like; None if none is (ALIKE)."""
        words = set(text.words.split(" "))
        known = [self.word_ids[key] for key in map(word_hash, words) if key in self.word_ids]
        if len(known) < MIN_WORDS:
            return None
        shared = np.bincount(
            np.concatenate([self.holders[self.starts[i] : self.starts[i + 1]] for i in known]), minlength=len(self.owners)
        )
        dice = 2 * shared / (len(words) + self.sizes)
        best = float(dice.max())
        if best < ALIKE:
            return None
        near = {self.names[self.owners[i]]: float(dice[i]) for i in np.flatnonzero(dice >= best - TIE)}
        name = next((common for common in COMMON if common in near), self.names[self.owners[dice.argmax()]])
        return TextMatch(name, near[name], False)

    def has_word(self, spdx: str, word: str) -> bool:
        """Whether the text of a licence of the list holds a word."""
        word_id = self.word_ids.get(word_hash(word))
        if word_id is None:
            return False
        sets = self.holders[self.starts[word_id] : self.starts[word_id + 1]]
        return bool((self.owners[sets] == self.names.index(spdx)).any())


def text_hash(words: str) -> int:
    """64 bits of BLAKE2b over the words of a text."""
    return int.from_bytes(hashlib.blake2b(words.encode("ascii"), digest_size=8).digest(), "little")


def word_hash(word: str) -> int:
    """CRC-32 of a word: two of the list's fifteen thousand words share one about once in forty lists."""
    return zlib.crc32(word.encode("ascii"))


@cache
def spdx_texts() -> SpdxTexts:
    """The list as it was packed with this version."""
    packed = files("tilth.corpus.provenance").joinpath(DATA).read_bytes()
    with np.load(io.BytesIO(packed)) as data:
        names = tuple(data["names"].tolist())
        exact = {int(key): names[i] for key, i in zip(data["text_hashes"], data["text_names"], strict=True)}
        counts = np.diff(data["set_starts"].astype(np.int64))
        owners = data["set_names"].astype(np.int64)
        sets = np.repeat(np.arange(len(owners)), counts)
        members = data["set_words"].astype(np.int64)
        order = np.argsort(members, kind="stable")
        starts = np.searchsorted(members[order], np.arange(len(data["word_hashes"]) + 1))
        word_ids = {int(key): i for i, key in enumerate(data["word_hashes"])}
        return SpdxTexts(str(data["version"]), names, exact, word_ids, owners, counts, starts, sets[order])
