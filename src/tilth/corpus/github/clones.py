"""A folder of clones, found by the names of their repositories: `owner/name`, `owner+name`, each also with `.git` behind it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

from tilth.corpus.provenance.git_objects import GitObjects
from tilth.corpus.provenance.git_process import RepositoryError, is_repository
from tilth.errors import SourceError


class Clones:
    """The clones below `folder`, bare or not; upper and lower case of names do not matter. Raises SourceError: there is none."""

    def __init__(self, folder: str, where: str) -> None:
        self._where = where
        self._paths = dict(sorted(_find(os.path.expanduser(folder))))
        self._open: tuple[str, GitObjects | None] = ("", None)
        if not self._paths:
            fix = "give a folder that holds clones as `owner/name` or `owner+name`"
            raise SourceError("there is no clone of a repository here", f"{where}: {folder}", fix)

    def of(self, names: Iterable[str]) -> GitObjects | None:
        """The clone of a repository by any of its names; None where there is none that can be read."""
        found = next((self._paths[name.lower()] for name in names if name.lower() in self._paths), "")
        if found != self._open[0]:
            self._open = found, self._opened(found)
        return self._open[1]

    @property
    def state(self) -> str:
        """What changes when something was fetched: sha256 over names and refs."""
        digest = hashlib.sha256()
        for name, path in self._paths.items():
            clone = self._opened(path)
            refs = clone.git.run("for-each-ref", "--format=%(objectname) %(refname)", check=False).stdout if clone else b""
            digest.update(b"%s\0%d\0%s" % (name.encode("utf-8", "surrogateescape"), len(refs), refs))
        return digest.hexdigest()

    def _opened(self, path: str) -> GitObjects | None:
        try:
            return GitObjects(path, self._where) if path else None
        except RepositoryError:
            return None


def _find(folder: str) -> Iterable[tuple[str, str]]:
    """(owner/name in lower case, path) of the clones in a folder and in its folders."""
    for owner in _folders(folder):
        path = os.path.join(folder, owner)
        if is_repository(path):
            if "+" in owner:
                yield owner.lower().replace("+", "/", 1).removesuffix(".git"), path
            continue
        for name in _folders(path):
            if is_repository(os.path.join(path, name)):
                yield f"{owner}/{name}".lower().removesuffix(".git"), os.path.join(path, name)


def _folders(folder: str) -> list[str]:
    return [entry.name for entry in os.scandir(folder) if entry.is_dir()] if os.path.isdir(folder) else []
