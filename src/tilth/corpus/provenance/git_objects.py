"""Reads the objects of a repository: blobs, trees and tags by id, the tree at HEAD, and what its history added."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from tilth.corpus.provenance.git_process import CHUNK_BYTES, GitProcess, RepositoryError
from tilth.corpus.provenance.git_refs import Refs, read_refs

COMMIT_FORMAT = "--format=%T %cI"
REGULAR_MODES = frozenset({"100644", "100755", "100664"})
TREE_MODE, LINK_MODE, SUBMODULE_MODE = "40000", "120000", "160000"
COMMIT_TREE = re.compile(rb"tree ([0-9a-f]{40})\n")
COMMITTED = re.compile(rb"^committer [^\n]*> (\d+) ([+-]\d{4})$", re.MULTILINE)
MAX_TREE_BYTES, MAX_COMMIT_BYTES = 256 << 20, 64 << 20
COMMITS_AT_ONCE = 1000
MAX_PATHS = 5_000_000  # a few objects can spell more paths than any disk holds


class TreeFile(NamedTuple):
    """What is at a path: git's mode, the object's id in hexadecimal; `problem` where it is a tree that cannot be read."""

    mode: str
    oid: str
    path: str
    problem: str = ""
    detail: str = ""

    @property
    def is_file(self) -> bool:
        """Not a link, a submodule, or a tree that cannot be read."""
        return self.mode in REGULAR_MODES

    @property
    def is_tree(self) -> bool:
        """A folder."""
        return self.mode == TREE_MODE


class Addition(NamedTuple):
    """A blob at a path, and the revision that brought it there; a revision whose changes cannot be read has a `problem`."""

    file: TreeFile
    revision: str
    tree: str
    date: str | None


class Blob(NamedTuple):
    """What `cat-file` says of an object: its bytes, or None with `problem` (missing, too_large, corrupt, bad_record)."""

    oid: str
    data: bytes | None
    problem: str = ""
    detail: str = ""
    n_bytes: int | None = None


@dataclass(frozen=True)
class Head:
    """A commit: its id and root tree (hexadecimal), its date; and the snapshot and origin of its repository."""

    revision: str
    tree: str
    date: str | None
    snapshot: str | None
    origin: str


class GitObjects:
    """Read-only view of one repository, bare or not. Raises RepositoryError (a SourceError) if `path` is not one."""

    def __init__(self, path: str | Path, where: str, default_origin: str | None = None) -> None:
        self.git, self.where, self.default_origin = GitProcess(path, where), where, default_origin

    @cached_property
    def refs(self) -> Refs:
        """The refs as they are when they are first asked for."""
        return read_refs(self.git, self.kinds)

    @cached_property
    def origin(self) -> str:
        """The public address of the remote called origin; without one `default_origin`, or the folder's name."""
        url = self.git.run("config", "--get", "remote.origin.url", check=False).stdout.decode("utf-8", "replace").strip()
        return public_origin(url) or self.default_origin or self.git.path.resolve().name

    def head(self) -> Head:
        """Where HEAD is. Raises RepositoryError: no commit there, or one that cannot be read."""
        found = self.git.run("rev-parse", "--verify", "--quiet", "HEAD", check=False)
        if found.returncode:
            link = self.git.run("symbolic-ref", "--quiet", "HEAD", check=False).stdout.decode("utf-8", "replace").strip()
            what = "the repository has no commit at HEAD" + (f": {link} leads to none" if link else "")
            fix = "commit something, or check out a branch that has commits"
            raise RepositoryError(what, self.where, fix, "no_commit")
        return self.at(found.stdout.strip().decode("ascii"), self.refs.snapshot())

    def at(self, revision: str, snapshot: str | None) -> Head:
        """The commit with this id, as part of a snapshot. Raises RepositoryError where it cannot be read."""
        commit = next(self.read([revision], "commit", MAX_COMMIT_BYTES))
        facts = COMMIT_TREE.match(commit.data or b"")
        if facts is None:
            problem = commit.problem or "bad_record"
            what = f"the commit swh:1:rev:{revision} is {problem}"
            raise RepositoryError(what, self.where, f"try `git fsck` in {self.git.path}", problem)
        return Head(revision, facts[1].decode("ascii"), _date(commit.data or b""), snapshot, self.origin)

    def tree(self, root: str) -> list[TreeFile]:
        """What is below a root tree in git's order: files, symbolic links, submodules, and trees that cannot be read."""
        found: list[TreeFile] = []
        level = {root: [""]}
        while level:
            below: dict[str, list[str]] = {}
            for tree in self.read(level, "tree", MAX_TREE_BYTES):
                for prefix in level[tree.oid]:
                    entries, problem, detail = _entries(tree)
                    if len(found) + len(entries) > MAX_PATHS:
                        entries, problem, detail = [], "too_many_files", f"more than {MAX_PATHS} paths"
                    if problem:
                        found.append(TreeFile(TREE_MODE, tree.oid, prefix.rstrip("/"), problem, detail))
                    for mode, name, oid in entries:
                        if mode == TREE_MODE:
                            below.setdefault(oid, []).append(f"{prefix}{name}/")
                        else:
                            found.append(TreeFile(mode, oid, prefix + name))
                if sum(map(len, below.values())) > MAX_PATHS:
                    found.append(TreeFile(TREE_MODE, tree.oid, "", "too_many_files", f"more than {MAX_PATHS} folders"))
                    below = {}
            level = below
        return sorted(found, key=lambda file: os.fsencode(file.path))

    def entry(self, root: str, path: str) -> TreeFile | None:
        """What a root tree has at a path, a folder included; None if there is nothing."""
        listed = self.git.run("ls-tree", "-z", "--full-tree", root, "--", f":(literal){path}", check=False).stdout
        if not listed:
            return None
        mode, _, oid = listed.partition(b"\t")[0].decode("ascii").split()
        return TreeFile(mode.lstrip("0"), oid, path)

    def additions(self, head: Head) -> Iterator[Addition]:
        """Each (blob, path) that a commit on HEAD's history brought, once, with the first such commit in topological order.

        A commit whose trees cannot be read is named in its place, and those after it follow. Raises RepositoryError where
        the commits themselves cannot be walked to their end.
        """
        facts = _commits(self.git.run("rev-list", "--topo-order", "--reverse", COMMIT_FORMAT, head.revision, "--").stdout)
        revisions = list(facts)
        seen: set[tuple[str, str]] = set()
        for i in range(0, len(revisions), COMMITS_AT_ONCE):
            for revision, file in self._changes_of(revisions[i : i + COMMITS_AT_ONCE]):
                if file.problem or (file.oid, file.path) not in seen:
                    seen.add((file.oid, file.path))
                    yield Addition(file, revision, *facts[revision])

    def _changes_of(self, revisions: list[str]) -> list[tuple[str, TreeFile]]:
        """What some commits changed: together, or one by one where git stops at one that it cannot read."""
        changes = self._changes(revisions)
        if changes is not None:
            return changes
        if len(revisions) > 1:
            return [change for revision in revisions for change in self._changes_of([revision])]
        return [(revisions[0], TreeFile(TREE_MODE, "", "", "damaged", "git cannot read what this commit changed"))]

    def _changes(self, revisions: list[str]) -> list[tuple[str, TreeFile]] | None:
        with tempfile.TemporaryFile() as asked:
            asked.write("".join(f"{revision}\n" for revision in revisions).encode("ascii"))
            asked.seek(0)
            flags = ("--stdin", "--root", "-r", "-z", "-m", "--no-renames", "--raw", "--no-abbrev")
            pipe = self.git.pipe("diff-tree", *flags, stdin=asked)
            with pipe as output:
                changes = list(_raw_changes(output))
                return None if pipe.process.wait() else changes

    def blobs(self, oids: Iterable[str], max_bytes: int) -> Iterator[Blob]:
        """The contents in the order asked for, each held to its id."""
        return self.read(oids, "blob", max_bytes)

    def kinds(self, oids: list[str]) -> dict[str, str]:
        """The types of those objects that are there: commit, tree, blob or tag."""
        asked = "".join(f"{oid}\n" for oid in oids).encode("ascii")
        with tempfile.TemporaryDirectory(prefix="objects-") as own:
            env = self.git.borrowed(Path(own))
            form = "--batch-check=%(objectname) %(objecttype)"
            listed = self.git.run("cat-file", form, check=False, data=asked, env=env).stdout
        pairs = (line.split() for line in listed.decode("ascii", "replace").splitlines())
        return {oid: kind for oid, kind in pairs if kind != "missing"}

    def read(self, oids: Iterable[str], kind: str, max_bytes: int) -> Iterator[Blob]:
        """Objects of one kind, each held to its id, through one `cat-file`; it is started again where an object kills it."""
        left = list(oids)
        with tempfile.TemporaryDirectory(prefix="objects-") as own:
            env = self.git.borrowed(Path(own))
            while left:
                n_done = 0
                for blob in self._cat(left, kind, max_bytes, env):
                    n_done += 1
                    yield blob
                if n_done < len(left):
                    yield Blob(left[n_done], None, "corrupt", "git cannot read this object")
                    n_done += 1
                left = left[n_done:]

    def _cat(self, oids: list[str], kind: str, max_bytes: int, env: dict[str, str]) -> Iterator[Blob]:
        with tempfile.TemporaryFile() as asked:
            asked.write("".join(f"{oid}\n" for oid in oids).encode("ascii"))
            asked.seek(0)
            with self.git.pipe("cat-file", "--batch", "--buffer", stdin=asked, env=env) as output:
                for oid in oids:
                    header = output.readline().split()
                    if not header:
                        return
                    if len(header) < 3:
                        yield Blob(oid, None, "missing", "the repository lacks this object")
                        continue
                    blob = _object(output, oid, header[1], int(header[2]), max_bytes)
                    if blob is None:
                        return
                    wrong = header[1] != kind.encode() and not blob.problem
                    yield Blob(oid, None, "bad_record", f"a {header[1].decode()}, not a {kind}") if wrong else blob


