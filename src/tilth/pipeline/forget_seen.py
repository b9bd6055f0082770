"""Which names had seen documents that go: subsets that selected them, token sets and runs made of those, deltas of such runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tilth.artifacts import Artifact, Named, Store
from tilth.contracts import uuid_bytes
from tilth.pipeline.parquet import stream

INDEXES = {"pick": "subset.parquet", "tokens.train": "index.parquet", "tokens.validation": "index.parquet"}


@dataclass(frozen=True)
class Seen:
    """A name that had seen some of the documents; `through` is the run that it was made from, where that alone had."""

    kind: str
    name: str
    digest: str
    n_documents: int
    through: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For a tombstone."""
        return asdict(self)


def seen_by(store: Store, doc_ids: set[bytes]) -> list[Seen]:
    """Every subset, token set, run and delta of the project that had seen one of `doc_ids`, also from another corpus."""
    found: list[Seen] = []
    for kind in ("subset", "tokens"):
        counts = ((named, _count(store, named, doc_ids)) for named in store.named(kind))
        found += [Seen(kind, named.name, named.digest, n) for named, n in counts if n]
    runs = _runs(store, doc_ids)
    trained = {
        part.key: name for name, run in runs.items() for part in store.get_named("run", name).of("train") if run.digest
    }  # by their weights: a delta keeps those it was made from
    deltas = []
    for named in store.named("delta"):
        sources = [trained[part.key] for part in named.of("train") if part.key in trained]
        if sources:
            most = max(runs[name].n_documents for name in sources)
            deltas.append(Seen("delta", named.name, named.digest, most, f"run/{sources[0]}"))
    return [*found, *runs.values(), *deltas]


def _runs(store: Store, doc_ids: set[bytes]) -> dict[str, Seen]:
    """Runs that trained on them, and those that began from such a run."""
    named_runs = {named.name: named for named in store.named("run")}
    found = {}
    for name, named in named_runs.items():
        if n := _count(store, named, doc_ids):
            found[name] = Seen("run", name, named.digest, n)
    n_before = -1
    while n_before != len(found):
        n_before = len(found)
        for name, named in named_runs.items():
            base = named.meta.get("base")
            if name not in found and base in found:
                found[name] = Seen("run", name, named.digest, found[base].n_documents, f"run/{base}")
    return found


def _count(store: Store, named: Named, doc_ids: set[bytes]) -> int:
    """How many of the documents the name selected, or, where it selects nothing itself, tokenised."""
    parts = named.of("pick") or [part for part in named.parts if part.step in INDEXES]
    return sum(count_in(store.artifact(part), INDEXES[part.step], doc_ids) for part in parts)


def count_in(artifact: Artifact, file: str, doc_ids: set[bytes]) -> int:
    """How many rows of a file with a column `doc_id` are of these documents."""
    wanted = pa.array(sorted(doc_ids), pa.binary())
    return sum(
        pc.sum(pc.is_in(pa.array(uuid_bytes(batch.column("doc_id")), pa.binary()), value_set=wanted)).as_py() or 0
        for batch in stream(artifact, file, ["doc_id"])
    )
