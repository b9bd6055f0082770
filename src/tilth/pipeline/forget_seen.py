"""Which names had seen documents that go: subsets that selected them, token sets and runs made of those, deltas of such runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tilth.artifacts import Artifact, Named, Store
from tilth.contracts import uuid_bytes
from tilth.pipeline.parquet import stream

HOLDING_IDS = ("pick", "tokens.train", "tokens.validation")  # steps whose outputs name documents without their texts


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
    parts = named.of("pick") or [part for part in named.parts if part.step in HOLDING_IDS]
    held = (store.artifact(part) for part in parts)
    return len({doc_id for artifact in held for doc_id, _ in documents_in(artifact) if doc_id in doc_ids})


def documents_in(artifact: Artifact) -> Iterator[tuple[bytes, str]]:
    """(doc_id, shard) of every document that a subset or a token set names, some more than once.

    The index of tokens in a training form has only the first file of a repository: there the spans of tokens are asked.
    """
    from tilth.tokenize.token_spans import FILE as SPANS

    index = "subset.parquet" if artifact.spec.step == "pick" else "index.parquet"
    for batch in stream(artifact, SPANS if (artifact.path / SPANS).is_file() else index, ["doc_id", "shard"]):
        pairs = zip(uuid_bytes(batch.column("doc_id")), batch.column("shard").to_pylist(), strict=True)
        yield from {(doc_id, shard) for doc_id, shard in pairs if doc_id is not None}
