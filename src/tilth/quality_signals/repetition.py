"""RedPajama-V2's signals of repeated word n-grams, equal to the published code at its eight decimals.

Definitions: arXiv:2411.12372 and the code published with it. Unlike Gopher's rule (arXiv:2112.11446) the
first occurrence of a repeated n-gram counts as repeated too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tilth.quality_signals.natural_language import N_DECIMALS
from tilth.quality_signals.registry import signal
from tilth.quality_signals.text_view import TextView

Ints = npt.NDArray[np.int64]
TOP_SIZES, DUPE_SIZES = (2, 3, 4), (5, 6, 7, 8, 9, 10)
_TOP = {n: f"rps_doc_frac_chars_top_{n}gram" for n in TOP_SIZES}
_DUPE = {n: f"rps_doc_frac_chars_dupe_{n}grams" for n in DUPE_SIZES}


@signal("repetition", version=1, columns={name: pa.float64() for name in (*_TOP.values(), *_DUPE.values())})
def repetition(view: TextView) -> dict[str, float]:
    """Share of the characters in words that belong to the most frequent n-gram (top) or to any repeated n-gram (dupe).

    A top share can exceed 1, since overlapping occurrences count each. Documents without repetition score 0.
    """
    shares = dict.fromkeys((*_TOP.values(), *_DUPE.values()), 0.0)
    for n, repeated in _repeated_ngrams(view.word_ids, max(DUPE_SIZES)):
        if n in _TOP:
            shares[_TOP[n]] = round(_top_share(repeated, n, view.word_lengths), N_DECIMALS)
        elif n in _DUPE:
            shares[_DUPE[n]] = round(_dupe_share(repeated, n, view.word_lengths), N_DECIMALS)
    return shares


@dataclass(frozen=True)
class _Repeated:
    """The n-grams of one size that occur at least twice, as positions in the text and the class of each."""

    positions: Ints  # ascending
    classes: Ints  # equal where the n-grams are equal, numbered from 0
    counts: Ints  # occurrences of each class
    firsts: Ints  # first position of each class


def _repeated_ngrams(word_ids: Ints, largest: int) -> Iterator[tuple[int, _Repeated]]:
    """Yield (n, repeated n-grams) for n = 2.. while there are any.

    An n+1-gram can repeat only where the n-grams at its position and at the next one do, so each size looks at
    few positions; pairs of class numbers identify it exactly, without hashing.
    """
    positions, classes = np.arange(len(word_ids)), word_ids
    for n in range(2, largest + 1):
        follows = np.flatnonzero(positions[1:] == positions[:-1] + 1)
        if not len(follows):
            return
        n_classes = int(classes.max()) + 1
        keys = classes[follows] * n_classes + classes[follows + 1]
        _, first, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        kept = counts >= 2
        if not kept.any():
            return
        renumbered = np.cumsum(kept) - 1
        here = kept[inverse]
        positions, old_positions = positions[follows[here]], positions
        classes = renumbered[inverse[here]]
        yield n, _Repeated(positions, classes, counts[kept], old_positions[follows[first[kept]]])


def _top_share(repeated: _Repeated, n: int, word_lengths: Ints) -> float:
    most = repeated.counts.max()
    # Of equally frequent n-grams the one that is seen first counts.
    first = int(repeated.firsts[repeated.counts == most].min())
    return float(word_lengths[first : first + n].sum() * most) / float(word_lengths.sum())


def _dupe_share(repeated: _Repeated, n: int, word_lengths: Ints) -> float:
    covered = np.zeros(len(word_lengths), dtype=bool)
    for offset in range(n):
        covered[repeated.positions + offset] = True
    return float(word_lengths[covered].sum()) / float(word_lengths.sum())
