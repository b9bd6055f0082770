"""Is the project whole? The environment, every file against its checksum, every name, the catalog."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from tilth.artifacts import Store
from tilth.artifacts.naming import KINDS
from tilth.errors import ContractError, StoreError
from tilth.pipeline.progress import progress
from tilth.pipeline.project import Project

_REMAKE = {
    "corpus": "build it again",
    "subset": "build its corpus, then pick it again",
    "tokens": "train on its subset again",
    "run": "train it again",
    "delta": "deploy it again",
}
LIBRARIES = ("pyarrow", "duckdb", "numpy", "dask", "torch", "triton", "tokenizers", "altair")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `state` is ok, note or bad."""

    what: str
    state: str
    detail: str


def check_project(project: Project, *, repair: bool = False) -> list[Finding]:
    """Look at everything. With `repair`, remove what is damaged, so that the next build makes it again,
    and write the catalog anew (paths change when a project moves)."""
    store = project.store
    return [*_environment(), *_files(store, repair), *_names(store), _leftovers(store), _catalog(store, repair)]


def _environment() -> list[Finding]:
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} missing")
    free = shutil.disk_usage(".").free
    return [
        Finding("python", "ok", f"{platform.python_version()} on {platform.machine()}"),
        Finding("libraries", "note" if any("missing" in name for name in found) else "ok", ", ".join(found)),
        Finding("disk", "ok" if free > 1e9 else "note", f"{free / 1e9:.1f} GB free"),
    ]


def _files(store: Store, repair: bool) -> list[Finding]:
    folders = store.folders()
    bad = []
    with progress("check", len(folders)) as advance:
        for folder in folders:
            step = folder.parent.name
            try:
                store.verify(store.load(folder))
            except (ContractError, StoreError) as error:
                if repair:
                    store.discard(folder)
                    bad.append(Finding(step, "note", f"damaged, removed: {folder.name}; build again to make it"))
                else:
                    bad.append(Finding(step, "bad", f"{error.what}: {error.where}; `tilth check --repair` removes it"))
            advance(step)
    return [*bad, Finding("outputs", "ok" if not bad else "note", f"{len(folders)} checked, {len(bad)} damaged")]


def _names(store: Store) -> list[Finding]:
    findings = []
    for kind in KINDS:
        for name in store.names(kind):
            try:
                for part in store.get_named(kind, name).parts:
                    store.artifact(part)
            except StoreError as error:
                findings.append(Finding(f"{kind}/{name}", "bad", f"{error.what}; {_REMAKE[kind]}"))
    return findings


def _catalog(store: Store, repair: bool) -> Finding:
    from tilth.catalog.publish import is_current, publish

    try:
        if not any(store.names(kind) for kind in KINDS):
            return Finding("catalog", "ok", "nothing is built yet")
        if is_current(store):
            return Finding("catalog", "ok", "names the files that are there")
        if repair:
            return Finding("catalog", "ok", f"rewritten: {publish(store).name}")
    except StoreError as error:
        return Finding("catalog", "bad", f"cannot show what is gone: {error.what}")
    return Finding("catalog", "bad", "out of date; `tilth check --repair` rewrites it")


def _leftovers(store: Store) -> Finding:
    n_swept = store.sweep()
    return Finding("leftovers", "ok", f"{n_swept} half-written outputs of stopped processes removed" if n_swept else "none")
