"""The raw words of a text: runs of word characters, and runs of what is neither word nor space.

Word characters are those of Unicode Technical Standard 18, annex C, which counts combining marks and joiners as parts
of words. NLTK's WordPunctTokenizer, which RedPajama-V2 uses, follows it from version 3.10 on; older versions
cut words at combining marks, as Python's own `\\w` does.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import cache

_WORD_CATEGORIES = frozenset({"Lu", "Ll", "Lt", "Lm", "Lo", "Nl", "Nd", "Mn", "Mc", "Me", "Pc"})
# Word characters by other properties: the two joiners, and letters in circles and squares.
_FURTHER_WORD = ((0x200C, 0x200D), (0x24B6, 0x24E9), (0x1F130, 0x1F149), (0x1F150, 0x1F169), (0x1F170, 0x1F189))
_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # property White_Space
_ASCII = re.compile(r"[A-Za-z0-9_]+|[^A-Za-z0-9_\t-\r ]+")
_BEYOND_BMP = re.compile("[\U00010000-\U0010ffff]")


def raw_words(text: str) -> list[str]:
    """Cut `text` into raw words, in order; spaces are left out."""
    if text.isascii():
        return _ASCII.findall(text)
    # The engine has a bitmap for the basic plane only and tries further ranges one by one, so it gets them if needed.
    return _pattern(sys.maxunicode if _BEYOND_BMP.search(text) else 0xFFFF).findall(text)


@cache
def _pattern(last: int) -> re.Pattern[str]:
    word = "".join(f"{re.escape(chr(start))}-{re.escape(chr(end))}" for start, end in word_ranges(last))
    return re.compile(f"[{word}]+|[^{word}{_SPACE}]+")


@cache
def word_ranges(last: int) -> list[tuple[int, int]]:
    """Ranges of word characters up to code point `last`, ends included."""
    further = {code for start, end in _FURTHER_WORD for code in range(start, end + 1)}
    ranges: list[tuple[int, int]] = []
    for code in range(last + 1):
        if unicodedata.category(chr(code)) not in _WORD_CATEGORIES and code not in further:
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1] = (ranges[-1][0], code)
        else:
            ranges.append((code, code))
    return ranges
