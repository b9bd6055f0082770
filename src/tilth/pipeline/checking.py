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
    findings = [*_environment(), *_files(store, repair), *_names(store), _leftovers(store)]
    from tilth.catalog.publish import is_current, publish

    if is_current(store):
        findings.append(Finding("catalog", "ok", "names the files that are there"))
    elif repair:
        findings.append(Finding("catalog", "ok", f"rewritten: {publish(store).name}"))
    else:
        findings.append(Finding("catalog", "bad", "out of date; `tilth check --repair` rewrites it"))
    return findings


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
    artifacts = list(store.artifacts())
    bad = []
    with progress("check", len(artifacts)) as advance:
        for artifact in artifacts:
            try:
                store.verify(artifact)
            except ContractError as error:
                bad.append(
                    Finding(f"{artifact.spec.step} {artifact.spec.shard or ''}".strip(), "bad", f"{error.what}: {error.where}")
                )
                if repair:
                    shutil.rmtree(artifact.path)
                    bad[-1] = Finding(bad[-1].what, "note", "damaged, removed; build again to make it")
            advance(artifact.spec.step)
    return [*bad, Finding("outputs", "ok" if not bad else "note", f"{len(artifacts)} checked, {len(bad)} damaged")]


def _names(store: Store) -> list[Finding]:
    findings = []
    for kind in KINDS:
        for named in store.named(kind):
            try:
                for part in named.parts:
                    store.artifact(part)
            except StoreError as error:
                findings.append(Finding(f"{kind}/{named.name}", "bad", error.what))
    return findings


def _leftovers(store: Store) -> Finding:
    n_swept = store.sweep()
    return Finding("leftovers", "ok", f"{n_swept} half-written outputs of stopped processes removed" if n_swept else "none")
