"""Software Heritage identifiers by hashlib: content, directory, revision, release and snapshot.

The first four are the ids of git's blob, tree, commit and annotated tag; a snapshot has a form of its own
(SWHID specification 1.2, chapter 5).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import quote_from_bytes

GIT_TYPES = {"cnt": b"blob", "dir": b"tree", "rev": b"commit", "rel": b"tag", "snp": b"snapshot"}
TARGET_TYPES = frozenset({"content", "directory", "revision", "release", "snapshot", "alias", "dangling"})
CORE = re.compile(r"swh:1:(cnt|dir|rev|rel|snp):([0-9a-f]{40})")


class Entry(NamedTuple):
    """One line of a directory: git's octal mode ("100644", "40000", ...), raw name, 20-byte id."""

    mode: str
    name: bytes
    target: bytes


class Branch(NamedTuple):
    """Where a snapshot's branch points: a target type and 20 raw bytes (the name of a branch for an alias)."""

    kind: str
    target: bytes


def swhid(kind: str, body: bytes) -> str:
    """`swh:1:<kind>:<40 hex>` of an object whose canonical form is `body`."""
    return f"swh:1:{kind}:{object_id(kind, body).hex()}"


def object_id(kind: str, body: bytes) -> bytes:
    """The 20 raw bytes: sha1 over type, length, NUL and body."""
    digest = hashlib.sha1(b"%s %d\0" % (GIT_TYPES[kind], len(body)), usedforsecurity=False)
    digest.update(body)
    return digest.digest()


def content_swhid(data: bytes) -> str:
    """The SWHID of a file's bytes."""
    return swhid("cnt", data)


def directory_swhid(entries: Iterable[Entry]) -> str:
    """The SWHID of a directory; entries may come in any order."""
    ordered = sorted(entries, key=_tree_order)
    return swhid("dir", b"".join(b"%s %s\0%s" % (e.mode.encode("ascii"), e.name, e.target) for e in ordered))


def _tree_order(entry: Entry) -> bytes:
    # git compares a directory as if its name ended in a slash
    return entry.name + b"/" if entry.mode.lstrip("0") == "40000" else entry.name


def revision_swhid(manifest: bytes) -> str:
    """The SWHID of a commit from its raw body (`git cat-file commit`)."""
    return swhid("rev", manifest)


def release_swhid(manifest: bytes) -> str:
    """The SWHID of an annotated tag from its raw body (`git cat-file tag`)."""
    return swhid("rel", manifest)


def snapshot_swhid(branches: Mapping[bytes, Branch]) -> str:
    """The SWHID of a set of branches. Raises ValueError for an unknown target type."""
    lines = []
    for name in sorted(branches):
        kind, target = branches[name]
        if kind not in TARGET_TYPES:
            raise ValueError(f"`{kind}` is not a target type of a snapshot's branch")
        lines.append(b"%s %s\0%d:%s" % (kind.encode("ascii"), name, len(target), target))
    return swhid("snp", b"".join(lines))


def parse_swhid(text: str) -> tuple[str, bytes]:
    """Split a core SWHID into kind and 20 raw bytes. Raises ValueError."""
    match = CORE.fullmatch(text)
    if match is None:
        raise ValueError(f"`{text}` is not a core SWHID (swh:1:cnt|dir|rev|rel|snp:40 hexadecimal digits)")
    return match[1], bytes.fromhex(match[2])


def qualified_swhid(
    core: str, *, origin: str | None = None, visit: str | None = None, anchor: str | None = None,
    path: str | None = None, lines: tuple[int, int] | None = None,
) -> str:  # fmt: skip
    """Add qualifiers in the order that the specification fixes.

    `;` and `%` of an origin are escaped; of a path, every byte that a URL would escape, so that a name need not be UTF-8
    (it comes as `os.fsdecode` gives it). Raises ValueError if `core` is no core SWHID.
    """
    parse_swhid(core)
    span = f"{lines[0]}-{lines[1]}" if lines else None
    given = {
        "origin": origin.replace("%", "%25").replace(";", "%3B") if origin else None, "visit": visit, "anchor": anchor,
        "path": quote_from_bytes(path.encode("utf-8", "surrogateescape")) if path else None, "lines": span,
    }  # fmt: skip
    return core + "".join(f";{key}={value}" for key, value in given.items() if value is not None)
