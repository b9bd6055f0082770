"""64-bit values that differ in few bits, found without comparing all pairs (Manku, Jain, Das Sarma: WWW 2007).

Cut 64 bits into m blocks: values that differ in at most k bits agree in m - k blocks or more. So each choice of m - k blocks
gives a table, sorted by these blocks; only neighbours in a table that agree in them are compared. More blocks make more
tables with fewer comparisons; m is chosen for the number of values, which changes the time and not the result.
"""

from __future__ import annotations

from itertools import combinations, pairwise
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.integer]
_N_BITS = 64
_SORTING = 120  # comparisons that sorting takes the time of, for each value and table
_MOST_TABLES = 3000


def near_values(
    values: Words, max_distance: int, max_bucket: int, n_representatives: int
) -> tuple[Ints, Ints, npt.NDArray[np.uint8]]:
    """For each of the distinct `values`: smallest place in its component, place of its nearest, distance of that one.

    Components connect values that differ in at most `max_distance` bits. Where nothing is that near, the value is alone:
    its own nearest, at distance 0. Where more than `max_bucket` values agree in a table's blocks, each is compared with
    `n_representatives` of them at most, so time never grows with the square; then some pairs can be missed in that table.
    """
    n = len(values)
    kind = place_type(n)
    roots, nearest = np.arange(n, dtype=kind), np.arange(n, dtype=kind)
    distances = np.full(n, _N_BITS + 1, np.uint8)
    if max_distance and n > 1:
        for mask in table_masks(n, max_distance):
            keys = values & np.uint64(mask)
            order = np.argsort(keys, kind="stable")
            _compare(values, keys, order, max_distance, max_bucket, n_representatives, roots, nearest, distances)
    _flatten(roots)
    distances[nearest == np.arange(n, dtype=kind)] = 0
    return roots, nearest, distances


def place_type(n: int) -> Any:
    """The NumPy type for places among `n`: four bytes where they are enough."""
    return np.int32 if n < 1 << 31 else np.int64


def table_masks(n_values: int, max_distance: int) -> list[int]:
    """The bits that each table is sorted by."""
    n_blocks = min(
        (m for m in range(max_distance + 1, _N_BITS + 1) if m == max_distance + 1 or comb(m, max_distance) <= _MOST_TABLES),
        key=lambda m: comb(m, max_distance) * (_SORTING + n_values / 2 ** (_N_BITS * (m - max_distance) // m)),
    )
    edges = [_N_BITS * block // n_blocks for block in range(n_blocks + 1)]
    blocks = [(1 << end) - (1 << start) for start, end in pairwise(edges)]
    return [sum(chosen) for chosen in combinations(blocks, n_blocks - max_distance)]


@njit(cache=True, nogil=True)
def _compare(values, keys, order, most, max_bucket, n_representatives, roots, nearest, distances):  # type: ignore[no-untyped-def]
    """Compare those that agree in the key, and note what is near."""
    chosen = np.empty(n_representatives, np.int64)
    n, start = len(order), 0
    while start < n:
        end = start + 1
        while end < n and keys[order[end]] == keys[order[start]]:
            end += 1
        if end - start <= max_bucket:
            for i in range(start + 1, end):
                for j in range(start, i):
                    _note(values, order[j], order[i], most, roots, nearest, distances)
        else:
            n_chosen = 0
            for i in range(start, end):
                is_near = False
                for j in range(n_chosen):
                    is_near |= _note(values, chosen[j], order[i], most, roots, nearest, distances)
                if not is_near and n_chosen < n_representatives:
                    chosen[n_chosen] = order[i]
                    n_chosen += 1
        start = end


@njit(cache=True, nogil=True, inline="always")
def _n_ones(word):  # type: ignore[no-untyped-def]
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True, nogil=True, inline="always")
def _note(values, left, right, most, roots, nearest, distances):  # type: ignore[no-untyped-def]
    """Join two places if their values are near; of equally near ones the smallest place is the nearest."""
    distance = _n_ones(values[left] ^ values[right])
    if distance > most:
        return False
    for one, other in ((left, right), (right, left)):
        if distance < distances[one] or (distance == distances[one] and other < nearest[one]):
            distances[one], nearest[one] = distance, other
    a, b = _root(roots, left), _root(roots, right)
    roots[max(a, b)] = min(a, b)
    return True


@njit(cache=True, nogil=True)
def _root(roots, at):  # type: ignore[no-untyped-def]
    while roots[at] != at:
        roots[at] = roots[roots[at]]
        at = roots[at]
    return at


@njit(cache=True, nogil=True)
def _flatten(roots):  # type: ignore[no-untyped-def]
    for at in range(len(roots)):
        roots[at] = roots[roots[at]]  # the smaller ones are done
