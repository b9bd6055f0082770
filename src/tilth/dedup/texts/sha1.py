"""SHA-1 (FIPS 180-4) in compiled code, of which only the first bytes are wanted, as published hashes of lines and n-grams."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

ROOM_BYTES = 128  # that a message's buffer must have beyond it, for the padding


@njit(cache=True, nogil=True)
def sha1_head(message: Any, size: Any, schedule: Any) -> Any:
    """The first eight bytes of the SHA-1 of `message[:size]` (uint8) as a little-endian number (uint64).

    Overwrites ROOM_BYTES behind the message; `schedule` is room for 80 words (uint32).
    """
    padded = (size + 72) // 64 * 64
    message[size] = 0x80
    message[size + 1 : padded] = 0
    for i in range(8):
        message[padded - 1 - i] = ((8 * size) >> (8 * i)) & 0xFF
    h0, h1, h2 = np.uint32(0x67452301), np.uint32(0xEFCDAB89), np.uint32(0x98BADCFE)
    h3, h4 = np.uint32(0x10325476), np.uint32(0xC3D2E1F0)
    for block in range(0, padded, 64):
        for i in range(16):
            at = block + 4 * i
            high = (np.uint32(message[at]) << np.uint32(24)) | (np.uint32(message[at + 1]) << np.uint32(16))
            schedule[i] = high | (np.uint32(message[at + 2]) << np.uint32(8)) | np.uint32(message[at + 3])
        for i in range(16, 80):
            schedule[i] = _rotated(schedule[i - 3] ^ schedule[i - 8] ^ schedule[i - 14] ^ schedule[i - 16], 1)
        a, b, c, d, e = h0, h1, h2, h3, h4
        for i in range(80):
            if i < 20:
                mixed = np.uint32((d ^ (b & (c ^ d))) + np.uint32(0x5A827999))
            elif i < 40:
                mixed = np.uint32((b ^ c ^ d) + np.uint32(0x6ED9EBA1))
            elif i < 60:
                mixed = np.uint32(((b & c) | (d & (b | c))) + np.uint32(0x8F1BBCDC))
            else:
                mixed = np.uint32((b ^ c ^ d) + np.uint32(0xCA62C1D6))
            a, b, c, d, e = np.uint32(_rotated(a, 5) + mixed + e + schedule[i]), a, _rotated(b, 30), c, d
        h0, h1, h2 = np.uint32(h0 + a), np.uint32(h1 + b), np.uint32(h2 + c)
        h3, h4 = np.uint32(h3 + d), np.uint32(h4 + e)
    return np.uint64(_swapped(h0)) | (np.uint64(_swapped(h1)) << np.uint64(32))


@njit(cache=True, nogil=True, inline="always")
def _rotated(word, n_bits):  # type: ignore[no-untyped-def]
    return np.uint32((word << np.uint32(n_bits)) | (word >> np.uint32(32 - n_bits)))


@njit(cache=True, nogil=True, inline="always")
def _swapped(word):  # type: ignore[no-untyped-def]
    """The four bytes in the other order."""
    low = (word << np.uint32(24)) | ((word << np.uint32(8)) & np.uint32(0xFF0000))
    return np.uint32(low | ((word >> np.uint32(8)) & np.uint32(0xFF00)) | (word >> np.uint32(24)))
