"""Eight bytes of a text at once, as a little-endian 64-bit word: the first byte is the lowest."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

ONE, ONES, HIGH_BITS = np.uint64(1), np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
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
def _trailing_zeros(context: Any, word: Any) -> Any:
    def count(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), count


@njit(cache=True, nogil=True, inline="always")
def n_below(bits: Any) -> Any:
    """How many bytes lie below the lowest one that has a bit set: 0 to 8."""
    return _trailing_zeros(bits) >> 3


@njit(cache=True, nogil=True, inline="always")
def lowest(word: Any, n_bytes: Any) -> Any:
    """The word with nothing in it but its lowest `n_bytes`, 0 to 7."""
    return word & ((ONE << np.uint64(8 * n_bytes)) - ONE)


@njit(cache=True, nogil=True, inline="always")
def ascii_words(block: Any) -> Any:
    """(letters, word): the high bit of each byte that is an ASCII letter, and of each that is a letter, a digit or `_`.

    True for all bytes below the first that is not ASCII: among these no sum carries into the next byte, and of two sums the
    high bits differ just where a byte lies between what the two stand for.
    """
    folded = block | _CASE
    letters = ((folded + _FROM_A) ^ (folded + _BEYOND_Z)) & HIGH_BITS
    digits = (block + _FROM_0) ^ (block + _BEYOND_9)
    underscores = ~((block ^ _UNDERSCORES) + _ALL_BUT_HIGH)
    return letters, (letters | digits | underscores) & HIGH_BITS
