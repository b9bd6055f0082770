"""A real store with made-up documents: three sources, rejects, duplicates, signals, two subsets, two runs, a delta."""

from __future__ import annotations

import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tilth.artifacts import Named, Part, Spec, Store
from tilth.contracts import DOCUMENTS, DUPLICATES, LICENCES, LOSSES, OCCURRENCES, REJECTS, Contract, family_contract, uuid_array

HOSTILE = '<script>window.pwned = 1</script><img src=x onerror="window.pwned = 1"></script><!-- </pre> & \x00\x1b \u202e "\''
WORDS = ("soil", "seed", "water", "root", "leaf", "grain", "field", "plough", "harvest", "the", "a", "of", "in", "and")
SOURCES = {"web": 0.45, "packages": 0.4, "git <b>": 0.15}
TUNED_LOSSES = {
    "size_bytes": 812_345,
    "full_size_bytes": 6_543_210,
    "loss_base": 4.1234,
    "loss_tuned": 3.2101,
    "loss_delta": 3.2407,
    "matrix_bytes": 512_001,
    "table_bytes": 290_000,
    "other_bytes": 10_344,
}
WHERE = {
    "clean": "is_keeper and lid_score >= 0.5 and rps_doc_word_count between 20 and 5000 and not quality_score < -0.25",
    "code": "is_keeper and source = 'packages' and rps_doc_word_count > 30",
}


