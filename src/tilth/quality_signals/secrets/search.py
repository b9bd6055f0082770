"""From the literals of all rules to a table of first bytes, and from texts to candidates."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tilth.quality_signals.fused.kernels import literals as kernel
from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.secrets.formats import FORMATS

PRIVATE_KEY, URL, EMAIL, IPV4, IPV6, SECRET_NAME, PASSWORD_NAME = range(-7, 0)  # rules beside the formats, which count from 0
_MOST_AT_ONCE = 1 << 14
_TOKEN_BYTES = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz-"
_HEX_BYTES = b"0123456789abcdefABCDEF:"
# What names of secrets hold, in any case. `key` alone is too common: keys are in every table.
_NAMES = {
    SECRET_NAME: (
        "secret token credential apikey api_key api-key accesskey access_key access-key authkey auth_key privatekey private_key"
        " accountkey account_key appkey app_key client_key consumerkey consumer_key masterkey master_key service_key sharedkey"
        " shared_key encryption_key signing_key"
    ),
    PASSWORD_NAME: "passw passphrase pwd _pass -pass",
}


class Candidate(NamedTuple):
    """Where something may be: `rule` is a number of FORMATS or a rule above; bytes of the text, of what `find_literals` says."""

    rule: int
    at: int
    start: int
    end: int


class _Table(NamedTuple):
    buckets: npt.NDArray[np.int16]
    firsts: npt.NDArray[np.int64]
    letters: npt.NDArray[np.uint8]
    bounds: npt.NDArray[np.int64]
    looks: npt.NDArray[np.int64]


def candidates(batch: TextBatch) -> Iterator[tuple[int, Candidate]]:
    """(document, candidate) in the order of the texts and of their bytes."""
    table, rules = _table()
    out = np.empty((_MOST_AT_ONCE, kernel.N_COLUMNS), np.int64)
    document, at = 0, 0
    while document < len(batch):
        n_found, document, at = kernel.find_literals(batch.data, batch.offsets, document, at, *table, out)
        firsts = batch.offsets[out[:n_found, kernel.DOCUMENT]]
        for row, first in zip(out[:n_found].tolist(), firsts.tolist(), strict=True):
            yield row[0], Candidate(rules[row[1]], row[2] - first, row[3] - first, row[4] - first)


@cache
def _table() -> tuple[_Table, tuple[int, ...]]:
    """The literals of all rules, sorted by their first two bytes, and which rule each belongs to."""
    entries = sorted(_entries())
    by_pair: dict[int, list[int]] = {}
    for number, (literal, _, look) in enumerate(entries):
        for first in _cases(literal[0], look):
            for second in _cases(literal[1], look):
                by_pair.setdefault(first << 8 | second, []).append(number)
    buckets = np.zeros(1 << 16, np.int16)
    order: list[int] = []
    firsts, known = [0, 0], dict[tuple[int, ...], int]()
    for pair, numbers in sorted(by_pair.items()):
        group = tuple(numbers)
        if group not in known:
            known[group] = len(firsts) - 1
            order += group
            firsts.append(len(order))
        buckets[pair] = known[group]
    chosen = [entries[number] for number in order]
    letters = np.frombuffer(b"".join(literal for literal, _, _ in chosen), np.uint8)
    bounds = np.cumsum([0, *(len(literal) for literal, _, _ in chosen)])
    looks = np.array([look for _, _, look in chosen], np.int64)
    table = _Table(buckets, np.array(firsts, np.int64), letters, bounds.astype(np.int64), looks)
    return table, tuple(rule for _, rule, _ in chosen)


def _cases(char: int, look: int) -> set[int]:
    return {char, ord(chr(char).upper())} if look == kernel.ASSIGNMENT else {char}


def _entries() -> Iterator[tuple[bytes, int, int]]:
    """Literals with their rule and look. What has no literal of its own has all pairs that it may begin with."""
    for number, one in enumerate(FORMATS):
        look = kernel.PLAIN if any(one.before) or not one.literals[:1].isalnum() else kernel.WORD_START
        for literal in one.literals.split():
            yield literal.encode(), number, look
        if one.name == "discord_bot_token":
            yield from ((bytes((0x2E, char)), number, kernel.SIX_BETWEEN_DOTS) for char in _TOKEN_BYTES)
    yield b"-----BEGIN ", PRIVATE_KEY, kernel.PLAIN
    yield b"://", URL, kernel.URL
    yield from ((bytes((0x40, char)), EMAIL, kernel.EMAIL) for char in _TOKEN_BYTES)
    yield from ((bytes((0x2E, char)), IPV4, kernel.IPV4) for char in b"0123456789")
    yield from ((bytes((0x3A, char)), IPV6, kernel.IPV6) for char in _HEX_BYTES)
    for rule, names in _NAMES.items():
        yield from ((name.encode(), rule, kernel.ASSIGNMENT) for name in names.split())


def text_of(batch: TextBatch, document: int) -> memoryview:
    """The bytes of one text; no copy."""
    return batch.data[batch.offsets[document] : batch.offsets[document + 1]].data
