"""RedPajama-V2's MinHash signatures, byte for byte, so that its published ones and ours can be compared.

Definition (arXiv:2411.12372 and the code published with it): the 13-grams of the normalised words, joined by a space; the
first four bytes of their SHA-1 as a little-endian number; 128 permutations `((h * a + b) mod (2^61 - 1)) & (2^32 - 1)`,
where h * a + b wraps around at 2^64; bands of the minima as big-endian bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from tilth.quality_signals.fused.text_batch import TextBatch

SEED = 42
N_PERMUTATIONS = 128
NGRAM_WORDS = 13
MERSENNE_PRIME = (1 << 61) - 1
# Similarity to (bands, rows): what datasketch's optimal_param gives for 128 permutations.
BANDS: Mapping[str, tuple[int, int]] = {"1.0": (1, 128), "0.9": (5, 25), "0.8": (9, 13), "0.7": (14, 9)}
SIGNATURES = pa.list_(pa.binary())
MINHASH_SCHEMA = pa.schema(
    [
        ("shard_id", pa.string()),
        ("id", pa.string()),
        ("id_int", pa.uint64()),
        *((f"signature_sim{similarity}", SIGNATURES) for similarity in BANDS),
    ]
)
_PRIME, _SHIFT = np.uint64(MERSENNE_PRIME), np.uint64(61)
_INITIAL = np.array([0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0], np.uint32)


@cache
def permutations() -> npt.NDArray[np.uint64]:
    """2 x 128: factors and summands, drawn in turn as the published code draws them."""
    random = np.random.RandomState(SEED)
    top = np.uint64(MERSENNE_PRIME)
    pairs = [(random.randint(1, top, dtype=np.uint64), random.randint(0, top, dtype=np.uint64)) for _ in range(N_PERMUTATIONS)]
    return np.ascontiguousarray(np.array(pairs, np.uint64).T)


def band_signatures(batch: TextBatch) -> dict[str, pa.Array]:
    """`signature_sim...` to lists of one binary for each band; null for documents of fewer than 13 normalised words."""
    words = batch.words
    n_words = np.diff(words.ends)
    minima = np.empty((len(batch), N_PERMUTATIONS), np.uint32)
    factors, summands = permutations()
    sign(batch.normal_forms.data, words.spans, words.ends, factors, summands, minima)
    big_endian = minima.astype(">u4")
    too_short = n_words < NGRAM_WORDS
    return {f"signature_sim{name}": _bands(big_endian, too_short, *shape) for name, shape in BANDS.items()}


def _bands(minima: npt.NDArray[Any], too_short: npt.NDArray[np.bool_], n_bands: int, n_rows: int) -> pa.Array:
    data = np.ascontiguousarray(minima[~too_short, : n_bands * n_rows]).tobytes()
    n_bytes = 4 * n_rows
    values = pa.array([data[start : start + n_bytes] for start in range(0, len(data), n_bytes)], pa.binary())
    ends = np.concatenate(([0], np.cumsum(np.where(too_short, 0, n_bands)))).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends, mask=np.append(too_short, False)), values, type=SIGNATURES)


@njit(cache=True, nogil=True)
def sign(data: Any, words: Any, ends: Any, factors: Any, summands: Any, out: Any) -> None:
    """The minimum of each permutation over the n-grams of each document, into `out` (uint32, documents x 128)."""
    for document in range(len(ends) - 1):
        first, last = ends[document], ends[document + 1]
        out[document] = np.uint32(0xFFFFFFFF)
        if last - first < NGRAM_WORDS:
            continue
        n_bytes = 0
        for word in range(first, last):
            n_bytes += words[word, 1] - words[word, 0] + 1
        joined, starts = np.empty(n_bytes, np.uint8), np.empty(last - first + 1, np.int64)
        at = 0
        for word in range(first, last):
            starts[word - first] = at
            for byte in range(words[word, 0], words[word, 1]):
                joined[at] = data[byte]
                at += 1
            joined[at] = 0x20
            at += 1
        starts[last - first] = at
        lowest = out[document]
        for gram in range(last - first - NGRAM_WORDS + 1):
            hashed = np.uint64(sha1_head(joined[starts[gram] : starts[gram + NGRAM_WORDS] - 1]))
            for place in range(len(factors)):
                product = hashed * factors[place] + summands[place]
                rest = (product & _PRIME) + (product >> _SHIFT)
                if rest >= _PRIME:
                    rest -= _PRIME
                lowest[place] = min(lowest[place], np.uint32(rest))


@njit(cache=True, nogil=True)
def sha1_head(message: Any) -> Any:
    """The first four bytes of the SHA-1 (FIPS 180-4) of `message` (uint8) as a little-endian number (uint32)."""
    n_bytes = len(message)
    state, schedule = _INITIAL.copy(), np.empty(80, np.uint32)
    for start in range(0, (n_bytes + 8) // 64 * 64 + 64, 64):
        for i in range(16):
            word = np.uint32(0)
            for at in range(start + 4 * i, start + 4 * i + 4):
                byte = np.uint32(message[at]) if at < n_bytes else np.uint32(0x80 if at == n_bytes else 0)
                word = np.uint32(word << np.uint32(8)) | byte
            schedule[i] = word
        if start + 64 >= n_bytes + 9:
            schedule[14] = np.uint32((n_bytes * 8) >> 32)
            schedule[15] = np.uint32((n_bytes * 8) & 0xFFFFFFFF)
        for i in range(16, 80):
            schedule[i] = _rotated(schedule[i - 3] ^ schedule[i - 8] ^ schedule[i - 14] ^ schedule[i - 16], 1)
        _compress(state, schedule)
    head = state[0]
    return (
        (head >> np.uint32(24))
        | ((head >> np.uint32(8)) & np.uint32(0xFF00))
        | ((head << np.uint32(8)) & np.uint32(0xFF0000))
        | np.uint32(head << np.uint32(24))
    )


@njit(cache=True, nogil=True)
def _compress(state: Any, schedule: Any) -> None:
    a, b, c, d, e = state[0], state[1], state[2], state[3], state[4]
    for i in range(80):
        if i < 20:
            mixed, constant = (b & c) | (~b & d), np.uint32(0x5A827999)
        elif i < 40:
            mixed, constant = b ^ c ^ d, np.uint32(0x6ED9EBA1)
        elif i < 60:
            mixed, constant = (b & c) | (b & d) | (c & d), np.uint32(0x8F1BBCDC)
        else:
            mixed, constant = b ^ c ^ d, np.uint32(0xCA62C1D6)
        total = np.uint32(_rotated(a, 5) + mixed + e + constant + schedule[i])
        a, b, c, d, e = total, a, _rotated(b, 30), c, d
    state[0] += a
    state[1] += b
    state[2] += c
    state[3] += d
    state[4] += e


@njit(cache=True, nogil=True)
def _rotated(word: Any, n_bits: int) -> Any:
    return np.uint32(word << np.uint32(n_bits)) | np.uint32(word >> np.uint32(32 - n_bits))
