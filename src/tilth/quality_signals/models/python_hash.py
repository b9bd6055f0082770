"""Python's own `hash()` of strings and of pairs of strings under a given PYTHONHASHSEED, computed without restarting Python.

For values that were published with `hash()`. As in CPython 3.11 and later on 64-bit machines: SipHash-1-3 (Aumasson and
Bernstein 2012) over a string's characters in 1, 2 or 4 bytes each, keyed by the seed's linear congruential sequence, and
for tuples the xxHash variant of CPython's tupleobject.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
_PRIME_1, _PRIME_2, _PRIME_5 = np.uint64(11400714785074694791), np.uint64(14029467366897019727), np.uint64(2870177450012600261)
_MINUS_ONE = np.uint64(0xFFFFFFFFFFFFFFFF)


def string_hashes(strings: Sequence[str], seed: int) -> Hashes:
    """`hash(s)` of each string under PYTHONHASHSEED=`seed` (1 to 4294967295), as the 64 bits of the signed result."""
    encoded = [string.encode(_encoding(string), "surrogatepass") for string in strings]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(one) for one in encoded], out=offsets[1:])
    data = np.frombuffer(b"".join(encoded) + bytes(8), np.uint8)
    keys = hash_key(seed)
    hashes = np.zeros(len(encoded), np.uint64)
    _compiled()(data, offsets, keys[0], keys[1], hashes)
    return hashes


def pair_hashes(first: Hashes, second: Hashes) -> Hashes:
    """`hash((a, b))` from the hashes of a and b, element by element."""
    state = np.full(len(first), _PRIME_5, np.uint64)
    for lane in (first, second):
        state += lane * _PRIME_2
        state = ((state << np.uint64(31)) | (state >> np.uint64(33))) * _PRIME_1
    state += np.uint64(2) ^ (_PRIME_5 ^ np.uint64(3527539))
    state[state == _MINUS_ONE] = 1546275796
    return state


def absolute(hashes: Hashes) -> Hashes:
    """`abs()` of the signed hashes."""
    return np.where(hashes >> np.uint64(63), ~hashes + np.uint64(1), hashes)


def hash_key(seed: int) -> tuple[np.uint64, np.uint64]:
    """The two 64-bit keys that CPython derives from PYTHONHASHSEED (zero gives zeros)."""
    state, drawn = seed, bytearray()
    for _ in range(16):
        state = (state * 214013 + 2531011) & 0xFFFFFFFF
        drawn.append((state >> 16) & 0xFF)
    data = bytes(drawn) if seed else bytes(16)
    return np.uint64(int.from_bytes(data[:8], "little")), np.uint64(int.from_bytes(data[8:], "little"))


def _encoding(string: str) -> str:
    if string.isascii():
        return "ascii"
    widest = max(string)
    return "latin-1" if widest < "\u0100" else "utf-16-le" if widest < "\U00010000" else "utf-32-le"


@cache
def _compiled() -> Any:
    from numba import njit

    return njit(cache=True, nogil=True)(_siphash_1_3)


def _siphash_1_3(data, offsets, key_0, key_1, hashes):  # type: ignore[no-untyped-def]
    """SipHash with one round a word and three at the end; empty strings hash to 0, and -1 becomes -2."""
    for item in range(len(hashes)):
        start, size = offsets[item], offsets[item + 1] - offsets[item]
        if size == 0:
            hashes[item] = 0
            continue
        v0, v1 = key_0 ^ np.uint64(0x736F6D6570736575), key_1 ^ np.uint64(0x646F72616E646F6D)
        v2, v3 = key_0 ^ np.uint64(0x6C7967656E657261), key_1 ^ np.uint64(0x7465646279746573)
        n_words = size // 8 + 1
        for turn in range(n_words + 3):
            word = np.uint64(0)
            if turn < n_words:
                at = start + 8 * turn
                for i in range(min(8, start + size - at)):
                    word |= np.uint64(data[at + i]) << np.uint64(8 * i)
                if turn == n_words - 1:
                    word |= np.uint64(size & 0xFF) << np.uint64(56)
            elif turn == n_words:
                v2 ^= np.uint64(0xFF)
            v3 ^= word
            v0 += v1
            v2 += v3
            v1 = ((v1 << np.uint64(13)) | (v1 >> np.uint64(51))) ^ v0
            v3 = ((v3 << np.uint64(16)) | (v3 >> np.uint64(48))) ^ v2
            v0 = (v0 << np.uint64(32)) | (v0 >> np.uint64(32))
            v2 += v1
            v0 += v3
            v1 = ((v1 << np.uint64(17)) | (v1 >> np.uint64(47))) ^ v2
            v3 = ((v3 << np.uint64(21)) | (v3 >> np.uint64(43))) ^ v0
            v2 = (v2 << np.uint64(32)) | (v2 >> np.uint64(32))
            v0 ^= word
        found = v0 ^ v1 ^ v2 ^ v3
        hashes[item] = found if found != np.uint64(0xFFFFFFFFFFFFFFFF) else np.uint64(0xFFFFFFFFFFFFFFFE)
