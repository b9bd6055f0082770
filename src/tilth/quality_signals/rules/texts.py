"""Texts of an Arrow array as code points and as words, a bounded number of them at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.rules.characters import UNITS, character_classes
from tilth.quality_signals.rules.exceptions import exceptions
from tilth.quality_signals.rules.kernels.words import (
    EXCEPTION,
    MOST_CUTS,
    MOST_SPELT,
    OPENING,
    SPELT,
    UNIT,
    WordTables,
    cut_words,
    hash_string,
    insert,
    join_hashes,
)

TABLE_SIZE = 4096  # at least twice as many as the words' keys
PART_BYTES = 1 << 20  # so many that the arrays of one part stay near the processor's caches


@dataclass(frozen=True)
class Words:
    """Words of several texts: those of text t lie from ends[t] up to ends[t + 1]."""

    firsts: npt.NDArray[np.int32]  # position of the first code point
    lasts: npt.NDArray[np.int32]  # position after the last one
    hashes: npt.NDArray[np.uint64]
    ends: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Texts:
    """Code points of several texts: those of text t lie from starts[t] up to starts[t + 1]."""

    codes: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def words(self) -> Words:
        """The words that spaCy's English tokeniser finds, without white space."""
        return cut(self, english_tables())


def parts_of(batch: TextBatch) -> Sequence[Texts]:
    """The texts of a batch in parts, kept with it as its own properties are, so that families share the words."""
    kept: Sequence[Texts] | None = vars(batch).get("_rule_texts")
    if kept is None:
        kept = vars(batch)["_rule_texts"] = tuple(in_parts(batch.texts))
    return kept


def in_parts(texts: pa.Array | pa.ChunkedArray, part_bytes: int = PART_BYTES) -> Iterator[Texts]:
    """The texts (string or large_string, no nulls) in order, as parts of at most `part_bytes` of UTF-8 or of one text."""
    for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
        data, offsets = utf8(chunk)
        first = 0
        while first < len(chunk):
            last = int(np.searchsorted(offsets, offsets[first] + part_bytes, side="right")) - 1
            last = min(max(last, first + 1), len(chunk))
            yield _decoded(data, offsets[first : last + 1])
            first = last


def utf8(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The bytes of an array of strings without nulls, and where each text starts in them (one more than texts)."""
    if texts.null_count:
        raise ValueError("a text is null")
    array = texts if pa.types.is_large_string(texts.type) else pc.cast(texts, pa.large_string())
    _, offsets, data = array.buffers()
    if not len(array):
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    starts = np.frombuffer(offsets, np.int64, len(array) + 1, array.offset * 8)
    return np.frombuffer(data, np.uint8) if data is not None and data.size else np.empty(0, np.uint8), starts


def cut(texts: Texts, tables: WordTables, keeps_space: bool = False) -> Words:
    """Cut texts into words; `keeps_space` also gives the runs of white space that spaCy keeps."""
    room = len(texts.codes)
    firsts, lasts, hashes = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.uint64)
    ends = np.empty(len(texts) + 1, np.int64)
    cut_words(texts.codes, texts.starts, tables, keeps_space, firsts, lasts, hashes, np.empty(room, np.uint8), ends)
    n = int(ends[-1])
    return Words(firsts[:n], lasts[:n], hashes[:n], ends)


@cache
def english_tables() -> WordTables:
    """The tables of spaCy's English rules; made once in a process."""
    bare = _tables({}, {})
    strings = list(exceptions())
    spelt = _words_of(strings, bare)
    return _tables(exceptions(), {string: words for string, words in zip(strings, spelt) if len(words) > 1})


def _tables(whole: dict[str, tuple[str, ...]], spelt: dict[str, list[str]]) -> WordTables:
    cuts = np.zeros((max(len(whole), 1), 1 + MOST_CUTS), np.int32)
    keys, rows = np.zeros(TABLE_SIZE, np.uint64), np.zeros(TABLE_SIZE, np.int32)
    for row, (string, pieces) in enumerate(whole.items()):
        cuts[row, : 1 + len(pieces)] = [len(pieces), *map(len, pieces)]
        insert(keys, rows, _hash(string) ^ EXCEPTION, row)
    for name in UNITS.split():
        insert(keys, rows, _hash(name) ^ UNIT, 0)
    row_of = {string: row for row, string in enumerate(whole)}
    for string, words in spelt.items():
        joint = np.uint64(0)
        for word in words:
            joint = np.uint64(join_hashes(joint, _hash(word)))
        if len(words) > MOST_SPELT or (words[0] + words[1]).isalnum():
            raise AssertionError(f"the kernels do not provide for `{string}`")
        insert(keys, rows, joint ^ SPELT, row_of[string])
        insert(keys, rows, _hash(words[0]) ^ OPENING, len(words))
    return WordTables(character_classes(), keys, rows, cuts)


def _words_of(strings: list[str], tables: WordTables) -> list[list[str]]:
    texts = next(in_parts(pa.array(strings, pa.large_string())))
    words = cut(texts, tables)
    spans = list(zip(words.firsts.tolist(), words.lasts.tolist()))
    chars = "".join(strings)
    return [[chars[first:last] for first, last in spans[words.ends[text] : words.ends[text + 1]]] for text in range(len(texts))]


def hashes_of(strings: Sequence[str]) -> npt.NDArray[np.uint64]:
    """The hashes that words have which read like these."""
    return np.array([_hash(string) for string in strings], np.uint64)


def _hash(string: str) -> Any:
    return np.uint64(hash_string(np.array(list(map(ord, string)), np.uint32), 0, len(string)))


def _decoded(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> Texts:
    codes = np.empty(int(offsets[-1] - offsets[0]), np.uint32)
    starts = np.empty(len(offsets), np.int64)
    return Texts(codes[: decode(data, offsets, codes, starts)], starts)


@njit(cache=True, nogil=True)
def decode(data: Any, offsets: Any, codes: Any, starts: Any) -> int:
    """Write the code points of valid UTF-8 texts into `codes` and where each starts into `starts`. Returns their number."""
    n = 0
    for text in range(len(offsets) - 1):
        starts[text] = n
        at, end = offsets[text], offsets[text + 1]
        while at < end:
            first = np.uint32(data[at])
            if first < 0x80:
                codes[n] = first
                at += 1
            elif first < 0xE0:
                codes[n] = (first & 0x1F) << 6 | data[at + 1] & 0x3F
                at += 2
            elif first < 0xF0:
                codes[n] = (first & 0xF) << 12 | (np.uint32(data[at + 1]) & 0x3F) << 6 | data[at + 2] & 0x3F
                at += 3
            else:
                high = (first & 0x7) << 18 | (np.uint32(data[at + 1]) & 0x3F) << 12
                codes[n] = high | (np.uint32(data[at + 2]) & 0x3F) << 6 | data[at + 3] & 0x3F
                at += 4
            n += 1
    starts[len(offsets) - 1] = n
    return n
