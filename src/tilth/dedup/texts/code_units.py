"""Source code as hashed units that stay what they are when lines are indented anew and names are changed.

A unit is a word, a number or a single mark; white space is none. Keywords and names that come with a language are compared as
they are written. Any other word is compared by how many units ago it stood there before (Baker 1993, parameterized matching):
so `a = a + b` is `x = x + y`, but not `x = y + x`. After more than LOOK_BACK units, and where it is new, it is just a word.
Nothing is parsed: every language is cut alike, and the words of comments and strings count as names do.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from tilth.dedup.texts.units import Hashes, Unit, Units, mixed, units_of

CODE: Final = "code"
LOOK_BACK = 24
_SEED, _STEP = np.uint64(0x8A5CD789635D2DFF), np.uint64(0x100000001B3)
_NOTHING = np.zeros(1, np.int64)
_NAME = 1 << 8  # what the distance of a name is mixed with
# Keywords of Python, C, C++, Java, JavaScript and Go, and what nobody renames: Python's built-in names and methods.
KEPT = (
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del", "elif",
    "else", "except", "finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "nonlocal", "not", "or", "pass",
    "raise", "return", "try", "while", "with", "yield", "match", "case", "self", "auto", "char", "const", "default", "do",
    "double", "enum", "extern", "float", "goto", "inline", "int", "long", "register", "short", "signed", "sizeof", "static",
    "struct", "switch", "typedef", "union", "unsigned", "void", "volatile", "bool", "catch", "delete", "explicit", "friend",
    "namespace", "new", "operator", "private", "protected", "public", "template", "this", "throw", "true", "false", "typename",
    "using", "virtual", "nullptr", "abstract", "boolean", "byte", "extends", "final", "implements", "instanceof", "interface",
    "package", "super", "synchronized", "throws", "transient", "null", "var", "let", "function", "typeof", "undefined",
    "export", "of", "chan", "defer", "fallthrough", "func", "go", "map", "range", "select", "type", "nil", "string", "error",
    "make", "abs", "all", "any", "ascii", "bin", "bytes", "bytearray", "callable", "chr", "dict", "dir", "divmod", "enumerate",
    "eval", "exec", "filter", "format", "frozenset", "getattr", "hasattr", "hash", "hex", "id", "input", "isinstance",
    "issubclass", "iter", "len", "list", "max", "min", "next", "object", "oct", "open", "ord", "pow", "print", "property",
    "repr", "reversed", "round", "set", "setattr", "slice", "sorted", "staticmethod", "str", "sum", "tuple", "vars", "zip",
    "ValueError", "TypeError", "KeyError", "IndexError", "Exception", "append", "extend", "insert", "remove", "pop", "clear",
    "index", "count", "sort", "reverse", "copy", "keys", "values", "items", "get", "update", "add", "discard", "join", "split",
    "strip", "lstrip", "rstrip", "replace", "startswith", "endswith", "lower", "upper", "title", "find", "isdigit", "isalpha",
    "isalnum", "isupper", "islower", "encode", "decode", "List", "Dict", "Tuple", "Set", "Optional", "Any", "Union",
)  # fmt: skip


def cut_into(texts: pa.Array | pa.ChunkedArray, unit: Unit) -> Units:
    """Texts as units of any kind, those of code among them."""
    return code_units_of(texts) if unit == CODE else units_of(texts, unit)


def code_units_of(texts: pa.Array | pa.ChunkedArray) -> Units:
    """Cut and hash `texts` (string or large_string; a null counts as empty). Memory: 17 bytes a unit."""
    array = pa.concat_arrays(texts.chunks) if isinstance(texts, pa.ChunkedArray) else texts
    array = array.cast(pa.large_string()).fill_null("")
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[array.offset : array.offset + len(array) + 1] if len(array) else _NOTHING
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer else np.zeros(0, np.uint8)
    most = int(offsets[-1] - offsets[0]) + 1
    hashes, starts, ends = np.empty(most, np.uint64), np.empty(most, np.int32), np.empty(most, np.int32)
    is_name, n_units = np.empty(most, np.bool_), np.zeros(len(array), np.int64)
    n = _cut(data, offsets, _kept(), hashes, starts, ends, is_name, n_units)
    spelled = Units(hashes[:n], starts[:n], ends[:n], n_units)
    return spelled._replace(hashes=_by_distance(spelled.hashes, is_name[:n], spelled.bounds))


def telling_units(units: Units, texts: list[str]) -> npt.NDArray[np.bool_]:
    """Which units say something about the code that they are in: kept words, numbers, and names that came before."""
    new = _new_name()
    is_mark = np.zeros(len(units.hashes), bool)
    for text, first, stop in zip(texts, units.bounds[:-1], units.bounds[1:], strict=True):
        for place in range(first, stop):
            char = text[units.starts[place]]
            is_mark[place] = not (char.isalnum() or char == "_")
    return ~is_mark & (units.hashes != new)


@cache
def _kept() -> Hashes:
    """The hashes of the words that are compared as they are, ascending."""
    array = pa.array(sorted(set(KEPT)), pa.large_string())
    data = np.frombuffer(array.buffers()[2], np.uint8)
    offsets = np.frombuffer(array.buffers()[1], np.int64)[: len(array) + 1]
    hashes, places, ends = np.empty(len(array), np.uint64), np.empty(len(array), np.int32), np.empty(len(array), np.int32)
    is_name, n_units = np.empty(len(array), np.bool_), np.zeros(len(array), np.int64)
    _cut(data, offsets, np.zeros(0, np.uint64), hashes, places, ends, is_name, n_units)
    return np.sort(hashes)


def _new_name() -> np.uint64:
    """The hash of a name that did not stand there before."""
    found: np.uint64 = _by_distance(np.ones(1, np.uint64), np.ones(1, np.bool_), np.array([0, 1], np.int64))[0]
    return found


@njit(cache=True, nogil=True)
def _cut(text, offsets, kept, hashes, starts, ends, is_name, n_units):  # type: ignore[no-untyped-def]
    """Fill the units of all texts, words by what they spell; returns how many there are. Bytes above ASCII are letters."""
    unit = 0
    for document in range(len(offsets) - 1):
        place, stop, first, char = offsets[document], offsets[document + 1], unit, 0
        while place < stop:
            byte = text[place]
            if byte <= 32:
                place += 1
                char += 1
                continue
            starts[unit], value = char, _SEED
            is_digit = 48 <= byte <= 57
            is_word = False
            while place < stop:
                byte = text[place]
                if not (byte >= 128 or byte == 95 or 48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122):
                    break
                is_word = True
                value = (value ^ np.uint64(byte)) * _STEP
                value ^= value >> np.uint64(29)
                place += 1
                char += (byte & 0xC0) != 0x80
            if not is_word:
                value = (value ^ np.uint64(byte)) * _STEP
                place += 1
                char += 1
            hashes[unit], ends[unit] = mixed(value), char
            at = np.searchsorted(kept, hashes[unit])
            is_name[unit] = is_word and not is_digit and not (at < len(kept) and kept[at] == hashes[unit])
            unit += 1
        n_units[document] = unit - first
    return unit


@njit(cache=True, nogil=True)
def _by_distance(hashes, is_name, bounds):  # type: ignore[no-untyped-def]
    """The same hashes, but those of names say only how far back the same name stands (0: nowhere near)."""
    found = hashes.copy()
    for document in range(len(bounds) - 1):
        for at in range(bounds[document], bounds[document + 1]):
            if not is_name[at]:
                continue
            distance = 0
            for back in range(1, min(LOOK_BACK, at - bounds[document]) + 1):
                if is_name[at - back] and hashes[at - back] == hashes[at]:
                    distance = back
                    break
            found[at] = mixed(np.uint64(_NAME + distance) * _STEP)
    return found
