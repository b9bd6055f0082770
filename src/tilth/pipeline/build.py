"""Builds a corpus: plans, makes what is missing, names the result and refreshes the catalog."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tilth.artifacts import Named, Part, Store
from tilth.artifacts.fingerprints import Fingerprints
from tilth.pipeline.corpus_graph import corpus_graph
from tilth.pipeline.graph import Node
from tilth.pipeline.missing import run_missing
from tilth.pipeline.near_steps import with_last_search
from tilth.pipeline.plan import Planned, plan
from tilth.pipeline.progress import progress
from tilth.pipeline.project import Project
from tilth.pipeline.recipe import Corpus
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
    from tilth.pipeline.tokenizer_steps import of_run

    sources = [_fetched(source, project) for source in corpus.sources]
    fetched = Corpus(**{**vars(corpus), "sources": sources, "tokenizer": of_run(corpus.tokenizer, project.store)})
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


def _name(store: Store, name: str, parts: Mapping[str, Part]) -> Named:
    """Save the name only if it now stands for something else, so that an idle build changes no file."""
    current = store.find_named("corpus", name)
    wanted = Named("corpus", name, tuple(parts.values()), {})
    if current is not None and current.parts == wanted.parts:
        return current
    return store.save_named("corpus", name, parts.values(), {})
