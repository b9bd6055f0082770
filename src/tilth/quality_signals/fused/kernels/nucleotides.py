"""A compiled loop over the letters of DNA: composition, runs of N, CpG and the DUST scores of tiles, in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

# Columns of the counts.
N_GC, N_AT, N_N, N_N_RUNS, LONGEST_N_RUN, N_MASKED, N_AMBIGUOUS, N_OTHER, N_C, N_G, N_CPG, N_TILES, N_LOW_TILES = range(13)
N_COUNTS = 13
TILE = 64  # letters that DUST scores together; Morgulis et al. take windows of 64
LOW = 2.0  # the score above which DUST masks
N_TRIPLETS = 64
# What a letter is: its two bits where it is A, C, G or T (U is T), and the kinds that are counted.
BASE, STRONG, WEAK, UNKNOWN, AMBIGUOUS, LOWER, OTHER = 3, 4, 8, 16, 32, 64, 128
NO_BASE = UNKNOWN | AMBIGUOUS | OTHER


def letter_kinds() -> Any:
    """The bits above for each byte (uint8 x 256). S counts as G or C, W as A or T, though neither is one base."""
    kinds = np.full(256, OTHER, np.uint8)
    bits = {"A": WEAK, "C": 1 | STRONG, "G": 2 | STRONG, "T": 3 | WEAK, "U": 3 | WEAK, "N": UNKNOWN}
    bits |= {"S": AMBIGUOUS | STRONG, "W": AMBIGUOUS | WEAK} | dict.fromkeys("RYKMBDHV", AMBIGUOUS)
    for letter, kind in bits.items():
        kinds[[ord(letter), ord(letter.lower())]] = kind
    kinds[ord("a") : ord("z") + 1] |= LOWER
    return kinds


@njit(cache=True, nogil=True)
def compose(data: Any, offsets: Any, kinds: Any, counts: Any, dust: Any) -> None:
    """Fill `counts` (int64, documents x N_COUNTS) and `dust` (float64, the sum of the scores of each document's tiles)."""
    triplets = np.zeros(N_TRIPLETS, np.int64)
    for document in range(len(offsets) - 1):
        start, end = offsets[document], offsets[document + 1]
        out = counts[document]
        out[:] = 0
        _letters(data, start, end, kinds, out)
        dust[document] = 0.0
        for at in range(start, end, TILE):
            score = _dust(data, at, min(at + TILE, end), kinds, triplets)
            if score >= 0:
                dust[document] += score
                out[N_TILES] += 1
                out[N_LOW_TILES] += score > LOW


@njit(cache=True, nogil=True)
def _letters(data: Any, start: int, end: int, kinds: Any, out: Any) -> None:
    n_gc = n_at = n_n = n_masked = n_ambiguous = n_other = n_c = n_g = n_cpg = 0
    n_runs = run = longest = 0
    was_c = 0
    for at in range(start, end):
        kind = int(kinds[data[at]])
        n_gc += (kind >> 2) & 1
        n_at += (kind >> 3) & 1
        n_ambiguous += (kind >> 5) & 1
        n_masked += (kind >> 6) & 1
        n_other += (kind >> 7) & 1
        is_n = (kind >> 4) & 1
        n_n += is_n
        n_runs += is_n & (run == 0)
        run = (run + 1) * is_n
        longest = max(longest, run)
        is_c = (kind & (NO_BASE | BASE)) == 1
        is_g = (kind & (NO_BASE | BASE)) == 2
        n_c += is_c
        n_g += is_g
        n_cpg += was_c & is_g
        was_c = is_c
    out[N_GC], out[N_AT], out[N_N], out[N_N_RUNS], out[LONGEST_N_RUN] = n_gc, n_at, n_n, n_runs, longest
    out[N_MASKED], out[N_AMBIGUOUS], out[N_OTHER], out[N_C], out[N_G], out[N_CPG] = (
        n_masked,
        n_ambiguous,
        n_other,
        n_c,
        n_g,
        n_cpg,
    )


@njit(cache=True, nogil=True)
def _dust(data: Any, start: int, end: int, kinds: Any, triplets: Any) -> float:
    """The DUST score of letters `start` to `end`, -1 where there are not two triplets of bases. `triplets` is left as zeros."""
    n = n_pairs = code = width = 0
    for at in range(start, end):
        kind = int(kinds[data[at]])
        width = 0 if kind & NO_BASE else width + 1
        code = (code << 2 | kind & BASE) & (N_TRIPLETS - 1)
        if width >= 3:
            n_pairs += triplets[code]  # in the end the number of pairs of equal triplets
            triplets[code] += 1
            n += 1
    triplets[:] = 0
    return n_pairs / (n - 1) if n > 1 else -1.0
