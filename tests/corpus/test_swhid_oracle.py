"""Every object of whole repositories has the id that Software Heritage's own model (GPL, a test-only oracle) gives it.

Real repositories are looked for below `TILTH_TEST_REPOSITORIES`; tests of those that are not there skip and say so.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tilth.corpus.identify import identify
from tilth.corpus.provenance.disk_objects import read_disk_folder
from tilth.corpus.provenance.git_objects import GitObjects
from tilth.corpus.provenance.git_refs import REF_POLICIES
from tilth.corpus.provenance.swhid import Entry, directory_swhid, qualified_swhid, swhid

model = pytest.importorskip("swh.model.model", reason="swh.model is not installed (extra `oracles`)")
from_disk = pytest.importorskip("swh.model.from_disk")
swhids = pytest.importorskip("swh.model.swhids")

KINDS = {b"blob": "cnt", b"tree": "dir", b"commit": "rev", b"tag": "rel"}
KNOWN = (
    "togethercomputer/RedPajama-Data",
    "bigcode-project/bigcode-dataset",
    "huggingface/datatrove",
    "SoftwareHeritage/swh-model",
)


def every(path: Path) -> Iterator[tuple[bytes, str, bytes]]:
    """(git's type, id, body) of every object of a repository."""
    command = ["git", "-c", "safe.directory=*", "-C", str(path), "cat-file", "--batch-all-objects", "--unordered", "--batch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as git:
        assert git.stdout is not None
        while header := git.stdout.readline().split():
            yield header[1], header[0].decode(), git.stdout.read(int(header[2]))
            git.stdout.read(1)


def headers(body: bytes) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
    """The headers of a commit or tag, folded lines joined, and the message (None where there is no empty line)."""
    head, blank, message = body.partition(b"\n\n")
    if not blank:
        head = body.removesuffix(b"\n")
    lines = head.replace(b"\n ", b"\0").split(b"\n")
    pairs = [(key, value.replace(b"\0", b"\n")) for key, _, value in (line.partition(b" ") for line in lines)]
    return pairs, message if blank else None


def who_and_when(value: bytes) -> tuple[Any, Any]:
    match = re.fullmatch(rb"(.*>) (-?\d+) ([+-]\d+)", value, re.DOTALL)
    assert match
    when = model.TimestampWithTimezone(model.Timestamp(int(match[2]), 0), offset_bytes=match[3])
    return model.Person.from_fullname(match[1]), when


def oracle(kind: bytes, body: bytes) -> str:
    """The SWHID that swh.model gives to an object, rebuilt from its parts: not from the bytes."""
    if kind == b"blob":
        return str(model.Content.from_data(body).swhid())
    if kind == b"tree":
        return str(oracle_tree(body).swhid())
    pairs, message = headers(body)
    if kind == b"tag":
        facts = dict(pairs)
        author, date = who_and_when(facts[b"tagger"]) if b"tagger" in facts else (None, None)
        types = {b"commit": "revision", b"tag": "release", b"tree": "directory", b"blob": "content"}
        return str(model.Release(
            name=facts[b"tag"], message=message, target=bytes.fromhex(facts[b"object"].decode()), synthetic=False,
            target_type=model.ReleaseTargetType(types[facts[b"type"]]), author=author, date=date,
        ).swhid())  # fmt: skip
    known = (b"tree", b"parent", b"author", b"committer")
    facts = dict(pairs)
    author, date = who_and_when(facts[b"author"])
    committer, committer_date = who_and_when(facts[b"committer"])
    return str(model.Revision(
        message=message, author=author, committer=committer, date=date, committer_date=committer_date,
        type=model.RevisionType.GIT, directory=bytes.fromhex(facts[b"tree"].decode()), synthetic=False,
        parents=tuple(bytes.fromhex(value.decode()) for key, value in pairs if key == b"parent"),
        extra_headers=tuple((key, value) for key, value in pairs if key not in known),
    ).swhid())  # fmt: skip


def oracle_tree(body: bytes) -> Any:
    entries = []
    while body:
        head, _, rest = body.partition(b"\0")
        mode, _, name = head.partition(b" ")
        kind = {b"40000": "dir", b"160000": "rev"}.get(mode, "file")
        entries.append(model.DirectoryEntry(name=name, type=kind, target=rest[:20], perms=int(mode, 8)))
        body = rest[20:]
    return model.Directory(entries=tuple(entries))


def hold_to_oracle(path: Path) -> dict[str, int]:
    """Compare every object; how many there were of each kind."""
    counts = dict.fromkeys(KINDS.values(), 0)
    for kind, oid, body in every(path):
        ours = swhid(KINDS[kind], body)
        assert ours == oracle(kind, body) == f"swh:1:{KINDS[kind]}:{oid}", (kind, oid)
        if kind == b"tree":  # entries in any order
            entries = [Entry(f"{e.perms:o}", e.name, e.target) for e in oracle_tree(body).entries]
            assert directory_swhid(reversed(entries)) == ours
        counts[KINDS[kind]] += 1
    return counts


def hold_snapshots(path: Path) -> None:
    refs = GitObjects(path, "test").refs
    for policy, keeps in REF_POLICIES.items():
        branches = {
            name: model.SnapshotBranch(target=branch.target, target_type=model.SnapshotTargetType(branch.kind))
            for name, branch in refs.branches.items()
            if keeps(name.decode("utf-8", "surrogateescape"))
        }
        assert refs.snapshot(policy) == str(model.Snapshot(branches=branches).swhid())


def test_every_kind_of_object(every_object: Any) -> None:
    counts = hold_to_oracle(every_object.path)
    assert counts["rev"] >= 8
    assert counts["rel"] == 5
    hold_snapshots(every_object.path)
    found = identify(every_object.path)
    assert {(one.name, one.swhid[6:9], (one.target or "")[6:9]) for one in found.rel} >= {
        ("refs/tags/v1-again", "rel", "rel"), ("refs/tags/v1-again^{}", "rel", "rev"),
        ("refs/tags/tree", "rel", "dir"), ("refs/tags/blob", "rel", "cnt"), ("refs/tags/old", "rel", "rev"),
    }  # fmt: skip
    parsed = [swhids.QualifiedSWHID.from_string(one.qualified) for one in found.cnt if one.qualified]
    assert {os.fsdecode(one.path) for one in parsed} == {f"/{one.path}" for one in found.cnt}
    assert [str(one) for one in parsed] == [one.qualified for one in found.cnt]
    assert [(one.path, one.swhid, one.status) for one in found.others] == [("module", "swh:1:rev:" + "1" * 40, "submodule")]


@pytest.mark.parametrize("name", KNOWN)
def test_every_object_of_a_real_repository(name: str, clone: Callable[[str], Any]) -> None:
    path = clone(name).path
    counts = hold_to_oracle(path)
    assert counts["rev"] > 40
    hold_snapshots(path)


@pytest.mark.data
def test_known_repositories(test_data: Path, clone: Callable[[str], Any]) -> None:
    for known in json.loads((test_data / "swhid_expected.json").read_text()):
        path = clone(known["repo"]).path
        origin = f"https://github.com/{known['repo']}"
        found = identify(path, origin=origin)
        assert (found.rev, found.dir) == (known["rev"], known["dir"])
        snapshots = {"git-loader": "snp", "all-refs": "snp_all_refs", "no-pull-requests": "snp_no_pull"}
        assert {policy: identify(path, policy).snp for policy in snapshots} == {
            policy: known[key] for policy, key in snapshots.items()
        }
        assert len([one for one in found.rel if not one.name.endswith("^{}")]) == known["n_rel"]
        assert len(found.cnt) == known["files"]
        ours = {one.path: one for one in found.cnt}
        for cnt in known["cnt"]:
            one = ours[cnt["path"]]
            assert (one.mode, one.swhid, one.status, one.n_bytes) == (cnt["mode"], cnt["swhid"], "ok", cnt["length"])
            assert one.qualified
            assert one.qualified.replace(f";visit={found.snp}", "") == cnt["qualified"]
        missing = [{"path": one.path, "swhid": one.swhid} for one in found.cnt if one.status == "missing"]
        assert missing == known["missing_blobs"]


def test_a_folder_on_disk(every_object: Any) -> None:
    (every_object.path / "empty folder").mkdir()
    os.mkfifo(every_object.path / "pipe")
    oracle_swhid = str(from_disk.Directory.from_disk(path=os.fsencode(every_object.path), max_content_length=None).swhid())
    swhid_of_folder, files = read_disk_folder(str(every_object.path))
    assert swhid_of_folder == oracle_swhid
    assert {file.path for file in files} >= {"pipe", "link", "a/x", ".git/HEAD", os.fsdecode(b"caf\xe9.txt")}


def test_qualifiers() -> None:
    core = swhid("cnt", b"")
    ours = qualified_swhid(
        core, origin="https://example.org/a;b%c", visit=swhid("snp", b""), anchor=swhid("rev", b""),
        path=os.fsdecode(b"/caf\xe9/a b;c%d"), lines=(3, 9),
    )  # fmt: skip
    theirs = swhids.QualifiedSWHID.from_string(ours)
    assert str(theirs) == ours
    assert (theirs.origin, theirs.path, theirs.lines) == ("https://example.org/a;b%c", b"/caf\xe9/a b;c%d", (3, 9))
