"""The n-grams of benchmarks, made once and looked up for every document.

n-grams of words (13, as in appendix C of GPT-3's paper, arXiv:2005.14165) and, where asked for, substrings of letters and
digits (50, as in appendix C of GPT-4's report, arXiv:2303.08774), and n-grams of code that stay when it is indented anew and
its names are changed (`texts.code_units`). A text of fewer words than an n-gram but at least
`min_words` is looked for as a whole. Not looked for, since they would be found everywhere, are texts that are shorter,
n-grams that more than `max_items` items of a benchmark hold (licences, "Write a function to"), and n-grams of which less
than a quarter are words of two letters or more (counting, tables of digits). `Searched` counts all of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from tilth.dedup.contamination.items import ItemText
from tilth.dedup.contamination.parameters import OverlapParameters
from tilth.dedup.texts.code_units import CODE, cut_into, telling_units
from tilth.dedup.texts.units import CHARACTERS, WORDS, Hashes, Ints, Longs, Unit, mixed
from tilth.errors import ContractError, SourceError

NGRAM, WHOLE, SUBSTRING = "ngram", "whole", "substring"
BASE = np.uint64(0xD6E8FEB86659FD93)  # of the rolling hash, modulo 2^64
INDEX = pa.schema(
    [
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("field", pa.string(), nullable=False),
        pa.field("words", pa.list_(pa.uint64()), nullable=False),  # hashes
        pa.field("words_tell", pa.list_(pa.bool_()), nullable=False),  # a word of two letters or more
        pa.field("characters", pa.list_(pa.uint64()), nullable=False),  # empty where substrings are not looked for
        pa.field("characters_tell", pa.list_(pa.bool_()), nullable=False),  # a letter
        pa.field("code", pa.list_(pa.uint64()), nullable=False),  # empty where renamed code is not looked for
        pa.field("code_tell", pa.list_(pa.bool_()), nullable=False),  # as `code_units.telling` has it
    ]
)
_PARAMETERS, _DIGESTS = b"tilth.parameters", b"tilth.benchmarks"
_FILTER_BITS_A_GRAM = 32
_TELLING, _TELLING_OF_CODE = 4, 3  # one of so many units of an n-gram must tell something
_NO_SPACES = 0x0E00  # from here on a letter can be a word


class Searched(NamedTuple):
    """Of a benchmark: its items; those that can be found; texts too short to be looked for; n-grams that say too little."""

    n_items: int
    n_searched: int
    n_short: int
    n_left_out: int


class Grams(NamedTuple):
    """What one method looks for: n-grams ascending by hash, each with the places in entries (texts of items) that hold it."""

    method: str
    unit: Unit
    n: int  # units that are hashed together
    hashes: Hashes  # (n_grams,)
    bounds: Longs  # (n_grams + 1,) into entries and places
    entries: Ints
    places: Longs  # of the first unit, in `units`
    lengths: Ints  # units that must be equal: n, or the whole text
    units: Hashes  # of all entries, one after the other
    n_of_entry: Longs  # (n_entries,) different n-grams that are looked for
    n_left_out: Longs  # (n_entries,) and that are not, since they say too little
    filter: npt.NDArray[np.uint64]  # a bit for each of the hash's leading bits that occur


def build_index(
    items: Mapping[str, Sequence[ItemText]], parameters: OverlapParameters, digests: Mapping[str, str]
) -> pa.Table:  # fmt: skip
    """The texts of benchmarks as units (INDEX), with the parameters and the digests of the files in the metadata.

    Raises SourceError for a benchmark of which nothing can be looked for.
    """
    flat = [(name, one) for name, texts in items.items() for one in texts]
    texts = pa.array([one.text for _, one in flat], pa.large_string())
    nothing = pa.array([""] * len(flat), pa.large_string())
    columns = [
        pa.array([name for name, _ in flat], pa.string()),
        pa.array([one.item for _, one in flat], pa.string()),
        pa.array([one.field for _, one in flat], pa.string()),
        *_lists(texts, WORDS),
        *_lists(texts if parameters.n_characters else nothing, CHARACTERS),
        *_lists(texts if parameters.n_code else nothing, CODE),
    ]
    metadata = {_PARAMETERS: json.dumps(asdict(parameters), sort_keys=True), _DIGESTS: json.dumps(dict(digests), sort_keys=True)}
    table = pa.Table.from_arrays(columns, schema=INDEX.with_metadata(metadata))
    for name, searched in BenchmarkIndex(table).searched.items():
        if not searched.n_searched:
            what = f"nothing of the benchmark `{name}` can be looked for: {searched.n_short} of its texts have fewer than"
            fix = "Name other fields, or lower `min_words`."
            raise SourceError(f"{what} {parameters.min_words} words, {searched.n_left_out} n-grams say too little", name, fix)
    return table


def _lists(texts: pa.Array, unit: Unit) -> tuple[pa.Array, pa.Array]:
    """The units of each text, and which of them tell something."""
    units = cut_into(texts, unit)
    bounds = pa.array(units.bounds.astype(np.int32))
    if unit == CODE:
        tell = pa.array(telling_units(units, texts.to_pylist()))
        return pa.ListArray.from_arrays(bounds, pa.array(units.hashes)), pa.ListArray.from_arrays(bounds, tell)
    telling = []
    for text, first, stop in zip(texts.to_pylist(), units.bounds, units.bounds[1:]):
        for start, end in zip(units.starts[first:stop].tolist(), units.ends[first:stop].tolist()):
            is_long = unit == CHARACTERS or end - start > 1 or ord(text[start]) >= _NO_SPACES
            telling.append(is_long and text[start].isalpha())
    return pa.ListArray.from_arrays(bounds, pa.array(units.hashes)), pa.ListArray.from_arrays(
        bounds, pa.array(telling, pa.bool_())
    )


class BenchmarkIndex:
    """An index (INDEX) ready to be searched. Raises ContractError for a table that `build_index` did not make."""

    def __init__(self, table: pa.Table) -> None:
        metadata = table.schema.metadata or {}
        if not table.schema.equals(INDEX) or _PARAMETERS not in metadata:
            raise ContractError("this is no index of benchmarks", fix="Make it with `build_index`.")
        self.table = table.combine_chunks()
        self.parameters = OverlapParameters(**json.loads(metadata[_PARAMETERS]))
        self.digests: dict[str, str] = json.loads(metadata[_DIGESTS])
        names, items = (self.table.column(name).to_pylist() for name in ("benchmark", "item"))
        self._benchmarks = np.unique(np.array(names, object).astype(str), return_inverse=True)[1]
        self._items = np.unique([f"{name}\0{item}" for name, item in zip(names, items)], return_inverse=True)[1]

    @cached_property
    def methods(self) -> list[Grams]:
        """What is looked for, by method."""
        of = self.parameters
        n_words, n_characters = (np.diff(self._units(name)[1]) for name in (WORDS, CHARACTERS))
        is_short = (n_words >= of.min_words) & (n_words < of.n_words)
        found = [self._grams(NGRAM, WORDS, of.n_words, n_words >= of.n_words), self._grams(WHOLE, WORDS, of.min_words, is_short)]
        if of.n_characters:
            found.append(self._grams(SUBSTRING, CHARACTERS, of.n_characters, n_characters >= of.n_characters))
        if of.n_code:
            found.append(self._grams(CODE, CODE, of.n_code, np.diff(self._units(CODE)[1]) >= of.n_code))
        return found

    @cached_property
    def searched(self) -> dict[str, Searched]:
        """For each benchmark what of it is looked for."""
        n_words = np.diff(self._units(WORDS)[1])
        n_looked_for = sum((grams.n_of_entry for grams in self.methods), np.zeros(len(n_words), np.int64))
        n_left_out = sum((grams.n_left_out for grams in self.methods if grams.unit == WORDS), np.zeros(len(n_words), np.int64))
        names = self.table.column("benchmark").to_pylist()
        counts = {}
        for code, name in sorted({int(code): str(name) for code, name in zip(self._benchmarks, names)}.items()):
            own = self._benchmarks == code
            n_short = int((own & (n_words < self.parameters.min_words)).sum())
            n_items, n_searched = (len(np.unique(self._items[rows])) for rows in (own, own & (n_looked_for > 0)))
            counts[name] = Searched(n_items, n_searched, n_short, int(n_left_out[own].sum()))
        return counts

    def _units(self, column: str) -> tuple[Hashes, Longs]:
        array = self._list(column)
        bounds = np.asarray(array.offsets, np.int64)
        return np.asarray(array.values)[bounds[0] : bounds[-1]], bounds - bounds[0]

    def _list(self, column: str) -> pa.ListArray:
        return pa.concat_arrays(self.table.column(column).chunks)  # type: ignore[return-value]

    def _grams(self, method: str, unit: Unit, n: int, chosen: npt.NDArray[np.bool_]) -> Grams:
        units, bounds = self._units(unit)
        hashes, entries, places = distinct_grams(units, bounds, n, chosen, method == WHOLE)
        lengths = np.diff(bounds)[entries] if method == WHOLE else np.full(len(entries), n)
        flags = self._list(f"{unit}_tell").values.to_numpy(zero_copy_only=False)
        n_telling = np.concatenate((np.zeros(1, np.int64), np.cumsum(flags)))
        # Code is full of brackets and commas that are the same everywhere.
        kept = n_telling[places + lengths] - n_telling[places] >= lengths // (_TELLING_OF_CODE if unit == CODE else _TELLING)
        # Short texts may begin alike, and only their beginnings are hashed for the search.
        kept &= ~self._too_common(_whole_hashes(units, bounds)[entries] if method == WHOLE else hashes, entries)
        n_left_out = np.bincount(entries[~kept], minlength=len(bounds) - 1)
        order = np.flatnonzero(kept)[np.lexsort((places[kept], entries[kept], hashes[kept]))]
        hashes, entries, places, lengths = hashes[order], entries[order], places[order], lengths[order].astype(np.int32)
        different, firsts = np.unique(hashes, return_index=True)
        starts = np.append(firsts, len(hashes)).astype(np.int64)
        n_of_entry = np.bincount(entries, minlength=len(bounds) - 1)
        postings = (different, starts, entries, places, lengths, units)
        return Grams(method, unit, n, *postings, n_of_entry, n_left_out, _filter(different))

    def _too_common(self, hashes: Hashes, entries: Ints) -> npt.NDArray[np.bool_]:
        """For each n-gram of an entry, whether more than `max_items` items of its benchmark hold it."""
        order = np.lexsort((self._items[entries], self._benchmarks[entries], hashes))
        keys, items, benchmarks = hashes[order], self._items[entries][order], self._benchmarks[entries][order]
        is_new = np.ones(len(order), bool)
        is_new[1:] = (keys[1:] != keys[:-1]) | (benchmarks[1:] != benchmarks[:-1])
        is_other = is_new.copy()
        is_other[1:] |= items[1:] != items[:-1]
        groups = np.cumsum(is_new) - 1
        common = np.zeros(len(order), bool)
        common[order] = (np.bincount(groups, weights=is_other) > self.parameters.max_items)[groups]
        return common


def distinct_grams(
    units: Hashes, bounds: Longs, n: int, chosen: npt.NDArray[np.bool_], first_only: bool
) -> tuple[Hashes, Ints, Longs]:
    """Hash, entry and first place of the different n-grams of the `chosen` entries; with `first_only` of their beginning."""
    hashes, entries, places = _roll(units, bounds, n, chosen, first_only)
    order = np.lexsort((places, entries, hashes))
    hashes, entries, places = hashes[order], entries[order], places[order]
    is_new = np.ones(len(order), bool)
    is_new[1:] = (hashes[1:] != hashes[:-1]) | (entries[1:] != entries[:-1])
    return hashes[is_new], entries[is_new], places[is_new]


def _filter(hashes: Hashes) -> npt.NDArray[np.uint64]:
    n_bits = max(16, int(_FILTER_BITS_A_GRAM * max(len(hashes), 1) - 1).bit_length())
    bits = (hashes >> np.uint64(64 - n_bits)).astype(np.int64)
    words = np.zeros(1 << (n_bits - 6), np.uint64)
    np.bitwise_or.at(words, bits >> 6, np.uint64(1) << (bits & 63).astype(np.uint64))
    return words


@njit(cache=True, nogil=True)
def power(n: int) -> Any:
    """BASE to the n-th, modulo 2^64."""
    found = np.uint64(1)
    for _ in range(n):
        found *= BASE
    return found


@njit(cache=True, nogil=True)
def _whole_hashes(units, bounds):  # type: ignore[no-untyped-def]
    """The hash of all units of each entry."""
    hashes = np.zeros(len(bounds) - 1, np.uint64)
    for entry in range(len(bounds) - 1):
        value = np.uint64(bounds[entry + 1] - bounds[entry])
        for at in range(bounds[entry], bounds[entry + 1]):
            value = value * BASE + units[at]
        hashes[entry] = mixed(value)
    return hashes


@njit(cache=True, nogil=True)
def _roll(units, bounds, n, chosen, first_only):  # type: ignore[no-untyped-def]
    total = 0
    for entry in range(len(bounds) - 1):
        if chosen[entry]:
            total += 1 if first_only else bounds[entry + 1] - bounds[entry] - n + 1
    hashes, entries, places = np.empty(total, np.uint64), np.empty(total, np.int32), np.empty(total, np.int64)
    out, gone = 0, power(n)
    for entry in range(len(bounds) - 1):
        if not chosen[entry]:
            continue
        first = bounds[entry]
        stop = first + n if first_only else bounds[entry + 1]
        value = np.uint64(0)
        for at in range(first, stop):
            value = value * BASE + units[at]
            if at - first >= n:
                value -= units[at - n] * gone
            if at - first >= n - 1:
                hashes[out], entries[out], places[out] = mixed(value), entry, at - n + 1
                out += 1
    return hashes, entries, places
