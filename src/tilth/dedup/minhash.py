"""Near-duplicates: MinHash proposes pairs, exact Jaccard similarity decides, connected components make the clusters."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tilth.dedup.buckets import Buckets, all_pairs, buckets, select, star_pairs, without
from tilth.dedup.clusters import Clusters
from tilth.dedup.marks import Matches, canonical_order, mark
from tilth.dedup.parameters import MinHashParameters
from tilth.dedup.shingles import Hashes
from tilth.dedup.signatures import join_signatures, signatures
from tilth.dedup.sorted_arrays import contains, distinct
from tilth.dedup.verify import ReadText, Verifier

__all__ = ["MinHashParameters", "minhash_duplicates", "signatures"]

logger = logging.getLogger(__name__)
Ints = npt.NDArray[np.int64]
STATS_KEY = b"tilth.stats"


def minhash_duplicates(
    signature_tables: Iterable[pa.Table], read_text: ReadText, parameters: MinHashParameters, max_shingle_bytes: int = 1 << 30
) -> pa.Table:
    """Mark near-duplicates among the documents of `signature_tables`: duplicates/1.

    Two documents match when their shingle sets have an exact Jaccard similarity >= the threshold (up to collisions of
    64-bit hashes); clusters are the connected components of matches, so two members need not match each other.
    The keeper is a cluster's first member by (shard, row). `matched_id` and `similarity` name, for each member, the
    most similar of the documents that it was compared with and that match it; of equally similar ones the first.

    Pairs that share a band are compared, except that in buckets of more than `max_bucket` documents each is compared
    with at most `n_representatives` others, and that no pair is compared which such buckets have put into one cluster.
    So the work grows with the documents, not with pairs. The result is the same for any order and partition of the tables.

    `read_text(shard, rows)` gives the texts of the candidates, rows ascending; a text may be asked for again.
    Counts of the work are in the metadata of the schema under `tilth.stats` (JSON). Raises ContractError if signatures
    were made with other parameters or from other texts.
    """
    table = join_signatures(signature_tables, parameters)
    documents = canonical_order(table.filter(pc.greater(table.column("n_shingles"), 0)))
    search = _Search(documents, read_text, parameters, max_shingle_bytes)
    search.run()
    marked = mark(documents, search.matches(), "minhash", parameters.threshold)
    metadata = {**(marked.schema.metadata or {}), STATS_KEY: json.dumps(search.stats(table.num_rows)).encode()}
    return marked.replace_schema_metadata(metadata)


class _Search:
    """Matches among documents in canonical order, all with at least one shingle."""

    def __init__(self, documents: pa.Table, read_text: ReadText, parameters: MinHashParameters, max_shingle_bytes: int) -> None:
        self.parameters, self.n_documents = parameters, documents.num_rows
        self.keys: Hashes = _band_keys(documents, parameters.n_bands)
        rows, n_shingles = documents.column("row").to_numpy(), documents.column("n_shingles").to_numpy()
        shards = documents.column("shard").to_pylist()
        self.verifier = Verifier(shards, rows, n_shingles, read_text, parameters.n, max_shingle_bytes)
        self.clusters = Clusters(self.n_documents)
        self.matched: list[tuple[Ints, Ints, npt.NDArray[np.float64]]] = []
        self.refused: Ints = np.zeros(0, np.int64)  # pairs compared in large buckets that did not match
        self.n_large_buckets = self.n_unresolved = self.n_candidates = 0

    def run(self) -> None:
        """Large buckets first: they join most, and what they join need not be compared pair by pair."""
        small: Ints = np.zeros(0, np.int64)
        for band in range(self.parameters.n_bands):
            found = buckets(self.keys[:, band])
            is_large = found.sizes > self.parameters.max_bucket
            self._large(select(found, is_large))
            small = distinct(np.concatenate([small, self._code(*all_pairs(select(found, ~is_large)))]))
        left, right = small // max(1, self.n_documents), small % max(1, self.n_documents)
        self._match(left, right)

    def _large(self, found: Buckets) -> None:
        """Compare the first of each bucket with the others, then the first of those that did not match, and so on."""
        self.n_large_buckets += len(found.sizes)
        for _ in range(self.parameters.n_representatives):
            if not len(found.sizes):
                return
            found = without(found, self._match(*star_pairs(found)))
        self.n_unresolved += len(found.members)

    def _match(self, left: Ints, right: Ints) -> npt.NDArray[np.bool_]:
        """Compare the pairs that are still open; True where a pair is in one cluster now."""
        self.n_candidates += len(left)
        together = self.clusters.together(left, right)
        codes = self._code(left, right)
        open_pairs = ~together & ~contains(self.refused, codes)
        open_pairs &= self.verifier.may_reach(self.parameters.threshold, left, right)
        chosen = np.flatnonzero(open_pairs)
        similarity = self.verifier.similarities(left[chosen], right[chosen])
        reached = similarity >= self.parameters.threshold
        self.refused = distinct(np.concatenate([self.refused, codes[chosen[~reached]]]))
        hits = chosen[reached]
        self.matched.append((left[hits], right[hits], similarity[reached]))
        self.clusters.join(left[hits], right[hits])
        return self.clusters.together(left, right)

    def _code(self, left: Ints, right: Ints) -> Ints:
        return left * self.n_documents + right

    def matches(self) -> Matches:
        """The clusters and the most similar match of each document."""
        left, right, similarity = (np.concatenate(parts) for parts in zip(*self.matched))
        here, there = np.concatenate([left, right]), np.concatenate([right, left])
        both = np.concatenate([similarity, similarity])
        order = np.lexsort((there, -both, here))
        here, first = np.unique(here[order], return_index=True)
        nearest, best = np.arange(self.n_documents), np.zeros(self.n_documents)
        nearest[here], best[here] = there[order][first], both[order][first]
        return Matches(self.clusters.roots, nearest, best)

    def stats(self, n_signatures: int) -> dict[str, int]:
        """How much work it was."""
        if self.n_unresolved:
            text = "%d times a document in a large bucket matched none of %d representatives; its other bands decide"
            logger.info(text, self.n_unresolved, self.parameters.n_representatives)
        return {
            "n_documents": n_signatures,
            "n_without_tokens": n_signatures - self.n_documents,
            "n_candidates": self.n_candidates,
            "n_compared": self.verifier.n_compared,
            "n_matched": sum(len(left) for left, _, _ in self.matched),
            "n_texts_read": self.verifier.n_texts_read,
            "n_large_buckets": self.n_large_buckets,
            "n_unresolved": self.n_unresolved,
        }


def _band_keys(documents: pa.Table, n_bands: int) -> Hashes:
    column = documents.column("band_keys")
    chunks = [chunk.flatten().to_numpy() for chunk in column.chunks]
    return np.concatenate([np.zeros(0, np.uint64), *chunks]).reshape(-1, n_bands)
