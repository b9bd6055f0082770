"""SWHIDs of files and folders on disk, as Software Heritage's model makes them: every entry counts, links are not followed."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import NamedTuple

from tilth.corpus.provenance.swhid import Entry, directory_swhid, object_id, parse_swhid

CHUNK_BYTES = 1 << 20
LINK_MODE, TREE_MODE = "120000", "40000"


class DiskFile(NamedTuple):
    """A file, link or special file below a folder: its path, git's mode for it, 20-byte id, or None with what is wrong."""

    path: str
    mode: str
    oid: bytes | None
    n_bytes: int
    problem: str = ""


def read_disk_file(path: str, shown: str) -> DiskFile:
    """The content at a path, in pieces. A FIFO, socket or device counts as an empty file, and is not opened."""
    try:
        facts = os.lstat(path)
        if stat.S_ISLNK(facts.st_mode):
            target = os.fsencode(os.readlink(path))
            return DiskFile(shown, LINK_MODE, object_id("cnt", target), len(target))
        mode = "100755" if facts.st_mode & 0o111 else "100644"
        if not stat.S_ISREG(facts.st_mode):
            return DiskFile(shown, mode, object_id("cnt", b""), 0)
        digest = hashlib.sha1(b"blob %d\0" % facts.st_size, usedforsecurity=False)
        n_read = 0
        with open(path, "rb", buffering=0) as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                n_read += len(chunk)
    except OSError as error:
        return DiskFile(shown, "", None, 0, error.strerror or "unreadable")
    if n_read != facts.st_size:
        return DiskFile(shown, mode, None, n_read, "changed while it was read")
    return DiskFile(shown, mode, digest.digest(), n_read)


def read_disk_folder(root: str) -> tuple[str | None, list[DiskFile]]:
    """(SWHID of the folder, everything in it that is no folder, by path); the SWHID is None if something cannot be read."""
    found: list[DiskFile] = []
    oids: dict[str, bytes | None] = {}
    unlisted: list[str] = []
    for folder, folders, files in os.walk(root, topdown=False, onerror=lambda error: unlisted.append(str(error.filename))):
        base = "" if folder == root else os.path.relpath(folder, root) + "/"
        entries: list[Entry | None] = []
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            if name in folders and not os.path.islink(path):
                oid = oids.pop(path, None)
                mode = TREE_MODE
            else:
                file = read_disk_file(path, base + name)
                found.append(file)
                oid, mode = file.oid, file.mode
            entries.append(Entry(mode, os.fsencode(name), oid) if oid is not None else None)
        known = [entry for entry in entries if entry is not None]
        oids[folder] = parse_swhid(directory_swhid(known))[1] if len(known) == len(entries) else None
    found += [DiskFile(os.path.relpath(path, root), TREE_MODE, None, 0, "the folder cannot be listed") for path in unlisted]
    oid = oids.get(root)
    return f"swh:1:dir:{oid.hex()}" if oid else None, sorted(found, key=lambda file: os.fsencode(file.path))
