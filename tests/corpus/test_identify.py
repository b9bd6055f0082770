"""`tilth swhid`: a repository, a path in it, and files and folders of the disk; in JSON and for people."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tilth.cli.code_verbs import REF_POLICIES as OFFERED
from tilth.corpus.identify import identify
from tilth.corpus.provenance.git_refs import DEFAULT_POLICY, REF_POLICIES, kept_ref
from tilth.errors import SourceError

ORIGIN = "https://example.org/team/project"


def tilth(*words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "tilth", "swhid", *words], capture_output=True, text=True, check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def test_a_repository_in_json(every_object: Any) -> None:
    every_object.git("remote", "add", "origin", ORIGIN)
    found = json.loads(tilth(str(every_object.path), "--json").stdout)
    git = every_object.git
    assert found["rev"] == "swh:1:rev:" + git("rev-parse", "HEAD")
    assert found["dir"] == "swh:1:dir:" + git("rev-parse", "HEAD^{tree}")
    assert (found["origin"], found["ref_policy"], found["snp"][:10]) == (ORIGIN, "git-loader", "swh:1:snp:")
    files = {one["path"]: one for one in found["cnt"]}
    listed = [line.split("\t") for line in git("-c", "core.quotePath=false", "ls-tree", "-r", "HEAD").splitlines()]
    expected = {path: facts.split() for facts, path in listed if "\udce9" not in path and '"' not in path}
    blobs = {path: (mode, f"swh:1:cnt:{oid}") for path, (mode, kind, oid) in expected.items() if kind == "blob"}
    assert {path: (one["mode"], one["swhid"]) for path, one in files.items() if path in blobs} == blobs
    assert len(files) == len(blobs) + 1
    assert {one["status"] for one in files.values()} == {"ok"}
    latin = files["caf\\udce9.txt"]
    tail = f";origin={ORIGIN};visit={found['snp']};anchor={found['rev']};path=/caf%E9.txt"
    assert latin["qualified"] == latin["swhid"] + tail
    assert [one["path"] for one in found["others"]] == ["module"]
    releases = {one["name"]: one for one in found["rel"]}
    assert releases["refs/tags/v1-again"]["target"] == releases["refs/tags/v1"]["swhid"]


def test_a_repository_for_people(every_object: Any) -> None:
    (every_object.path / ".git" / "refs" / "heads" / "gone").write_text("ref: refs/heads/none\n")
    done = tilth(str(every_object.path))
    assert f"rev         swh:1:rev:{every_object.git('rev-parse', 'HEAD')}" in done.stdout
    assert "ref_policy  git-loader" in done.stdout
    still = every_object.git("rev-parse", "HEAD:deep/er/and/deeper/still")
    assert [f"swh:1:cnt:{still}", "deep/er/and/deeper/still"] in [line.split() for line in done.stdout.splitlines()]
    assert "1 of 16 paths: submodule" in done.stderr
    assert "refs/heads/gone: leads to no object" in done.stderr


def test_policies_of_refs(repo: Any) -> None:
    assert tuple(REF_POLICIES) == OFFERED
    assert DEFAULT_POLICY in OFFERED
    repo.write("a", "a")
    head = repo.commit()
    plain = identify(repo.path).snp
    repo.git("update-ref", "refs/changes/01/1", head)
    assert (identify(repo.path).snp, identify(repo.path, "no-pull-requests").snp) == (plain, plain)
    assert identify(repo.path, "all-refs").snp != plain
    repo.git("update-ref", "refs/pull/1/head", head)
    assert identify(repo.path).snp not in (plain, identify(repo.path, "all-refs").snp)
    assert identify(repo.path, "no-pull-requests").snp == plain
    kept = {"refs/pull/1/head": True, "refs/pull/1/merge": False, "refs/merge-requests/1/merge": False, "refs/tags/x^{}": False}
    assert {name: kept_ref(name) for name in kept} == kept
    with pytest.raises(SourceError, match="no such policy"):
        identify(repo.path, "loader")


def test_a_path_in_a_repository(every_object: Any) -> None:
    git = every_object.git
    folder = identify(every_object.path / "deep" / "er")
    assert (folder.path, folder.dir) == ("/deep/er", "swh:1:dir:" + git("rev-parse", "HEAD:deep/er"))
    assert [one.path for one in folder.cnt] == ["deep/er/and/deeper/still"]
    assert folder.rev == "swh:1:rev:" + git("rev-parse", "HEAD")
    file = identify(every_object.path / "a" / "x")
    assert (file.dir, [one.swhid for one in file.cnt]) == (None, ["swh:1:cnt:" + git("rev-parse", "HEAD:a/x")])
    assert not file.problems
    every_object.write("a/x", "changed")
    [(name, what)] = identify(every_object.path / "a" / "x").problems
    assert (name, what.split(":")[0]) == ("a/x", "changed since HEAD")
    every_object.write("new", "new")
    new = identify(every_object.path / "new")
    assert ([one.swhid for one in new.cnt], new.rev) == (["swh:1:cnt:" + git("hash-object", "new")], None)
    assert new.problems == [("new", "not at HEAD: named as it is on disk")]
    assert [one.mode for one in identify(every_object.path / "link").cnt] == ["120000"]


def test_files_and_folders_of_the_disk(repo: Any, tmp_path: Path) -> None:
    for name in ("a", "sub/b", "sub.txt", "run"):
        repo.write(name, name)
    (repo.path / "run").chmod(0o755)
    (repo.path / "link").symlink_to("sub")
    repo.commit()
    tree = repo.git("rev-parse", "HEAD^{tree}")
    repo.git("worktree", "add", "-q", str(tmp_path / "plain"))
    (tmp_path / "plain" / ".git").unlink()
    found = identify(tmp_path / "plain")
    assert (found.dir, found.rev, found.snp) == (f"swh:1:dir:{tree}", None, None)
    assert [(one.path, one.mode) for one in found.cnt] == [
        ("a", "100644"), ("link", "120000"), ("run", "100755"), ("sub.txt", "100644"), ("sub/b", "100644"),
    ]  # fmt: skip
    assert identify(tmp_path / "plain" / "a").cnt[0].swhid == "swh:1:cnt:" + repo.git("rev-parse", "HEAD:a")
    assert "there is nothing at this path" in tilth(str(tmp_path / "none"), expect=2).stderr
