"""The scan after forgetting: is anything left in what the corpus is now, and what do old names and outputs still hold?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from tilth.artifacts import Artifact, Named, Store
from tilth.artifacts.naming import KINDS
from tilth.contracts import uuid_bytes
from tilth.corpus.optout.withdrawn import Withdrawn, content_digest, document_digest, occurrence_digest, reject_digest
from tilth.errors import NotFoundError
from tilth.pipeline.checking import Finding
from tilth.pipeline.fitted import INPUT
from tilth.pipeline.forget_matches import find_matches
from tilth.pipeline.forget_seen import HOLDING_IDS, documents_in
from tilth.pipeline.optout_files import OptOutFiles, Order, as_few
from tilth.pipeline.parquet import stream
from tilth.pipeline.project import Project
from tilth.pipeline.steps import READ, TEXTS

MODELS = ("train", "deploy")  # steps whose outputs hold weights: no text is in them, and whether they go is for people to say
_HOLDERS = (*TEXTS, *HOLDING_IDS)


@dataclass(frozen=True)
class Gone:
    """What may not be there any more: what is withdrawn from each shard, and the digests of contents that may be nowhere."""

    shards: Mapping[str, Withdrawn]
    contents: frozenset[str]
    key: bytes


@dataclass(frozen=True)
class Leftover:
    """An output that still holds something forgotten, or was made from one that does; `names` point to it."""

    artifact: Artifact
    n_documents: int  # 0 where it only follows from others
    names: tuple[str, ...]


def verify(project: Project, name: str) -> list[Finding]:
    """Look for everything that was asked of corpus `name`, in all that it is now and in all that the project still has.

    A finding is bad where the corpus, its catalog or a tombstone is not as it should be, old where only names and outputs of
    before hold something, and a note where something fitted before stays. Raises NotFoundError where nothing was asked.
    """
    files = OptOutFiles(project.folder, name)
    kept = files.kept()
    if not kept.orders:
        raise NotFoundError(
            f"nothing was ever forgotten of corpus `{name}`", str(files.folder), "`tilth forget --help` says how."
        )
    store, gone = project.store, gone_of(files)
    named = store.get_named("corpus", name)
    still_named = [_still_named(store, named, order, files.key()) for order in as_few(kept.orders)]
    return [
        _finding("requests", sum(still_named), "documents, occurrences and rejects answer to what was asked"),
        _finding("texts", _in_corpus(store, named, gone), "forgotten documents or contents in its texts"),
        _finding("catalog", _in_catalog(store, name, gone), "forgotten documents in its relations"),
        *still_fitted(store, named),
        *_leftover_findings(leftovers(project, name)),
        *_tombstones(files),
    ]


def still_fitted(store: Store, corpus: Named) -> list[Finding]:
    """What of a corpus was fitted before something was forgotten and stays: no text is in it, but what it learned from one."""
    parts = [part for part in corpus.parts if INPUT in store.artifact(part).spec.inputs]
    detail = "was fitted on texts that are forgotten, and stays; `tilth forget --refit` fits it anew"
    return [Finding(part.step, "note", detail) for part in parts]


def gone_of(files: OptOutFiles) -> Gone:
    """What is withdrawn from the shards of a corpus, and the contents of the orders for contents."""
    return Gone(files.kept().shards, files.contents_gone(), files.key())


def leftovers(project: Project, name: str) -> list[Leftover]:
    """Outputs, named or not, that still hold what was forgotten of corpus `name`, and data that was made from them.

    What corpora stand for now is none: another corpus is for an order of its own. Models are not looked at.
    """
    store, gone = project.store, gone_of(OptOutFiles(project.folder, name))
    things = [thing for kind in KINDS for thing in store.named(kind)]
    current = {(part.step, part.key): part.digest for thing in things if thing.kind == "corpus" for part in thing.parts}
    artifacts = [store.load(folder) for folder in store.folders()]
    others = [one for one in artifacts if (one.spec.step, one.key) not in current and one.spec.step not in MODELS]
    n_held = {one.path: n for one in others if one.spec.step in _HOLDERS and (n := _held(one, gone))}
    fits = {one.path for one in others if INPUT in one.spec.inputs}  # that stayed until they were fitted anew
    found = _with_what_follows(fits | set(n_held), others, set(current.values()))
    names: dict[tuple[str, str], list[str]] = {}
    for thing in things:
        for part in thing.parts:
            names.setdefault((part.step, part.key), []).append(f"{thing.kind}/{thing.name}")
    return [
        Leftover(one, n_held.get(one.path, 0), tuple(names.get((one.spec.step, one.key), ())))
        for one in others
        if one.path in found
    ]


def _with_what_follows(found: set[Path], others: Sequence[Artifact], clean: set[str]) -> set[Path]:
    """`found` and what was made from it. Bytes that a clean output has as well are clean: nothing follows from them."""
    found = set(found)
    while True:
        clean_too = clean | {one.digest for one in others if one.path not in found}
        digests = {one.digest for one in others if one.path in found} - clean_too
        more = {one.path for one in others if one.path not in found and digests & set(one.spec.inputs.values())}
        if not more:
            return found
        found |= more


def _still_named(store: Store, named: Named, order: Order, key: bytes) -> int:
    """How much of the corpus still answers to an order by itself."""
    found = find_matches(store, named, Order(order.scope, False, order.asked), key, {})
    n_rejects = sum(map(len, found.rejects.values()))
    return len(found.documents) + sum(map(len, found.occurrences.values())) + n_rejects


def _in_corpus(store: Store, named: Named, gone: Gone) -> int:
    return sum(_held(store.artifact(part), gone) for part in named.parts if part.step in TEXTS)


def _held(artifact: Artifact, gone: Gone) -> int:
    """How many rows of an output are of forgotten documents or contents, or of occurrences and places that were withdrawn."""
    if artifact.spec.step in HOLDING_IDS:
        return len({pair for pair in documents_in(artifact) if _is_withdrawn(*pair, gone)})
    contents = ["raw_swhid", "text_swhid"]
    n = 0
    for batch in stream(artifact, "documents.parquet", ["doc_id", "shard", *contents]):
        swhids = [batch.column(name).to_pylist() for name in contents]
        shards = batch.column("shard").to_pylist()
        for i, (doc_id, shard) in enumerate(zip(uuid_bytes(batch.column("doc_id")), shards, strict=True)):
            n += _is_withdrawn(doc_id, shard, gone) or any(content_digest(own[i]) in gone.contents for own in swhids)
    withdrawn = gone.shards.get(artifact.spec.shard or "")
    return n + (_places_held(artifact, withdrawn, gone.key) if withdrawn and artifact.spec.step == READ.name else 0)


def _is_withdrawn(doc_id: bytes, shard: str, gone: Gone) -> bool:
    return document_digest(doc_id) in gone.shards.get(shard, Withdrawn()).documents


def _places_held(artifact: Artifact, withdrawn: Withdrawn, key: bytes) -> int:
    n = 0
    if withdrawn.occurrences:
        for batch in stream(artifact, "occurrences.parquet", ["doc_id", "origin", "path", "revision"]):
            names = zip(*(batch.column(name).to_pylist() for name in ("origin", "path", "revision")), strict=True)
            for doc_id, (origin, path, revision) in zip(uuid_bytes(batch.column("doc_id")), names, strict=True):
                digests = (occurrence_digest(key, doc_id, origin, path, one) for one in (None, revision))
                n += any(digest in withdrawn.occurrences for digest in digests)
    if withdrawn.rejects:
        for batch in stream(artifact, "rejects.parquet", ["location"]):
            n += sum(reject_digest(key, location) in withdrawn.rejects for location in batch.column("location").to_pylist())
    return n


def _in_catalog(store: Store, name: str, gone: Gone) -> int:
    """Rows of the corpus' relation in the catalog that are of forgotten documents or contents, asked through SQL."""
    from tilth.catalog.project import relation_names
    from tilth.catalog.sql import run_sql

    relation = relation_names(named.name for named in store.named("corpus"))[name]
    found = run_sql(store, f'select shard, doc_id, raw_swhid, text_swhid from "{relation}"').to_pylist()
    return sum(
        _is_withdrawn(UUID(row["doc_id"]).bytes, row["shard"], gone)
        or any(content_digest(row[column]) in gone.contents for column in ("raw_swhid", "text_swhid"))
        for row in found
    )


