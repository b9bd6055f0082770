"""Documents for tests of deduplication, and the truth about them by comparing every pair."""

from __future__ import annotations

import hashlib
import itertools
import random
import re
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from tilth.contracts import uuid_array
from tilth.dedup.minhash.candidates import all_candidates, find_candidates, first_documents, representatives
from tilth.dedup.minhash.duplicates import near_duplicates
from tilth.dedup.minhash.parameters import MinHashParameters
from tilth.dedup.minhash.signatures import SignedShard, sign, write_signatures


def document_id(shard: str, row: int) -> bytes:
    """The doc_id that tests give to a place."""
    return hashlib.md5(f"{shard}/{row}".encode()).digest()


def documents(texts: Sequence[str], shard: str = "s", first_row: int = 0) -> pa.Table:
    """The columns of documents/1 that this room reads."""
    rows = range(first_row, first_row + len(texts))
    ids = uuid_array([document_id(shard, row) for row in rows])
    places = {"shard": pa.array([shard] * len(texts), pa.string()), "row": pa.array(rows, pa.int32())}
    return pa.table({"doc_id": ids, **places, "text": pa.array(texts, pa.large_string())})


def jaccard_pairs(texts: Sequence[str], n: int, at_least: float) -> dict[tuple[int, int], float]:
    """Every pair of ASCII texts whose sets of word n-grams are this similar, by plain counting over all pairs."""
    sets = []
    for text in texts:
        words = re.findall(r"[a-z0-9_]+", text.lower())
        sets.append(frozenset(tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))) if words else frozenset())
    found = {}
    for (i, a), (j, b) in itertools.combinations(enumerate(sets), 2):
        if a and b and min(len(a), len(b)) >= at_least * max(len(a), len(b)):
            shared = len(a & b)
            if shared / (len(a) + len(b) - shared) >= at_least:
                found[i, j] = shared / (len(a) + len(b) - shared)
    return found


Place = tuple[str, int]  # shard, row


class Member(NamedTuple):
    """One document of a cluster."""

    place: Place
    root: Place
    matched: Place
    similarity: float


class Outcome(NamedTuple):
    """What a search found: members in the order of their places, pairs that were compared, counts, what was read."""

    members: list[Member]
    pairs: Any
    stats: dict[str, int]
    read: list[Place]

    def clusters(self) -> set[frozenset[Place]]:
        """The places of each cluster."""
        roots = {member.root for member in self.members}
        return {frozenset(member.place for member in self.members if member.root == root) for root in roots}


def search_duplicates(
    folder: Path,
    stored: Mapping[str, Sequence[str | None]],
    parameters: MinHashParameters | None = None,
    *,
    n_groups: int = 1,
    batch: int = 1000,
    removed: Sequence[Place] = (),
    known: Any = None,
    texts_now: Mapping[str, Sequence[str | None]] | None = None,
) -> Outcome:
    """Sign, find and compare the texts of shards; they are read from `texts_now` where these are others."""
    parameters = parameters or MinHashParameters()
    shards = []
    for name in sorted(stored):
        texts = stored[name]
        at = folder / name
        at.mkdir(parents=True)
        parts = [pa.array(texts[start : start + batch], pa.large_string()) for start in range(0, len(texts), batch)]
        signed = (sign(pa.array([f"{name}{i}" for i in range(len(part))]), part, parameters) for part in parts)
        write_signatures(at, signed, parameters.n_bands, pa.string())
        shards.append(SignedShard(at, name))
    first = first_documents(shards)
    places = [(shard.name, row) for shard in shards for row in range(shard.n_rows())]
    mask = np.array([place in set(removed) for place in places], np.bool_)
    standing = representatives(shards, mask)
    groups = np.array_split(np.arange(parameters.n_bands), n_groups)
    candidates = all_candidates(
        [find_candidates(shards, group.tolist(), standing, parameters.max_bucket)[0] for group in groups]
    )  # fmt: skip
    read: list[Place] = []

    def read_texts(shard: int, rows: np.ndarray) -> Iterator[pa.Array]:
        assert rows.tolist() == sorted(set(rows.tolist()))
        name = shards[shard].name
        read.extend((name, int(row)) for row in rows)
        found = [(texts_now or stored)[name][row] for row in rows]
        yield pa.array(found[:3], pa.string())
        yield pa.array(found[3:], pa.string())

    scratch = folder / "scratch"
    scratch.mkdir()
    found = near_duplicates(shards, candidates, read_texts, parameters, standing, scratch, known)
    columns = (found.marks.documents, found.marks.roots, found.marks.matched)
    members = [
        Member(places[document], places[root], places[match], float(similarity))
        for document, root, match, similarity in zip(*columns, found.marks.similarities, strict=True)
    ]
    assert first[-1] == len(places)
    return Outcome(members, found.pairs, found.stats, read)


@pytest.fixture(scope="session")
def search(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Outcome]:
    """search(texts, parameters, ...): texts of one shard `s`, or a mapping of shards to texts."""

    def run(texts: Any, *arguments: Any, **options: Any) -> Outcome:
        stored = texts if isinstance(texts, Mapping) else {"s": texts}
        return search_duplicates(tmp_path_factory.mktemp("search"), stored, *arguments, **options)

    return run


@pytest.fixture(scope="session")
def make_documents() -> Callable[..., pa.Table]:
    """Makes documents from texts: make_documents(texts, shard="s", first_row=0)."""
    return documents


@pytest.fixture(scope="session")
def true_pairs() -> Callable[[Sequence[str], int, float], dict[tuple[int, int], float]]:
    """The truth: true_pairs(texts, n, at_least) -> {(i, j): similarity}."""
    return jaccard_pairs


@pytest.fixture(scope="session")
def planted_texts() -> list[str]:
    """About 900 pieces of the standard library's source, a third of them copies with 0 to 20 % of the words changed."""
    rng = random.Random(7)
    folder = Path(sysconfig.get_paths()["stdlib"])
    pieces = []
    for file in sorted(folder.glob("[a-m]*.py"))[:60]:
        paragraphs = file.read_text("utf-8").split("\n\n")
        pieces += ["\n\n".join(paragraphs[i : i + 6]) for i in range(0, len(paragraphs), 6)]
    texts = rng.sample([piece for piece in pieces if piece.isascii() and len(piece) > 200], 600)
    for _ in range(300):
        words = rng.choice(texts).split(" ")
        for _ in range(int(len(words) * rng.choice([0, 0.005, 0.01, 0.02, 0.05, 0.2]))):
            words[rng.randrange(len(words))] = rng.choice(["foo", "bar", ""]) + str(rng.randrange(100))
        texts.append(" ".join(words))
    rng.shuffle(texts)
    return texts
