"""Names what is at a path by SWHID: a repository, a path of its HEAD, or a file or folder of the disk."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tilth.corpus.provenance.disk_objects import read_disk_file, read_disk_folder
from tilth.corpus.provenance.git_objects import LINK_MODE, SUBMODULE_MODE, GitObjects, Head, TreeFile
from tilth.corpus.provenance.git_process import RepositoryError, is_repository
from tilth.corpus.provenance.git_refs import DEFAULT_POLICY, REF_POLICIES
from tilth.corpus.provenance.swhid import qualified_swhid
from tilth.errors import SourceError

TARGETS = {"commit": "rev", "tag": "rel", "tree": "dir", "blob": "cnt"}
MAX_TAG_BYTES = 1 << 20


class NamedFile(NamedTuple):
    """A file, link or submodule: `status` is ok, or why its bytes could not be read; the SWHID is kept all the same."""

    path: str
    mode: str
    swhid: str | None
    status: str
    n_bytes: int | None
    qualified: str | None


class NamedRelease(NamedTuple):
    """An annotated tag: the ref (or the tag) that leads to it, and what it leads to, if it can be read."""

    name: str
    swhid: str
    target: str | None


@dataclass
class Identified:
    """The SWHIDs of what is at a path; `path` is set where it is below the root of a repository."""

    origin: str | None = None
    path: str | None = None
    rev: str | None = None
    dir: str | None = None
    snp: str | None = None
    ref_policy: str | None = None
    rel: list[NamedRelease] = field(default_factory=list)
    cnt: list[NamedFile] = field(default_factory=list)
    others: list[NamedFile] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)


def identify(path: str | Path, policy: str = DEFAULT_POLICY, origin: str | None = None) -> Identified:
    """Name what is at `path`; `policy` is one of REF_POLICIES, `origin` the URL for qualified names, else the remote's.

    Raises SourceError: nothing there, a repository that git cannot read.

    A repository whose HEAD is no commit has only a snapshot. What is not at HEAD is named from disk.
    """
    if policy not in REF_POLICIES:
        raise SourceError(f"no such policy for refs: `{policy}`", str(path), "one of " + ", ".join(REF_POLICIES))
    path = Path(os.path.abspath(Path(path).expanduser()))
    if not os.path.lexists(path):
        raise SourceError("there is nothing at this path", str(path), "give a repository, a folder or a file")
    root = next((folder for folder in (path, *path.parents) if folder.is_dir() and is_repository(folder)), None)
    if root is None:
        return _from_disk(path)
    objects = GitObjects(root, str(root))
    found = Identified(
        origin or objects.origin, ref_policy=policy, snp=objects.refs.snapshot(policy), problems=list(objects.refs.problems)
    )
    below = "" if path == root else path.relative_to(root).as_posix()
    if below:
        return _path_of(objects, found, path, below)
    found.rel = _releases(objects, policy)
    try:
        head = objects.head()
    except RepositoryError as error:
        if "HEAD" not in dict(found.problems):
            found.problems.append(("HEAD", error.what))
        return found
    found.rev, found.dir = f"swh:1:rev:{head.revision}", f"swh:1:dir:{head.tree}"
    _add_files(objects, found, head, objects.tree(head.tree))
    return found


def _path_of(objects: GitObjects, found: Identified, path: Path, below: str) -> Identified:
    """A file or folder as HEAD has it; from disk where HEAD has none, or cannot be read."""
    try:
        head = objects.head()
        file = objects.entry(head.tree, below)
    except RepositoryError:
        file = None
    if file is None:
        found = _from_disk(path)
        found.problems.append((below, "not at HEAD: named as it is on disk"))
        return found
    found.path, found.rev = f"/{below}", f"swh:1:rev:{head.revision}"
    if file.is_tree:
        found.dir = f"swh:1:dir:{file.oid}"
        files = [one._replace(path=f"{below}/{one.path}") for one in objects.tree(file.oid)]
    else:
        files = [file]
        on_disk = read_disk_file(str(path), below)
        if file.mode != SUBMODULE_MODE and on_disk.oid and on_disk.oid.hex() != file.oid:
            found.problems.append((below, f"changed since HEAD: on disk it is swh:1:cnt:{on_disk.oid.hex()}"))
    _add_files(objects, found, head, files)
    return found


def _add_files(objects: GitObjects, found: Identified, head: Head, files: list[TreeFile]) -> None:
    """Read and hash every blob; then a row for each path, in order."""
    wanted = dict.fromkeys(file.oid for file in files if file.is_file or file.mode == LINK_MODE)
    read = {blob.oid: blob for blob in objects.blobs(wanted, 0)}  # at most 0 bytes: hashed, not kept
    for file in files:
        blob = read.get(file.oid)
        kind = "rev" if file.mode == SUBMODULE_MODE else "dir" if file.problem else "cnt"
        status = file.problem or ("submodule" if kind == "rev" else "odd_mode")
        if blob is not None:
            status = "ok" if blob.problem in ("", "too_large") else blob.problem
        core = f"swh:1:{kind}:{file.oid}"
        origin = found.origin if "://" in (found.origin or "") else None  # the name of a folder is no origin
        anchor = f"swh:1:rev:{head.revision}"
        qualified = qualified_swhid(core, origin=origin, visit=found.snp, anchor=anchor, path=f"/{file.path}")
        row = NamedFile(file.path, file.mode, core, status, blob.n_bytes if blob else None, qualified)
        (found.cnt if blob is not None else found.others).append(row)


def _releases(objects: GitObjects, policy: str) -> list[NamedRelease]:
    """Every annotated tag that a kept ref leads to, and the tags that these lead to."""
    keeps = REF_POLICIES[policy]
    refs = ((name.decode("utf-8", "surrogateescape"), branch) for name, branch in sorted(objects.refs.branches.items()))
    left = [(name, branch.target.hex()) for name, branch in refs if branch.kind == "release" and keeps(name)]
    found: list[NamedRelease] = []
    while left:
        read = {tag.oid: tag.data for tag in objects.read(dict.fromkeys(oid for _, oid in left), "tag", MAX_TAG_BYTES)}
        below = []
        for name, oid in left:
            lines = (read[oid] or b"").split(b"\n", 2)
            target, kind = (line.rpartition(b" ")[2].decode("ascii", "replace") for line in [*lines, b"", b""][:2])
            found.append(NamedRelease(name, f"swh:1:rel:{oid}", f"swh:1:{TARGETS[kind]}:{target}" if kind in TARGETS else None))
            if kind == "tag":
                below.append((f"{name}^{{}}", target))
        left = below
    return found


def _from_disk(path: Path) -> Identified:
    if path.is_dir() and not path.is_symlink():
        swhid, files = read_disk_folder(str(path))
        found = Identified(dir=swhid)
    else:
        found, files = Identified(), [read_disk_file(str(path), path.name)]
    for file in files:
        core = f"swh:1:cnt:{file.oid.hex()}" if file.oid else None
        found.cnt.append(NamedFile(file.path, file.mode, core, file.problem or "ok", file.n_bytes, core))
    return found