def _leftover_findings(found: Sequence[Leftover]) -> list[Finding]:
    """One line for each name that points to something left, and one for the outputs that no name points to."""
    by_name: dict[str, list[Leftover]] = {}
    for one in found:
        for name in one.names or ("no name",):
            by_name.setdefault(name, []).append(one)
    lines = []
    for name, own in sorted(by_name.items()):
        n_documents = sum(one.n_documents for one in own if one.artifact.spec.step != READ.name) or sum(
            one.n_documents for one in own
        )
        size = sum(one.artifact.size_bytes for one in own)
        lines.append(Finding(name, "old", f"{n_documents} rows of forgotten documents in {len(own)} outputs, {size:,} bytes"))
    return lines or [Finding("old outputs", "ok", "0 hold forgotten documents")]


def _tombstones(files: OptOutFiles) -> list[Finding]:
    signed = files.signed()
    bad = [body["id"] for body in signed if not files.is_genuine(body)]
    pending = [body["id"] for body in files.pending()]
    lines = [Finding("tombstones", "bad", f"{one} is not as it was signed") for one in bad]
    lines += [Finding("tombstones", "bad", f"{one} is unfinished: `tilth forget` without a request goes on") for one in pending]
    return lines or [Finding("tombstones", "ok", f"{len(signed)} signed, by this project's key")]


def _finding(what: str, n: int, of: str) -> Finding:
    return Finding(what, "bad" if n else "ok", f"{n:,} {of}")
