"""MinHash as datasketch computes it, value for value: its hashes of n-grams and both of its families of permutations.

An n-gram is its tokens joined by a space; its value the first four bytes of its SHA-1 as a little-endian number (datasketch's
`sha1_hash32`). The permutations are drawn from NumPy's RandomState(seed). `affine32`, the default since datasketch 2.0, is
`factor * value + offset` modulo 2^32 with odd factors, of values whose bits were spread by MurmurHash3's finaliser. `legacy`,
of the versions before it and of RedPajama-V2, is `((factor * value + offset) mod (2^61 - 1)) mod 2^32`, where the sum wraps
around at 2^64.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from tilth.dedup.minhash.parameters import Unit
from tilth.dedup.minhash.sketch import Words
from tilth.dedup.texts.sha1 import ROOM_BYTES, sha1_head
from tilth.dedup.texts.tokens import Ints, tokens

MERSENNE_PRIME = (1 << 61) - 1
Numbers = npt.NDArray[np.uint64]
_LANES = 64  # permutations whose minima stay in registers
_PRIME, _SHIFT = np.uint64(MERSENNE_PRIME), np.uint64(61)


def datasketch_minima(texts: pa.Array, n: int, unit: Unit, seed: int, count: int, scheme: str) -> Words:
    """Texts x `count`: what `MinHash(count, seed, scheme=scheme)` holds of the n-grams of each text's tokens.

    All ones for a text without tokens. Slower than Tilth's own, since tokens are strings here.
    """
    found = [[token.encode() for token in tokens(text or "", unit)] for text in texts.to_pylist()]
    data = np.frombuffer(b"".join(token for text in found for token in text) or b"\0", np.uint8)
    lengths = np.fromiter((len(token) for text in found for token in text), np.int64)
    ends = np.concatenate(([0], np.cumsum([len(text) for text in found]))).astype(np.int64)
    stops = np.cumsum(lengths)
    values, value_ends = hash_ngrams(data, np.stack([stops - lengths, stops], axis=1).reshape(-1, 2), ends, n)
    if scheme == "legacy":
        return legacy_minima(values, value_ends, *legacy_permutations(seed, count))
    return affine_minima(_spread(values), value_ends, *affine_permutations(seed, count))


def _spread(values: Words) -> Words:
    """MurmurHash3's finaliser of 32 bits (Appleby 2011)."""
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))


@cache
def affine_permutations(seed: int, count: int) -> tuple[Words, Words]:
    """(factors, offsets) of the scheme affine32."""
    random = np.random.RandomState(seed)
    factors = random.randint(0, 1 << 31, count, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return factors, random.randint(0, 1 << 32, count, dtype=np.uint32)


@cache
def legacy_permutations(seed: int, count: int) -> tuple[Numbers, Numbers]:
    """(factors, offsets) of the scheme legacy, drawn in turn."""
    random, top = np.random.RandomState(seed), np.uint64(MERSENNE_PRIME)
    drawn = [(random.randint(1, top, dtype=np.uint64), random.randint(0, top, dtype=np.uint64)) for _ in range(count)]
    pairs = np.array(drawn, np.uint64).reshape(count, 2)
    return np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])


def hash_ngrams(data: npt.NDArray[np.uint8], words: Ints, ends: Ints, n: int) -> tuple[Words, Ints]:
    """(values, ends) of the n-grams of texts whose words are `data[words[i, 0]:words[i, 1]]`.

    Text t has the words from `ends[t]` to `ends[t + 1]`. A text of fewer words than n has one n-gram, all of them.
    """
    lengths = np.diff(ends)
    value_ends = np.concatenate(([0], np.cumsum(np.maximum(lengths - n + 1, np.minimum(lengths, 1)))))
    values = np.empty(value_ends[-1], np.uint32)
    _hash_ngrams(data, words, ends, n, ROOM_BYTES, values)
    return values, value_ends


def affine_minima(values: Words, ends: Ints, factors: Words, offsets: Words) -> Words:
    """Texts x permutations: the minima of the scheme affine32; all ones for a text without values."""
    padding = -len(factors) % _LANES
    padded = [np.concatenate([column, np.zeros(padding, np.uint32)]) for column in (factors, offsets)]
    out = np.empty((len(ends) - 1, len(factors) + padding), np.uint32)
    _affine_minima(values, ends, *padded, out)
    return out[:, : len(factors)]


def legacy_minima(values: Words, ends: Ints, factors: Numbers, offsets: Numbers) -> Words:
    """Texts x permutations: the minima of the scheme legacy."""
    out = np.empty((len(ends) - 1, len(factors)), np.uint32)
    _legacy_minima(values, ends, factors, offsets, out)
    return out


@njit(cache=True, nogil=True)
def _hash_ngrams(data: Any, words: Any, ends: Any, n: Any, room: Any, values: Any) -> None:
    schedule, message = np.empty(80, np.uint32), np.empty(1024, np.uint8)
    at = 0
    for text in range(len(ends) - 1):
        first, last = ends[text], ends[text + 1]
        width = min(n, last - first)
        for gram in range(first, last - width + 1 if width else first):
            size = width - 1
            for word in range(gram, gram + width):
                size += words[word, 1] - words[word, 0]
            if len(message) < size + room:
                message = np.empty(2 * (size + room), np.uint8)
            place = 0
            for word in range(gram, gram + width):
                if word > gram:
                    message[place] = 0x20
                    place += 1
                for byte in range(words[word, 0], words[word, 1]):
                    message[place] = data[byte]
                    place += 1
            values[at] = np.uint32(sha1_head(message, size, schedule) & np.uint64(0xFFFFFFFF))
            at += 1


@njit(cache=True, nogil=True)
def _legacy_minima(values: Any, ends: Any, factors: Any, offsets: Any, out: Any) -> None:
    for text in range(len(ends) - 1):
        lowest = out[text]
        lowest[:] = np.uint32(0xFFFFFFFF)
        for place in range(ends[text], ends[text + 1]):
            value = np.uint64(values[place])
            for lane in range(len(factors)):
                product = value * factors[lane] + offsets[lane]
                rest = (product & _PRIME) + (product >> _SHIFT)
                if rest >= _PRIME:
                    rest -= _PRIME
                lowest[lane] = min(lowest[lane], np.uint32(rest & np.uint64(0xFFFFFFFF)))


@njit(cache=True, nogil=True)
def _affine_minima(values, ends, factors, offsets, out):  # type: ignore[no-untyped-def]
    for text in range(len(ends) - 1):
        for first in range(0, len(factors), _LANES):
            factor, offset = factors[first : first + _LANES], offsets[first : first + _LANES]
            lowest = out[text, first : first + _LANES]
            lowest[:] = np.uint32(0xFFFFFFFF)
            for place in range(ends[text], ends[text + 1]):
                value = values[place]
                for lane in range(_LANES):
                    image = np.uint32(factor[lane] * value + offset[lane])
                    lowest[lane] = min(lowest[lane], image)
