"""Asks git about a repository without ever running its hooks, writing in it, or fetching what it lacks."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from tilth.corpus.provenance.swhid import Branch, snapshot_swhid
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
COMMIT_FORMAT = "--format=%T %cI"
CHUNK_BYTES = 1 << 20
MAX_REFS = 50_000
REGULAR_MODES = frozenset({"100644", "100755", "100664"})
TAG_TARGETS = {"commit": "revision", "tag": "release", "tree": "directory", "blob": "content"}
# Refs that Software Heritage's git loader leaves out (merge previews of forges, review systems).
DROPPED_REFS = ("refs/changes/", "refs/pipelines/")
DROPPED_MERGES = ("refs/pull/", "refs/merge-requests/")


class TreeFile(NamedTuple):
    """A file in a tree: git's mode, the blob's id in hexadecimal, its path."""

    mode: str
    oid: str
    path: str


class Addition(NamedTuple):
    """A blob at a path, and the revision that brought it there."""

    file: TreeFile
    revision: str
    tree: str
    date: str | None


class Blob(NamedTuple):
    """What `cat-file` says of an object: its bytes, or None with `problem` (missing, too_large, bad_record)."""

    oid: str
    data: bytes | None
    problem: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Head:
    """Where the repository stands: commit and root tree (hexadecimal), date of the commit, snapshot, origin."""

    revision: str
    tree: str
    date: str | None
    snapshot: str | None
    origin: str


class GitObjects:
    """Read-only view of one repository, bare or not. Raises SourceError if `path` is not one."""

    def __init__(self, path: str | Path, where: str) -> None:
        self.path, self.where = Path(path).expanduser(), where
        if not self.path.is_dir():
            raise SourceError(
                "there is no such folder", where=where, fix="give the path of a git repository, bare or with a work tree"
            )
        self.env = _environment(self.path)
        try:
            found = self._run("rev-parse", "--show-object-format", check=False)
        except FileNotFoundError:
            raise SourceError("git is not installed", where=where, fix="install git 2.31 or newer") from None
        if found.returncode:
            raise SourceError(
                "this folder is not a git repository", where=where, fix="give the folder that holds .git, or a bare repository"
            )
        if found.stdout.strip() == b"sha256":
            raise SourceError(
                "the repository names objects by SHA-256, which SWHIDs cannot", where=where, fix="read it with Folder"
            )

    def _run(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(["git", "-C", str(self.path), *args], env=self.env, stdin=subprocess.DEVNULL, capture_output=True)
        if check and done.returncode:
            message = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
            raise SourceError(f"git {args[0]} failed: {message[-1]}", where=self.where, fix=f"try `git fsck` in {self.path}")
        return done

    def head(self) -> Head:
        """Raises SourceError for a repository without commits."""
        found = self._run("rev-parse", "--verify", "--quiet", "HEAD^{commit}", check=False)
        if found.returncode:
            raise SourceError(
                "the repository has no commit at HEAD",
                where=self.where,
                fix="commit something, or check out a branch that has commits",
            )
        listed = self._run("rev-list", "--max-count=1", COMMIT_FORMAT, "HEAD").stdout
        [(revision, (tree, date))] = _commits(listed).items()
        return Head(revision, tree, date, self._snapshot(), self._origin())

    def tree(self) -> list[TreeFile]:
        """The regular files of HEAD's tree in git's order; symbolic links and submodules are left out."""
        output = self._run("ls-tree", "-r", "-z", "--full-tree", "HEAD").stdout
        return [file for file in map(_tree_file, output.split(b"\0")[:-1]) if file is not None]

    def additions(self) -> Iterator[Addition]:
        """Each (blob, path) that a commit on HEAD's history brought, once, with the first such commit in topological order.

        Raises SourceError where the history cannot be walked to its end.
        """
        facts = _commits(self._run("rev-list", "--topo-order", "--reverse", COMMIT_FORMAT, "HEAD").stdout)
        seen: set[tuple[str, str]] = set()
        with tempfile.TemporaryFile() as asked:
            asked.write("".join(f"{revision}\n" for revision in facts).encode("ascii"))
            asked.seek(0)
            flags = ("--stdin", "--root", "-r", "-z", "-m", "--no-renames", "--raw", "--no-abbrev")
            pipe = self._pipe("diff-tree", *flags, stdin=asked)
            with pipe as output:
                for revision, file in _raw_changes(output):
                    if (file.oid, file.path) not in seen:
                        seen.add((file.oid, file.path))
                        yield Addition(file, revision, *facts[revision])
                if pipe.process.wait():
                    raise SourceError(
                        "the history has a tree that git cannot read",
                        where=self.where,
                        fix=f"try `git fsck` in {self.path}, or read it without `history`",
                    )

    def blobs(self, oids: Iterable[str], max_bytes: int) -> Iterator[Blob]:
        """The contents in the order asked for, through one `cat-file` process; it is started again where an object kills it."""
        left = list(oids)
        objects = self._run("rev-parse", "--path-format=absolute", "--git-path", "objects").stdout.rstrip(b"\n")
        with tempfile.TemporaryDirectory(prefix="objects-") as own:
            env = _own_repository(Path(own), os.fsdecode(objects), self.env)
            while left:
                n_done = 0
                for blob in self._cat(left, max_bytes, env):
                    n_done += 1
                    yield blob
                if n_done < len(left):
                    yield Blob(left[n_done], None, "bad_record", "git cannot read this object")
                    n_done += 1
                left = left[n_done:]

    def _cat(self, oids: list[str], max_bytes: int, env: dict[str, str]) -> Iterator[Blob]:
        with tempfile.TemporaryFile() as asked:
            asked.write("".join(f"{oid}\n" for oid in oids).encode("ascii"))
            asked.seek(0)
            with _Pipe(["git", "cat-file", "--batch", "--buffer"], env, asked) as output:
                for oid in oids:
                    header = output.readline().split()
                    if len(header) < 2 or not header[-1].isdigit():
                        if not header:
                            return
                        yield Blob(oid, None, "missing", "the repository lacks this object")
                        continue
                    size = int(header[-1])
                    data = output.read(size) if size <= max_bytes else None
                    if data is None:
                        _discard(output, size)
                    elif len(data) < size:
                        return
                    output.read(1)
                    yield Blob(oid, data, "" if data is not None else "too_large", f"{size} bytes, at most {max_bytes}")

    def _pipe(self, *args: str, stdin: BinaryIO | None = None) -> _Pipe:
        return _Pipe(["git", "-C", str(self.path), *args], self.env, stdin)

    def _origin(self) -> str:
        url = self._run("config", "--get", "remote.origin.url", check=False).stdout.decode("utf-8", "replace").strip()
        return public_origin(url) or self.path.resolve().name

    def _snapshot(self) -> str | None:
        """The snapshot of the refs that a clone of this repository would see, by the policy of Software Heritage's loader."""
        form = "%(objecttype) %(objectname) %(refname)"
        listed = self._run("for-each-ref", f"--count={MAX_REFS + 1}", f"--format={form}", check=False)
        lines = listed.stdout.splitlines()
        if listed.returncode or len(lines) > MAX_REFS:
            return None
        branches: dict[bytes, Branch] = {}
        for kind, oid, name in (line.split(b" ", 2) for line in lines):
            if kept_ref(name.decode("utf-8", "surrogateescape")):
                branches[name] = Branch(TAG_TARGETS[kind.decode("ascii")], bytes.fromhex(oid.decode("ascii")))
        link = self._run("symbolic-ref", "--quiet", "HEAD", check=False).stdout.strip()
        commit = self._run("rev-parse", "HEAD").stdout.strip().decode("ascii")
        branches[b"HEAD"] = Branch("alias", link) if link else Branch("revision", bytes.fromhex(commit))
        return snapshot_swhid(branches)