def _object(output: BinaryIO, oid: str, kind: bytes, size: int, max_bytes: int) -> Blob | None:
    """The object that comes next; None where the output ends in it. What is too large is hashed all the same."""
    digest = hashlib.sha1(b"%s %d\0" % (kind, size), usedforsecurity=False)
    data = output.read(size) if size <= max_bytes else None
    n_left = size - (len(data) if data is not None else 0)
    digest.update(data or b"")
    while data is None and n_left and (chunk := output.read(min(n_left, CHUNK_BYTES))):
        digest.update(chunk)
        n_left -= len(chunk)
    if n_left:
        return None
    output.read(1)
    if digest.hexdigest() != oid:
        return Blob(oid, None, "corrupt", f"its {size} bytes are those of {digest.hexdigest()}", size)
    problem = "" if data is not None else "too_large"
    return Blob(oid, data, problem, f"{size} bytes, at most {max_bytes}" if problem else "", size)


def _entries(tree: Blob) -> tuple[list[tuple[str, str, str]], str, str]:
    """(mode, name, id) of each entry of a tree object, and what is wrong with it."""
    if tree.data is None:
        return [], tree.problem, tree.detail
    entries, at = [], 0
    while at < len(tree.data):
        space, end = tree.data.find(b" ", at), tree.data.find(b"\0", at)
        if not at < space < end or end + 21 > len(tree.data):
            return [], "bad_record", f"byte {at} of the tree is no entry"
        mode, name = tree.data[at:space].decode("latin-1").lstrip("0"), os.fsdecode(tree.data[space + 1 : end])
        entries.append((mode, name, tree.data[end + 1 : end + 21].hex()))
        at = end + 21
    return entries, "", ""


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


