"""Remembers the sha256 of input files, so that asking whether a build is up to date does not read them all again."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from tilth.artifacts.atomic import write_atomically

# A file changed this recently could change again without its time changing: it is not remembered.
SETTLED_SECONDS = 2.0


class Fingerprints:
    """A cache of `compute(path)` by the file's path, size, inode and times."""

    def __init__(self, root: Path, compute: Callable[[Path], str]) -> None:
        self.path, self.compute = root / "log" / "fingerprints.json", compute
        self._known: dict[str, list[object]] = {}
        self._is_changed = False
        with contextlib.suppress(FileNotFoundError, ValueError):
            self._known = json.loads(self.path.read_bytes())

    def __call__(self, path: Path | str) -> str:
        """The fingerprint of `path`, read from the file only if it may have changed."""
        path = Path(path).absolute()
        before = path.stat()
        identity = [before.st_size, before.st_mtime_ns, before.st_ctime_ns, before.st_ino]
        entry = self._known.get(str(path))
        if entry is not None and entry[:-1] == identity:
            return str(entry[-1])
        digest = self.compute(path)
        if time.time_ns() - before.st_mtime_ns > SETTLED_SECONDS * 1e9:
            self._known[str(path)] = [*identity, digest]
            self._is_changed = True
        return digest

    def save(self) -> None:
        """Write what is new. Two processes at once lose at most what one of them had remembered."""
        if self._is_changed:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, json.dumps(self._known).encode())
