"""MinHash: the smallest image of a text's shingles under each of many permutations (Broder 1997).

Tilth's own permutations are linear maps of 32-bit values, `factor * value + offset` modulo 2^32 with odd factors; a value
is the upper half of a shingle's hash.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba import njit

from tilth.dedup.minhash.shingles import Shingles
from tilth.dedup.texts.tokens import MIXER, MULTIPLIER, STEP, Hashes, Ints, mix

Words = npt.NDArray[np.uint32]
# values, ends (as in Shingles), factors, offsets -> texts x permutations; a GPU's kernel may be handed in
ComputeMinima = Callable[[Words, Ints, Words, Words], Words]
_LANES = 64  # permutations whose minima stay in registers


def permutations(seed: int, count: int) -> tuple[Words, Words]:
    """(factors, offsets) of `count` permutations; a longer sequence of the same seed begins alike."""
    words = random_words(seed, 2 * count).reshape(count, 2) >> np.uint64(32)
    return words[:, 0].astype(np.uint32) | np.uint32(1), words[:, 1].astype(np.uint32)


def minima(shingles: Shingles, seed: int, count: int, compute: ComputeMinima | None = None) -> Words:
    """Texts x `count`: the minimum of each permutation; all ones for a text without shingles."""
    factors, offsets = permutations(seed, count)
    values = (shingles.values >> np.uint64(32)).astype(np.uint32)
    return (compute or compute_minima)(values, shingles.ends, factors, offsets)


def compute_minima(values: Words, ends: Ints, factors: Words, offsets: Words) -> Words:
    """The minima on a CPU, one core."""
    padding = -len(factors) % _LANES
    padded = [np.concatenate([column, np.zeros(padding, np.uint32)]) for column in (factors, offsets)]
    out = np.empty((len(ends) - 1, len(factors) + padding), np.uint32)
    _minima(values, ends, *padded, out)
    return out[:, : len(factors)]


def mixed(state: Hashes) -> Hashes:
    """Spread the bits of 64-bit values; a bijection (`tokens.mix` on arrays)."""
    state = (state ^ (state >> np.uint64(30))) * MULTIPLIER
    state = (state ^ (state >> np.uint64(27))) * MIXER
    return state ^ (state >> np.uint64(31))


def random_words(seed: int, count: int) -> Hashes:
    """`count` 64-bit words of the splitmix64 sequence: the same on every machine and for every version of NumPy."""
    steps = np.arange(1, count + 1, dtype=np.uint64) * STEP
    return mixed(steps + np.uint64(seed & 0xFFFFFFFFFFFFFFFF))


def band_keys(found: Words, n_bands: int, n_rows: int, seed: int) -> Hashes:
    """Texts x bands: a 64-bit key for the `n_rows` minima of each band; a key says which band it is of."""
    salts = random_words(~seed, n_bands)
    out = np.empty((len(found), n_bands), np.uint64)
    _band_keys(found, n_rows, salts, out)
    return out


@njit(cache=True, nogil=True)
def _band_keys(found, n_rows, salts, out):  # type: ignore[no-untyped-def]
    for text in range(len(found)):
        for band in range(len(salts)):
            state = salts[band]
            for row in range(band * n_rows, band * n_rows + n_rows):
                state = mix(state ^ np.uint64(found[text, row]))
            out[text, band] = state


@njit(cache=True, nogil=True)
def _minima(values, ends, factors, offsets, out):  # type: ignore[no-untyped-def]
    for text in range(len(ends) - 1):
        for first in range(0, len(factors), _LANES):
            factor, offset = factors[first : first + _LANES], offsets[first : first + _LANES]
            lowest = out[text, first : first + _LANES]
            lowest[:] = np.uint32(0xFFFFFFFF)
            for place in range(ends[text], ends[text + 1]):
                value = values[place]
                for lane in range(_LANES):
                    image = np.uint32(factor[lane] * value + offset[lane])
                    lowest[lane] = min(lowest[lane], image)