def make_store(root: Path, n_documents: int = 600, upto: str = "delta") -> Store:
    """Build the store up to a stage: read, signals, subset, run or delta."""
    store, chance = Store(root), random.Random(7)
    documents = [_document(index, chance) for index in range(n_documents)]
    parts = [part for shard in _shards(documents) for part in _read(store, shard, [d for d in documents if d["shard"] == shard])]
    stages = ("read", "signals", "subset", "run", "delta")
    reached = stages.index(upto)
    if reached >= 1:
        parts += [_signals(store, shard, [d for d in documents if d["shard"] == shard], chance) for shard in _shards(documents)]
        parts += _duplicates(store, documents, chance)
        parts.append(_keepers(store, parts))
    store.save_named("corpus", "demo", parts, {"recipe": "demo.py", "n_read": n_documents, "n_rejected": n_documents // 20})
    if reached >= 2:
        from tilth.catalog.pick import pick

        for name, where in WHERE.items():
            pick(store, "demo", name, where, validation_share=0.1)
    if reached >= 3:
        _runs(store, chance)
    if reached >= 4:
        part = _file_part(store, "deploy", None, {"x": 1}, "delta.json", b"{}")
        sample = "def add(a, b):\n    return a + b\n" + HOSTILE
        store.save_named(
            "delta",
            "tuned",
            [part],
            {"run": "tuned", "base": "base", "codec": "rank1", **TUNED_LOSSES, "agreement": 0.9312, "sample": sample},
        )
    return store


def _shards(documents: list[dict[str, Any]]) -> list[str]:
    return sorted({document["shard"] for document in documents})


def _document(index: int, chance: random.Random) -> dict[str, Any]:
    source = chance.choices(list(SOURCES), list(SOURCES.values()))[0]
    n_words = max(1, int(chance.lognormvariate(5.2, 1.3)))
    words = [chance.choice(WORDS) for _ in range(n_words)]
    text = " ".join(words)
    if index % 9 == 0:
        text = HOSTILE + " " + text
    return {
        "doc_id": hashlib.md5(str(index).encode()).digest(), "shard": f"{source.split()[0]}/{index % 2:05}", "source": source,
        "text": text, "url": f"https://example.org/{index}?q=<b>" if source == "web" else None, "n_words": n_words,
        "language": {"web": "en", "packages": "python"}.get(source),
    }  # fmt: skip


def _read(store: Store, shard: str, documents: list[dict[str, Any]]) -> list[Part]:
    n = len(documents)
    for row, document in enumerate(documents):
        document["row"] = row
    key = {"doc_id": uuid_array([d["doc_id"] for d in documents]), "shard": [shard] * n, "row": pa.array(range(n), pa.int32())}
    swhids = ["swh:1:cnt:" + hashlib.sha1(d["text"].encode()).hexdigest() for d in documents]
    tables = {
        "documents": (DOCUMENTS, key | {
            "source": [d["source"] for d in documents], "url": [d["url"] for d in documents],
            "text": [d["text"] for d in documents],
            "text_swhid": swhids, "raw_swhid": swhids, "encoding": ["utf-8"] * n, "extraction": ["none/1"] * n,
            "n_bytes": [len(d["text"].encode()) for d in documents], "n_chars": [len(d["text"]) for d in documents],
            "language": [d["language"] for d in documents], "meta": [[] for _ in documents],
        }),
        "occurrences": (OCCURRENCES, key | {
            "kind": ["file"] * n, "origin": [d["source"] for d in documents], "path": [f"docs/{d['row']}.txt" for d in documents],
            **{name: [None] * n for name in ("snapshot", "revision", "directory", "mode", "record_id", "offset", "date")},
        }),
        "licences": (LICENCES, key | {
            "origin": [d["source"] for d in documents], "path": [f"docs/{d['row']}.txt" for d in documents],
            "spdx": [("MIT", "Apache-2.0", "PSF-2.0")[d["row"] % 3] for d in documents], "scope": ["repository"] * n,
            "evidence_path": ["LICENSE"] * n, "evidence_swhid": [None] * n, "tool": ["test"] * n, "score": [1.0] * n,
            "effective": [d["row"] % 4 != 0 for d in documents], "tool_version": ["1"] * n, "first_line": [1] * n,
            "last_line": [1] * n, "strictness": [1] * n,
        }),
        "rejects": (REJECTS, _rejects(shard, documents)),
    }  # fmt: skip

    def write(folder: Path) -> dict[str, Any]:
        for name, (contract, columns) in tables.items():
            pq.write_table(_table(contract, columns), folder / f"{name}.parquet")
        return {"n_documents": n}

    return [store.make(Spec("read", 1, {"shard": shard, "n": n}, shard=shard), write).part()]


def _rejects(shard: str, documents: list[dict[str, Any]]) -> dict[str, Any]:
    some = documents[::20]
    return {
        "shard": [shard] * len(some), "source": [d["source"] for d in some],
        "location": [f"archive.warc.gz@{d['row']}" for d in some],
        "reason": [("decode", "too_large", "http_error")[index % 3] for index, _ in enumerate(some)],
        "detail": [f"<i>detail</i> {d['row']}" for d in some],
    }  # fmt: skip


def _signals(store: Store, shard: str, documents: list[dict[str, Any]], chance: random.Random) -> Part:
    columns = {
        "rps_doc_word_count": pa.int64(), "lid_score": pa.float32(), "lid_language": pa.string(), "quality_score": pa.float32(),
        "n_tokens": pa.int64(), "rps_doc_frac_unique_words": pa.float64(), "rps_doc_stop_word_fraction": pa.float64(),
        "code_alnum_share": pa.float32(), "constant_signal": pa.float64(),
    }  # fmt: skip
    contract = family_contract("made", columns)
    values = {
        "shard": [shard] * len(documents), "row": [d["row"] for d in documents],
        "rps_doc_word_count": [d["n_words"] for d in documents],
        "lid_score": [
            None if d["n_words"] < 12 else chance.betavariate(6 if d["source"] == "web" else 2, 1.5) for d in documents
        ],
        "lid_language": [chance.choice(["en", "en", "en", "fr", "de", "sw"]) for _ in documents],
        "quality_score": [chance.gauss(0.4 if d["source"] == "packages" else 0.0, 0.5) for d in documents],
        "n_tokens": [int(d["n_words"] * 1.3) + 1 for d in documents],
        "rps_doc_frac_unique_words": [min(1.0, 15 / d["n_words"]) for d in documents],
        "rps_doc_stop_word_fraction": [math.nan if d["n_words"] < 3 else chance.random() for d in documents],
        "code_alnum_share": [chance.betavariate(8, 2) for _ in documents], "constant_signal": [1.5] * len(documents),
        "made_undefined": ["no words" if d["n_words"] < 12 else None for d in documents],
    }  # fmt: skip

    def write(folder: Path) -> dict[str, Any]:
        pq.write_table(_table(contract, values), folder / "signals.parquet")
        return {}

    return store.make(Spec("signals.made", 1, {"shard": shard, "n": len(documents)}, shard=shard), write).part()


def _duplicates(store: Store, documents: list[dict[str, Any]], chance: random.Random) -> list[Part]:
    """Every 10th document begins a cluster with its followers: exact pairs at first, then near ones of 2 to 4."""
    parts = []
    for method, begin in (("exact", 0), ("minhash", 4)):
        rows = []
        for index in range(begin, len(documents) - 4, 10):
            size = 2 if method == "exact" else 2 + (index // 10) % 3
            members = sorted(documents[index : index + size], key=lambda d: (d["shard"], d["row"]))
            for place, member in enumerate(members):
                similarity = 1.0 if method == "exact" else chance.uniform(0.7, 0.999)
                rows.append((member, members[0]["doc_id"], place == 0, similarity))
        columns = {
            "doc_id": uuid_array([row[0]["doc_id"] for row in rows]), "shard": [row[0]["shard"] for row in rows],
            "row": [row[0]["row"] for row in rows], "method": [method] * len(rows), "threshold": [0.7] * len(rows),
            "cluster_id": uuid_array([row[1] for row in rows]), "matched_id": uuid_array([row[1] for row in rows]),
            "is_keeper": [row[2] for row in rows], "similarity": [row[3] for row in rows],
        }  # fmt: skip

        def write(folder: Path, columns: dict[str, Any] = columns) -> dict[str, Any]:
            pq.write_table(_table(DUPLICATES, columns), folder / "duplicates.parquet")
            return {}

        parts.append(store.make(Spec(f"dedup.{method}", 1, {"n": len(documents)}), write).part())
    return parts


def _keepers(store: Store, parts: list[Part]) -> Part:
    from tilth.catalog.keeper_rule import parse_keeper_rule
    from tilth.catalog.keepers import write_keepers

    rule, corpus = parse_keeper_rule(()), Named("corpus", "documents", tuple(parts))
    spec = Spec(
        "dedup.keepers", 1, {"rule": str(rule), "order": []}, {part.step + str(part.shard): part.digest for part in parts}
    )
    return store.make(spec, lambda folder: write_keepers(store, corpus, rule, {}, folder)).part()


def _runs(store: Store, chance: random.Random) -> None:
    for name in ("clean", "code"):
        part = _file_part(store, "tokens.train", None, {"name": name}, "index.parquet", None)
        store.save_named("tokens", name, [part], {"subset": name, "subset_digest": store.get_named("subset", name).digest})
    for name, subset, base, steps, start in (("base", "clean", None, 120, 8.3), ("tuned", "code", "base", 40, 4.6)):
        losses = [start * (step + 1) ** -0.16 + chance.gauss(0, 0.04) for step in range(steps)]
        checked = [loss + 0.1 if (step + 1) % 10 == 0 else None for step, loss in enumerate(losses)]
        columns = {"step": list(range(1, steps + 1)), "loss": losses, "lr": [1e-3] * steps, "grad_norm": [1.0] * steps,
                   "n_tokens": [2048] * steps, "validation_loss": checked}  # fmt: skip
        table = _table(LOSSES, columns)
        spec = Spec("train", 1, {"name": name})
        part = store.make(spec, lambda folder, table=table: pq.write_table(table, folder / "losses.parquet")).part()
        meta = {"subset": subset, "tokens": subset, "base": base, "seed": 0, "steps": steps, "seq_len": 256, "global_batch": 8}
        store.save_named("run", name, [part], {**meta, "n_parameters": 1_234_567, "tokens_per_second": 4321.5})


def _file_part(store: Store, step: str, shard: str | None, params: dict[str, Any], name: str, body: bytes | None) -> Part:
    from tilth.contracts import TOKENS_INDEX

    def write(folder: Path) -> dict[str, Any]:
        if body is None:
            pq.write_table(TOKENS_INDEX.schema.empty_table(), folder / name)
        else:
            (folder / name).write_bytes(body)
        return {"note": json.dumps(params)}

    return store.make(Spec(step, 1, params, shard=shard), write).part()


def _table(contract: Contract, columns: dict[str, Any]) -> pa.Table:
    arrays = []
    for field in contract.schema:
        values = columns[field.name]
        arrays.append(values if isinstance(values, pa.Array) else pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=contract.schema)
