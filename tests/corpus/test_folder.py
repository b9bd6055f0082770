"""Folders: what is not a readable text file becomes a reject and never blocks."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilth.corpus.sources.folder import Folder, pattern_regex
from tilth.errors import SourceError


def test_text_in_the_order_of_paths(tmp_path: Path, rows: Callable[..., Any]) -> None:
    for name, text in {"b.txt": "bee", "a/z.md": "zed", "a.txt": "ay", "a/LICENSE": "SPDX-License-Identifier: MIT"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = rows(Folder("texts", str(tmp_path)))
    assert [row["path"] for row in found.occurrences] == ["a.txt", "a/LICENSE", "a/z.md", "b.txt"]
    assert found.texts[0] == "ay"
    assert {(row["path"], row["spdx"]) for row in found.licences if row["effective"]} == {("a/LICENSE", "MIT"), ("a/z.md", "MIT")}
    assert [row["path"] for row in rows(Folder("texts", str(tmp_path), pattern="*.txt")).occurrences] == ["a.txt", "b.txt"]
    assert len({row["doc_id"] for row in found.documents}) == 4


def test_strange_files_are_rejects(tmp_path: Path, rows: Callable[..., Any]) -> None:
    (tmp_path / "good").write_text("good")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "null").symlink_to("/dev/zero")
    (tmp_path / "inside").symlink_to(".")
    (tmp_path / "link").symlink_to("good")
    (tmp_path / "large").write_text("x" * 500)
    (tmp_path / "empty").write_text("")
    (tmp_path / "nul").write_bytes(b"a\0")
    (tmp_path / "noise").write_bytes(bytes(range(1, 256)) * 3)
    with open(os.fsencode(tmp_path) + b"/na\xefve", "wb") as file:
        file.write("naïve café, déjà vu à Noël. ".encode("cp1252") * 9)
    found = rows(Folder("texts", str(tmp_path), max_file_bytes=499))
    assert {row["location"]: row["reason"] for row in found.rejects} == {
        "fifo": "special_file", "loop": "symlink_loop", "gone": "vanished", "null": "special_file", "inside": "special_file",
        "empty": "empty", "nul": "binary", "noise": "too_large", "large": "too_large",
    }  # fmt: skip
    assert [row["path"] for row in found.occurrences] == ["good", "link", "na\\udcefve"]
    assert found.texts[2].startswith("naïve café, déjà")
    assert found.documents[2]["encoding"] != "utf-8"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable(tmp_path: Path, rows: Callable[..., Any]) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0)
    assert rows(Folder("texts", str(tmp_path))).reasons == ["unreadable"]


def test_a_folder_that_cannot_be_listed(tmp_path: Path, rows: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "open").write_text("open")
    closed, real = {str(tmp_path / "closed")}, os.scandir

    def scandir(path: str) -> Any:
        if str(path) in closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = rows(Folder("texts", str(tmp_path)))
    assert (found.texts, [row["location"] for row in found.rejects]) == (["open"], ["closed"])
    closed.add(str(tmp_path))
    with pytest.raises(SourceError, match="cannot be read"):
        Folder("texts", str(tmp_path)).plan()


def test_a_file_that_vanishes_after_planning(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    source = Folder("texts", str(tmp_path))
    (shard,) = source.plan()
    (tmp_path / "a").unlink()
    (tmp_path / "a").symlink_to("nowhere")
    with pytest.raises(SourceError, match="changed since"):
        list(source.read(shard))
    assert [getattr(row, "reason", "document") for row in source.read(source.plan()[0])] == ["vanished", "document"]


def test_shards_are_bounded_and_cover_everything(tmp_path: Path, rows: Callable[..., Any]) -> None:
    for i in range(20):
        (tmp_path / f"{i:02d}.txt").write_text("x" * 100)
    source = Folder("texts", str(tmp_path), shard_bytes=350)
    shards = source.plan()
    assert len(shards) == 7
    assert len({shard.fingerprint for shard in shards}) == 7
    assert [row["path"] for row in rows(source).occurrences] == [f"{i:02d}.txt" for i in range(20)]
    (tmp_path / "00.txt").write_text("y" * 100)
    changed = source.plan()
    assert [a.fingerprint != b.fingerprint for a, b in zip(shards, changed, strict=True)] == [True] + [False] * 6
    assert sum(row["n_bytes"] for row in rows(Folder("texts", str(tmp_path), shard_bytes=350, max_bytes=1000)).documents) <= 1000


def test_wrong_folders(tmp_path: Path) -> None:
    for source in (Folder("t", str(tmp_path / "none")), Folder("t", str(tmp_path)), Folder("t", str(tmp_path), pattern="*.x")):
        with pytest.raises(SourceError) as caught:
            source.plan()
        assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [("*.txt", ["a.txt"], ["a/b.txt", "a.txtx"]), ("**/*.txt", ["a.txt", "a/b/c.txt"], ["a.md"]),
    ("a/**", ["a/b", "a/b/c"], ["b/a"]), ("?[1].md", ["a[1].md"], ["a1.md"])],
)  # fmt: skip
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    assert all(pattern_regex(pattern).fullmatch(path) for path in yes)
    assert not any(pattern_regex(pattern).fullmatch(path) for path in no)