def commit_date(seconds: int, minutes: int) -> str | None:
    """A commit's date in its own time zone, ISO 8601; None for one that the calendar does not reach."""
    try:
        return datetime.fromtimestamp(seconds, timezone(timedelta(minutes=minutes))).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None


def _date(commit: bytes) -> str | None:
    match = COMMITTED.search(commit.partition(b"\n\n")[0])
    if match is None:
        return None
    zone = match[2].decode("ascii")
    minutes = 60 * int(zone[1:3]) + int(zone[3:])
    return commit_date(int(match[1]), -minutes if zone[0] == "-" else minutes)


def _commits(listed: bytes) -> dict[str, tuple[str, str | None]]:
    """Tree and date of each commit; a commit without a date has None (git then repeats the placeholder)."""
    lines = listed.decode("ascii", "replace").splitlines()
    facts = (line.partition(" ") for line in lines[1::2])
    return {
        # newer versions of git write the time zone +00:00 as Z
        line.removeprefix("commit "): (tree, None if date in ("", "%cI") else date.replace("Z", "+00:00"))
        for line, (tree, _, date) in zip(lines[::2], facts, strict=True)
    }


def _raw_changes(output: BinaryIO) -> Iterator[tuple[str, TreeFile]]:
    """Parse `diff-tree --stdin -z --raw`: NUL-ended fields, a commit's id, then pairs of `:modes ids status` and path."""
    revision, change = "", ""
    for raw in _fields(output):
        field = os.fsdecode(raw)
        if change:
            mode, oid = change.split()[1], change.split()[3]
            if int(mode):
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
