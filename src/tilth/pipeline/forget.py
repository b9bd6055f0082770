"""Forgets what people ask to be forgotten: finds it, keeps what to read without, builds what it touches, signs a tombstone.

A kill at any moment leaves a pending tombstone; the same command takes up what it holds and goes on.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilth.artifacts import Named, Store
from tilth.artifacts.atomic import locked
from tilth.corpus.optout.requests import Request
from tilth.corpus.optout.withdrawn import Withdrawn, content_digest, document_digest, occurrence_digest
from tilth.errors import UserError
from tilth.pipeline.build import build, plan_build
from tilth.pipeline.forget_matches import Matches, find_matches, repositories_of
from tilth.pipeline.forget_seen import Seen, seen_by
from tilth.pipeline.optout_files import OptOutFiles, Order, as_few
from tilth.pipeline.project import Project
from tilth.pipeline.recipe import Corpus
from tilth.pipeline.steps import READ

SCOPES = ("occurrence", "content")
WIDELY = 10
_UNKEPT_KEY = b"dry run"


@dataclass(frozen=True)
class Found:
    """What answers to the orders before anything is done: documents and occurrences by shard and how they were found."""

    rows: list[dict[str, Any]]  # shard, how, documents, occurrences, rejects
    seen: list[Seen]
    n_documents: int
    n_occurrences: int
    n_shards: int
    n_widely_held: int  # contents that lie in more than WIDELY shards


@dataclass(frozen=True)
class Forgotten:
    """What was done: the corpus as it is now, how many outputs were made, and the tombstones."""

    found: Found
    corpus: Named | None = None
    n_made: int = 0
    tombstones: list[Path] = field(default_factory=list)


def order_of(requests: Iterable[Request], scope: str, near: bool, key: bytes) -> Order:
    """Requests that belong together as digests. Raises UserError for an unknown scope."""
    if scope not in SCOPES:
        raise UserError(f"there is no scope `{scope}`", "--scope", f"One of {', '.join(SCOPES)}.")
    asked = tuple(sorted({(request.kind, request.digest(key)) for request in requests}))
    return Order(scope, near and scope == "content", asked)


def find(project: Project, name: str, corpus: Corpus, requests: Sequence[Request], *, scope: str, near: bool) -> Found:
    """What `forget` would find; changes nothing."""
    files = OptOutFiles(project.folder, name)
    key = files.key() or _UNKEPT_KEY
    orders = [order_of(requests, scope, near, key)] if requests else as_few(files.kept().orders)
    named = project.store.get_named("corpus", name)
    return _shown(project.store, _matching(project, named, corpus, orders, {} if requests else _gone_before(files), key))


def forget(
    project: Project,
    name: str,
    corpus: Corpus,
    requests: Sequence[Request],
    *,
    scope: str,
    near: bool,
    n_workers: int = 1,
    show: Callable[[Found], None] = lambda found: None,
) -> Forgotten:
    """Forget what answers to `requests`; without any, what has come since of all that was asked before, and what a kill left.

    The requests stay with the corpus, as digests. `show` is called with what was found before anything is done.
    Raises NotFoundError (no such corpus), SourceError, BuildError.
    """
    store, files = project.store, OptOutFiles(project.folder, name)
    named = store.get_named("corpus", name)
    key = files.make_key()
    with locked(store.root / "locks" / f"forget.{name}"):
        kept = files.kept().orders
        asked = [order_of(requests, scope, near, key)] if requests else as_few(kept)
        # What a kill left before the list was written must be on it before its tombstone is signed.
        left = [order for order in map(Order.of_tombstone, files.pending()) if order not in kept]
        orders = list(dict.fromkeys([*asked, *left]))
        pairs = _matching(project, named, corpus, orders, {} if requests else _gone_before(files), key)
        found = _shown(store, pairs)
        show(found)
        for order, matches in pairs:
            if matches:
                files.save_pending(_begun(store, files, named, order, matches, key))
        files.add(orders, _together(matches.withdrawn(key) for _, matches in pairs))
        pending = list(files.pending())
        if not pending:
            return Forgotten(found)
        built = build(project, name, corpus, n_workers=n_workers)
        signed = [files.sign({**tombstone, "corpus_after": built.named.digest}) for tombstone in pending]
    return Forgotten(found, built.named, built.n_made, signed)


def _gone_before(files: OptOutFiles) -> dict[bool, frozenset[str]]:
    """Digests of the contents that earlier orders removed, by whether near-duplicates went with them."""
    return {near: files.contents_gone(near) for near in (False, True)}


def _matching(
    project: Project,
    named: Named,
    corpus: Corpus,
    orders: Sequence[Order],
    gone_before: Mapping[bool, frozenset[str]],
    key: bytes,
) -> list[tuple[Order, Matches]]:
    """What answers to each order, one pass over the corpus for each."""
    by_address = any(kind == "email" for order in orders for kind, _ in order.asked)
    repositories = _repositories(project, named.name, corpus) if by_address else {}

    def gone(order: Order) -> frozenset[str]:
        return gone_before.get(order.near, frozenset()) if order.scope == "content" else frozenset()

    return [(order, find_matches(project.store, named, order, key, repositories, gone(order))) for order in orders]


def _repositories(project: Project, name: str, corpus: Corpus) -> Mapping[str, str]:
    """Where the git repositories of the corpus' shards lie."""
    reads = [item.node for item in plan_build(project, name, corpus) if item.node.step.name == READ.name]
    return dict(repositories_of((str(node.shard), node.work[1]) for node in reads))


