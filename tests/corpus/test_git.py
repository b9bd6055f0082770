"""Git repositories: every blob once, with SWHIDs, and nothing is run, written or fetched."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilth.corpus.provenance.git_objects import GitObjects, public_origin
from tilth.corpus.sources.git import GitRepository
from tilth.errors import SourceError


def by_path(found: Any) -> dict[str, dict[str, Any]]:
    text = {(row["shard"], row["row"]): row for row in found.documents}
    return {seen["path"]: {**text[seen["shard"], seen["row"]], **seen} for seen in found.occurrences}


@pytest.fixture
def source(repo: Any) -> GitRepository:
    repo.write("a.py", "print('a')\n")
    repo.write("sub/b c.md", "Text é\n")
    repo.write("same.py", "print('a')\n")
    repo.write("LICENSE", "SPDX-License-Identifier: MIT\n")
    repo.commit()
    return GitRepository("code", str(repo.path))


def test_head_and_its_provenance(repo: Any, source: GitRepository, rows: Callable[..., Any]) -> None:
    repo.git("remote", "add", "origin", "https://user:secret@example.org/team/project.git?token=1")
    found = rows(source)
    assert not found.rejects
    assert len(found.documents) == 3
    files = by_path(found)
    row = files["a.py"]
    oid = repo.git("rev-parse", "HEAD:a.py")
    assert row["raw_swhid"] == row["text_swhid"] == f"swh:1:cnt:{oid}"
    assert row["doc_id"].bytes == hashlib.sha256(f"swh:1:cnt:{oid}".encode()).digest()[:16]
    assert row["doc_id"] == files["same.py"]["doc_id"]
    assert row["origin"] == "https://example.org/team/project.git"
    assert row["revision"] == "swh:1:rev:" + repo.git("rev-parse", "HEAD")
    assert row["directory"] == "swh:1:dir:" + repo.git("rev-parse", "HEAD^{tree}")
    assert (row["language"], row["mode"], row["date"]) == ("Python", "100644", "2024-01-02T03:04:05+00:00")
    assert files["sub/b c.md"]["text"] == "Text é\n"
    assert {claim["spdx"] for claim in found.licences} == {"MIT"}


def test_history_has_every_blob_with_the_revision_that_brought_it(
    repo: Any, source: GitRepository, rows: Callable[..., Any]
) -> None:
    first = repo.git("rev-parse", "HEAD")
    repo.write("a.py", "print('b')\n")
    second = repo.commit()
    repo.git("checkout", "-q", "-b", "side", first)
    repo.write("side.py", "side = 1\n")
    third = repo.commit()
    repo.git("checkout", "-q", "main")
    repo.git("merge", "-q", "--no-edit", "side")
    (repo.path / "a.py").unlink()
    repo.commit()
    found = rows(GitRepository("code", str(repo.path), history=True))
    seen = {(row["path"], row["raw_swhid"][10:]): row["revision"][10:] for row in by_path(found).values()}
    seen = {(o["path"], o["revision"][10:]) for o in found.occurrences}
    assert {("a.py", first), ("a.py", second), ("side.py", third), ("same.py", first)} <= seen
    listed = repo.git("rev-list", "--objects", "--no-object-names", "HEAD").split()
    kinds = repo.git("cat-file", "--batch-check=%(objecttype) %(objectname)", data="\n".join(listed).encode()).splitlines()
    assert {row["raw_swhid"][10:] for row in found.documents} == {line[5:] for line in kinds if line.startswith("blob ")}
    assert len(rows(source).documents) == 4 - 1 + 1


def test_what_is_not_text(repo: Any, rows: Callable[..., Any]) -> None:
    repo.write("empty", b"")
    repo.write("binary", b"\x7fELF\0\0")
    repo.write("late nul", b"x" * 9000 + b"\0")
    repo.write("noise", bytes(range(1, 256)) * 3)
    repo.write("large", b"y" * 3000)
    repo.write("latin", "Größe und Maß, schön über Straßen\n".encode("latin-1") * 5)
    repo.write("wide", "wide text\n".encode("utf-16"))
    (repo.path / "link").symlink_to("large")
    repo.commit()
    found = rows(GitRepository("code", str(repo.path), max_blob_bytes=9001))
    reasons = {row["location"]: row["reason"] for row in found.rejects}
    assert reasons == {
        "project:empty": "empty",
        "project:binary": "binary",
        "project:late nul": "nul_byte",
        "project:noise": "decode",
        "project:link": "symlink",
    }
    files = by_path(found)
    assert set(files) == {"large", "latin", "wide"}
    assert files["latin"]["text"].startswith("Größe")
    assert files["latin"]["raw_swhid"] != files["latin"]["text_swhid"]
    assert files["wide"]["text"] == "wide text\n"
    assert rows(GitRepository("code", str(repo.path), max_blob_bytes=2999)).reasons.count("too_large") == 2


def test_a_bare_clone_reads_the_same(repo: Any, source: GitRepository, rows: Callable[..., Any], tmp_path: Path) -> None:
    repo.git("clone", "-q", "--bare", str(repo.path), str(tmp_path / "bare.git"))
    bare = rows(GitRepository("code", str(tmp_path / "bare.git")))
    assert bare.texts == rows(source).texts
    assert {row["origin"] for row in bare.occurrences} == {"bare.git"}  # a path on this machine is not an origin


def test_submodules_are_counted_with_the_revision_that_they_name(
    repo: Any, source: GitRepository, rows: Callable[..., Any]
) -> None:
    repo.git("update-index", "--add", "--cacheinfo", "160000", "1" * 40, "module")
    repo.git("commit", "-q", "-m", "submodule")
    found = rows(source)
    assert set(by_path(found)) == {"LICENSE", "a.py", "same.py", "sub/b c.md"}
    [reject] = found.rejects
    assert (reject["location"], reject["reason"]) == ("project:module", "submodule")
    assert reject["detail"].startswith("swh:1:rev:" + "1" * 40)


def test_missing_and_corrupt_objects_cost_one_row_each(repo: Any, source: GitRepository, rows: Callable[..., Any]) -> None:
    missing, corrupt = repo.git("rev-parse", "HEAD:a.py"), repo.git("rev-parse", "HEAD:sub/b c.md")
    objects = repo.path / ".git" / "objects"
    (objects / missing[:2] / missing[2:]).unlink()
    broken = objects / corrupt[:2] / corrupt[2:]
    broken.chmod(0o644)
    broken.write_bytes(b"\x78\x9cgarbage")
    found = rows(source)
    assert {(row["reason"], row["detail"].split(": ")[0]) for row in found.rejects} >= {("missing", f"swh:1:cnt:{missing}")}
    assert len(found.rejects) == 2
    assert corrupt in found.rejects[1]["detail"]
    assert set(by_path(found)) == {"LICENSE"}


def test_a_commit_that_cannot_be_read_is_named_and_the_others_are_read(
    repo: Any, source: GitRepository, rows: Callable[..., Any]
) -> None:
    first, tree = repo.git("rev-parse", "HEAD"), repo.git("rev-parse", "HEAD^{tree}")
    for text in ("2", "3", "4"):
        repo.write("a.py", text)
        repo.commit()
    (repo.path / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    assert not rows(source).rejects
    found = rows(GitRepository("code", str(repo.path), history=True))
    # the commit whose tree is gone, and the next one, which is told by its difference from that tree
    second = repo.git("rev-parse", "HEAD~2")
    assert [(row["reason"], row["detail"][:50]) for row in found.rejects] == [
        ("damaged", f"swh:1:rev:{first}"),
        ("damaged", f"swh:1:rev:{second}"),
    ]
    assert {"3", "4"} <= set(found.texts)
    assert set(by_path(found)) == {"LICENSE", "a.py", "same.py", "sub/b c.md"}


def test_a_history_that_cannot_be_walked_leaves_the_files_at_head(
    repo: Any, source: GitRepository, rows: Callable[..., Any]
) -> None:
    first = repo.git("rev-parse", "HEAD")
    for text in ("2", "3"):
        repo.write("a.py", text)
        repo.commit()
    (repo.path / ".git" / "objects" / first[:2] / first[2:]).unlink()
    found = rows(GitRepository("code", str(repo.path), history=True))
    assert found.reasons == ["history"]
    assert by_path(found)["a.py"]["text"] == "3"


def test_a_commit_without_a_date(repo: Any, source: GitRepository, rows: Callable[..., Any]) -> None:
    tree = repo.git("rev-parse", "HEAD^{tree}")
    manifest = f"tree {tree}\nauthor A <a@example.org>\ncommitter C <c@example.org>\n\nold\n".encode()
    repo.git("update-ref", "HEAD", repo.git("hash-object", "-t", "commit", "-w", "--literally", "--stdin", data=manifest))
    assert {row["date"] for row in by_path(rows(source)).values()} == {None}
    repo.write("new.py", "new = 1\n")
    repo.commit()
    files = by_path(rows(GitRepository("code", str(repo.path), history=True)))
    assert (files["a.py"]["date"], files["new.py"]["date"]) == (None, "2024-01-02T03:04:05+00:00")


def test_a_work_tree_below_a_folder_called_sha256(
    repo: Any, source: GitRepository, rows: Callable[..., Any], tmp_path: Path
) -> None:
    repo.path.rename(tmp_path / "sha256")
    repo.path = tmp_path / "sha256"
    repo.git("worktree", "add", "-q", str(tmp_path / "linked"))
    assert len(rows(GitRepository("code", str(tmp_path / "linked"))).documents) == 3


def test_a_partial_clone_is_never_asked_to_fetch(
    repo: Any, source: GitRepository, rows: Callable[..., Any], tmp_path: Path
) -> None:
    repo.git("config", "uploadpack.allowFilter", "true")
    repo.git("clone", "-q", "--no-checkout", "--filter=blob:none", f"file://{repo.path}", str(tmp_path / "partial"))
    found = rows(GitRepository("code", str(tmp_path / "partial")))
    assert (found.documents, set(found.reasons)) == ([], {"missing"})
    assert len(found.rejects) == 3


def test_nothing_of_the_repository_runs_or_changes(
    repo: Any, source: GitRepository, rows: Callable[..., Any], tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    trap = tmp_path / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {marker}\n")
    trap.chmod(0o755)
    for name in ("post-checkout", "post-index-change", "fsmonitor-watchman", "reference-transaction"):
        hook = repo.path / ".git" / "hooks" / name
        hook.write_text(trap.read_text())
        hook.chmod(0o755)
    settings = {
        "core.fsmonitor": trap, "core.pager": trap, "diff.external": trap, "core.sshCommand": trap, "log.showSignature": "true",
        "gpg.program": trap, "filter.x.smudge": trap, "diff.x.textconv": trap, "core.hooksPath": repo.path / ".git" / "hooks",
    }  # fmt: skip
    for name, value in settings.items():
        repo.git("config", name, str(value))
    repo.write(".gitattributes", "* filter=x diff=x\n")
    before = {path: path.stat().st_mtime_ns for path in sorted(repo.path.rglob("*"))}
    rows(GitRepository("code", str(repo.path), history=True))
    assert {path: path.stat().st_mtime_ns for path in sorted(repo.path.rglob("*"))} == before
    assert not marker.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_repository_of_another_user_reads(repo: Any, source: GitRepository, rows: Callable[..., Any]) -> None:
    for path in [repo.path, *repo.path.rglob("*")]:
        os.chown(path, 65534, 65534, follow_symlinks=False)
    assert subprocess.run(
        ["git", "-C", str(repo.path), "status"], capture_output=True, env={"PATH": os.environ["PATH"]}
    ).returncode
    assert len(rows(source).documents) == 3


def test_names_that_are_not_utf8(repo: Any, rows: Callable[..., Any]) -> None:
    name = os.fsencode(repo.path) + b"/caf\xe9.txt"
    with open(name, "wb") as file:
        file.write(b"text")
    repo.commit()
    assert set(by_path(rows(GitRepository("code", str(repo.path), history=True)))) == {"caf\\udce9.txt"}


def test_environment_of_a_git_hook_does_not_lead_astray(
    repo: Any, source: GitRepository, rows: Callable[..., Any], monkeypatch: Any
) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere/index")
    assert len(rows(source).documents) == 3


def test_fingerprint_follows_head_and_refs(repo: Any, source: GitRepository) -> None:
    before = source.plan()[0]
    assert source.plan()[0] == before
    assert str(repo.path) not in str(before.params)
    repo.write("new", "new")
    repo.commit()
    assert source.plan()[0].fingerprint != before.fingerprint
    assert before.params["revision"] != source.plan()[0].params["revision"]


def test_no_repository_no_commit(tmp_path: Path, repo: Any) -> None:
    (tmp_path / "plain").mkdir()
    (repo.path / "inner").mkdir()
    cases = [
        (tmp_path / "plain", "not a git repository"),
        (tmp_path / "none", "no such folder"),
        (repo.path, "no commit at HEAD"),
    ]
    for path, message in [*cases, (repo.path / "inner", "not a git repository")]:
        with pytest.raises(SourceError, match=message) as caught:
            GitRepository("code", str(path)).plan()
        assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://token@github.com/a/b.git", "https://github.com/a/b.git"), ("git@github.com:a/b.git", "github.com:a/b.git"),
        ("ssh://git:pw@host:22/a?x=1#y", "ssh://host:22/a"), ("/home/user/repo", None), ("file:///home/user/repo", None),
        ("", None), ("../up:x", None),
    ],
)  # fmt: skip
def test_origins_without_secrets(url: str, expected: str | None) -> None:
    assert public_origin(url) == expected


def test_large_input_keeps_order_and_cap(repo: Any, rows: Callable[..., Any]) -> None:
    for i in range(300):
        repo.write(f"f{i:03d}.txt", f"file {i} " * 300)
    repo.commit()
    objects = GitObjects(repo.path, "test")
    oids = [file.oid for file in objects.tree(objects.head().tree)]
    assert [blob.oid for blob in objects.blobs(oids, 1 << 20)] == oids
    found = rows(GitRepository("code", str(repo.path), max_bytes=10_000))
    assert [row["path"] for row in found.occurrences] == [f"f{i:03d}.txt" for i in range(len(found.documents))]
    assert 7_000 < sum(row["n_bytes"] for row in found.documents) <= 10_000


@pytest.mark.data
def test_this_repositorys_own_history(repository: Path, rows: Callable[..., Any]) -> None:
    if not (repository / ".git").exists():
        pytest.skip("not a checkout")
    found = rows(GitRepository("self", str(repository), history=True))
    assert len(found.documents) > 50
    assert {"swh:1:cnt:" + row["raw_swhid"][10:] for row in found.documents if row["encoding"] == "utf-8"} == {
        row["text_swhid"] for row in found.documents if row["encoding"] == "utf-8"
    }
