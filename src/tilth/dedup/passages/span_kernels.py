"""The hot loops of substring deduplication: windows of n tokens, the anchors that name them, and what is cut."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from tilth.dedup.texts.units import mixed

# Two rolling hashes modulo 2^64, of different bases: together 128 bits.
_FIRST, _SECOND = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xA0761D6478BD642F)


@njit(cache=True, nogil=True)
def _power(base, n):  # type: ignore[no-untyped-def]
    found = np.uint64(1)
    for _ in range(n):
        found *= base
    return found


@njit(cache=True, nogil=True)
def segments(tokens: Any, bounds: Any, n: int, k: int) -> Any:
    """Runs of windows with one anchor, the leftmost least k-gram of the window: its hash, the first window, their number.

    `tokens` (n_tokens,) are those of documents, which begin at `bounds`. Equal windows have equal anchors, and where two
    overlap they have anchors at different places: so an anchor that occurs once belongs to no repeated window.
    """
    keys, firsts = np.empty(len(tokens), np.uint64), np.empty(len(tokens), np.int64)
    counts = np.empty(len(tokens), np.int32)
    size, width, gone = 0, n - k + 1, _power(_FIRST, k)
    # The k-grams that can still be the least of a window, ascending: each comes and goes once, whatever the text repeats.
    room = 1
    while room < width:
        room *= 2
    queue, queued_at, around = np.empty(room, np.uint64), np.empty(room, np.int64), room - 1
    for document in range(len(bounds) - 1):
        first, stop = bounds[document], bounds[document + 1]
        if stop - first < n:
            continue
        value, place, head, tail = np.uint64(0), -1, 0, 0
        for at in range(stop - first):
            value = value * _FIRST + tokens[first + at]
            if at >= k:
                value -= tokens[first + at - k] * gone
            gram = at - k + 1
            if gram < 0:
                continue
            window = gram - width + 1
            if head < tail and queued_at[head & around] < window:
                head += 1
            key = mixed(value)
            while head < tail and queue[(tail - 1) & around] > key:
                tail -= 1
            queue[tail & around], queued_at[tail & around] = key, gram
            tail += 1
            if window < 0:
                continue
            if place != queued_at[head & around]:
                place = queued_at[head & around]
                keys[size], firsts[size], counts[size] = queue[head & around], first + window, 0
                size += 1
            counts[size - 1] += 1
    return keys[:size].copy(), firsts[:size].copy(), counts[:size].copy()


@njit(cache=True, nogil=True)
def windows(tokens: Any, firsts: Any, counts: Any, n: int, lowest: Any, highest: Any) -> Any:
    """Hash, check and first token of the windows of segments whose hash is in [lowest, highest], in order of place."""
    room = 1024
    keys, checks, places = np.empty(room, np.uint64), np.empty(room, np.uint64), np.empty(room, np.int64)
    size, goes_on_at = 0, np.int64(-1)
    gone_one, gone_two = _power(_FIRST, n - 1), _power(_SECOND, n - 1)
    one, two = np.uint64(0), np.uint64(0)
    for segment in range(len(firsts)):
        first = firsts[segment]
        if 0 <= goes_on_at < first < goes_on_at + n:
            for at in range(goes_on_at, first):  # rolled over what lies between: no token is read n times
                one, two = one * _FIRST + tokens[at + n - 1], two * _SECOND + tokens[at + n - 1]
                one, two = one - tokens[at] * gone_one, two - tokens[at] * gone_two
        elif first != goes_on_at:
            one, two = np.uint64(0), np.uint64(0)
            for at in range(first, first + n - 1):
                one, two = one * _FIRST + tokens[at], two * _SECOND + tokens[at]
        goes_on_at = first + counts[segment]
        for place in range(first, goes_on_at):
            one, two = one * _FIRST + tokens[place + n - 1], two * _SECOND + tokens[place + n - 1]
            key = mixed(one)
            if lowest <= key <= highest:
                if size == room:
                    room *= 2
                    keys, checks, places = _longer(keys, room), _longer(checks, room), _longer(places, room)
                keys[size], checks[size], places[size] = key, mixed(two), place
                size += 1
            one, two = one - tokens[place] * gone_one, two - tokens[place] * gone_two
    return keys[:size], checks[:size], places[:size]


@njit(cache=True, nogil=True)
def _longer(array, room):  # type: ignore[no-untyped-def]
    longer = np.empty(room, array.dtype)
    longer[: len(array)] = array
    return longer


@njit(cache=True, nogil=True)
def cut_repeated(keys: Any, checks: Any, places: Any, hashes: Any, hash_checks: Any, firsts: Any, n: int, lengths: Any) -> int:
    """Set in `lengths` (n_tokens,) how many tokens go from each on, for windows that are among the repeated ones.

    Both sides ascend by (hash, check). `firsts`: place of each repeated window's first copy where that is in this shard and
    is to stay, else -1. A copy that overlaps it goes from its end on. Returns the first repeated window that is not at the
    place of its first copy, or -1.
    """
    at = 0
    for i in range(len(hashes)):
        while at < len(keys) and (keys[at] < hashes[i] or (keys[at] == hashes[i] and checks[at] < hash_checks[i])):
            at += 1
        is_seen = firsts[i] < 0
        while at < len(keys) and keys[at] == hashes[i] and checks[at] == hash_checks[i]:
            place, first = places[at], firsts[i]
            at += 1
            if place == first:
                is_seen = True
                continue
            start = max(place, first + n) if first >= 0 else place
            lengths[start] = max(lengths[start], place + n - start)
        if not is_seen:
            return i
    return -1


@njit(cache=True, nogil=True)
def spans(lengths: Any, bounds: Any) -> Any:
    """Document, first token and last (exclusive, both within the document) of every span that goes; touching ones are one."""
    n = np.count_nonzero(lengths)
    documents, starts, ends = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    size = 0
    for document in range(len(bounds) - 1):
        first, reach = bounds[document], np.int64(-1)
        for at in range(first, bounds[document + 1]):
            if not lengths[at]:
                continue
            if at > reach:
                documents[size], starts[size] = document, at - first
                size += 1
            reach = max(reach, at + np.int64(lengths[at]))
            ends[size - 1] = reach - first
    return documents[:size].copy(), starts[:size].copy(), ends[:size].copy()
