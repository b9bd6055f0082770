"""Forgets what people ask to be forgotten: finds it, keeps what to read without, builds what it touches, signs a tombstone.

A kill at any moment leaves a pending tombstone; the same command takes up what it holds and goes on.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilth.artifacts import Artifact, Named, Store
from tilth.artifacts.atomic import locked
from tilth.corpus.optout.requests import Request
from tilth.corpus.optout.withdrawn import Withdrawn, content_digest, document_digest, occurrence_digest
from tilth.errors import UserError
from tilth.pipeline.build import build, nodes_of, plan_build, plan_nodes
from tilth.pipeline.fitted import Fit, fits_on, recipe_digests
from tilth.pipeline.forget_matches import Matches, find_matches, repositories_of
from tilth.pipeline.forget_seen import Seen, seen_by
from tilth.pipeline.forget_verify import still_fitted
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
    """What was done: the corpus as it is now, how many outputs were made, the tombstones, and what stays as it was fitted."""

    found: Found
    corpus: Named | None = None
    n_made: int = 0
    tombstones: list[Path] = field(default_factory=list)
    fitted: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Fitted:
    """Something fitted on shards of which something goes, with all the shards that it was fitted on."""

    fit: Fit
    artifact: Artifact
    shards: set[str]

    def seen(self, matches: Matches) -> Seen:
        """How many of the documents of which something goes it was fitted on."""
        n = len({place for place in (*matches.documents, *matches.occurrences) if place[0] in self.shards})
        return Seen("fitted", self.fit.node, self.fit.digest, n)


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
    pairs = _matching(project, named, corpus, orders, {} if requests else _gone_before(files), key)
    return _shown(project.store, pairs, _fitted_on(project, name, corpus, pairs))


def forget(
    project: Project,
    name: str,
    corpus: Corpus,
    requests: Sequence[Request],
    *,
    scope: str,
    near: bool,
    refit: bool = False,
    n_workers: int = 1,
    show: Callable[[Found], None] = lambda found: None,
) -> Forgotten:
    """Forget what answers to `requests`; without any, what has come since of all that was asked before, and what a kill left.

    The requests stay with the corpus, as digests. `show` is called with what was found before anything is done.
    A tokenizer and models of the corpus stay as they were fitted before; `refit` fits them anew, on what is left.
    Raises NotFoundError (no such corpus), SourceError, BuildError.
    """
    store, files = project.store, OptOutFiles(project.folder, name)
    named = store.get_named("corpus", name)
    key = files.make_key()
    with locked(store.root / "locks" / f"forget.{name}"):
        kept, stayed = files.kept().orders, files.kept().fits
        asked = [order_of(requests, scope, near, key)] if requests else as_few(kept)
        # What a kill left before the list was written must be on it before its tombstone is signed.
        left = [order for order in map(Order.of_tombstone, files.pending()) if order not in kept]
        orders = list(dict.fromkeys([*asked, *left]))
        pairs = _matching(project, named, corpus, orders, {} if requests else _gone_before(files), key)
        fitted = _fitted_on(project, name, corpus, pairs)
        found = _shown(store, pairs, fitted)
        show(found)
        for order, matches in pairs:
            if matches:
                files.save_pending(_begun(files, named, order, matches, _seen(store, matches, fitted), key))
        if not refit:
            for one in fitted:
                files.keep_fit(one.artifact)
        withdrawn = _together(matches.withdrawn(key) for _, matches in pairs)
        files.add(orders, withdrawn, [one.fit for one in fitted], refit=refit)
        pending = list(files.pending())
        if not pending and not (refit and stayed):
            return Forgotten(found)
        built = build(project, name, corpus, n_workers=n_workers)
        signed = [files.sign({**tombstone, "corpus_after": built.named.digest}) for tombstone in pending]
        files.drop_fits()
    n_made = len(set(built.named.parts) - set(named.parts))  # most of what waits for another output turns out to be there
    return Forgotten(found, built.named, n_made, signed, [one.what for one in still_fitted(store, built.named)])


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


def _fitted_on(project: Project, name: str, corpus: Corpus, pairs: Sequence[tuple[Order, Matches]]) -> list[_Fitted]:
    """What was fitted on shards of which something goes."""
    touched = {shard for _, matches in pairs for shard in matches.shards}
    if not touched:
        return []
    nodes = nodes_of(project, corpus)
    made_for, found = recipe_digests(nodes), []
    for item, shards in fits_on(nodes, plan_nodes(project, name, nodes), touched):
        assert item.part is not None
        artifact = project.store.artifact(item.part)
        fit = Fit(item.node.id, artifact.digest, made_for[item.node.id], artifact.stats)
        found.append(_Fitted(fit, artifact, shards))
    return found


def _seen(store: Store, matches: Matches, fitted: Sequence[_Fitted]) -> list[Seen]:
    by_fits = (one.seen(matches) for one in fitted)
    return [*seen_by(store, matches.doc_ids()), *(one for one in by_fits if one.n_documents)]


def _begun(
    files: OptOutFiles, named: Named, order: Order, matches: Matches, seen_now: Iterable[Seen], key: bytes
) -> dict[str, Any]:
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
    seen |= {(one.kind, one.name, one.digest): one.as_dict() for one in seen_now}
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


def _shown(store: Store, pairs: Sequence[tuple[Order, Matches]], fitted: Sequence[_Fitted]) -> Found:
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
    together = Matches(documents, occurrences, {place: one for _, matches in pairs for place, one in matches.named.items()})
    n_occurrences = sum(map(len, occurrences.values()))
    shards = {shard for _, matches in pairs for shard in matches.shards}
    holders: dict[str, set[str]] = {}
    for (shard, _), found in documents.items():
        holders.setdefault(found.text_swhid, set()).add(shard)
    n_widely = sum(len(own) > WIDELY for own in holders.values())
    seen = _seen(store, together, fitted) if documents or occurrences else []
    return Found([rows[key] for key in sorted(rows)], seen, len(documents), n_occurrences, len(shards), n_widely)
