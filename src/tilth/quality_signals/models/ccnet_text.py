"""CCNet's normal form of a text for its language models (Wenzek et al., arXiv:1911.00359, and the code published with it).

White space at both ends off, lower case, accents off (canonical decomposition without non-spacing marks), every decimal
digit a `0`, typographic punctuation in ASCII, control characters removed. Line feeds are control characters, so a document
becomes one line, and words at the ends of lines run together; that is how its models and cutoffs came about.
The other normal form of CCNet, for hashes of lines, is `tilth.dedup.passages.line_hashes.normalize_line`.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import cache

import numpy as np

_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
_PUNCTUATION = {
    **dict.fromkeys("，、", ","), "。": ".", "．": ". ", "…": "...", **dict.fromkeys("„”“«»」「《》", '"'),
    **dict.fromkeys("´’", "'"), **dict.fromkeys("∶：", ":"), "？": "?", "！": "!", "（": "(", "）": ")", "；": ";",
    **dict.fromkeys("–━►", "-"), "—": " - ", "～": "~", "〈": "<", "〉": ">", "【": "[", "】": "]", "％": "%",
}  # fmt: skip
_ASCII_CONTROLS = bytes([*range(0x20), 0x7F])
_ASCII_MAP = bytes(ord("0") if byte in b"123456789" else byte for byte in range(256))


class _Replacements(dict[int, "str | int | None"]):
    """What each character beyond ASCII becomes in a decomposed text; filled as characters are met."""

    def __missing__(self, code: int) -> str | int | None:
        char = chr(code)
        found: str | int | None
        if char.isdecimal():
            found = "0"
        elif char in _PUNCTUATION:
            found = _PUNCTUATION[char]
        elif unicodedata.category(char) == "Mn" or 0x80 <= code < 0xA0:
            found = None
        else:
            found = code
        self[code] = found
        return found


_REPLACEMENTS = _Replacements()
_LONG = 10_000  # characters; Python sorts a run of marks in time that grows with the square of its length


def normalize_for_model(text: str) -> str:
    """CCNet's normal form of `text` for language models, on one line."""
    lower = text.strip().lower()
    if not lower.isascii():
        decomposed = unicodedata.normalize("NFD", lower if len(lower) < _LONG else _with_marks_in_order(lower))
        lower = _BEYOND_ASCII.sub(lambda run: run[0].translate(_REPLACEMENTS), decomposed)
    # Bytes below 0x80 stand for themselves in UTF-8, and translating bytes is far faster than str.translate.
    return lower.encode("utf-8", "surrogatepass").translate(_ASCII_MAP, _ASCII_CONTROLS).decode("utf-8", "surrogatepass")


def _with_marks_in_order(text: str) -> str:
    """`text` with its long runs of combining marks decomposed and sorted, so that nothing is left to sort in them."""
    return _runs_of_marks().sub(lambda run: _in_order(run[0]), text)


@cache
def _runs_of_marks() -> re.Pattern[str]:
    marks = (chr(code) for code in range(sys.maxunicode + 1) if unicodedata.combining(chr(code)))
    return re.compile(f"[{''.join(marks)}]{{100,}}")


def _in_order(marks: str) -> str:
    decomposed = marks.translate({ord(mark): unicodedata.normalize("NFD", mark) for mark in set(marks)})
    codes, places = np.unique(np.frombuffer(decomposed.encode("utf-32-le"), "<u4"), return_inverse=True)
    classes = np.array([unicodedata.combining(chr(code)) for code in codes], np.uint8)
    return codes[places[np.argsort(classes[places], kind="stable")]].tobytes().decode("utf-32-le")
