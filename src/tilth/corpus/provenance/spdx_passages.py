"""Finds the texts of the SPDX list inside a file that holds several of them, or much else, by runs of four words.

A run is known by its hash; the list says in which texts it stands, and where. Where enough runs of one text lie as they do in it,
but for words that came in or went, the text is there, and from which word to which. Of texts that lie over each other (a licence
and its near twin, or the longer one that holds it) the one that explains most words best is meant.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tilth.corpus.provenance.spdx_texts import COMMON, DATA, TIE

RUN = 4  # words
ANY = "anynameatall"  # stands in a text of the list where people put names of their own
SPARSE_WORDS, SPARSE = 600, 8  # of longer texts, every eighth run is kept (by its hash)
MOST_BEYOND = 60  # words before the first run that was kept, and after the last
THERE = 0.75  # share of a text's runs that must lie together
FAR_WORDS, FAR_RUNS, STRAY = 15, 8, 0.1  # runs so far from the others, and so small a share of all, are of another text
ALIKE, ALIKE_SHORT, SHORT_WORDS = 0.8, 0.9, 100  # Dice that a text needs, and one of fewer words
ROOM, SLACK = 0.2, 20  # words that may have come in or gone: of the text's length, and more
SAME = 0.95  # of their words are common to passages that may be called by one another's name
OVERLAP = 0.3  # of a passage's words that another one, taken before it, may hold
BLOCK_WORDS, BLOCK_OVERLAP = 24_000, 9_000  # the longest text has some 7,000 words
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Hashes = npt.NDArray[np.uint32]
Whole = npt.NDArray[np.int64]


class Passage(NamedTuple):
    """A text of the list; `score` is Dice's coefficient of its runs and those between its first and its last (words, from 0)."""

    spdx: str
    score: float
    first_word: int
    last_word: int


@dataclass(frozen=True)
class SpdxPassages:
    """Runs (`hashes`, ascending), the texts that hold each and the word of it where it stands (both cut by `starts`).

    `names`, `n_words` and `n_runs` (as kept) are those of the texts; a text is sparse where it is long. Some are `exceptions`.
    """

    names: tuple[str, ...]
    exceptions: frozenset[str]
    n_words: Whole
    n_runs: Whole
    hashes: Hashes
    starts: Whole
    holders: Whole
    places: Whole

    def find(self, words: Sequence[str]) -> list[Passage]:
        """The passages among the words, in their order; they overlap little.

        Long files are looked at in blocks that overlap by the longest text, so that time grows with their length and no faster.
        """
        found = []
        for start in range(0, max(len(words) - BLOCK_OVERLAP, 1), BLOCK_WORDS - BLOCK_OVERLAP):
            block = words[start : start + BLOCK_WORDS]
            is_last = start + BLOCK_WORDS >= len(words)
            end = len(block) if is_last else BLOCK_WORDS - BLOCK_OVERLAP
            for one in self._find(block):
                if one.first_word < end:  # else the next block holds all of it
                    found.append(one._replace(first_word=one.first_word + start, last_word=one.last_word + start))
        return found

    def _find(self, words: Sequence[str]) -> list[Passage]:
        runs = run_hashes(words)
        if not len(runs):
            return []
        at = np.searchsorted(self.hashes, runs)
        at[at == len(self.hashes)] = 0
        known = np.flatnonzero(self.hashes[at] == runs)
        counts = self.starts[at[known] + 1] - self.starts[at[known]]
        if not len(known):
            return []
        first = np.repeat(self.starts[at[known]], counts)
        entries = first + np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
        texts, where, own = self.holders[entries], np.repeat(known, counts), self.places[entries]
        seen = np.zeros(len(self.holders), bool)  # each run of each text, however often it stands here
        seen[entries] = True
        kept = (np.bincount(self.holders[seen], minlength=len(self.names)) >= THERE * self.n_runs)[texts]
        texts, where, own = texts[kept], where[kept], own[kept]
        order = np.lexsort((where - own, texts))
        cuts = np.flatnonzero(np.diff(texts[order])) + 1
        found: list[Candidate] = []
        for group in np.split(order, cuts) if len(order) else ():
            found += self._copies(int(texts[group[0]]), where[group], own[group])
        end = len(words) - 1
        cut = [one._replace(last_word=min(one.last_word, end)) for one in _best(found)]
        return sorted(cut, key=lambda passage: passage.first_word)

    def _copies(self, text: int, where: Whole, own: Whole) -> list[Candidate]:
        """The copies of one text, the fullest first. Its runs are at the words `where`, and in the text itself at `own`.

        They come in the order of the difference, which is the same for all runs of an unchanged copy.
        """
        n_runs, n_words = int(self.n_runs[text]), int(self.n_words[text])
        least, rate = THERE * n_runs, n_runs / (n_words - RUN + 1)
        found = []
        while len(where) >= least:
            shift = where - own
            ends = np.searchsorted(shift, shift + int(ROOM * n_words) + SLACK)
            begin = int((ends - np.arange(len(shift))).argmax())
            end = int(ends[begin])
            n_distinct = len(np.unique(own[begin:end]))
            if n_distinct < least:
                break
            held, its = _together(where[begin:end], own[begin:end], n_runs, rate)
            n_distinct = len(np.unique(its))
            first, last = int(held[0]), int(held[-1]) + RUN - 1
            between = max(float(n_distinct), rate * (last - first + 2 - RUN))
            dice = 2 * n_distinct / (n_runs + between)
            if n_words > SPARSE_WORDS:  # it begins before the first run that is kept, and ends after the last
                before, behind = int(its[0]), n_words - RUN - int(its[-1])
                first = max(0, first - before) if before <= MOST_BEYOND else first
                last += behind if behind <= MOST_BEYOND else 0
            if dice >= (ALIKE if n_words >= SHORT_WORDS else ALIKE_SHORT):
                found.append(Candidate((last - first + 1) * dice**4, Passage(self.names[text], dice, first, last)))
            others = np.r_[0:begin, end : len(shift)]
            where, own = where[others], own[others]
        return found


