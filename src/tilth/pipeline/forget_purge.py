"""Removes what old names and outputs still hold of forgotten documents."""

from __future__ import annotations

from dataclasses import dataclass

from tilth.artifacts import Named, Store
from tilth.pipeline.forget_verify import MODELS, leftovers
from tilth.pipeline.project import Project


@dataclass(frozen=True)
class Purged:
    """What went: outputs and their bytes, names that are gone, and names of models that keep their weights alone."""

    n_outputs: int
    n_bytes: int
    names: list[str]
    models: list[str]


def purge(project: Project, name: str) -> Purged:
    """Remove every output that still holds what was forgotten of corpus `name`, and the names that pointed to them.

    Runs and deltas stay with their weights and lose the data parts: no token of theirs can be traced any more.
    Names go first, so that a kill leaves no name that points to nothing; the same call goes on.
    """
    from tilth.catalog.publish import publish

    store = project.store
    doomed = leftovers(project, name)
    gone = {(one.artifact.spec.step, one.artifact.key) for one in doomed}
    removed: list[str] = []
    stripped: list[str] = []
    for kind in ("subset", "tokens", "run", "delta"):
        for named in store.named(kind):
            if all((part.step, part.key) not in gone for part in named.parts):
                continue
            (stripped if _strip(store, named, gone) else removed).append(f"{kind}/{named.name}")
    for one in doomed:
        store.discard(one.artifact.path)
    publish(store)
    return Purged(len(doomed), sum(one.artifact.size_bytes for one in doomed), removed, stripped)


def _strip(store: Store, named: Named, gone: set[tuple[str, str]]) -> bool:
    """Take the parts that go from a model's name; any other name goes whole. True for a model."""
    if not any(part.step in MODELS for part in named.parts):
        store.remove_named(named.kind, named.name)
        return False
    parts = [part for part in named.parts if (part.step, part.key) not in gone]
    store.save_named(named.kind, named.name, parts, named.meta)
    return True
