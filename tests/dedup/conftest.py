"""Documents for tests of deduplication, and the truth about them by comparing every pair."""

from __future__ import annotations

import hashlib
import itertools
import random
import re
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from tilth.contracts import uuid_array


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
