"""A website as a source: crawled once, and again only when something else is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tilth.corpus.crawling.website import Website

STARTS: list[str] = []


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def local_site(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    STARTS.append(str(folder))
    try:
        yield f"http://127.0.0.1:{server.server_port}/index.html"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    for name, link in (("index", "second"), ("second", "third"), ("third", "index")):
        text = f"<p>This is the {name} page, with a paragraph that is long enough to be its main text.</p>"
        (tmp_path / "site" / f"{name}.html").write_text(f"<html><body>{text}<a href='{link}.html'>{link}</a></body></html>")
    STARTS.clear()
    return tmp_path


def test_a_crawl_is_kept_and_another_request_is_another_crawl(folder: Path, rows: Callable[..., Any]) -> None:
    seen: list[str] = []
    site = Website("docs", site=partial(local_site, folder / "site"), max_pages=2, delay_seconds=0, licence="PSF-2.0")
    first = site.fetch(folder / "inputs", seen.append)
    assert len(seen) == 2
    assert site.fetch(folder / "inputs", seen.append) == first
    assert len(STARTS) == 1
    whole = replace(site, extract="documentation").fetch(folder / "inputs", seen.append)
    assert (whole.path, whole.extract, len(STARTS)) == (first.path, "documentation", 1), "the same crawl"
    found = rows(first)
    assert len(found.documents) == 2
    assert {claim["spdx"] for claim in found.licences} == {"PSF-2.0"}

    wider = Website("docs", site=site.site, max_pages=3, delay_seconds=0)
    assert len(rows(wider.fetch(folder / "inputs", seen.append)).documents) == 3
    assert len(STARTS) == 2


def test_two_builds_at_once_share_one_crawl(folder: Path) -> None:
    """Every start has another port, so that a second crawl would replace the first by other bytes."""
    (folder / "inputs").mkdir()
    site = Website("docs", site=partial(local_site, folder / "site"), max_pages=3, delay_seconds=0)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: site.fetch(folder / "inputs", lambda url: None), range(4)))
    assert len(STARTS) == 1
    assert [str(path) for path in (folder / "inputs").iterdir()] == [found[0].path] == [warc.path for warc in found[3:]]


def test_what_a_killed_crawl_left_is_removed_by_the_next(folder: Path) -> None:
    site = Website("docs", site=partial(local_site, folder / "site"), max_pages=2, delay_seconds=0)
    name = Path(site.fetch(folder / "inputs", lambda url: None).path).name
    (folder / "inputs" / name).rename(folder / "inputs" / f".{name}.123-abcd.partial")
    site.fetch(folder / "inputs", lambda url: None)
    assert [path.name for path in (folder / "inputs").iterdir()] == [name]
