"""The crawler, against a small website on the loopback interface that misbehaves in every way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tilth.corpus.crawling.crawl import crawl, normalise_url
from tilth.corpus.extract.http import parse_response
from tilth.corpus.formats.archive import ArchivedRecord, read_archive
from tilth.corpus.sources.warc import Warc
from tilth.errors import SourceError

PROSE = "<p>" + "Enough words to be the main text of a page. " * 4 + "</p>"


def html(*links: str) -> tuple[int, dict[str, str], bytes]:
    anchors = "".join(f'<a href="{link}">{link}</a> ' for link in links)
    return 200, {"Content-Type": "text/html; charset=utf-8"}, f"<html><body>{anchors}{PROSE}</body></html>".encode()


class Site:
    """Pages by path; each is (status, headers, body). `asked` lists the requests in their order."""

    def __init__(self) -> None:
        self.pages: dict[str, Any] = {"/robots.txt": (404, {}, b"")}
        self.asked: list[str] = []
        self.agents: set[str] = set()
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.asked.append(self.path)
                site.agents.add(self.headers["User-Agent"])
                page = site.pages.get(self.path, (404, {"Content-Type": "text/html"}, b"not here"))
                page = page.pop(0) if isinstance(page, list) and len(page) > 1 else page[0] if isinstance(page, list) else page
                if page == "drop":
                    self.close_connection = True
                    return
                if page == "drip":
                    self.send_response(200)
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    try:
                        for _ in range(60):
                            self.wfile.write(b"x")
                            time.sleep(0.05)
                    except OSError:
                        pass
                    self.close_connection = True
                    return
                status, headers, body = page
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if headers.get("Transfer-Encoding") == "chunked":
                    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
                else:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def run(site: Site, tmp_path: Path, **options: Any) -> Any:
    return crawl(
        f"{site.url}/", tmp_path / "out.warc.gz", **{"max_pages": 50, "delay_seconds": 0, "timeout_seconds": 5, **options}
    )


def responses(tmp_path: Path) -> dict[str, Any]:
    found = list(read_archive(tmp_path / "out.warc.gz", frozenset({"response"}), 1 << 30))
    assert all(isinstance(record, ArchivedRecord) for record in found)
    return {record.headers["warc-target-uri"].partition("/127.0.0.1")[2].partition("/")[2]: record for record in found}  # type: ignore[union-attr]


def test_breadth_first_on_one_host(site: Site, tmp_path: Path) -> None:
    outside = (
        "http://example.org/",
        "file:///etc/passwd",
        "mailto:a@example.org",
        "javascript:void(0)",
        "http://127.0.0.1:1/",
        "http://[bad",
    )
    site.pages |= {
        "/": html("/b", "a?x=1#part", *outside, "/", "/no"), "/a?x=1": html("/c%20d e"), "/b": html("/deep"), "/deep": html("/"),
        "/c%20d%20e": html(),
    }  # fmt: skip
    told: list[str] = []
    report = run(site, tmp_path, allow=lambda url: not url.endswith("/no"), on_page=told.append)
    assert site.asked == ["/robots.txt", "/", "/b", "/a?x=1", "/deep", "/c%20d%20e"]
    assert (report.n_pages, report.failed, report.forbidden) == (5, [], [])
    assert [url.removeprefix(site.url) for url in told] == site.asked[1:]
    assert next(iter(site.agents)).startswith("tilth/")
    rows = list(Warc("web", str(tmp_path / "out.warc.gz")).read(Warc("web", str(tmp_path / "out.warc.gz")).plan()[0]))
    assert len(rows) == 5
    assert all("Enough words" in row.text for row in rows)  # type: ignore[union-attr]


def test_the_file_is_a_warc_that_warcio_finds_valid(site: Site, tmp_path: Path) -> None:
    from warcio.archiveiterator import ArchiveIterator

    site.pages["/"] = html("/x")
    site.pages["/x"] = (200, {"Content-Type": "text/html", "Transfer-Encoding": "chunked"}, PROSE.encode())
    run(site, tmp_path)
    with (tmp_path / "out.warc.gz").open("rb") as file:
        kinds = []
        for record in ArchiveIterator(file, check_digests="raise"):
            kinds.append(record.rec_type)
            record.content_stream().read()
    assert kinds == ["warcinfo", "response", "request", "response", "request"]
    stored = parse_response(responses(tmp_path)["x"].block)
    assert (stored.body, stored.headers["x-crawler-transfer-encoding"]) == (PROSE.encode(), "chunked")


def test_page_limit(site: Site, tmp_path: Path) -> None:
    site.pages |= {f"/{i}": html(f"/{i + 1}") for i in range(30)} | {"/": html("/0")}
    assert run(site, tmp_path, max_pages=7).n_pages == 7
    assert len(site.asked) == 8


def test_redirects_stay_on_the_host_and_end(site: Site, tmp_path: Path) -> None:
    site.pages |= {
        "/": html("/away", "/old"
        , "/loop"), "/away": (302, {"Location": "http://example.org/"}, b""), "/old": (301, {"Location": "/new"}, b""),
        "/new": html(), "/loop": (302, {"Location": "/loop2"}, b""), "/loop2": (302, {"Location": "/loop"}, b""),
    }  # fmt: skip
    site.pages |= {f"/chain{i}": (302, {"Location": f"/chain{i + 1}"}, b"") for i in range(20)}
    site.pages["/new"] = html("/chain0")
    report = run(site, tmp_path)
    assert report.n_pages == 2
    assert sum(path.startswith("/chain") for path in site.asked) == 6
    assert len(site.asked) < 20


@pytest.mark.parametrize(
    ("robots", "asked"),
    [
        ((200, {}, b"User-agent: *\nDisallow: /private\n"), {"/", "/open"}),
        ((200, {}, b"User-agent: tilth\nDisallow: /open\n\nUser-agent: *\nDisallow:\n"), {"/", "/private/x"}),
        ((404, {}, b""), {"/", "/open", "/private/x"}),
        ((403, {}, b""), {"/", "/open", "/private/x"}),
        ((200, {}, b"<html>\xff\xfe what is this</html>"), {"/", "/open", "/private/x"}),
        ((301, {"Location": "/rules"}, b""), {"/", "/open"}),
    ],
)
def test_robots(site: Site, tmp_path: Path, robots: Any, asked: set[str]) -> None:
    site.pages |= {"/robots.txt": robots, "/": html("/private/x", "/open"), "/open": html(), "/private/x": html()}
    site.pages["/rules"] = (200, {}, b"User-agent: *\nDisallow: /private\n")
    report = run(site, tmp_path)
    assert set(site.asked) - {"/robots.txt", "/rules"} == asked
    assert len(report.forbidden) == 3 - len(asked)


@pytest.mark.parametrize("robots", [(503, {}, b""), "drop", (200, {}, b"User-agent: *\nDisallow: /\n")])
def test_robots_that_forbid_everything(site: Site, tmp_path: Path, robots: Any) -> None:
    site.pages |= {"/robots.txt": robots, "/": html()}
    with pytest.raises(SourceError, match=r"robots\.txt"):
        run(site, tmp_path)
    assert "/" not in site.asked
    assert list(tmp_path.iterdir()) == []


def test_crawl_delay_is_kept(site: Site, tmp_path: Path) -> None:
    site.pages |= {"/robots.txt": (200, {}, b"User-agent: *\nCrawl-delay: 1\n"), "/": html("/x"), "/x": html()}
    start = time.monotonic()
    run(site, tmp_path)
    assert time.monotonic() - start >= 1


def test_retries_are_bounded(site: Site, tmp_path: Path) -> None:
    site.pages |= {
        "/": html("/flaky", "/dead", "/broken"),
        "/flaky": [(503, {}, b"wait"), html()],
        "/dead": "drop",
        "/broken": (500, {}, b"oops"),
    }
    report = run(site, tmp_path)
    assert [url.rpartition("/")[2] for url in report.failed] == ["dead"]
    assert (site.asked.count("/flaky"), site.asked.count("/dead"), site.asked.count("/broken")) == (2, 3, 3)
    assert parse_response(responses(tmp_path)["broken"].block).status == 500


def test_slow_and_large_pages_are_bounded(site: Site, tmp_path: Path) -> None:
    site.pages |= {"/": html("/slow", "/large"), "/slow": "drip", "/large": (200, {"Content-Type": "text/html"}, b"y" * 100_000)}
    start = time.monotonic()
    report = run(site, tmp_path, timeout_seconds=0.3, max_page_bytes=10_000)
    assert time.monotonic() - start < 8
    assert [url.rpartition("/")[2] for url in report.failed] == ["slow"]
    large = responses(tmp_path)["large"]
    assert (large.headers["warc-truncated"], len(parse_response(large.block).body)) == ("length", 10_000)


def test_interrupted_crawls_leave_nothing(site: Site, tmp_path: Path) -> None:
    site.pages |= {"/": html("/x"), "/x": html()}
    (tmp_path / "out.warc.gz").write_bytes(b"earlier")

    def stop(url: str) -> None:
        if url.endswith("/x"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(site, tmp_path, on_page=stop)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("out.warc.gz", b"earlier")]


def test_wrong_starts(site: Site, tmp_path: Path) -> None:
    site.pages["/"] = "drop"
    for url, message in ((f"{site.url}/", "gave no page"), ("ftp://example.org/", "not an http"), ("example.org", "not an http")):
        with pytest.raises(SourceError, match=message):
            crawl(url, tmp_path / "x.warc.gz", max_pages=1, delay_seconds=0, timeout_seconds=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("b#c", "http://h/a/b"),
        ("/x y?q=é", "http://h/x%20y?q=%C3%A9"),
        ("//h", "http://h/"),
        ("%41%zz", "http://h/a/%41%zz"),
        ("http://[", ""),
    ],
)
def test_urls(target: str, expected: str) -> None:
    assert normalise_url(target, "http://h/a/") == expected