class _Pipe:
    """A git process whose output is read as it comes; it never outlives the `with`."""

    def __init__(self, command: list[str], env: dict[str, str], stdin: BinaryIO | None) -> None:
        given = stdin if stdin is not None else subprocess.DEVNULL
        self.process = subprocess.Popen(
            command, env=env, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=CHUNK_BYTES
        )

    def __enter__(self) -> BinaryIO:
        assert self.process.stdout is not None
        return self.process.stdout  # type: ignore[return-value]

    def __exit__(self, *_: object) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.kill()
        self.process.wait()


def kept_ref(name: str) -> bool:
    """Whether a ref belongs to a snapshot (swh-loader-git, `filter_refs`)."""
    if name.endswith("^{}") or name.startswith(DROPPED_REFS):
        return False
    return not (name.startswith(DROPPED_MERGES) and name.endswith("/merge"))


def public_origin(url: str) -> str | None:
    """A remote's URL without user, password and query; None for what is only a path on this machine."""
    if "://" not in url:
        host, colon, path = url.partition(":")
        if not colon or "/" in host:
            return None
        return f"{host.rpartition('@')[2]}:{path}"
    parts = urlsplit(url)
    if parts.scheme == "file" or not parts.netloc:
        return None
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


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


def _own_repository(folder: Path, objects: str, env: dict[str, str]) -> dict[str, str]:
    """The environment of an empty repository that borrows `objects`.

    A partial clone's own configuration makes git fetch what is missing, and die where it may not; here it is simply missing.
    """
    for part in ("objects", "refs"):
        (folder / part).mkdir()
    (folder / "HEAD").write_text("ref: refs/heads/none\n")
    quoted = objects.replace("\\", "\\\\").replace('"', '\\"')
    return {**env, "GIT_DIR": str(folder), "GIT_ALTERNATE_OBJECT_DIRECTORIES": f'"{quoted}"'}


def _commits(listed: bytes) -> dict[str, tuple[str, str | None]]:
    """Tree and date of each commit; a commit without a date has None (git then repeats the placeholder)."""
    lines = listed.decode("ascii", "replace").splitlines()
    facts = (line.partition(" ") for line in lines[1::2])
    return {
        line.removeprefix("commit "): (tree, None if date in ("", "%cI") else date)
        for line, (tree, _, date) in zip(lines[::2], facts, strict=True)
    }


def _tree_file(line: bytes) -> TreeFile | None:
    facts, _, path = line.partition(b"\t")
    mode, kind, oid = facts.decode("ascii").split()
    return TreeFile(mode, oid, os.fsdecode(path)) if kind == "blob" and mode in REGULAR_MODES else None


def _raw_changes(output: BinaryIO) -> Iterator[tuple[str, TreeFile]]:
    """Parse `diff-tree --stdin -z --raw`: NUL-ended fields, a commit's id, then pairs of `:modes ids status` and path."""
    revision, change = "", ""
    for raw in _fields(output):
        field = os.fsdecode(raw)
        if change:
            mode, oid = change.split()[1], change.split()[3]
            if mode in REGULAR_MODES:
                yield revision, TreeFile(mode, oid, field)
            change = ""
        elif field.startswith(":"):
            change = field
        else:
            revision = field.strip()


def _fields(output: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while chunk := output.read(CHUNK_BYTES):
        *whole, rest = (rest + chunk).split(b"\0")
        yield from whole


def _discard(output: BinaryIO, size: int) -> None:
    while size > 0 and (chunk := output.read(min(size, CHUNK_BYTES))):
        size -= len(chunk)
