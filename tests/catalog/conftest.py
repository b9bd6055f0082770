"""A small synthetic store: two sources, three shards, two families of signals, duplicates, licences and rejects."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tilth.artifacts import Named, Part, Spec, Store
from tilth.catalog.keeper_rule import parse_keeper_rule
from tilth.catalog.keepers import write_keepers
from tilth.contracts import (
    DOCUMENTS,
    DUPLICATES,
    LICENCES,
    LOSSES,
    OCCURRENCES,
    REJECTS,
    TOKENS_INDEX,
    check,
    family_contract,
    uuid_array,
)

Row = dict[str, Any]
FAMILIES = {
    "words": {"n_words": pa.int64(), "mean_word_length": pa.float64()},
    "language": {"lid_language": pa.string(), "lid_score": pa.float32()},
    "tokens": {"n_tokens": pa.int64()},
}


def doc_id(seed: str) -> bytes:
    return hashlib.sha256(seed.encode()).digest()[:16]


def table(rows: list[Row], contract: Any) -> pa.Table:
    columns = []
    for field in contract.schema:
        values = [row[field.name] for row in rows]
        columns.append(uuid_array(values) if field.type == pa.uuid() else pa.array(values, field.type))
    made = pa.Table.from_arrays(columns, schema=contract.schema)
    check(made, contract)
    return made


def document(shard: str, row: int, text: str, rng: random.Random) -> Row:
    n_words = len(text.split())
    return {
        "doc_id": doc_id(text) if text and shard.startswith("code") else doc_id(f"{shard}:{row}"),
        "shard": shard,
        "row": row,
        "source": shard.split("/")[0],
        "url": f"https://example.org/{row}" if shard.startswith("web") else None,
        "text": text,
        "text_swhid": "swh:1:cnt:" + hashlib.sha1(text.encode()).hexdigest(),
        "raw_swhid": "swh:1:cnt:" + hashlib.sha1(text.encode() + b"raw").hexdigest(),
        "encoding": "utf-8",
        "extraction": "none",
        "n_bytes": len(text.encode()),
        "n_chars": len(text),
        "language": "python" if shard.startswith("code") else None,
        "meta": [("kind", "test")],
        "n_words": n_words or None,
        "mean_word_length": sum(map(len, text.split())) / n_words if n_words else None,
        "words_undefined": None if n_words else "no words",
        "lid_language": rng.choice(["en", "de", None]),
        "lid_score": rng.choice([0.25, 0.5, 0.75, None]),
        "language_undefined": None,
        "n_tokens": 2 * n_words + 1,
        "tokens_undefined": None,
    }


def occurrence(doc: Row, origin: str, path: str, revision: str | None = None) -> Row:
    rest = dict.fromkeys(("snapshot", "directory", "mode", "record_id", "offset", "date"))
    place = {name: doc[name] for name in ("doc_id", "shard", "row")}
    return {**place, **rest, "kind": "git" if revision else "warc", "origin": origin, "path": path, "revision": revision}


def claim(doc: Row, origin: str, path: str, spdx: str, effective: bool = True, scope: str = "file") -> Row:
    place = {name: doc[name] for name in ("doc_id", "shard", "row")}
    evidence = {"evidence_path": f"LICENSE.{spdx[:3]}", "evidence_swhid": None, "tool": "spdx-tag", "score": 1.0}
    evidence |= {"tool_version": "1", "first_line": 1, "last_line": 20, "strictness": 3 if spdx.startswith("GPL") else 1}
    return {**place, **evidence, "origin": origin, "path": path, "spdx": spdx, "scope": scope, "effective": effective}


def mark(doc: Row, method: str, cluster: Row, is_keeper: bool, similarity: float = 1.0) -> Row:
    place = {name: doc[name] for name in ("doc_id", "shard", "row")}
    return {
        **place,
        "method": method,
        "threshold": 0.7,
        "cluster_id": cluster["doc_id"],
        "matched_id": cluster["doc_id"],
        "is_keeper": is_keeper,
        "similarity": similarity,
    }


def put(
    store: Store, step: str, shard: str | None, files: dict[str, pa.Table], row_group_size: int = 1024, **counts: int
) -> Part:
    content = hashlib.sha256()
    for name in sorted(files):
        content.update(name.encode() + repr(files[name].to_pydict()).encode())

    def write(folder: Path) -> dict[str, int]:
        for name, rows in files.items():
            pq.write_table(rows, folder / name, row_group_size=row_group_size)
        return {"n_rows": sum(rows.num_rows for rows in files.values()), **counts}

    return store.make(Spec(step, 1, {"content": content.hexdigest()}, shard=shard), write).part()


def save_corpus(
    store: Store,
    name: str,
    docs: list[Row],
    *,
    families: tuple[str, ...] = tuple(FAMILIES),
    occurrences: Sequence[Row] = (),
    licences: Sequence[Row] = (),
    rejects: Sequence[Row] = (),
    marks: dict[str, list[Row]] | None = None,
    keep: str | Sequence[str] = (),
    row_group_size: int = 1024,
) -> Named:
    parts = []
    for shard in sorted({doc["shard"] for doc in docs}):
        here = [doc for doc in docs if doc["shard"] == shard]
        read = {
            "documents.parquet": table(here, DOCUMENTS),
            "occurrences.parquet": table([row for row in occurrences if row["shard"] == shard], OCCURRENCES),
            "licences.parquet": table([row for row in licences if row["shard"] == shard], LICENCES),
            "rejects.parquet": table([row for row in rejects if row["shard"] == shard], REJECTS),
        }
        n_rejected = read["rejects.parquet"].num_rows
        parts.append(put(store, "read", shard, read, row_group_size, n_documents=len(here), n_rejected=n_rejected))
        for family in families:
            contract = family_contract(family, FAMILIES[family])
            parts.append(put(store, f"signals.{family}", shard, {"signals.parquet": table(here, contract)}))
    for method, rows in (marks or {}).items():
        parts.append(put(store, f"dedup.{method}", None, {"duplicates.parquet": table(rows, DUPLICATES)}))
    if marks:
        parts.append(choose(store, parts, keep))
    return store.save_named("corpus", name, parts, {"recipe": "test"})


def choose(store: Store, parts: list[Part], keep: str | Sequence[str]) -> Part:
    rule = parse_keeper_rule(keep)
    inputs = {f"{part.step} {part.shard}": part.digest for part in parts}
    spec = Spec("dedup.keepers", 1, {"rule": str(rule), "order": [str(key) for key in rule.keys]}, inputs)
    corpus = Named("corpus", "documents", tuple(parts))
    strictness = {"licence_strictness": lambda licence: {"MIT": 1, "GPL-3.0-only": 3}.get(licence, 5)}
    return store.make(spec, lambda folder: write_keepers(store, corpus, rule, strictness, folder)).part()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store [1] it's k=v")  # a hostile path: glob, quote, hive partition


@pytest.fixture
def docs() -> list[Row]:
    rng = random.Random(7)
    words = ["soil", "seed", "plough", "ünïcode", "rain"]
    made = []
    for shard, n_rows in (("code/00000", 20), ("web/00000", 30), ("web/00001", 25)):
        for row in range(n_rows):
            n_words = rng.choice([0, 1, 3, 8, 40])
            made.append(document(shard, row, " ".join(rng.choices(words, k=n_words)) + f" #{shard}{row}" * bool(n_words), rng))
    return made


@pytest.fixture
def demo(store: Store, docs: list[Row]) -> Named:
    """Corpus `demo`: documents 0-2 are exact copies; 1, 20, 21 near copies (so 0, 2 belong with them); 5 has two licences."""
    occurrences = [occurrence(doc, f"https://example.org/{doc['source']}", f"file{doc['row']}.py", "swh:1:rev:b") for doc in docs]
    occurrences.append(occurrence(docs[5], "https://another.example/fork", "copy.py", "swh:1:rev:a"))
    licences = [claim(doc, f"https://example.org/{doc['source']}", f"file{doc['row']}.py", "MIT") for doc in docs[:10]]
    licences.append(claim(docs[5], "https://another.example/fork", "copy.py", "Apache-2.0 OR GPL-2.0-only"))
    licences.append(claim(docs[6], "https://example.org/code", "file6.py", "GPL-3.0-only", effective=False, scope="repository"))
    rejects = [{"shard": "web/00000", "source": "web", "location": "a.warc@7", "reason": "truncated", "detail": "half a record"}]
    marks = {
        "exact": [
            mark(docs[0], "exact", docs[0], True),
            mark(docs[1], "exact", docs[0], False),
            mark(docs[2], "exact", docs[0], False),
        ],
        "minhash": [
            mark(docs[1], "minhash", docs[1], True, 0.75),
            mark(docs[20], "minhash", docs[1], False, 0.875),
            mark(docs[21], "minhash", docs[1], False, 0.875),
        ],
    }
    return save_corpus(store, "demo", docs, occurrences=occurrences, licences=licences, rejects=rejects, marks=marks)


@pytest.fixture
def corpus_saver(store: Store) -> Callable[..., Named]:
    return lambda name, docs, **rest: save_corpus(store, name, docs, **rest)


@pytest.fixture
def lineage(store: Store, demo: Named, docs: list[Row]) -> None:
    """A tokens set, a run and a delta as the pipeline names them."""
    index = [{**docs[number], "offset": 10 * number, "length": 10} for number in (3, 4)]
    tokens = put(store, "tokens.train", None, {"index.parquet": table(index, TOKENS_INDEX)})
    store.save_named("tokens", "clean", [tokens], {"subset": "clean", "subset_digest": "0"})
    losses = [
        {"step": step, "loss": 3.0 - step, "lr": 0.1, "grad_norm": 1.0, "n_tokens": 64, "validation_loss": None}
        for step in (1, 2)
    ]
    run = put(store, "train", None, {"losses.parquet": table(losses, LOSSES)})
    store.save_named("run", "small", [run], {"subset": "clean", "tokens": "clean", "seed": 3, "steps": 2, "base": None})
    store.save_named("delta", "small-on-base", [], {"run": "small", "base": "base", "size_bytes": 10, "loss_delta": 3.5})


@pytest.fixture(scope="session")
def new_document() -> Callable[..., Row]:
    return document


@pytest.fixture(scope="session")
def keeper_chooser() -> Callable[..., Part]:
    return choose


@pytest.fixture(scope="session")
def new_mark() -> Callable[..., Row]:
    return mark


@pytest.fixture(scope="session")
def corpus_builder() -> Callable[..., Named]:
    return save_corpus