def _together(where: Whole, own: Whole, n_runs: int, rate: float) -> tuple[Whole, Whole]:
    """The runs without the few that lie far before or behind the others, which belong to another text."""
    order = np.argsort(where, kind="stable")
    where, own = where[order], own[order]
    while len(where) > 1:
        cuts = np.flatnonzero(np.diff(where) > max(FAR_WORDS, FAR_RUNS / rate)) + 1
        ends = [(0, int(cuts[0])), (int(cuts[-1]), len(where))] if len(cuts) else []
        stray = next((end for end in ends if end[1] - end[0] < STRAY * n_runs), None)
        if stray is None:
            break
        where, own = (where[stray[1] :], own[stray[1] :]) if stray[0] == 0 else (where[: stray[0]], own[: stray[0]])
    return where, own


class Candidate(NamedTuple):
    """A passage that may be the one that is meant; the more words it explains well, the sooner it is."""

    explains: float
    passage: Passage


def run_hashes(words: Sequence[str]) -> Hashes:
    """The hash of each run of RUN words, by its first word."""
    if len(words) < RUN:
        return np.empty(0, np.uint32)
    each = np.fromiter(map(_word_hash, words), np.uint64, len(words))
    total = np.zeros(len(words) - RUN + 1, np.uint64)
    for i in range(RUN):
        total = (total ^ each[i : len(words) - RUN + 1 + i]) * MULTIPLIER
        total ^= total >> np.uint64(29)
    return (total >> np.uint64(32)).astype(np.uint32)


def kept_runs(words: Sequence[str]) -> tuple[Hashes, Whole]:
    """The distinct runs of a text of the list that are kept, ascending, and the word at which each first stands."""
    runs = run_hashes(words)
    whole = np.array([ANY not in words[i : i + RUN] for i in range(len(runs))], bool)
    runs, places = np.unique(runs[whole], return_index=True)
    kept = np.ones(len(runs), bool) if len(words) <= SPARSE_WORDS else runs % SPARSE == 0
    return runs[kept], np.flatnonzero(whole)[places[kept]]


@lru_cache(maxsize=1 << 15)
def _word_hash(word: str) -> int:
    return zlib.crc32(word.encode("ascii"))


def _best(candidates: list[Candidate]) -> list[Passage]:
    """Those that explain most words, and that no better one lies over; of near twins the one that is met more often."""
    left = sorted(candidates, key=lambda one: (-one.explains, _rank(one.passage.spdx), one.passage))
    taken: list[Passage] = []
    while left:
        first = left[0].passage
        near = [one.passage for one in left if one.passage.score >= first.score - TIE]
        twins = [one for one in near if _is_over(first, one, SAME) and _is_over(one, first, SAME)]
        best = min(twins, key=lambda one: _rank(one.spdx))
        taken.append(best)
        left = [one for one in left[1:] if not any(_is_over(over, one.passage, OVERLAP) for over in (first, best))]
    return taken


def _is_over(over: Passage, under: Passage, share: float) -> bool:
    """Whether one passage lies over more than a share of the words of another."""
    common = min(over.last_word, under.last_word) - max(over.first_word, under.first_word) + 1
    return common > share * (under.last_word - under.first_word + 1)


def _rank(spdx: str) -> int:
    return COMMON.index(spdx) if spdx in COMMON else len(COMMON)


@cache
def spdx_passages() -> SpdxPassages:
    """The list as it was packed with this version."""
    packed = files("tilth.corpus.provenance").joinpath(DATA).read_bytes()
    with np.load(io.BytesIO(packed)) as data:
        counts = data["run_counts"].astype(np.int64)
        starts = np.append(0, np.cumsum(counts))
        holders = data["run_texts"].astype(np.int64)
        names = tuple(data["passage_names"].tolist())
        n_runs = np.bincount(holders, minlength=len(names))
        hashes = np.cumsum(data["run_gaps"].astype(np.uint64)).astype(np.uint32)
        places = data["run_places"].astype(np.int64)
        exceptions = frozenset(data["exceptions"].tolist())
        return SpdxPassages(names, exceptions, data["passage_words"].astype(np.int64), n_runs, hashes, starts, holders, places)
