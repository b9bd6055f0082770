"""Which documents of a corpus answer to an order: those it names, the same content elsewhere, and what is nearly the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tilth.artifacts import Artifact, Named, Store
from tilth.contracts import uuid_bytes
from tilth.corpus.optout.authors import Authored, authored_by
from tilth.corpus.optout.subjects import Wanted
from tilth.corpus.optout.withdrawn import Withdrawn, content_digest, document_digest, occurrence_digest, reject_digest
from tilth.pipeline.optout_files import Order
from tilth.pipeline.parquet import read_columns, stream

# Marks of the same content. Equal URLs and like meanings are no copies.
COPY_MARKS = tuple(f"dedup.{method}" for method in ("exact", "minhash", "digest", "normal_text", "simhash"))
_CONTENT = ["doc_id", "row", "raw_swhid", "text_swhid"]
Place = tuple[str, int]  # shard, row


@dataclass(frozen=True)
class FoundDocument:
    """A document that goes; `how` is named, copy or near."""

    doc_id: bytes
    raw_swhid: str
    text_swhid: str
    how: str


@dataclass
class Matches:
    """Documents that go whole, by place; occurrences that go of others (origin, path, commit or None); places of rejects."""

    documents: dict[Place, FoundDocument] = field(default_factory=dict)
    occurrences: dict[Place, set[tuple[str, str, str | None]]] = field(default_factory=dict)
    named: dict[Place, FoundDocument] = field(default_factory=dict)  # of which occurrences were named
    rejects: dict[str, set[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.documents or self.occurrences or self.rejects)

    @property
    def shards(self) -> list[str]:
        """The shards in which something was found, sorted."""
        return sorted({shard for shard, _ in (*self.documents, *self.occurrences)} | set(self.rejects))

    def doc_ids(self) -> set[bytes]:
        """The ids of all documents of which something goes."""
        places = (*self.documents.values(), *(self.named[place] for place in self.occurrences))
        return {found.doc_id for found in places}

    def withdrawn(self, key: bytes) -> dict[str, Withdrawn]:
        """What each shard is to be read without."""
        whole: dict[str, set[str]] = {}
        parts: dict[str, set[str]] = {}
        for (shard, _), document in self.documents.items():
            whole.setdefault(shard, set()).add(document_digest(document.doc_id))
        for (shard, row), places in self.occurrences.items():
            doc_id = self.named[shard, row].doc_id
            parts.setdefault(shard, set()).update(occurrence_digest(key, doc_id, *place) for place in places)
        return {
            shard: Withdrawn(
                frozenset(whole.get(shard, ())),
                frozenset(parts.get(shard, ())),
                frozenset(reject_digest(key, location) for location in self.rejects.get(shard, ())),
            )
            for shard in self.shards
        }


def find_matches(
    store: Store,
    corpus: Named,
    order: Order,
    key: bytes,
    repositories: Mapping[str, str],
    contents: frozenset[str] = frozenset(),
) -> Matches:
    """What of `corpus` answers to `order`. `repositories` says where the git repository of a shard lies, for e-mail addresses.

    `contents` are digests of what this order had removed before: a copy that came since goes as well.
    Every shard's occurrences are looked through, texts only for addresses. Raises SourceError where git cannot be asked.
    """
    wanted = Wanted(key, order.by_kind())
    found = Matches()
    shards = {str(part.shard): store.artifact(part) for part in corpus.of("read")}
    for shard, artifact in shards.items():
        _look_through(found, shard, artifact, wanted, contents, repositories.get(shard))
    if order.scope == "content":
        found.documents |= found.named
        found.occurrences.clear()
        _add_copies(found, shards)
        if order.near and found.documents:
            _add_near(found, store, corpus, shards)
            _add_copies(found, shards)
    else:
        found.occurrences = {place: own for place, own in found.occurrences.items() if place not in found.documents}
    return found


def _look_through(
    found: Matches, shard: str, artifact: Artifact, wanted: Wanted, contents: frozenset[str], repository: str | None
) -> None:
    """Take in what one shard has by itself: documents, occurrences, rejects."""
    authored = authored_by(repository, wanted) if repository and wanted.needs_text else Authored(set(), set())
    columns = ["row", "origin", "path", "revision", "directory", "snapshot"]
    rows: dict[int, set[tuple[str, str, str | None]]] = {}
    for batch in stream(artifact, "occurrences.parquet", columns):
        for row in batch.to_pylist():
            if wanted.place(row["origin"], row["path"]):
                rows.setdefault(row["row"], set()).add((row["origin"], row["path"], None))
            elif wanted.revision(row):
                rows.setdefault(row["row"], set()).add((row["origin"], row["path"], row["revision"]))
    found.occurrences |= {(shard, row): places for row, places in rows.items()}
    columns = [*_CONTENT, "url", "meta", *(["text"] if wanted.needs_text else [])]
    for batch in stream(artifact, "documents.parquet", columns):
        for doc_id, row in zip(uuid_bytes(batch.column("doc_id")), _rows(batch), strict=True):
            document = FoundDocument(doc_id, row["raw_swhid"], row["text_swhid"], "named")
            if row["row"] in rows:
                found.named[shard, row["row"]] = document
            if row["raw_swhid"] in authored.contents or wanted.document(row):
                found.documents[shard, row["row"]] = document
            elif contents and not contents.isdisjoint(map(content_digest, (row["raw_swhid"], row["text_swhid"]))):
                found.documents[shard, row["row"]] = replace(document, how="copy")
    for batch in stream(artifact, "rejects.parquet", ["location"]):
        here = {location for location in batch.column("location").to_pylist() if wanted.reject(location)}
        if here:
            found.rejects.setdefault(shard, set()).update(here)


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    return list(batch.drop_columns(["doc_id"]).to_pylist())


def _add_copies(found: Matches, shards: Mapping[str, Artifact]) -> None:
    """The same bytes, or the same text, in any shard."""
    contents = {swhid for document in found.documents.values() for swhid in (document.raw_swhid, document.text_swhid)}
    if not contents:
        return
    wanted = pa.array(sorted(contents), pa.string())
    for shard, artifact in shards.items():
        for batch in stream(artifact, "documents.parquet", _CONTENT):
            is_copy = pc.or_(*(pc.is_in(batch.column(name), value_set=wanted) for name in ("raw_swhid", "text_swhid")))
            _take(found, shard, batch.filter(is_copy), "copy")


def _add_near(found: Matches, store: Store, corpus: Named, shards: Mapping[str, Artifact]) -> None:
    """All members of the clusters that what was found so far is in."""
    rows: dict[str, set[int]] = {}
    for artifact in (store.artifact(part) for part in corpus.parts if part.step in COPY_MARKS):
        marks = read_columns(artifact, "duplicates.parquet", ["shard", "row", "cluster_id"])
        clusters = uuid_bytes(marks.column("cluster_id"))
        places = list(zip(marks.column("shard").to_pylist(), marks.column("row").to_pylist(), strict=True))
        asked = {cluster for cluster, place in zip(clusters, places, strict=True) if place in found.documents}
        for cluster, (shard, row) in zip(clusters, places, strict=True):
            if cluster in asked:
                rows.setdefault(shard, set()).add(row)
    for shard, own in rows.items():
        wanted = pa.array(sorted(own), pa.int32())
        for batch in stream(shards[shard], "documents.parquet", _CONTENT):
            _take(found, shard, batch.filter(pc.is_in(batch.column("row"), value_set=wanted)), "near")


def _take(found: Matches, shard: str, batch: pa.RecordBatch, how: str) -> None:
    for doc_id, row in zip(uuid_bytes(batch.column("doc_id")), _rows(batch), strict=True):
        document = FoundDocument(doc_id, row["raw_swhid"], row["text_swhid"], how)
        found.documents.setdefault((shard, row["row"]), document)


def repositories_of(work: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, str]]:
    """(shard, folder) for each shard of which the plan says that it lies in a git repository."""
    for shard, planned in work:
        if not planned.location:  # of files: an empty path would be the folder that the command runs in
            continue
        folder = Path(str(planned.location)).expanduser()
        if (folder / ".git").exists() or ((folder / "HEAD").is_file() and (folder / "objects").is_dir()):
            yield shard, str(folder)
