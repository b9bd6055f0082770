"""Fast similarity sketching (Dahlgaard, Knudsen and Thorup 2017, arXiv:1704.04370): signatures in one pass instead of hundreds.

Two sketches agree in each place with the probability J, the Jaccard similarity of the two sets, as minima under that many
permutations do, and the share of places that agree lies closer to J.

In a round every value falls into a bin, and each bin keeps the smallest image. Bins that stayed empty take part in
the next round, with another map, until none is empty: a set of n values with k bins takes about k log k / n rounds. From round
k on all values fall into the one bin that is the round's turn, so that 2 k rounds always do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba import njit

from tilth.dedup.minhash.shingles import Shingles
from tilth.dedup.texts.mixing import Hashes, random_words
from tilth.dedup.texts.tokens import Ints

Words = npt.NDArray[np.uint32]
# values, ends (as in Shingles), maps (see `maps`), bins -> texts x bins; a GPU's kernel may be handed in
ComputeSketches = Callable[[Hashes, Ints, Hashes, int], Words]
_EMPTY, _LOW = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(0xFFFFFFFF)


def sketches(shingles: Shingles, seed: int, n_bins: int, compute: ComputeSketches | None = None) -> Words:
    """Texts x `n_bins`: the image that each bin keeps; all ones for a text without shingles."""
    return (compute or compute_sketches)(shingles.values, shingles.ends, maps(seed, n_bins), n_bins)


def maps(seed: int, n_bins: int) -> Hashes:
    """The linear maps of the rounds, (2 * n_bins, 2): odd factor and offset, modulo 2^64.

    The upper half of an image says the bin, the lower half is what the bin compares.
    """
    found = random_words(seed, 4 * n_bins).reshape(-1, 2)
    found[:, 0] |= np.uint64(1)
    return found


def compute_sketches(values: Hashes, ends: Ints, maps: Hashes, n_bins: int) -> Words:
    """The sketches on a CPU, one core."""
    out = np.empty((len(ends) - 1, n_bins), np.uint32)
    _sketch(values, ends, maps, out)
    return out


@njit(cache=True, nogil=True)
def _sketch(values, ends, maps, out):  # type: ignore[no-untyped-def]
    n_bins = out.shape[1]
    bins = np.empty(n_bins, np.uint64)  # round and image: what is smaller is of an earlier round
    for text in range(len(out)):
        bins[:] = _EMPTY
        begin, end = np.uint64(ends[text]), np.uint64(ends[text + 1])
        n_empty = n_bins if end > begin else 0
        turn = 0
        while n_empty:
            factor, offset, earlier = maps[turn, 0], maps[turn, 1], np.uint64(turn) << np.uint64(32)
            if turn >= n_bins:
                own = turn - n_bins
                if bins[own] == _EMPTY:
                    n_empty -= 1
                    for place in range(begin, end):
                        bins[own] = min(bins[own], earlier | ((values[place] * factor + offset) & _LOW))
            else:
                for place in range(begin, end):
                    image = values[place] * factor + offset
                    own = (image >> np.uint64(32)) * np.uint64(n_bins) >> np.uint64(32)
                    before = bins[own]
                    if before >= earlier:
                        n_empty -= before == _EMPTY
                        bins[own] = min(before, earlier | (image & _LOW))
            turn += 1
        for own in range(n_bins):
            out[text, own] = np.uint32(bins[own] & _LOW)
