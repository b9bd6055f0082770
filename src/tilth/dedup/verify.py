"""Exact Jaccard similarity of proposed pairs, from the texts themselves, within a bound on memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tilth.dedup.shingles import Hashes, Shingler
from tilth.dedup.sorted_arrays import contains, distinct
from tilth.errors import ContractError

Ints = npt.NDArray[np.int64]
ReadText = Callable[[str, list[int]], Sequence[str]]  # shard, ascending rows -> their texts
_TEXTS_AT_ONCE, _SHINGLES_AT_ONCE = 256, 1_000_000


class Verifier:
    """Similarities of pairs of documents that are numbered 0..n-1.

    `shards` and `rows` say where document i is, `n_shingles` how many distinct shingles its signature counted.
    Shingle sets of about `max_shingle_bytes` are kept, so that pairs near each other read each text once.
    """

    def __init__(
        self, shards: Sequence[str], rows: Ints, n_shingles: Ints, read_text: ReadText, n: int, max_shingle_bytes: int
    ) -> None:
        self.shards, self.rows, self.n_shingles, self.read_text = shards, rows, n_shingles, read_text
        self.max_shingles = max_shingle_bytes // 8
        self.n_compared = self.n_texts_read = 0
        self._shingler = Shingler(n)
        self._sets: dict[int, Hashes] = {}
        self._n_kept = 0

    def may_reach(self, threshold: float, left: Ints, right: Ints) -> npt.NDArray[np.bool_]:
        """Whether the sizes of left[k] and right[k] alone allow the similarity `threshold`."""
        a, b = self.n_shingles[left], self.n_shingles[right]
        return np.minimum(a, b) / np.maximum(a, b) >= threshold

    def similarities(self, left: Ints, right: Ints) -> npt.NDArray[np.float64]:
        """|A and B| / |A or B| of the shingle sets of left[k] and right[k], for every k (float64)."""
        found = np.zeros(len(left), dtype=np.float64)
        order = np.lexsort((right, left))
        for part in self._parts(order, left, right):
            self._load(distinct(np.concatenate([left[part], right[part]])))
            edges = np.flatnonzero(np.diff(left[part])) + 1
            for group in np.split(part, edges):
                found[group] = self._star(int(left[group[0]]), right[group])
        self.n_compared += len(left)
        return found

    def _parts(self, order: Ints, left: Ints, right: Ints) -> list[Ints]:
        """Cut `order` so that the sets needed for one part fit into memory together."""
        if not len(order):
            return []
        needed = np.cumsum(self.n_shingles[left[order]] + self.n_shingles[right[order]])
        return np.split(order, np.flatnonzero(np.diff(needed // max(1, self.max_shingles))) + 1)

    def _star(self, centre: int, others: Ints) -> npt.NDArray[np.float64]:
        middle = self._sets[centre]
        sets = [self._sets[int(other)] for other in others]
        sizes = np.array([len(found) for found in sets], dtype=np.int64)
        joined = np.concatenate(sets)
        hits = contains(middle, joined).astype(np.int64)
        shared = np.add.reduceat(hits, np.cumsum(sizes) - sizes)
        return shared / (len(middle) + sizes - shared)

    def _load(self, documents: Ints) -> None:
        """Make sure that the sets of `documents` (ascending) are kept."""
        wanted = [int(document) for document in documents]
        missing = [document for document in wanted if document not in self._sets]
        if self._n_kept + int(self.n_shingles[missing].sum()) > self.max_shingles:
            self._sets = {document: self._sets[document] for document in wanted if document in self._sets}
            self._n_kept = sum(len(found) for found in self._sets.values())
        for portion in self._portions(missing):
            by_shard: dict[str, list[int]] = {}
            for document in portion:
                by_shard.setdefault(self.shards[document], []).append(document)
            for shard, part in by_shard.items():
                self._read(shard, part)

    def _portions(self, documents: list[int]) -> Iterator[list[int]]:
        """Lists of documents whose tokens stay small together."""
        portion: list[int] = []
        n_shingles = 0
        for document in documents:
            portion.append(document)
            n_shingles += int(self.n_shingles[document])
            if len(portion) == _TEXTS_AT_ONCE or n_shingles >= _SHINGLES_AT_ONCE:
                yield portion
                portion, n_shingles = [], 0
        yield portion

    def _read(self, shard: str, documents: list[int]) -> None:
        texts = self.read_text(shard, [int(self.rows[document]) for document in documents])
        if len(texts) != len(documents):
            raise ContractError(f"{len(documents)} texts were asked for and {len(texts)} came", where=shard)
        self.n_texts_read += len(texts)
        distinct = list(dict.fromkeys(texts))  # copies of one page share one set
        sets = dict(zip(distinct, self._shingler.shingle_sets(distinct)))
        for document, text in zip(documents, texts):
            found = sets[text]
            if len(found) != self.n_shingles[document]:
                row = self.rows[document]
                raise ContractError("a text is not the one that its signature was made from", where=f"{shard}, row {row}")
            self._sets[document] = found
            self._n_kept += len(found)
