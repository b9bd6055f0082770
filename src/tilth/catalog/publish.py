"""`publish`: the catalog as a file for other programs, immutable and behind a link that is switched atomically.

    <root>/catalog/catalog-<digest>[-<n>].duckdb    what was projected, never changed by Tilth
    <root>/catalog/catalog.duckdb                   link to the newest
    <root>/catalog/published.json                   size and time of each file as it was published

DuckDB resolves the link before it opens, so that the locks and the write-ahead log of a program belong
to the file that it opened and can never meet the next one. Who writes into a published file writes into
a copy that the next publish leaves behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
import uuid
from pathlib import Path

import duckdb

from tilth.artifacts import Store
from tilth.artifacts.atomic import disk_errors, link_atomically, locked, sync_folder, write_atomically
from tilth.catalog.project import Names, project, projection_digest, read_names
from tilth.errors import StoreError

LINK = "catalog.duckdb"
_RECORD = "published.json"
_N_KEPT = 5
_MAX_SPILL_AGE_SECONDS = 24 * 3600


def publish(store: Store) -> Path:
    """Publish what the names stand for now and return the file; the link points to it.

    A projection that is already published is not written again, unless its file was changed by somebody
    or is held by a writer (whom readers would have to wait for). Processes that have older files open keep
    them: they see the new one when they connect again. Raises StoreError for a full disk or a missing file.
    """
    folder = store.root / "catalog"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(store.root / "locks" / "catalog"):
        names = read_names(store)
        digest = projection_digest(store, names)
        record = _read_record(folder)
        path = _intact(folder, digest, record)
        if path is None:
            path = _free_name(folder, digest)
            _write(store, names, path)
            record[path.name] = _fingerprint(path)
        if not _links_to(folder / LINK, path):
            link_atomically(folder / LINK, path.name)
        _remove_old(folder, path, record)
        if record != _read_record(folder):  # an idle build changes no file, and passes on a full disk
            write_atomically(folder / _RECORD, json.dumps(record, indent=1, sort_keys=True).encode())
    return path


def is_current(store: Store) -> bool:
    """True when the link leads to an unchanged file that shows what the names stand for now, where the store lies now."""
    folder = store.root / "catalog"
    path = _intact(folder, projection_digest(store, read_names(store)), _read_record(folder))
    return path is not None and _links_to(folder / LINK, path)


def _write(store: Store, names: Names, path: Path) -> None:
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with disk_errors(path):
        try:
            with duckdb.connect(str(partial), config={"python_enable_replacements": "false"}) as connection:
                project(connection, store, names)
            os.replace(partial, path)
            sync_folder(path.parent)
        except duckdb.Error as error:
            if "No space left" in str(error):
                raise OSError(str(error)) from error
            raise StoreError(
                "the catalog cannot be written", where=str(error).splitlines()[0], fix="Check the disk and `tilth check`."
            ) from error
        finally:
            for leftover in (partial, partial.with_name(partial.name + ".wal")):
                leftover.unlink(missing_ok=True)


def _intact(folder: Path, digest: str, record: dict[str, list[int]]) -> Path | None:
    """The newest file of this digest that is as it was published and that no writer holds."""
    for name in sorted(record, key=lambda name: record[name][1], reverse=True):
        path = folder / name
        if not _is_of(name, digest) or not path.exists() or _wal(path).exists():
            continue
        if _fingerprint(path) == record[name] and not _is_held(path, fcntl.LOCK_SH):
            return path
    return None


def _free_name(folder: Path, digest: str) -> Path:
    path, number = folder / f"catalog-{digest}.duckdb", 1
    while path.exists() or _wal(path).exists():
        number += 1
        path = folder / f"catalog-{digest}-{number}.duckdb"
    return path


def _remove_old(folder: Path, current: Path, record: dict[str, list[int]]) -> None:
    """Remove what lies beyond the newest _N_KEPT and is not open anywhere, and what killed publishers left."""
    files = sorted(folder.glob("catalog-*.duckdb"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in [path for path in files if path != current][_N_KEPT - 1 :]:
        if not _is_held(path, fcntl.LOCK_EX):
            path.unlink()
            _wal(path).unlink(missing_ok=True)
    for partial in folder.glob(".catalog-*"):  # we hold the lock, so that nobody is writing one
        partial.unlink(missing_ok=True)
    for spill in folder.glob(".spill-*"):  # of connections that were killed while they had more than fits in memory
        if time.time() - spill.stat().st_mtime > _MAX_SPILL_AGE_SECONDS:
            shutil.rmtree(spill, ignore_errors=True)
    for name in [name for name in record if not (folder / name).exists()]:
        del record[name]


def _is_held(path: Path, kind: int) -> bool:
    """True when another process has a lock on `path` that excludes one of `kind` (LOCK_SH: it writes; LOCK_EX: it is open).

    POSIX locks, as DuckDB takes them: those of this process do not count, and closing our handle gives up
    this process' own locks on the file, which matters to no reader because published files do not change.
    """
    with open(path, "r+b" if kind == fcntl.LOCK_EX else "rb") as file:
        try:
            fcntl.lockf(file, kind | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _read_record(folder: Path) -> dict[str, list[int]]:
    try:
        found = json.loads((folder / _RECORD).read_bytes())
    except (FileNotFoundError, ValueError):  # without it every file counts as changed, which is safe
        return {}
    return {str(name): [int(number) for number in entry] for name, entry in found.items()}


def _fingerprint(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _is_of(name: str, digest: str) -> bool:
    return name == f"catalog-{digest}.duckdb" or name.startswith(f"catalog-{digest}-")


def _links_to(link: Path, path: Path) -> bool:
    return link.is_symlink() and os.readlink(link) == path.name


def _wal(path: Path) -> Path:
    return path.with_name(path.name + ".wal")
