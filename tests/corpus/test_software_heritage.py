"""Software Heritage's graph tables give the documents that git gives, whatever form the contents are stored in."""

from __future__ import annotations

import datetime
import gzip
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import orc

from tilth.corpus.archive_graph import main_branch
from tilth.corpus.provenance.git_objects import GitObjects
from tilth.corpus.sources.git import GitRepository
from tilth.corpus.sources.software_heritage import SoftwareHeritageGraph
from tilth.errors import SourceError

ORIGIN = "https://example.org/team/project"
# As swh-export's relational.py declares them.
SCHEMAS = {
    "origin": {"id": pa.string(), "url": pa.string()},
    "origin_visit_status": {
        "origin": pa.string(), "visit": pa.int64(), "date": pa.timestamp("ns"), "status": pa.string(), "snapshot": pa.string(),
        "type": pa.string(),
    },
    "snapshot": {"id": pa.string()},
    "snapshot_branch": {"snapshot_id": pa.string(), "name": pa.binary(), "target": pa.string(), "target_type": pa.string()},
    "revision": {
        "id": pa.string(), "message": pa.binary(), "author": pa.binary(), "date": pa.timestamp("ns"), "date_offset": pa.int16(),
        "committer": pa.binary(), "committer_date": pa.timestamp("ns"), "committer_offset": pa.int16(), "directory": pa.string(),
        "type": pa.string(), "raw_manifest": pa.binary(),
    },
    "directory": {"id": pa.string(), "raw_manifest": pa.binary()},
    "directory_entry": {
        "directory_id": pa.string(), "name": pa.binary(), "type": pa.string(), "target": pa.string(), "perms": pa.int32(),
    },
    "content": {
        "sha1": pa.string(), "sha1_git": pa.string(), "sha256": pa.string(), "blake2s256": pa.string(), "length": pa.int64(),
        "status": pa.string(),
    },
}  # fmt: skip


