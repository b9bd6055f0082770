"""Runs git over one repository without its hooks, its settings, a network, or a change to a file of it."""

from __future__ import annotations

import os
import subprocess
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from tilth.errors import SourceError

CONFIG = {
    "safe.directory": "*",  # read a repository that belongs to somebody else
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "gc.auto": "0",
    "maintenance.auto": "false",
    "protocol.allow": "never",  # a partial clone must not fetch what it lacks
    "core.useReplaceRefs": "false",
}
CHUNK_BYTES = 1 << 20


class RepositoryError(SourceError):
    """A repository that cannot be read; `reason` is one word for rejects/1: not_a_repository, no_commit, sha256, ..."""

    def __init__(self, what: str, where: str | None = None, fix: str | None = None, reason: str = "damaged") -> None:
        super().__init__(what, where, fix)
        self.reason = reason


class GitProcess:
    """Runs git in the repository at `path`, bare or not. Raises RepositoryError where there is none that can be read."""

    def __init__(self, path: str | Path, where: str) -> None:
        self.path, self.where = Path(path).expanduser(), where
        if not self.path.is_dir():
            fix = "give the path of a git repository, bare or with a work tree"
            raise RepositoryError("there is no such folder", where, fix, "not_a_repository")
        self.env = _environment(self.path)
        self._refuse_unreadable()

    def _refuse_unreadable(self) -> None:
        try:
            found = self.run("rev-parse", "--show-object-format", check=False)
        except FileNotFoundError:
            raise RepositoryError("git is not installed", self.where, "install git 2.31 or newer", "no_git") from None
        words = found.stderr.decode("utf-8", "replace").strip().splitlines()
        if found.returncode and any("dubious ownership" in line for line in words):
            fix = f"git config --global --add safe.directory {self.path}, or a newer git, which Tilth can tell so itself"
            raise RepositoryError("git refuses a repository that belongs to another user", self.where, fix, "ownership")
        if found.returncode:
            said = "" if not words or words[-1].startswith("fatal: not a git repository (or any") else f" ({words[-1]})"
            fix = "give the folder that holds .git, or a bare repository"
            raise RepositoryError(f"this folder is not a git repository{said}", self.where, fix, "not_a_repository")
        if found.stdout.strip() == b"sha256":
            what = "the repository names objects by SHA-256, which SWHIDs cannot"
            raise RepositoryError(what, self.where, "read it with Folder", "sha256")

    def run(
        self, *args: str, check: bool = True, data: bytes = b"", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """A finished git; with `check`, one that failed is a RepositoryError with git's last words."""
        command = ["git", "-C", str(self.path), *args]
        done = subprocess.run(command, env=env or self.env, input=data, capture_output=True)
        if check and done.returncode:
            message = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
            raise RepositoryError(f"git {args[0]} failed: {message[-1]}", self.where, f"try `git fsck` in {self.path}")
        return done

    def pipe(self, *args: str, stdin: BinaryIO, env: dict[str, str] | None = None) -> Pipe:
        """A git whose output is read as it comes."""
        return Pipe(["git", "-C", str(self.path), *args], env or self.env, stdin)

    @cached_property
    def _objects(self) -> str:
        asked = self.run("rev-parse", "--path-format=absolute", "--git-path", "objects")
        return os.fsdecode(asked.stdout.rstrip(b"\n"))

    def borrowed(self, folder: Path) -> dict[str, str]:
        """The environment of an empty repository in `folder` that borrows this one's objects.

        A partial clone's own configuration makes git fetch what is missing, and die where it may not; here it is simply missing.
        """
        for part in ("objects", "refs"):
            (folder / part).mkdir()
        (folder / "HEAD").write_text("ref: refs/heads/none\n")
        quoted = self._objects.replace("\\", "\\\\").replace('"', '\\"')
        return {**self.env, "GIT_DIR": str(folder), "GIT_ALTERNATE_OBJECT_DIRECTORIES": f'"{quoted}"'}


class Pipe:
    """A git process whose output is read as it comes; it never outlives the `with`."""

    def __init__(self, command: list[str], env: dict[str, str], stdin: BinaryIO) -> None:
        self.process = subprocess.Popen(
            command, env=env, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=CHUNK_BYTES
        )

    def __enter__(self) -> BinaryIO:
        assert self.process.stdout is not None
        return self.process.stdout  # type: ignore[return-value]

    def __exit__(self, *_: object) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.kill()
        self.process.wait()


def is_repository(folder: str | Path) -> bool:
    """Whether a folder looks like the root of a repository: it has `.git`, or is bare."""
    if os.path.exists(os.path.join(folder, ".git")):
        return True
    return all(os.path.exists(os.path.join(folder, part)) for part in ("HEAD", "objects", "refs"))


def _environment(path: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    parent = str(path.resolve().parent)
    config = {
        f"GIT_CONFIG_{part}_{i}": text for i, pair in enumerate(CONFIG.items()) for part, text in zip(("KEY", "VALUE"), pair)
    }
    return {
        **kept, **config, "GIT_CONFIG_COUNT": str(len(CONFIG)), "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CEILING_DIRECTORIES": parent, "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_REPLACE_OBJECTS": "1", "GIT_NO_LAZY_FETCH": "1",
        "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C",
    }  # fmt: skip
