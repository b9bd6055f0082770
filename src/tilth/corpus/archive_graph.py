"""Software Heritage's graph as it is exported to ORC tables: from an origin's newest full visit to the files of its main branch.

Columns as in swh-export's `relational.py`: ids are hexadecimal, names of branches and entries are bytes, the target of
an alias is the hexadecimal form of a branch's name. A table is a folder of ORC files; each is read stripe by stripe, and of
a stripe only the rows that are asked for are kept.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import orc

from tilth.corpus.locations import FoundFile, find_files, open_raw
from tilth.corpus.provenance.git_objects import SUBMODULE_MODE, TREE_MODE, TreeFile, commit_date
from tilth.errors import SourceError

TABLES = ("origin_visit_status", "snapshot_branch", "revision", "directory_entry", "content")
MAIN_BRANCHES = (b"HEAD", b"refs/heads/main", b"refs/heads/master")
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
HEXADECIMAL = re.compile(r"(?:[0-9a-f]{2})+")
MAX_LEVELS, MAX_PATHS = 64, 5_000_000


class ArchivedHead(NamedTuple):
    """Where an origin's main branch was at its newest full visit, ids in hexadecimal; `problem` where none can be followed."""

    origin: str
    snapshot: str
    revision: str = ""
    directory: str = ""
    date: str | None = None
    problem: str = ""


class ArchivedContent(NamedTuple):
    """A row of `content`: the sha1 of the plain bytes, which names the stored file, and their number."""

    sha1: str
    n_bytes: int
    status: str


@dataclass(frozen=True)
class GraphTables:
    """The tables below `path`, a folder or URL with a folder for each table. Raises SourceError for one that is not there."""

    path: str
    where: str

    def files(self, table: str) -> list[FoundFile]:
        """The ORC files of a table, by name."""
        return find_files(f"{self.path.rstrip('/')}/{table}", f"{self.where}: table {table}", (".orc",))

    def scan(self, table: str, columns: tuple[str, ...], key: str, values: Iterable[str]) -> Iterator[dict[str, Any]]:
        """The rows whose `key` is among `values`, as dicts. Raises SourceError: a damaged file, a missing column."""
        wanted = pa.array(sorted(set(values)), pa.string())
        for file in self.files(table) if len(wanted) else []:
            with open_raw(file.location, self.where) as raw:
                try:
                    opened = orc.ORCFile(raw)
                    if lacking := set(columns) - set(opened.schema.names):
                        what = f"table {table} has no column {', '.join(sorted(lacking))}"
                        raise SourceError(what, f"{self.where}: {file.name}", "give an export of Software Heritage's graph")
                    for i in range(opened.nstripes):
                        stripe = opened.read_stripe(i, columns=list(columns))
                        yield from _rows(stripe, pc.is_in(stripe[key].cast(pa.string()), value_set=wanted))
                except (pa.ArrowException, OSError) as error:
                    what = f"table {table} is damaged: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
                    raise SourceError(what, f"{self.where}: {file.name}", "fetch this file again") from error


def _rows(stripe: pa.RecordBatch, wanted: pa.Array) -> list[dict[str, Any]]:
    """Rows as dicts, times as whole seconds since 1970: a commit may claim one that the calendar does not reach."""
    chosen = stripe.filter(wanted)
    columns = [
        column.cast(pa.timestamp("s"), safe=False).cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
        for column in chosen.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=chosen.schema.names).to_pylist()


