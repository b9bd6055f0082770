"""SWHIDs equal those of git and of Software Heritage."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.corpus.provenance.git_objects import GitObjects
from tilth.corpus.provenance.swhid import (
    Branch,
    Entry,
    content_swhid,
    directory_swhid,
    parse_swhid,
    qualified_swhid,
    release_swhid,
    revision_swhid,
    snapshot_swhid,
)  # fmt: skip


def test_known_contents() -> None:
    # the empty blob's id is git's best known one; the second is the example of the SWHID specification (GPL-3.0's text) by form
    assert content_swhid(b"") == "swh:1:cnt:e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert content_swhid(b"what is up, doc?") == "swh:1:cnt:bd9dbf5aae1a3862dd1526723246b20206e5fc37"


@given(data=st.binary(max_size=2000))
@settings(max_examples=15, deadline=None)
def test_contents_equal_git(data: bytes) -> None:
    found = subprocess.run(["git", "hash-object", "--stdin"], input=data, capture_output=True, check=True)
    assert content_swhid(data) == f"swh:1:cnt:{found.stdout.decode().strip()}"


def test_objects_equal_git(repo: Any) -> None:
    # names that sort differently as files and as folders, and modes of every kind
    for name in ("a", "a.txt", "ab/x", "a-b/x", "a0", "b c", "é"):
        repo.write(name if name != "a" else "a/x", name)
    repo.write("run.sh", "#!/bin/sh\n")
    (repo.path / "run.sh").chmod(0o755)
    (repo.path / "link").symlink_to("run.sh")
    head = repo.commit()
    repo.git("tag", "-a", "v1", "-m", "first")
    for folder in ("", "a"):
        tree = repo.git("rev-parse", f"HEAD:{folder}")
        listed = [line.split(maxsplit=3) for line in repo.git("-c", "core.quotePath=false", "ls-tree", tree).splitlines()]
        entries = [Entry(mode.lstrip("0"), name.encode(), bytes.fromhex(oid)) for mode, _, oid, name in reversed(listed)]
        assert directory_swhid(entries) == f"swh:1:dir:{tree}"
    for kind, swhid in (("commit", revision_swhid), ("tag", release_swhid)):
        oid = head if kind == "commit" else repo.git("rev-parse", "v1")
        raw = subprocess.run(["git", "-C", str(repo.path), "cat-file", kind, oid], capture_output=True, check=True).stdout
        assert swhid(raw).endswith(oid)


def test_snapshot_form_by_hand() -> None:
    import hashlib

    body = b"alias HEAD\x0015:refs/heads/main" + b"revision refs/heads/main\x0020:" + b"\x01" * 20
    expected = hashlib.sha1(b"snapshot %d\0" % len(body) + body).hexdigest()
    branches = {b"refs/heads/main": Branch("revision", b"\x01" * 20), b"HEAD": Branch("alias", b"refs/heads/main")}
    assert snapshot_swhid(branches) == f"swh:1:snp:{expected}"
    with pytest.raises(ValueError, match="not a target type"):
        snapshot_swhid({b"x": Branch("commit", b"\x01" * 20)})


@pytest.mark.data
def test_snapshots_equal_software_heritage(test_data: Path) -> None:
    for known in json.loads((test_data / "swhid_expected.json").read_text()):
        branches = {
            name.encode(): Branch(kind, target.encode() if kind == "alias" else bytes.fromhex(target))
            for name, (kind, target) in known["branches_no_pull"].items()
        }
        assert len(branches) == known["n_branches_no_pull"]
        assert snapshot_swhid(branches) == known["snp_no_pull"]


def test_snapshot_of_a_repository_follows_the_loaders_refs(repo: Any) -> None:
    repo.write("a", "a")
    head = repo.commit()
    for ref in ("refs/pull/1/head", "refs/pull/1/merge", "refs/changes/01/1", "refs/merge-requests/2/merge"):
        repo.git("update-ref", ref, head)
    repo.git("tag", "-a", "v1", "-m", "first")
    commit, tag = bytes.fromhex(head), bytes.fromhex(repo.git("rev-parse", "v1"))
    expected = {
        b"HEAD": Branch("alias", b"refs/heads/main"), b"refs/heads/main": Branch("revision", commit),
        b"refs/pull/1/head": Branch("revision", commit), b"refs/tags/v1": Branch("release", tag),
    }  # fmt: skip
    assert GitObjects(repo.path, "test").head().snapshot == snapshot_swhid(expected)


def test_qualifiers_in_order_and_escaped() -> None:
    core = content_swhid(b"")
    full = qualified_swhid(core, lines=(1, 9), path="/a;b%c", origin="https://example.org/x")
    assert full == f"{core};origin=https://example.org/x;path=/a%3Bb%25c;lines=1-9"
    assert parse_swhid(core) == ("cnt", bytes.fromhex("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"))
    for wrong in ("swh:2:cnt:" + "0" * 40, "swh:1:cnt:" + "0" * 39, core + "\n", full):
        with pytest.raises(ValueError, match="core SWHID"):
            parse_swhid(wrong)
