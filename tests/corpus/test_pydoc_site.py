"""Python's documentation server: starts, is crawled into real text, and always ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilth.corpus.crawling.crawl import crawl
from tilth.corpus.crawling.pydoc_site import allow, pydoc_site
from tilth.corpus.sources.warc import Warc


def children() -> set[int]:
    """The running child processes of this one."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdigit() else []
        except OSError:
            continue
        if fields and int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.add(int(entry.name))
    return found


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", True), ("/topics.html", True), ("/topic?key=LOOPING", True), ("/topic?key=if", True), ("/json.html", True),
        ("/xml.etree.ElementTree.html", True), ("/antigravity.html", False), ("/this.html", False), ("/idlelib.run.html", False),
        ("/tkinter.html", False), ("/test.html", False), ("/json.test.x.html", False), ("/_json.html", False),
        ("/numpy.html", False),
        ("/topic?key=antigravity", False), ("/topic?key=numpy", False), ("/get?key=json", False), ("/search?key=x", False),
        ("/../etc/passwd", False), ("/json.__main__.html", False), ("/pydoc_data/_pydoc.css", False),
    ],
)  # fmt: skip
def test_allow(path: str, expected: bool) -> None:
    assert allow(f"http://127.0.0.1:1{path}") is expected


def test_a_crawl_gives_running_text(tmp_path: Path, rows: Callable[..., Any]) -> None:
    before = children()
    archive = tmp_path / "pydoc.warc.gz"
    start = time.monotonic()
    with pydoc_site() as url:
        assert len(children() - before) == 1
        report = crawl(url, archive, max_pages=90, allow=allow, delay_seconds=0)
    assert time.monotonic() - start < 30
    assert children() == before
    assert (report.n_pages, report.failed) == (90, [])
    found = rows(Warc("web", str(archive)))
    assert (len(found.documents), found.rejects) == (90, [])
    text = next(row["text"] for row in found.documents if row["url"].endswith("key=EXPRESSIONS"))
    assert "Operator precedence" in text
    assert sum(row["n_bytes"] for row in found.documents) > 300_000
    words = sorted(len(text.split()) for text in found.texts)
    assert words[len(words) // 2] > 150
    assert not any(row["text"].startswith("Error") or "could not find object" in row["text"] for row in found.documents)


def test_the_server_ends_with_the_block_that_failed() -> None:
    before = children()
    started = set()

    def fail() -> None:
        with pydoc_site():
            started.update(children() - before)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert len(started) == 1
    assert children() == before