def archived_heads(tables: GraphTables, wanted: re.Pattern[str]) -> list[ArchivedHead]:
    """Each origin that matches, by URL, at the main branch of the visit with the highest number that was full."""
    visits: dict[str, tuple[int, str]] = {}
    for row in tables.scan("origin_visit_status", ("origin", "visit", "status", "snapshot"), "status", ["full"]):
        if row["snapshot"] and wanted.fullmatch(row["origin"]):
            visits[row["origin"]] = max(visits.get(row["origin"], (-1, "")), (row["visit"], row["snapshot"]))
    branches: dict[str, dict[bytes, tuple[str, str]]] = {}
    snapshots = [snapshot for _, snapshot in visits.values()]
    for row in tables.scan("snapshot_branch", ("snapshot_id", "name", "target", "target_type"), "snapshot_id", snapshots):
        branches.setdefault(row["snapshot_id"], {})[bytes(row["name"])] = (row["target_type"], row["target"])
    mains = {snapshot: main_branch(branches.get(snapshot, {})) for snapshot in snapshots}
    columns = ("id", "directory", "committer_date", "committer_offset")
    ids = [revision for revision in mains.values() if revision]
    revisions = {row["id"]: (row["directory"], _date(row)) for row in tables.scan("revision", columns, "id", ids)}
    return [_head(origin, snapshot, mains[snapshot], revisions) for origin, (_, snapshot) in sorted(visits.items())]


def _head(origin: str, snapshot: str, main: str | None, revisions: dict[str, tuple[str, str | None]]) -> ArchivedHead:
    if main is None:
        return ArchivedHead(origin, snapshot, problem="no_commit")
    if main not in revisions:
        return ArchivedHead(origin, snapshot, main, problem="missing")
    return ArchivedHead(origin, snapshot, main, *revisions[main])


def main_branch(branches: dict[bytes, tuple[str, str]]) -> str | None:
    """The revision that HEAD, else main, else master leads to; aliases are followed, never in a circle."""
    for name in MAIN_BRANCHES:
        seen: set[bytes] = set()
        while name in branches and name not in seen:
            seen.add(name)
            kind, target = branches[name]
            if kind == "revision":
                return target
            if kind != "alias":
                break
            name = bytes.fromhex(target) if HEXADECIMAL.fullmatch(target) else target.encode()  # as other exports have it
    return None


def files_of(tables: GraphTables, roots: Iterable[str]) -> dict[str, list[TreeFile]]:
    """What is below each root directory, in git's order; one scan of the entries for each level of folders, for all roots."""
    found: dict[str, list[TreeFile]] = {root: [] for root in roots}
    level = {root: [(root, "")] for root in found}
    n_paths = n_levels = 0
    while level:
        unread = set(level) - {EMPTY_TREE}
        below: dict[str, list[tuple[str, str]]] = {}
        too_many = "" if n_levels < MAX_LEVELS and n_paths < MAX_PATHS else "too_many_files"
        columns = ("directory_id", "name", "type", "target", "perms")
        for row in tables.scan("directory_entry", columns, "directory_id", [] if too_many else level):
            unread.discard(row["directory_id"])
            for root, prefix in level[row["directory_id"]]:
                n_paths += 1
                path = prefix + os.fsdecode(row["name"])
                if row["type"] == "dir":
                    below.setdefault(row["target"], []).append((root, f"{path}/"))
                else:
                    mode = SUBMODULE_MODE if row["type"] == "rev" else format(row["perms"], "o")
                    found[root].append(TreeFile(mode, row["target"], path))
        for oid in unread:
            detail = (
                f"beyond {MAX_LEVELS} levels or {MAX_PATHS} paths" if too_many else "the table has no entry of this directory"
            )
            for root, prefix in level[oid]:
                found[root].append(TreeFile(TREE_MODE, oid, prefix.rstrip("/"), too_many or "missing", detail))
        level, n_levels = below, n_levels + 1
    return {root: sorted(files, key=lambda file: os.fsencode(file.path)) for root, files in found.items()}


def archived_contents(tables: GraphTables, oids: Iterable[str]) -> dict[str, ArchivedContent]:
    """What `content` says of blobs, by sha1_git."""
    columns = ("sha1", "sha1_git", "length", "status")
    rows = tables.scan("content", columns, "sha1_git", oids)
    return {row["sha1_git"]: ArchivedContent(row["sha1"], row["length"], row["status"]) for row in rows}


def _date(row: dict[str, Any]) -> str | None:
    seconds = row["committer_date"]
    return commit_date(seconds, row["committer_offset"] or 0) if seconds is not None else None
