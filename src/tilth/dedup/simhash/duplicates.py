"""SimHash (Charikar 2002): texts with many shingles in common have fingerprints that differ in few bits.

Each shingle of the normal text (normal_text.py) votes with its 64-bit hash on every bit of the fingerprint, as often as it
occurs. Characters of scripts that write no spaces between words are words of their own, so that Chinese has shingles, too.
Fewer words than a shingle has are one shingle; a text without any has no fingerprint and matches nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from tilth.contracts.contract import UUID
from tilth.dedup.marks import Matches
from tilth.dedup.places import collect, marks_of
from tilth.dedup.simhash.hamming import near_values, place_type
from tilth.dedup.simhash.parameters import N_BITS, SimHash
from tilth.dedup.texts.buffers import Utf8, utf8
from tilth.dedup.texts.mixing import MULTIPLIER, mix
from tilth.dedup.texts.normal_text import fold
from tilth.dedup.texts.spaceless import spaceless_codes
from tilth.dedup.texts.tokens import decode
from tilth.errors import ContractError

__all__ = ["SimHash", "fingerprint_schema", "fingerprints", "simhash_duplicates"]

Words = npt.NDArray[np.uint64]
PARAMETERS_KEY = b"tilth.simhash"
# FNV-1a's prime and offset; a count of votes has at most as many bits as a text can have shingles.
_PRIME = np.uint64(0x100000001B3)
_OFFSET, _ZERO, _ONE = np.uint64(0xCBF29CE484222325), np.uint64(0), np.uint64(1)
_COUNT_BITS = 40


def fingerprint_schema(parameters: SimHash) -> pa.Schema:
    """doc_id, shard, row, fingerprint; what decides the fingerprints is in the metadata."""
    fields = [
        pa.field("doc_id", UUID, nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("fingerprint", pa.uint64(), nullable=False),
    ]
    return pa.schema(fields, metadata={PARAMETERS_KEY: parameters.label().encode()})


def fingerprints(documents: pa.Table | pa.RecordBatch, parameters: SimHash) -> pa.Table:
    """Fingerprints of `documents` (doc_id, shard, row, text), in the same order; none for texts without words.

    Each depends on its text and the parameters only. Memory: four times the texts given at once.
    """
    found, n_shingles = fingerprints_of(utf8(documents.column("text")), parameters)
    columns = [documents.column(name) for name in ("doc_id", "shard", "row")]
    table = pa.table([*columns, pa.array(found)], names=["doc_id", "shard", "row", "fingerprint"])
    return table.filter(pa.array(n_shingles > 0)).cast(fingerprint_schema(parameters))


def fingerprints_of(texts: Utf8, parameters: SimHash) -> tuple[Words, npt.NDArray[np.int64]]:
    """The fingerprint of each text, and from how many shingles it is."""
    folded = fold(texts)
    found, n_shingles = np.zeros(len(texts), np.uint64), np.zeros(len(texts), np.int64)
    by_character = parameters.unit == "characters"
    _fingerprint(folded.data, folded.offsets, spaceless_codes(), parameters.n, by_character, found, n_shingles)
    return found, n_shingles


def simhash_duplicates(tables: Iterable[pa.Table], parameters: SimHash) -> pa.Table:
    """Mark documents with near fingerprints among `tables` (from `fingerprints`): duplicates/1 of method `simhash`.

    Clusters are the connected components of matches, the keeper is the first member by (shard, row). `matched_id` is the
    nearest of those that match, of equally near ones the first; `similarity` is 1 - distance / 64. Equal fingerprints count
    as one, so that their number costs nothing, and candidates are found without comparing all pairs (hamming.py), exactly
    while at most `max_bucket` different fingerprints agree in a block. The result is the same for any order and partition
    of the tables. Memory: about 100 bytes a document, less where many share one.
    Raises ContractError if fingerprints were made with other parameters.
    """
    places, values = collect(_of_parameters(tables, parameters), "fingerprint", 1)
    order = np.lexsort((places.rows, places.shards))
    places = places.take(order)
    values = values[order, 0]
    del order
    members, matches = _members(values, parameters)
    return marks_of(places.take(members), matches, "simhash", parameters.threshold)


def _of_parameters(tables: Iterable[pa.Table], parameters: SimHash) -> Iterable[pa.Table]:
    for table in tables:
        found = (table.schema.metadata or {}).get(PARAMETERS_KEY)
        if found != parameters.label().encode():
            what = "fingerprints were made with other parameters than they are compared with"
            where = f"{(found or b'no label').decode()} instead of {parameters.label()}"
            raise ContractError(what, where, "make the fingerprints again")
        yield table


def _members(values: Words, parameters: SimHash) -> tuple[npt.NDArray[np.int64], Matches]:
    """Those of the documents, in the order of (shard, row), that match another; and the matches among these."""
    distinct, firsts, own = _numbered(values)
    limits = (parameters.max_distance, parameters.max_bucket, parameters.n_representatives)
    roots, nearest, distances = near_values(distinct, *limits)
    n_copies = np.bincount(own, minlength=len(firsts))
    is_near = nearest != np.arange(len(nearest))
    members = np.flatnonzero((is_near | (n_copies >= 2))[own])
    own = own[members]
    # Who shares a fingerprint matches its first document, and that one its second.
    seconds = firsts.copy()
    others = np.flatnonzero(firsts[own] != members)[::-1]
    seconds[own[others]] = members[others]
    has_twin = n_copies[own] >= 2
    twin = np.where(firsts[own] == members, seconds[own], firsts[own])
    best = np.where(has_twin, twin, firsts[nearest[own]])
    similarity = np.where(has_twin, 1.0, 1 - distances[own] / N_BITS)
    places = [np.searchsorted(members, found) for found in (firsts[roots[own]], best)]
    return members, Matches(places[0], places[1], similarity)


def _numbered(values: Words) -> tuple[Words, npt.NDArray[np.integer], npt.NDArray[np.integer]]:
    """Distinct values, the first place of each, and which is whose; in the order of first places, so the first is smallest."""
    kind = place_type(len(values))
    order = np.argsort(values, kind="stable").astype(kind)
    ascending = values[order]
    is_new = np.ones(len(values), bool)
    is_new[1:] = ascending[1:] != ascending[:-1]
    firsts = order[is_new]
    by_first = np.argsort(firsts).astype(kind)
    number = np.empty(len(firsts), kind)
    number[by_first] = np.arange(len(firsts), dtype=kind)
    own = np.empty(len(values), kind)
    own[order] = number[np.cumsum(is_new, dtype=kind) - 1]
    return ascending[is_new][by_first], firsts[by_first], own


@njit(cache=True, nogil=True)
def _fingerprint(data, offsets, spaceless, n, by_character, found, n_shingles):  # type: ignore[no-untyped-def]
    """Fingerprints of normal texts; votes are counted in planes, a bit of every count in each."""
    tokens = np.zeros(2 * n, np.uint64)  # the last n twice over, so that they always lie side by side
    planes = np.zeros(_COUNT_BITS, np.uint64)
    for text in range(len(offsets) - 1):
        planes[:] = _ZERO
        n_tokens = cursor = 0
        in_word, word = False, _OFFSET
        at, end = offsets[text], offsets[text + 1]
        while at <= end:
            code, width = decode(data, at) if at < end else (32, 1)  # as if a space followed the text
            at += width
            alone = code != 32 and (by_character or spaceless[code] != 0)
            if in_word and (code == 32 or alone):
                cursor = _push(tokens, n, cursor, mix(word))
                n_tokens += 1
                in_word, word = False, _OFFSET
                if n_tokens >= n:
                    _vote(planes, _shingle(tokens, cursor, n))
            if alone:
                cursor = _push(tokens, n, cursor, mix((_OFFSET ^ np.uint64(code)) * _PRIME))
                n_tokens += 1
                if n_tokens >= n:
                    _vote(planes, _shingle(tokens, cursor, n))
            elif code != 32:
                in_word, word = True, (word ^ np.uint64(code)) * _PRIME
        if 0 < n_tokens < n:
            _vote(planes, _shingle(tokens, 0, n_tokens))
        n_shingles[text] = max(n_tokens - n + 1, min(n_tokens, 1))
        found[text] = _majority(planes, n_shingles[text])


@njit(cache=True, nogil=True, inline="always")
def _push(tokens, n, cursor, token):  # type: ignore[no-untyped-def]
    """Put a token in the place of the oldest; gives where the oldest is now."""
    tokens[cursor] = tokens[cursor + n] = token
    return cursor + 1 if cursor + 1 < n else 0


@njit(cache=True, nogil=True, inline="always")
def _shingle(tokens, start, width):  # type: ignore[no-untyped-def]
    """The hash of `width` tokens in their order; the width is part of it."""
    state = np.uint64(width)
    for i in range(start, start + width):
        state = (state ^ tokens[i]) * MULTIPLIER
        state ^= state >> np.uint64(32)
    return mix(state)


@njit(cache=True, nogil=True)
def _vote(planes, bits):  # type: ignore[no-untyped-def]
    """Add one to the count of every bit that is set: 64 counters at once, bit i of all of them in planes[i]."""
    plane = 0
    while bits != _ZERO:
        carry = planes[plane] & bits
        planes[plane] ^= bits
        bits = carry
        plane += 1


@njit(cache=True, nogil=True)
def _majority(planes, votes):  # type: ignore[no-untyped-def]
    """The bits for which more than half of the votes are."""
    result = _ZERO
    for bit in range(64):
        count = np.int64(0)
        for plane in range(len(planes)):
            count += np.int64((planes[plane] >> np.uint64(bit)) & _ONE) << plane
        if 2 * count > votes:
            result |= _ONE << np.uint64(bit)
    return result