def _begun(store: Store, files: OptOutFiles, named: Named, order: Order, matches: Matches, key: bytes) -> dict[str, Any]:
    """The tombstone of an order before its build, with what an interrupted attempt had found."""
    before = next((body for body in files.pending() if body["order"] == order.id), None)
    removed = before["removed"] if before else {"documents": [], "occurrences": []}
    documents = [
        {
            "document": document_digest(found.doc_id),
            "contents": sorted({content_digest(found.raw_swhid), content_digest(found.text_swhid)}),
            "how": found.how,
            "shard": shard,
        }
        for (shard, _), found in sorted(matches.documents.items())
    ]
    occurrences = [
        occurrence_digest(key, matches.named[place].doc_id, *where)
        for place, wheres in matches.occurrences.items()
        for where in wheres
    ]
    seen = {(one["kind"], one["name"], one["digest"]): one for one in (before["seen_by"] if before else [])}
    seen |= {(one.kind, one.name, one.digest): one.as_dict() for one in seen_by(store, matches.doc_ids())}
    return {
        "contract": "tombstone/1",
        "id": before["id"] if before else files.free_id(f"{order.id}-{named.digest[:8]}"),
        "order": order.id,
        "corpus": named.name,
        "corpus_before": before["corpus_before"] if before else named.digest,
        "at": before["at"] if before else datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "scope": order.scope,
        "near": order.near,
        "requests": [{"kind": kind, "digest": digest} for kind, digest in order.asked],
        "removed": {
            "documents": _union(removed["documents"], documents),
            "occurrences": sorted({*removed["occurrences"], *occurrences}),
            "shards": sorted({*removed.get("shards", []), *matches.shards}),
        },
        "seen_by": [seen[label] for label in sorted(seen)],
    }


def _union(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_place = {(one["shard"], one["document"]): one for one in [*now, *before]}
    return [by_place[place] for place in sorted(by_place)]


def _together(lists: Iterable[Mapping[str, Withdrawn]]) -> dict[str, Withdrawn]:
    merged: dict[str, Withdrawn] = {}
    for one in lists:
        for shard, withdrawn in one.items():
            merged[shard] = merged.get(shard, Withdrawn()) | withdrawn
    return merged


def _shown(store: Store, pairs: Sequence[tuple[Order, Matches]]) -> Found:
    """Counts for a reader; a document that answers to several orders counts once."""
    documents = {place: found for _, matches in reversed(pairs) for place, found in matches.documents.items()}
    occurrences = {
        place: wheres for _, matches in pairs for place, wheres in matches.occurrences.items() if place not in documents
    }
    rows: dict[tuple[str, str], dict[str, Any]] = {}

    def row(shard: str, how: str) -> dict[str, Any]:
        return rows.setdefault((shard, how), {"shard": shard, "found": how, "documents": 0, "occurrences": 0, "rejects": 0})

    for (shard, _), found in documents.items():
        row(shard, found.how)["documents"] += 1
    for (shard, _), wheres in occurrences.items():
        row(shard, "named")["occurrences"] += len(wheres)
    for _, matches in pairs:
        for shard, locations in matches.rejects.items():
            row(shard, "named")["rejects"] += len(locations)
    ids = set().union(*(matches.doc_ids() for _, matches in pairs)) if pairs else set()
    n_occurrences = sum(map(len, occurrences.values()))
    shards = {shard for _, matches in pairs for shard in matches.shards}
    holders: dict[str, set[str]] = {}
    for (shard, _), found in documents.items():
        holders.setdefault(found.text_swhid, set()).add(shard)
    n_widely = sum(len(own) > WIDELY for own in holders.values())
    seen = seen_by(store, ids) if ids else []
    return Found([rows[key] for key in sorted(rows)], seen, len(documents), n_occurrences, len(shards), n_widely)
