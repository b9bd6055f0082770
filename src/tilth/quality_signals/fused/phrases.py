"""Lists of words and phrases by language: read from JSON or a folder, and laid out for the kernels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tilth.errors import SourceError

_MIX = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class PhraseTable:
    """A list of phrases as open-addressing tables.

    Distinct words: bytes `letters[starts[i]:starts[i + 1]]` and `keys[i]`, found through `slots`; `hints` tells most other
    words apart without a look-up. Phrases: from state 0, `edges` (state << 32 | word) lead to `states`, and `is_entry` tells
    which states end a phrase.
    """

    letters: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    keys: npt.NDArray[np.uint64]
    slots: npt.NDArray[np.int32]
    hints: npt.NDArray[np.bool_]
    edges: npt.NDArray[np.uint64]
    states: npt.NDArray[np.int32]
    is_entry: npt.NDArray[np.bool_]

    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """All tables in the order in which the kernels take them."""
        return tuple(getattr(self, field.name) for field in fields(self))


def read_word_lists(data: bytes) -> dict[str, tuple[str, ...]]:
    """Word lists by language from JSON `{"en": ["word", "two words"], ...}`; raises SourceError if it is something else."""
    shape = 'give JSON such as {"en": ["word", "two words"]}'
    try:
        found = json.loads(data)
    except ValueError as error:
        raise SourceError(f"the word lists are not JSON: {error}", fix=shape) from error
    if not isinstance(found, dict) or not all(_is_list_of_str(words) for words in found.values()):
        raise SourceError("the word lists are not lists of strings by language", fix=shape)
    return {language: tuple(words) for language, words in found.items()}


def word_lists(folder: Path) -> bytes:
    """The word lists in a folder with a file for each language, one entry a line, as LDNOOBW has them: `en` or `en.txt`.

    Files with other names (longer than three letters, or starting with `_`) are passed over. Raises SourceError if none is left.
    """
    files = [path for path in sorted(folder.iterdir()) if path.suffix in ("", ".txt") and 2 <= len(path.stem) <= 3]
    lists = {path.stem: _entries(path) for path in files if path.is_file()}
    if not lists:
        raise SourceError("no word list is there", where=str(folder), fix="name the files by language: en or en.txt")
    return json.dumps(lists, ensure_ascii=False, sort_keys=True).encode()


def stop_word_lists(text: str) -> bytes:
    """Word lists from the text of `stop_words.txt`: a language a line, its code first; lines with `#` are remarks."""
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    return json.dumps({language: words for language, *words in lines}, ensure_ascii=False, sort_keys=True).encode()


@lru_cache(maxsize=64)
def phrase_table(entries: tuple[str, ...]) -> PhraseTable:
    """Lay out a list; phrases are words joined by single spaces, and entries with an empty word match nothing."""
    from tilth.quality_signals.fused.kernels import words as kernel

    phrases = {phrase for entry in entries if all(phrase := tuple(entry.split(" ")))}
    words = {word: number for number, word in enumerate(sorted({word for phrase in phrases for word in phrase}))}
    encoded = [word.encode() for word in words]
    letters = np.frombuffer(b"".join(encoded) or b"\0", np.uint8)
    starts = np.concatenate(([0], np.cumsum([len(word) for word in encoded]))).astype(np.int64)
    keys, slots = np.empty(len(words), np.uint64), np.full(_room(len(words)), -1, np.int32)
    hints = np.zeros(kernel.N_HINTS, np.bool_)
    kernel.enter_words(letters, starts, keys, slots, hints)
    steps, is_entry = _states([[words[word] for word in phrase] for phrase in sorted(phrases)])
    edges, states = np.zeros(_room(len(steps)), np.uint64), np.full(_room(len(steps)), -1, np.int32)
    for (state, word), following in steps.items():
        edge = state << 32 | word
        slot = (edge * _MIX & 0xFFFFFFFFFFFFFFFF) >> 32 & (len(states) - 1)
        while states[slot] >= 0:
            slot = (slot + 1) & (len(states) - 1)
        edges[slot], states[slot] = edge, following
    return PhraseTable(letters, starts, keys, slots, hints, edges, states, np.array(is_entry))


def _states(phrases: Iterable[Sequence[int]]) -> tuple[dict[tuple[int, int], int], list[bool]]:
    """A tree of phrases: edges (state, word) -> state, and which states end a phrase."""
    edges: dict[tuple[int, int], int] = {}
    is_entry = [False]
    for phrase in phrases:
        state = 0
        for word in phrase:
            if (state, word) not in edges:
                edges[state, word] = len(is_entry)
                is_entry.append(False)
            state = edges[state, word]
        is_entry[state] = True
    return edges, is_entry


def _room(n_items: int) -> int:
    return 1 << max(4, (2 * n_items).bit_length())


def _is_list_of_str(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _entries(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise SourceError(f"the word list is not UTF-8: {error}", where=str(path), fix="save it as UTF-8") from error
    return sorted({line.strip() for line in lines} - {""})
