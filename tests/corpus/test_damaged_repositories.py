"""Repositories that are damaged, odd or hostile: whatever can be read is read, the rest is counted and named, nothing is fatal."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilth.corpus.identify import identify
from tilth.corpus.provenance import git_objects
from tilth.corpus.provenance.git_objects import GitObjects
from tilth.corpus.reading import read_shard
from tilth.corpus.sources.git import GitRepository
from tilth.corpus.sources.git_repositories import GitRepositories
from tilth.errors import SourceError


@pytest.fixture
def filled(repo: Any) -> Any:
    """Thirty files in folders, three commits."""
    for i in range(30):
        repo.write(f"d{i % 3}/f{i:02d}.py", f"# file {i}\n" + f"x = {i * 7919}\n" * 40)
    repo.commit()
    for i in range(2):
        repo.write(f"new{i}.py", f"new = {i}\n")
        repo.commit()
    return repo


def read(repo: Any, rows: Callable[..., Any], **options: Any) -> Any:
    return rows(GitRepository("code", str(repo.path), **options))


def packs(path: Path) -> list[Path]:
    found = sorted((path / ".git" / "objects" / "pack").glob("*.pack"))
    for pack in found:
        pack.chmod(0o644)
    return found


def test_case_collisions_are_both_read_and_marked(repo: Any, rows: Callable[..., Any]) -> None:
    repo.write("src/Main.py", "one = 1\n")
    repo.write("SRC/main.py", "two = 2\n")
    repo.write("other.py", "three = 3\n")
    repo.commit()
    marked = {row["text"]: dict(row["meta"]).get("case_collision") for row in read(repo, rows).documents}
    assert marked == {"one = 1\n": "src/Main.py", "two = 2\n": "SRC/main.py", "three = 3\n": None}


def test_every_document_names_the_policy_of_its_snapshot(filled: Any, rows: Callable[..., Any]) -> None:
    assert {dict(row["meta"])["snapshot_refs"] for row in read(filled, rows).documents} == {"git-loader"}


def test_binary_and_enormous_files_called_py(repo: Any, rows: Callable[..., Any]) -> None:
    repo.write("binary.py", b"\x7fELF\0\0\0")
    repo.write("generated.py", "value = 1\n" * 300_000)
    repo.write("fine.py", "fine = 1\n")
    repo.commit()
    found = read(repo, rows, max_blob_bytes=1 << 20)
    assert {row["location"]: row["reason"] for row in found.rejects} == {
        "project:binary.py": "binary",
        "project:generated.py": "too_large",
    }
    oid = repo.git("rev-parse", "HEAD:generated.py")
    assert f"swh:1:cnt:{oid}: 3000000 bytes, at most 1048576" in [row["detail"] for row in found.rejects]
    assert found.texts == ["fine = 1\n"]


def test_a_few_trees_that_spell_more_paths_than_a_disk_holds(
    repo: Any, rows: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = repo.git("hash-object", "-w", "--stdin", data=b"boom\n")
    oid, kind = blob, "100644 blob"
    for _ in range(9):  # ten to the ninth paths
        listed = "".join(f"{kind} {oid}\td{i}\n" for i in range(10))
        oid, kind = repo.git("mktree", data=listed.encode()), "40000 tree".replace("4", "04")
    commit = repo.git("commit-tree", oid, "-m", "bomb")
    repo.git("update-ref", "refs/heads/main", commit)
    monkeypatch.setattr(git_objects, "MAX_PATHS", 2000)
    found = read(repo, rows)
    assert set(found.reasons) == {"too_many_files"}
    assert not found.documents


def test_refs_in_a_circle_and_refs_to_nothing(filled: Any, rows: Callable[..., Any]) -> None:
    before = identify(filled.path)
    refs = filled.path / ".git" / "refs" / "heads"
    (refs / "a").write_text("ref: refs/heads/b\n")
    (refs / "b").write_text("ref: refs/heads/a\n")
    (refs / "dangling").write_text("ref: refs/heads/nowhere\n")
    (refs / "garbage").write_text("no id at all\n")
    assert len(read(filled, rows).documents) == 32
    found = identify(filled.path)
    assert (found.rev, found.snp) == (before.rev, before.snp)
    assert {name for name, _ in found.problems} == {"refs/heads/a", "refs/heads/b", "refs/heads/dangling", "refs/heads/garbage"}
    (filled.path / ".git" / "HEAD").write_text("ref: refs/heads/a\n")
    with pytest.raises(SourceError, match="no commit at HEAD"):
        read(filled, rows)


def test_a_ref_to_a_missing_object_leaves_no_snapshot_to_name(filled: Any, rows: Callable[..., Any]) -> None:
    (filled.path / ".git" / "refs" / "heads" / "gone").write_text("1" * 40 + "\n")
    found = identify(filled.path)
    assert found.snp is None
    assert ("refs/heads/gone", f"leads to {'1' * 40}, which is missing") in found.problems
    documents = read(filled, rows)
    assert len(documents.documents) == 32
    assert {row["snapshot"] for row in documents.occurrences} == {None}


def test_empty_repositories_detached_heads_and_heads_to_nothing(repo: Any, rows: Callable[..., Any], tmp_path: Path) -> None:
    empty = identify(repo.path)
    assert (empty.rev, empty.dir, empty.cnt) == (None, None, [])
    assert empty.snp == "swh:1:snp:1a8893e6a86f444e8be8e7bda6cb34fb1735a00e"  # of no branch at all
    with pytest.raises(SourceError, match="no commit at HEAD: refs/heads/main leads to none"):
        read(repo, rows)
    repo.write("a.py", "a = 1\n")
    commit = repo.commit()
    repo.git("checkout", "-q", "--detach")
    detached = read(repo, rows)
    assert detached.occurrences[0]["revision"] == f"swh:1:rev:{commit}"
    assert identify(repo.path).snp != identify(repo.path, "all-refs").rev
    (repo.path / ".git" / "HEAD").write_text("ref: refs/heads/nothing\n")
    assert identify(repo.path).problems == [("HEAD", "leads to refs/heads/nothing, which is no commit")]
    (repo.path / ".git" / "HEAD").write_text("1" * 40 + "\n")
    with pytest.raises(SourceError, match=f"the commit swh:1:rev:{'1' * 40} is missing"):
        read(repo, rows)
    lost = identify(repo.path)
    assert (lost.rev, lost.snp, lost.problems) == (None, None, [("HEAD", f"leads to {'1' * 40}, which is missing")])
    on_disk = identify(repo.path / "a.py")
    assert [one.swhid for one in on_disk.cnt] == ["swh:1:cnt:" + repo.git("hash-object", "a.py")]


@pytest.mark.parametrize("damage", ["flipped", "truncated", "no index"])
def test_damaged_packs_cost_what_they_hold(filled: Any, rows: Callable[..., Any], damage: str) -> None:
    whole = {row["raw_swhid"] for row in read(filled, rows).documents}
    filled.git("repack", "-q", "-a", "-d", "--depth=0", "--window=0")
    filled.write("loose.py", "loose = 1\n")
    filled.commit()
    [pack] = packs(filled.path)
    data = bytearray(pack.read_bytes())
    if damage == "flipped":
        middle = len(data) // 2
        data[middle : middle + 40] = b"\xff" * 40
    elif damage == "truncated":
        del data[len(data) // 2 :]
    else:
        pack.with_suffix(".idx").unlink()
    pack.write_bytes(data)
    found = read(filled, rows)
    read_back = {row["raw_swhid"] for row in found.documents}
    loose = "swh:1:cnt:" + filled.git("hash-object", "loose.py")
    assert loose in read_back
    assert read_back <= whole | {loose}
    assert set(found.reasons) <= {"missing", "corrupt", "bad_record"}
    assert found.rejects
    if damage == "flipped":
        assert len(found.documents) + len(found.rejects) == 33
        assert len(found.documents) > 20


def test_a_loose_object_with_the_bytes_of_another(filled: Any, rows: Callable[..., Any]) -> None:
    one, other = (filled.git("rev-parse", f"HEAD:new{i}.py") for i in range(2))
    objects = filled.path / ".git" / "objects"
    target = objects / one[:2] / one[2:]
    target.chmod(0o644)
    target.write_bytes((objects / other[:2] / other[2:]).read_bytes())
    found = read(filled, rows)
    assert len(found.documents) == 31
    [reject] = found.rejects
    assert (reject["reason"], reject["location"]) == ("corrupt", "project:new0.py")
    assert reject["detail"].startswith(f"swh:1:cnt:{one}")
    [row] = [one for one in identify(filled.path).cnt if one.status != "ok"]
    assert (row.path, row.swhid, row.status) == ("new0.py", f"swh:1:cnt:{one}", "corrupt")


@pytest.mark.parametrize("damage", ["missing", "corrupt"])
def test_a_folder_whose_tree_is_lost_costs_one_row(filled: Any, rows: Callable[..., Any], damage: str) -> None:
    tree = filled.git("rev-parse", "HEAD:d1")
    path = filled.path / ".git" / "objects" / tree[:2] / tree[2:]
    path.chmod(0o644)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"\x78\x9cgarbage")
    found = read(filled, rows)
    assert len(found.documents) == 22
    [reject] = found.rejects
    assert (reject["location"], reject["detail"][:50]) == ("project:d1", f"swh:1:dir:{tree}")
    assert reject["reason"] in (damage, "missing")


def test_partial_clones_keep_the_names_of_what_they_lack(filled: Any, rows: Callable[..., Any], tmp_path: Path) -> None:
    filled.git("config", "uploadpack.allowFilter", "true")
    filled.git("clone", "-q", "--no-checkout", "--filter=blob:none", f"file://{filled.path}", str(tmp_path / "partial"))
    ours, whole = identify(tmp_path / "partial"), identify(filled.path)
    assert [(one.path, one.swhid) for one in ours.cnt] == [(one.path, one.swhid) for one in whole.cnt]
    assert {one.status for one in ours.cnt} == {"missing"}
    assert ours.dir == whole.dir


def test_shallow_clones_have_their_files_and_the_history_that_they_have(
    filled: Any, rows: Callable[..., Any], tmp_path: Path
) -> None:
    filled.git("clone", "-q", "--depth=1", f"file://{filled.path}", str(tmp_path / "shallow"))
    for history in (False, True):
        found = rows(GitRepository("code", str(tmp_path / "shallow"), history=history))
        assert (len(found.documents), found.rejects) == (32, [])


def test_alternates_work_trees_and_bare_clones_read_the_same(filled: Any, rows: Callable[..., Any], tmp_path: Path) -> None:
    expected = read(filled, rows).texts
    filled.git("clone", "-q", "--shared", str(filled.path), str(tmp_path / "shared"))
    filled.git("clone", "-q", "--bare", str(filled.path), str(tmp_path / "bare"))
    filled.git("worktree", "add", "-q", "--detach", str(tmp_path / "linked"))
    for name in ("shared", "bare", "linked"):
        assert rows(GitRepository("code", str(tmp_path / name))).texts == expected
    filled.path.rename(tmp_path / "moved")  # what was borrowed is gone
    with pytest.raises(SourceError, match="not a git repository"):
        rows(GitRepository("code", str(tmp_path / "linked")))
    with pytest.raises(SourceError, match="is missing"):
        rows(GitRepository("code", str(tmp_path / "shared")))


def test_a_repository_that_grows_is_read_as_it_was_planned(filled: Any, rows: Callable[..., Any]) -> None:
    source = GitRepository("code", str(filled.path))
    expected = rows(source)
    [shard] = source.plan()
    filled.write("late.py", "late = 1\n")
    filled.commit()
    batches = iter(read_shard(source, shard))
    reading = source.read(shard)
    first = next(reading)
    filled.write("later.py", "later = 1\n")
    filled.commit()
    filled.git("gc", "-q", "--prune=now")
    texts = [first, *reading]
    assert [document.text for document in texts] == expected.texts  # type: ignore[union-attr]
    assert [row["text"] for batch in batches for row in batch.documents.to_pylist()] == expected.texts
    assert "late = 1\n" in rows(source).texts


def test_a_planned_commit_that_was_thrown_away_is_said(filled: Any) -> None:
    source = GitRepository("code", str(filled.path))
    [shard] = source.plan()
    filled.git("reset", "-q", "--hard", "HEAD~1")
    filled.git("reflog", "expire", "--expire=now", "--all")
    filled.git("gc", "-q", "--prune=now")
    with pytest.raises(SourceError, match="is missing"):
        list(source.read(shard))


def test_what_git_cannot_read_is_said_in_words(
    filled: Any, rows: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "-q", "--object-format=sha256", str(tmp_path / "sha256")], check=True)
    with pytest.raises(SourceError, match="SHA-256, which SWHIDs cannot"):
        identify(tmp_path / "sha256")
    refusing = tmp_path / "bin"
    refusing.mkdir()
    (refusing / "git").write_text("#!/bin/sh\necho \"fatal: detected dubious ownership in repository at '/x'\" >&2\nexit 128\n")
    (refusing / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(refusing))
    with pytest.raises(SourceError, match="belongs to another user") as caught:
        GitObjects(filled.path, "test")
    assert "safe.directory" in str(caught.value.fix)
    (refusing / "git").unlink()
    with pytest.raises(SourceError, match="git is not installed"):
        GitRepositories("code", str(filled.path)).plan()


def test_damage_anywhere_gives_rows_or_a_word_for_it(filled: Any, rows: Callable[..., Any], tmp_path: Path) -> None:
    chance = random.Random(5)
    n_read = 0
    for i in range(12):
        if i == 8:  # in a pack, much is lost with its index
            filled.git("gc", "-q")
            filled.write("loose.py", "loose = 1\n")
            filled.commit()
        copy = Path(shutil.copytree(filled.path, tmp_path / str(i)))
        files = [path for path in sorted((copy / ".git").rglob("*")) if path.is_file() and "objects" in path.parts]
        for path in chance.sample(files, 3):
            path.chmod(0o644)
            data = bytearray(path.read_bytes())
            if chance.random() < 0.3:
                del data[chance.randrange(len(data)) :]
            for _ in range(min(len(data), 10)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            path.write_bytes(data)
        for history in (False, True):
            found = rows(GitRepositories("code", str(copy), history=history))
            n_read += len(found.documents)
            assert found.documents or found.rejects
            assert set(found.reasons) <= {"missing", "corrupt", "bad_record", "damaged", "history"}
        identify(copy)
    assert n_read > 200  # most of it is still there


def test_one_damaged_repository_among_many_is_one_row(filled: Any, rows: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "clones"
    for name in ("whole", "torn", "headless"):
        filled.git("clone", "-q", "--no-hardlinks", str(filled.path), str(folder / name))
    commit = filled.git("rev-parse", "HEAD")
    torn = folder / "torn" / ".git" / "objects" / commit[:2] / commit[2:]
    torn.unlink()
    (folder / "headless" / ".git" / "HEAD").write_text("ref: refs/heads/none\n")
    subprocess.run(["git", "init", "-q", "--object-format=sha256", str(folder / "sha256")], check=True)
    (folder / "fake" / ".git").mkdir(parents=True)
    found = rows(GitRepositories("code", str(folder)))
    assert len(found.documents) == 32
    assert {row["location"]: row["reason"] for row in found.rejects} == {
        "torn": "missing", "headless": "no_commit", "sha256": "sha256", "fake": "not_a_repository",
    }  # fmt: skip


def test_a_repository_that_is_torn_after_it_was_planned(filled: Any) -> None:
    source = GitRepositories("code", str(filled.path))
    [shard] = source.plan()
    commit = filled.git("rev-parse", "HEAD")
    os.unlink(filled.path / ".git" / "objects" / commit[:2] / commit[2:])
    [reject] = list(source.read(shard))
    assert (reject.location, reject.reason) == ("project", "missing")  # type: ignore[union-attr]