class Archive:
    """Tables and contents of repositories, written as an export of the archive is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[str, list[dict[str, Any]]] = {table: [] for table in SCHEMAS}
        self.blobs: dict[str, bytes] = {}  # sha1_git -> bytes

    def visit(self, origin: str, number: int, snapshot: str | None, status: str = "full") -> None:
        when = datetime.datetime(2024, 5, 6, 7, 8, number)
        facts = {"origin": origin, "visit": number, "date": when, "status": status, "snapshot": snapshot, "type": "git"}
        self.rows["origin_visit_status"].append(facts)

    def add(self, repo: Any, origin: str, number: int) -> None:
        """A full visit: all its refs, commits, trees and blobs, read by git alone."""
        refs = GitObjects(repo.path, "test").refs
        snapshot = (refs.snapshot() or "")[10:]
        self.visit(origin, number, snapshot)
        self.rows["origin"].append({"id": hashlib.sha1(origin.encode()).hexdigest(), "url": origin})
        self.rows["snapshot"].append({"id": snapshot})
        for name, branch in refs.branches.items():
            row = {"snapshot_id": snapshot, "name": name, "target": branch.target.hex(), "target_type": branch.kind}
            self.rows["snapshot_branch"].append(row)
        for line in repo.git("log", "--all", "--format=%H %T %ct %ci").splitlines():
            oid, tree, seconds, *_, zone = line.split()
            minutes = int(zone[0] + "1") * (60 * int(zone[1:3]) + int(zone[3:]))
            when = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=int(seconds))
            self.rows["revision"].append({"id": oid, "committer_date": when, "committer_offset": minutes, "directory": tree})
        for line in repo.git("cat-file", "--batch-all-objects", "--batch-check=%(objecttype) %(objectname)").splitlines():
            kind, oid = line.split()
            if kind == "tree":
                self.rows["directory"].append({"id": oid})
                self.rows["directory_entry"] += list(tree_rows(repo, oid))
            elif kind == "blob":
                self._add_content(next(GitObjects(repo.path, "test").blobs([oid], 1 << 30)).data or b"", oid)

    def _add_content(self, data: bytes, oid: str) -> None:
        self.blobs[oid] = data
        names = {name: hashlib.new(name, data).hexdigest() for name in ("sha1", "sha256", "blake2s256") if name != "blake2s256"}
        blake = hashlib.blake2s(data).hexdigest()
        row = {**names, "sha1_git": oid, "blake2s256": blake, "length": len(data), "status": "visible"}
        self.rows["content"].append(row)

    def write(self, name_of: Callable[[str, bytes], str], form: Callable[[bytes], bytes] = lambda data: data) -> None:
        """Tables in two files each with several stripes; a content under `name_of` its sha1_git and bytes."""
        for table, columns in SCHEMAS.items():
            rows = [{name: row.get(name) for name in columns} for row in self.rows[table]]
            (self.folder / "orc" / table).mkdir(parents=True, exist_ok=True)
            for i, part in enumerate((rows[::2], rows[1::2])):
                made = pa.Table.from_pylist(part, schema=pa.schema(list(columns.items())))
                orc.write_table(made, self.folder / "orc" / table / f"{table}-{i}.orc", compression="zstd")
        for oid, data in self.blobs.items():
            path = self.folder / "contents" / name_of(oid, data)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(form(data))

    def source(self, contents: str = "", **options: Any) -> SoftwareHeritageGraph:
        return SoftwareHeritageGraph("code", str(self.folder / "orc"), contents or str(self.folder / "contents"), **options)


def tree_rows(repo: Any, oid: str) -> Iterator[dict[str, Any]]:
    for line in repo.git("ls-tree", "-z", oid).split("\0"):
        if line:
            facts, _, name = line.partition("\t")
            mode, kind, target = facts.split()
            kinds = {"blob": "file", "tree": "dir", "commit": "rev"}
            raw = name.encode("utf-8", "surrogateescape")
            yield {"directory_id": oid, "name": raw, "type": kinds[kind], "target": target, "perms": int(mode, 8)}


def by_sha1(oid: str, data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def archive(every_object: Any, tmp_path: Path) -> Archive:
    every_object.git("remote", "add", "origin", ORIGIN)
    every_object.write("LICENSE", "SPDX-License-Identifier: MIT\n")
    every_object.write("packed.gz", gzip.compress(b"text that is stored packed", mtime=0))
    every_object.git("update-index", "--add", "LICENSE", "packed.gz")
    every_object.git("commit", "-q", "-m", "more")
    made = Archive(tmp_path / "archive")
    made.add(every_object, ORIGIN, 3)
    return made


def same(found: Any) -> tuple[Any, ...]:
    return found.documents, found.occurrences, found.licences, sorted(found.rejects, key=str)


@pytest.mark.parametrize(
    ("name_of", "form", "pattern"),
    [
        (by_sha1, bytes, ""),
        (by_sha1, gzip.compress, ""),
        (lambda oid, data: oid, bytes, ""),
        (lambda oid, data: f"{oid[:2]}/{oid}.gz", gzip.compress, "{{folder}}/{sha1_git:.2}/{sha1_git}.gz"),
    ],
)
def test_documents_are_those_that_git_gives(
    archive: Archive, every_object: Any, rows: Callable[..., Any], name_of: Any, form: Any, pattern: str
) -> None:
    archive.write(name_of, form)
    contents = pattern.replace("{{folder}}", str(archive.folder / "contents"))
    found = rows(archive.source(contents))
    expected = rows(GitRepository("code", str(every_object.path)))
    assert same(found) == same(expected)
    assert len(found.documents) > 10
    assert {"MIT"} <= {claim["spdx"] for claim in found.licences}
    assert {"submodule", "symlink"} <= set(found.reasons)
    assert {row["origin"] for row in found.occurrences} == {ORIGIN}


def test_documentation_alone_as_git_gives_it(archive: Archive, every_object: Any, rows: Callable[..., Any]) -> None:
    every_object.write("docs/guide.md", "# Guide\n")
    every_object.write("README", "Read me.\n")
    every_object.commit()
    archive.add(every_object, ORIGIN, 9)
    archive.write(by_sha1)
    found = rows(archive.source(only="documentation"))
    assert [row["path"] for row in found.occurrences] == ["README", "docs/guide.md"]
    assert same(found) == same(rows(GitRepository("code", str(every_object.path), only="documentation")))
    with pytest.raises(SourceError, match="only='docs'"):
        archive.source(only="docs").plan()


@pytest.mark.slow
def test_a_real_repository(clone: Callable[[str], Any], tmp_path: Path, rows: Callable[..., Any]) -> None:
    real = clone("togethercomputer/RedPajama-Data")
    archive = Archive(tmp_path / "archive")
    expected = rows(GitRepository("code", str(real.path)))
    origin = expected.occurrences[0]["origin"]
    archive.add(real, origin, 1)
    archive.write(by_sha1, gzip.compress)
    found = rows(archive.source())
    assert same(found) == same(expected)
    assert len(found.documents) + len(found.rejects) > 50


def test_contents_behind_a_url(archive: Archive, every_object: Any, rows: Callable[..., Any]) -> None:
    fsspec = pytest.importorskip("fsspec")
    archive.write(by_sha1)
    store = fsspec.filesystem("memory")
    for path in (archive.folder / "contents").iterdir():
        store.pipe_file(f"/blobs/{path.name}", gzip.compress(path.read_bytes()))
    gone = sorted(store.ls("/blobs", detail=False))[0]
    store.rm(gone)
    found = rows(archive.source("memory://blobs/{sha1}"))
    expected = rows(GitRepository("code", str(every_object.path)))
    assert len(found.documents) + len(found.rejects) == len(expected.documents) + len(expected.rejects)
    assert len(found.documents) >= len(expected.documents) - 1


def test_the_newest_full_visit_counts(archive: Archive, every_object: Any, rows: Callable[..., Any]) -> None:
    every_object.write("newer.py", "newer = 1\n")
    every_object.commit()
    archive.add(every_object, ORIGIN, 5)
    archive.visit(ORIGIN, 6, "0" * 40, status="partial")
    archive.visit(ORIGIN, 7, None)
    archive.add(every_object, "https://example.org/other", 1)
    archive.write(by_sha1)
    found = rows(archive.source(origins="https://example.org/team/.*"))
    assert "newer.py" in {row["path"] for row in found.occurrences}
    both = archive.source(origins_per_shard=1)
    assert [shard.params["heads"][0][0] for shard in both.plan()] == ["https://example.org/other", ORIGIN]
    together = rows(archive.source())
    assert len(together.documents) == len(found.documents)
    assert len(together.occurrences) == 2 * len(found.occurrences)


def test_what_the_tables_lack_is_named(archive: Archive, every_object: Any, rows: Callable[..., Any]) -> None:
    folder, blob = every_object.git("rev-parse", "HEAD:deep"), every_object.git("rev-parse", "HEAD:b c")
    unknown, absent, large = (every_object.git("rev-parse", f"HEAD:{name}") for name in ("a0", "a.txt", "run.sh"))
    archive.rows["directory_entry"] = [row for row in archive.rows["directory_entry"] if row["directory_id"] != folder]
    archive.rows["content"] = [row for row in archive.rows["content"] if row["sha1_git"] != unknown]
    for row in archive.rows["content"]:
        row["status"] = "absent" if row["sha1_git"] == absent else "visible"
        row["length"] = 1 << 40 if row["sha1_git"] == large else row["length"]
    archive.blobs[blob] = b"other bytes"
    for origin, snapshot, main in (("a", "7" * 40, None), ("b", "8" * 40, "9" * 40)):
        archive.visit(f"https://example.org/{origin}", 1, snapshot)
        if main:
            row = {"snapshot_id": snapshot, "name": b"HEAD", "target": main, "target_type": "revision"}
            archive.rows["snapshot_branch"].append(row)
    archive.write(lambda oid, data: oid)
    found = rows(archive.source())
    reasons = {row["location"]: (row["reason"], row["detail"][:50]) for row in found.rejects}
    assert reasons[f"{ORIGIN}:deep"] == ("missing", f"swh:1:dir:{folder}")
    assert reasons[f"{ORIGIN}:b c"] == ("corrupt", f"swh:1:cnt:{blob}")
    assert reasons[f"{ORIGIN}:a0"] == ("missing", f"swh:1:cnt:{unknown}")
    assert reasons[f"{ORIGIN}:a.txt"] == ("missing", f"swh:1:cnt:{absent}")
    assert reasons[f"{ORIGIN}:run.sh"] == ("too_large", f"swh:1:cnt:{large}")
    assert reasons["https://example.org/a"] == ("no_commit", "swh:1:snp:" + "7" * 40)
    assert reasons["https://example.org/b"] == ("missing", "swh:1:rev:" + "9" * 40)


def test_mistakes_in_three_lines(archive: Archive, tmp_path: Path) -> None:
    archive.write(by_sha1)
    with pytest.raises(SourceError, match="no origin that matches"):
        archive.source(origins="https://github.com/.*").plan()
    with pytest.raises(SourceError, match="no regular expression"):
        archive.source(origins="(").plan()
    with pytest.raises(SourceError, match="no such file or folder"):
        SoftwareHeritageGraph("code", str(tmp_path), str(tmp_path)).plan()
    damaged = archive.folder / "orc" / "revision" / "revision-0.orc"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.raises(SourceError, match="table revision is damaged") as caught:
        archive.source().plan()
    assert "revision-0.orc" in str(caught.value.where)
    orc.write_table(pa.table({"id": ["0"]}), damaged)
    with pytest.raises(SourceError, match="no column committer_date"):
        archive.source().plan()


def test_aliases_in_a_circle_end() -> None:
    def alias(name: bytes) -> tuple[str, str]:
        return "alias", name.hex()

    assert main_branch({b"HEAD": alias(b"a"), b"a": alias(b"b"), b"b": alias(b"HEAD")}) is None
    assert main_branch({b"HEAD": alias(b"gone"), b"refs/heads/master": ("revision", "1" * 40)}) == "1" * 40
    assert main_branch({b"HEAD": alias(b"a"), b"a": alias(b"b"), b"b": ("revision", "2" * 40)}) == "2" * 40
    assert main_branch({b"HEAD": ("release", "3" * 40)}) is None
    assert main_branch({b"HEAD": ("alias", "refs/heads/x"), b"refs/heads/x": ("revision", "4" * 40)}) == "4" * 40
