"""What a server answers for: a base and deltas of it, by the names of a project or by their folders and files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tilth.artifacts import Store
from tilth.deploy.release import DELTA_FILE
from tilth.errors import DeltaError, NotFoundError, UserError
from tilth.pipeline.foreign_models import find_checkpoint
from tilth.pipeline.project import Project


@dataclass(frozen=True)
class ServedModels:
    """The base's name and model folder, and the delta files by the names of their tenants.

    outdated: deltas of the project that were left out, because the base was trained anew since they were made.
    """

    name: str
    folder: Path
    deltas: dict[str, Path]
    outdated: tuple[str, ...] = ()


def find_models(base: str, deltas: Sequence[str] = ()) -> ServedModels:
    """`base` is a run of the project here or a model's folder; each of `deltas` a delta of the project, or NAME=FILE.

    With none, all deltas of the project that were made for this base as it is now. Raises NotFoundError, UserError for a
    name that is taken, DeltaError for a delta of the project that was made for another base.
    """
    folder, _ = find_checkpoint(base)
    name = Path(base).resolve().name if Path(base).is_dir() else base
    # in a model folder outside a project only files can be named
    store = None if folder == Path(base) else Project.find().store
    all_here = {} if deltas or store is None else _all_of(base, store)
    found = {name: path for name, path in all_here.items() if path is not None}
    found |= dict(_find(delta, base, store) for delta in deltas)
    if len(found) < len(deltas):
        raise UserError("two deltas have the same name", where=", ".join(deltas), fix="name one with NAME=FILE")
    if name in found:
        raise UserError(f"a delta has the name of the base, `{name}`", fix="name it with NAME=FILE")
    return ServedModels(name, folder, found, tuple(delta for delta, path in all_here.items() if path is None))


def _find(delta: str, base: str, store: Store | None) -> tuple[str, Path]:
    name, equals, file = delta.partition("=")
    if equals:
        path = Path(file) / DELTA_FILE if Path(file).is_dir() else Path(file)
        if not path.is_file():
            raise NotFoundError(f"there is no delta file for `{name}`", str(path), "Name a file that `tilth deploy` made.")
        return name, path
    if store is None:
        raise NotFoundError(f"`{base}` is a folder, so `{delta}` has no project", fix=f"Name its file: {delta}=FILE.")
    if store.get_named("delta", delta).meta.get("base") != base:
        raise DeltaError(
            f"delta `{delta}` is of another base than `{base}`", f"delta/{delta}", "Serve the base that it was made for."
        )
    made = _file(store, delta, base)
    if made is None:
        fix = f"Make it for `{base}` as it is now: `tilth deploy {delta} --base {base}`."
        raise DeltaError(f"`{base}` was trained anew since delta `{delta}` was made", f"delta/{delta}", fix)
    return delta, made


def _all_of(base: str, store: Store) -> dict[str, Path | None]:
    names = [named.name for named in store.named("delta") if named.meta.get("base") == base]
    return {name: _file(store, name, base) for name in names}


def _file(store: Store, delta: str, base: str) -> Path | None:
    """The file of a delta; None where the run `base` is no longer what it was made for."""
    named = store.get_named("delta", delta)
    if store.get_named("run", base).one("train").digest not in {part.digest for part in named.parts}:
        return None
    return store.artifact(named.one("deploy")).path / DELTA_FILE
