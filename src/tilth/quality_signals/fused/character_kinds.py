"""What the kernels for source code know of characters: letters, letters or digits, white space, as Python has them."""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
import numpy.typing as npt

ALPHABETIC, ALPHANUMERIC, SPACE = 1 << 0, 1 << 1, 1 << 2  # str.isalpha, str.isalnum, str.isspace; the kernels hold copies
# Between and behind these planes no code point is any of it: surrogates, and beyond the Tertiary Ideographic Plane.
_PLANES = ((0x0, 0xD800), (0xE000, 0x40000))


@cache
def character_kinds() -> npt.NDArray[np.uint8]:
    """The bits above for each of 0x110000 code points; made once in a process."""
    kinds = np.zeros(sys.maxunicode + 1, np.uint8)
    for first, last in _PLANES:
        chars = list(map(chr, range(first, last)))
        for bit, test in ((ALPHABETIC, str.isalpha), (ALPHANUMERIC, str.isalnum), (SPACE, str.isspace)):
            kinds[first:last] |= np.fromiter(map(test, chars), bool, len(chars)).astype(np.uint8) * np.uint8(bit)
    return kinds
