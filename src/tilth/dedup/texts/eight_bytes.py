"""Eight bytes of a text at once, as a little-endian 64-bit word: the first byte is the lowest."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

ONES, HIGH_BITS, ALL_BITS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080), np.uint64(0xFFFFFFFFFFFFFFFF)
_GATHER = np.uint64(0x0102040810204080)  # takes the lowest bit of byte i to bit 56 + i
_NOT_WORD = (0x80 - ord("a"), 0x7F - ord("z"), 0x80 - ord("0"), 0x7F - ord("9"), ord("_"))
_FROM_A, _BEYOND_Z, _FROM_0, _BEYOND_9, _UNDERSCORES = (ONES * np.uint64(byte) for byte in _NOT_WORD)
_CASE, _ALL_BUT_HIGH = ONES * np.uint64(0x20), ONES * np.uint64(0x7F)


@intrinsic  # type: ignore[untyped-decorator]
def eight(context: Any, data: Any, place: Any) -> Any:
    """The eight bytes of `data` (uint8) at `place`, in one load; nothing checks that all of them lie in it."""

    def load(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        at = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(64).as_pointer())
        loaded = builder.load(at)
        loaded.align = 1
        return loaded

    return types.uint64(data, types.int64), load


@intrinsic  # type: ignore[untyped-decorator]
def trailing_zeros(context: Any, word: Any) -> Any:
    """How many bits lie below the lowest one that is set; 64 where none is."""

    def count(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), count


@njit(cache=True, nogil=True)
def lowest_bytes(word: Any, n_bytes: Any) -> Any:
    """The word with nothing in it but its lowest `n_bytes`, 1 to 8."""
    return word & (ALL_BITS >> np.uint64(64 - 8 * n_bytes))


@njit(cache=True, nogil=True)
def small(block: Any) -> Any:
    """The bytes with ASCII letters small. It changes no digit, no byte outside ASCII, and gives `_` a value of its own."""
    return block | (~block & HIGH_BITS) >> np.uint64(2)


@njit(cache=True, nogil=True)
def word_bytes(block: Any) -> Any:
    """One bit for each of the eight bytes, the first the lowest: which are letters, digits or `_`, without their high bits.

    So no sum carries into the next byte, and of two sums the high bits differ just where a byte lies between what they stand for.
    """
    low = block & _ALL_BUT_HIGH
    folded = low | _CASE
    letters = (folded + _FROM_A) ^ (folded + _BEYOND_Z)
    digits = (low + _FROM_0) ^ (low + _BEYOND_9)
    underscores = ~((low ^ _UNDERSCORES) + _ALL_BUT_HIGH)
    return gathered((letters | digits | underscores) & HIGH_BITS)


@njit(cache=True, nogil=True)
def gathered(bits: Any) -> Any:
    """The high bits of eight bytes side by side, the first byte's the lowest; no other bit may be set."""
    return (bits >> np.uint64(7)) * _GATHER >> np.uint64(56)
