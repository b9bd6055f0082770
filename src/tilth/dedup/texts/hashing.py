"""128-bit hashes of many texts at once: MurmurHash3 (x64, 128 bits, seed 0; Appleby 2011, in the public domain).

Among ten billion different texts the chance that any two share a hash is below 1e-18. It is no defence against texts that
somebody makes to collide; all that such texts can do here is to count as copies of each other.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from tilth.dedup.texts.buffers import Utf8

Hashes = npt.NDArray[np.uint64]
_C1, _C2 = np.uint64(0x87C37B91114253D5), np.uint64(0x4CF5AD432745937F)
_F1, _F2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_N1, _N2, _FIVE = np.uint64(0x52DCE729), np.uint64(0x38495AB5), np.uint64(5)
_BYTE, _33 = np.uint64(8), np.uint64(33)


def hashes128(texts: Utf8) -> Hashes:
    """The hashes (n_texts, 2) of texts, or of pieces that lie side by side in them."""
    out = np.zeros((len(texts), 2), np.uint64)
    _hash(texts.data, texts.offsets, out)
    return out


@njit(cache=True, nogil=True, inline="always")
def _rotated(word, by):  # type: ignore[no-untyped-def]
    return (word << np.uint64(by)) | (word >> np.uint64(64 - by))


@njit(cache=True, nogil=True, inline="always")
def _eight(data, at):  # type: ignore[no-untyped-def]
    """Eight bytes as a little-endian word."""
    low = np.uint64(data[at]) | np.uint64(data[at + 1]) << _BYTE
    low |= np.uint64(data[at + 2]) << np.uint64(16) | np.uint64(data[at + 3]) << np.uint64(24)
    high = np.uint64(data[at + 4]) | np.uint64(data[at + 5]) << _BYTE
    high |= np.uint64(data[at + 6]) << np.uint64(16) | np.uint64(data[at + 7]) << np.uint64(24)
    return low | high << np.uint64(32)


@njit(cache=True, nogil=True, inline="always")
def _finished(word):  # type: ignore[no-untyped-def]
    word = (word ^ (word >> _33)) * _F1
    word = (word ^ (word >> _33)) * _F2
    return word ^ (word >> _33)


@njit(cache=True, nogil=True, inline="always")
def _first_half(word):  # type: ignore[no-untyped-def]
    return _rotated(word * _C1, 31) * _C2


@njit(cache=True, nogil=True, inline="always")
def _second_half(word):  # type: ignore[no-untyped-def]
    return _rotated(word * _C2, 33) * _C1


@njit(cache=True, nogil=True)
def _hash(data, offsets, out):  # type: ignore[no-untyped-def]
    for text in range(len(offsets) - 1):
        at, end = offsets[text], offsets[text + 1]
        length = np.uint64(end - at)
        h1 = h2 = np.uint64(0)
        while end - at >= 16:
            h1 = (_rotated(h1 ^ _first_half(_eight(data, at)), 27) + h2) * _FIVE + _N1
            h2 = (_rotated(h2 ^ _second_half(_eight(data, at + 8)), 31) + h1) * _FIVE + _N2
            at += 16
        k1 = k2 = np.uint64(0)
        for i in range(end - at - 1, -1, -1):
            if i >= 8:
                k2 = (k2 << _BYTE) | np.uint64(data[at + i])
            else:
                k1 = (k1 << _BYTE) | np.uint64(data[at + i])
        h1 ^= _first_half(k1) ^ length
        h2 ^= _second_half(k2) ^ length
        h1 += h2
        h2 += h1
        h1, h2 = _finished(h1), _finished(h2)
        h1 += h2
        out[text, 0] = h1
        out[text, 1] = h2 + h1
