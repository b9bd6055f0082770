"""A website as a source: crawled once, and again only when something else is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    found = rows(first)
    assert len(found.documents) == 2
    assert {claim["spdx"] for claim in found.licences} == {"PSF-2.0"}

    wider = Website("docs", site=site.site, max_pages=3, delay_seconds=0)
    assert len(rows(wider.fetch(folder / "inputs", seen.append)).documents) == 3
    assert len(STARTS) == 2
