"""Does a value look as if it had been drawn at random? What people write instead of a secret does not."""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise

_PLACEHOLDER = re.compile(
    rb"example|sample|dummy|placeholder|change.?me|your.?|redacted|replace|insert|default|foobar|notreal|secret|passw|token"
    rb"|x{4}|\*{3}|\.{3}|0{6}|<|>|\$\{|\{\{|\$\(|%\(|%[sd]\b|\{[a-z_0-9]*\}|123456|abcdef|qwerty|deadbeef|lorem|test",
    re.IGNORECASE,
)
# A sample in a format of its own says so in full words; shorter ones could be there by chance.
_SAMPLE = re.compile(rb"EXAMPLE|example|x{6}|X{6}|0{8}|1234567|12345678|abcdefgh|ABCDEFGH|deadbeefdead")
_RUN = re.compile(rb"(.)\1{5}")
_CLASS_OF = bytes(
    ord("a" if chr(i).islower() else "A" if chr(i).isupper() else "0" if chr(i).isdigit() else ".") if i < 128 else ord("a")
    for i in range(256)
)
_HEX = re.compile(rb"(?:[0-9a-f]+|[0-9A-F]+)\Z")
_LEAST_BITS_OF_A_FORMAT = 2.8
_FREQUENT = frozenset(
    b"th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le ve co me de hi ri ro ic ne ea ra"
    b" ce li ch ll be ma si om ur ca el ta la ns di fo ho pe ec pr no ct us ac ot il tr ly nc et ut ss so rs un lo wa ge ie wh ee"
    b" wi em ad ol rt po we na ul ni ts mo ow pa im mi ai sh ir".split()
)


def bits_per_byte(value: bytes) -> float:
    """Shannon's entropy of the value's own bytes."""
    n = len(value)
    return -sum(count / n * math.log2(count / n) for count in Counter(value).values()) if n else 0.0


def is_sample(token: bytes, varied: bool = True) -> bool:
    """Is a token in a known format one that documentation shows: `...EXAMPLE`, runs of one character, a sequence?"""
    if _SAMPLE.search(token):
        return True
    return varied and (_RUN.search(token) is not None or bits_per_byte(token) < _LEAST_BITS_OF_A_FORMAT)


def is_placeholder(value: bytes) -> bool:
    """Does a value say that it stands for another, or is it made up: `your-key-here`, `${TOKEN}`, `test123`?"""
    return _PLACEHOLDER.search(value) is not None


def is_random(value: bytes) -> bool:
    """Does a value of 16 bytes or more look drawn at random from letters and digits, and not put together from words?"""
    if len(value) < 16:
        return False
    if _HEX.match(value):
        return len(value) >= 24 and bits_per_byte(value) > 3.0 and re.search(rb"[a-fA-F]", value) is not None
    classes = value.translate(_CLASS_OF)
    changes = sum(a != b for a, b in pairwise(classes)) / (len(value) - 1)
    return classes.count(b"0") >= 2 and changes >= 0.2 and bits_per_byte(value) >= 3.4 and not _has_words(value)


def _has_words(value: bytes) -> bool:
    """Are more of the pairs of letters frequent ones of English than chance would have it?

    The hundred most frequent pairs are two thirds of what words have, and a seventh of all there are.
    """
    pairs = [pair for word in re.findall(rb"[a-z]{2,}|[A-Z][a-z]+|[A-Z]{2,}", value) for pair in _pairs(word.lower())]
    return len(pairs) >= 5 and sum(pair in _FREQUENT for pair in pairs) > 0.42 * len(pairs)


def _pairs(word: bytes) -> list[bytes]:
    return [word[i : i + 2] for i in range(len(word) - 1)]


def is_strong_password(value: bytes) -> bool:
    """At least three of the four kinds of characters, a digit among them, as a policy of passwords asks for."""
    kinds = set(value.translate(_CLASS_OF))
    return len(kinds) >= 3 and ord("0") in kinds and len(set(value)) >= 6
