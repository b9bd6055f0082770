"""Semantic duplicates: documents whose embeddings point into the same direction.

SemDeDup (Abbas et al. 2023, arXiv:2303.09540) looks for pairs within the groups of k-means alone; here none is lost between.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tilth.dedup.marks import Matches, canonical_order, mark
from tilth.dedup.semantic.pairs import SemanticSearch
from tilth.dedup.semantic.spherical_k_means import Vectors
from tilth.errors import ContractError, RecipeError

Ints = npt.NDArray[np.int64]
Embedding = Callable[[Sequence[str]], Any]
ReadVectors = Callable[[Ints], Any]
STATS_KEY = b"tilth.stats"
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Semantic:
    """Documents are duplicates when the cosine of their embeddings is >= `threshold`.

    `embeddings` is a file, see `tilth.dedup.semantic.embedding_files`, or a function that maps texts to float32 [n, d];
    HashedNgrams is one that needs no model. The vectors are grouped by k-means into `n_clusters`, by default the square
    root of their number: more or fewer change the time it takes, never the result. Raises RecipeError for values that cannot be.
    """

    embeddings: str | Embedding
    threshold: float = 0.95
    n_clusters: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise RecipeError(
                "`threshold` must be in (0, 1]", where=f"Semantic(threshold={self.threshold})", fix="for example 0.95"
            )
        if self.n_clusters is not None and self.n_clusters < 1:
            raise RecipeError("`n_clusters` must be at least 1", where="Semantic", fix="leave it out")
        if not (isinstance(self.embeddings, str) or callable(self.embeddings)):
            what = f"`embeddings` is a {type(self.embeddings).__name__}"
            raise RecipeError(what, where="Semantic", fix="Give the path of a .npy or .parquet file, or a function of texts.")


def semantic_duplicates(
    documents: pa.Table, read_vectors: ReadVectors, parameters: Semantic, scratch: Path, max_clusters: int = 65_536
) -> pa.Table:
    """Mark semantic duplicates among `documents` (doc_id, shard, row): duplicates/1 with the verified cosine as similarity.

    `read_vectors(rows)` gives the embeddings, float [len(rows), d], of rows of `documents`; a vector of zeros is like nothing.
    Clusters are the connected components of pairs with a cosine >= the threshold; the keeper is the first by (shard, row).
    Every such pair is found, also across the borders of the k-means groups, so that the result depends neither on these nor
    on the order of documents. Work: n k d for the groups, and for each vector those of its own group and of the groups whose
    border it is near. Memory: about 250 bytes a document and a few blocks; the vectors lie in a file in `scratch` meanwhile.
    Counts are in the metadata of the schema under `tilth.stats` (JSON). Raises ContractError for vectors that are no numbers.
    """
    table = documents.select(["doc_id", "shard", "row"])
    numbered = canonical_order(table.append_column("place", pa.array(np.arange(table.num_rows, dtype=np.int64))))
    places = numbered.column("place").to_numpy()
    n_documents = len(places)
    vectors, group_of = _distinct_directions(read_vectors, places, numbered, scratch)
    search = SemanticSearch(vectors, parameters.threshold)
    k = parameters.n_clusters or min(max_clusters, math.isqrt(len(vectors)))
    if len(vectors):
        search.run(max(1, min(k, len(vectors))), parameters.seed, scratch)
    marked = mark(numbered, _of_documents(search, group_of), "semantic", parameters.threshold)
    stats = {
        "n_documents": n_documents,
        "n_without_direction": int((group_of < 0).sum()),
        "n_distinct": len(vectors),
        **search.stats,
    }
    return marked.replace_schema_metadata({**(marked.schema.metadata or {}), STATS_KEY: json.dumps(stats).encode()})


def _distinct_directions(read: ReadVectors, places: Ints, documents: pa.Table, scratch: Path) -> tuple[Vectors, Ints]:
    """The distinct unit vectors, in a file, in the order of their first documents; and which one each document has (-1: none).

    A hundred thousand copies of a page have one vector: what follows sees it once.
    """
    known: dict[bytes, int] = {}
    group_of = np.full(len(places), -1, np.int64)
    path = scratch / "directions.f32"
    d = 0
    with open(path, "wb") as file:
        for first in range(0, len(places), _ROWS_AT_ONCE):
            block = np.asarray(read(places[first : first + _ROWS_AT_ONCE]), np.float32)
            d = _check(block, d, min(_ROWS_AT_ONCE, len(places) - first), documents, first)
            lengths = np.linalg.norm(block.astype(np.float64), axis=1)
            unit = np.divide(block, lengths[:, None], where=lengths[:, None] > 0, out=np.zeros(block.shape)).astype(np.float32)
            for row in np.flatnonzero(lengths > 0).tolist():
                bytes_of_row, n_known = unit[row].tobytes(), len(known)
                group = known.setdefault(blake2b(bytes_of_row, digest_size=16).digest(), n_known)
                if group == n_known:
                    file.write(bytes_of_row)
                group_of[first + row] = group
    if not known:
        return np.zeros((0, max(1, d)), np.float32), group_of
    return np.memmap(path, np.float32, "r", shape=(len(known), d)), group_of


def _check(block: Vectors, d: int, n_rows: int, documents: pa.Table, first: int) -> int:
    """The width of a block of embeddings, `d` of those before it (0: none). Raises ContractError."""
    if block.ndim != 2 or len(block) != n_rows or block.shape[1] == 0 or (d and block.shape[1] != d):
        wanted = f"({n_rows}, {d or 'd'})"
        raise ContractError(
            f"embeddings have the shape {block.shape}, not {wanted}", fix="Give one row of equal width a document."
        )
    bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if len(bad):
        place = documents.slice(first + int(bad[0]), 1).to_pylist()[0]
        what = f"{len(bad)} embeddings hold values that are no numbers"
        raise ContractError(what, where=f"{place['shard']}:{place['row']}", fix="Embed these documents again, or give zeros.")
    return block.shape[1]


def _of_documents(search: SemanticSearch, group_of: Ints) -> Matches:
    """From the distinct vectors back to documents: those of one vector match each other, the rest as their vectors do."""
    documents = np.arange(len(group_of), dtype=np.int64)
    known = documents[group_of >= 0]
    groups = group_of[known]
    _, places = np.unique(groups, return_index=True)
    first = known[places]  # of each vector, its first document
    roots, nearest, similarity = documents.copy(), documents.copy(), np.zeros(len(documents))
    roots[known] = first[search.roots[groups]]
    nearest[known], similarity[known] = first[search.nearest[groups]], search.similarity[groups]
    is_copy = known != first[groups]
    copies = known[is_copy]
    nearest[copies], similarity[copies] = first[groups[is_copy]], 1.0
    # Written from the last copy to the first, so that the first document of a vector matches its second.
    nearest[first[groups[is_copy]][::-1]], similarity[first[groups[is_copy]]] = copies[::-1], 1.0
    return Matches(roots, nearest, similarity)
