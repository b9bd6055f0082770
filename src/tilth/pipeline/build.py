"""Builds a corpus: plans, makes what is missing, names the result and refreshes the catalog."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tilth.artifacts import Named, Part, Store
from tilth.artifacts.fingerprints import Fingerprints
from tilth.errors import BuildError, SourceError
from tilth.pipeline.corpus_graph import corpus_graph
from tilth.pipeline.execute import Outcome
from tilth.pipeline.graph import Node
from tilth.pipeline.near_steps import with_last_search
from tilth.pipeline.parquet import read_columns
from tilth.pipeline.plan import Planned, plan
from tilth.pipeline.progress import progress
from tilth.pipeline.project import Project
from tilth.pipeline.recipe import Corpus
from tilth.pipeline.steps import READ
from tilth.pipeline.withdrawal import without_withdrawn


@dataclass(frozen=True)
class Built:
    """A corpus that is whole: `n_made` outputs were made now, the others were there."""

    named: Named
    n_made: int
    counts: dict[str, dict[str, int]]  # by source; empty when nothing was made


def plan_build(project: Project, name: str, corpus: Corpus) -> list[Planned]:
    """What a build of `corpus` would do. Fetches what a source has to fetch first, but makes no output."""
    return plan_nodes(project, name, nodes_of(project, corpus))


def nodes_of(project: Project, corpus: Corpus) -> dict[str, Node]:
    """The graph of `corpus` as its recipe and its sources have it, whatever was forgotten. Fetches as `plan_build`."""
    from tilth.corpus.records import fingerprint

    fetched = Corpus(**{**vars(corpus), "sources": [_fetched(source, project) for source in corpus.sources]})
    digest = Fingerprints(project.store.root, fingerprint)
    nodes = corpus_graph(fetched, digest)
    digest.save()
    return nodes


def plan_nodes(project: Project, name: str, nodes: Mapping[str, Node]) -> list[Planned]:
    """What a build of the graph `nodes` as corpus `name` would do, without what was forgotten of it."""
    previous = project.store.find_named("corpus", name)
    wanted = without_withdrawn(nodes, project, name)
    return plan(project.store, with_last_search(wanted, project.store, previous), previous)


def build(project: Project, name: str, corpus: Corpus, *, n_workers: int = 1, scheduler: str | None = None) -> Built:
    """Make every output of `corpus` that is not made yet and let `corpus/<name>` stand for them.

    Whatever a kill or an error leaves unfinished is made by the same call again; what is finished stays.
    Raises BuildError with every error there was.
    """
    from tilth.catalog.publish import publish

    store = project.store
    store.sweep()
    planned = plan_build(project, name, corpus)
    n_missing = sum(item.part is None for item in planned)
    named = _name(store, name, run_missing(store, planned, n_workers, scheduler))
    publish(store)
    return Built(named, n_missing, count_by_source(store, named) if n_missing else {})


def run_missing(store: Store, planned: list[Planned], n_workers: int = 1, scheduler: str | None = None) -> dict[str, Part]:
    """Make what is not made yet; returns the parts by node, in the order of the plan. Raises BuildError."""
    if all(item.part is not None for item in planned):
        return {item.node.id: item.part for item in planned if item.part is not None}
    made = _make(store, planned, n_workers, scheduler)
    return {item.node.id: made[item.node.id] for item in planned}  # in one order, whoever was first


def count_by_source(store: Store, named: Named) -> dict[str, dict[str, int]]:
    """What each source gave: n_documents, n_rejected and n_bytes as read; n_kept (no duplicate) and n_tokens from the catalog."""
    from tilth.catalog.sql import run_sql

    counts: dict[str, dict[str, int]] = {}
    for part in named.of("read"):
        source = (part.shard or "").split("/")[0]
        total = counts.setdefault(source, {"n_documents": 0, "n_rejected": 0, "n_bytes": 0, "n_kept": 0, "n_tokens": 0})
        for key, value in store.artifact(part).stats.items():
            total[key] += value
    (found,) = run_sql(store, f"select relation from corpora where name = '{named.name}'").to_pylist()
    n_tokens = "sum(n_tokens)" if named.of("signals.tokens") else "0"
    query = (
        f'select source, count(*) filter (is_keeper) as n_kept, {n_tokens} as n_tokens from "{found["relation"]}" group by source'
    )
    for row in run_sql(store, query).to_pylist():
        counts[row["source"]] |= {"n_kept": row["n_kept"], "n_tokens": int(row["n_tokens"] or 0)}
    return counts


def _fetched(source: Any, project: Project) -> Any:
    """A source that lives elsewhere becomes one on this disk, fetched once and fixed from then on."""
    if not hasattr(source, "fetch"):
        return source
    with progress(f"fetch {source.name}", source.max_pages) as advance:
        return source.fetch(project.inputs, advance)


def _make(store: Store, planned: list[Planned], n_workers: int, scheduler: str | None) -> dict[str, Part]:
    from tilth.pipeline import execute

    nodes = [item.node for item in planned]
    with progress("build", len(nodes)) as advance, _runner(n_workers, scheduler, store) as client:

        def on_done(outcome: execute.Outcome) -> None:
            advance(outcome.node_id)

        outcomes = (
            execute.run_in_process(store, nodes, on_done)
            if client is None
            else execute.run_on_client(client, store, nodes, on_done)
        )
    _refuse_nothing(store, outcomes)
    raise_errors(outcomes)
    return {node_id: outcome.part for node_id, outcome in outcomes.items() if outcome.part is not None}


@contextlib.contextmanager
def _runner(n_workers: int, scheduler: str | None, store: Store) -> Iterator[Any]:
    from tilth.pipeline import execute

    if scheduler:
        with execute.existing_cluster(scheduler, store) as client:
            yield client
    elif n_workers > 1:
        with execute.local_cluster(n_workers) as client:
            yield client
    else:
        yield None


def _refuse_nothing(store: Store, outcomes: Mapping[str, Outcome]) -> None:
    """Where steps failed because nothing could be read at all, say why not. Raises SourceError."""
    read = [outcome.part for outcome in outcomes.values() if outcome.node_id.startswith(f"{READ.name} ")]
    artifacts = [store.artifact(part) for part in read if part is not None]
    none_failed = all(outcome.error is None for outcome in outcomes.values())
    if none_failed or not read or len(artifacts) < len(read) or any(artifact.stats["n_documents"] for artifact in artifacts):
        return
    n_rejected = sum(artifact.stats["n_rejected"] for artifact in artifacts)
    tables = [read_columns(artifact, "rejects.parquet", ["location", "reason", "detail"]).slice(0, 3) for artifact in artifacts]
    where = [f"{row['location']}: {row['reason']}, {row['detail']}" for table in tables for row in table.to_pylist()][:3]
    raise SourceError(
        f"nothing could be read: 0 documents, {n_rejected:,} rejected",
        where="\n       ".join(where) or ", ".join(str(part.shard) for part in read if part),
        fix="Give the sources of the recipe other input; the same command then continues.",
    )


def raise_errors(outcomes: Mapping[str, Outcome]) -> None:
    """Raise the one error of a build as it is, several as one BuildError that names them; nothing where none failed."""
    failed = {outcome.node_id: outcome.error for outcome in outcomes.values() if outcome.error is not None}
    details = [outcome.details for outcome in outcomes.values() if outcome.details]
    if not failed:
        return
    if len(failed) == 1 and not details:
        raise next(iter(failed.values()))
    n_skipped = sum(outcome.skipped for outcome in outcomes.values())
    fixes = {error.fix for error in failed.values()}
    error = BuildError(
        f"{len(failed)} steps failed, {n_skipped} more could not run; the others are kept",
        where="\n       ".join(f"{node_id}: {error.what}" for node_id, error in list(failed.items())[:10]),
        # One cause, such as a full disk, has one cure.
        fix=(fixes.pop() if len(fixes) == 1 else None) or "Mend the cause and run the same command: it continues.",
    )
    error.add_note("\n".join(details))
    raise error


def _name(store: Store, name: str, parts: Mapping[str, Part]) -> Named:
    """Save the name only if it now stands for something else, so that an idle build changes no file."""
    current = store.find_named("corpus", name)
    wanted = Named("corpus", name, tuple(parts.values()), {})
    if current is not None and current.parts == wanted.parts:
        return current
    return store.save_named("corpus", name, parts.values(), {})
