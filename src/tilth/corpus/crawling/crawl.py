"""A polite crawler of one host: obeys robots.txt, waits between requests, and leaves one finished WARC file or none."""

from __future__ import annotations

import http.client
import io
import logging
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, urldefrag, urljoin, urlsplit
from urllib.robotparser import RobotFileParser

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from tilth import __version__
from tilth.corpus.extract.charset import CharsetError, decode_html
from tilth.errors import SourceError

LOG = logging.getLogger(__name__)
USER_AGENT = f"tilth/{__version__}"
MAX_ATTEMPTS = 3
MAX_REDIRECTS = 5
MAX_URL_CHARS = 2000
MAX_ROBOTS_BYTES = 500 << 10  # as much as RFC 9309, 2.5 asks a crawler to read
MAX_CRAWL_DELAY_SECONDS = 60.0
RETRIED = frozenset({429, 500, 502, 503, 504})
REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True)
class Page:
    """One response as it came, without transfer coding; `is_cut` if only the first bytes were read."""

    url: str
    status: int
    reason: str
    protocol: str
    request_headers: list[tuple[str, str]]
    headers: list[tuple[str, str]]
    body: bytes
    is_cut: bool

    def header(self, name: str) -> str:
        """The first header of that name, or an empty string."""
        return next((value for key, value in self.headers if key.lower() == name), "")


@dataclass
class CrawlReport:
    """What a crawl did: pages written, URLs that never answered, URLs that robots.txt forbids."""

    n_pages: int = 0
    n_bytes: int = 0
    failed: list[str] = field(default_factory=list)
    forbidden: list[str] = field(default_factory=list)


def crawl(
    start_url: str, out_path: str | Path, *, max_pages: int, allow: Callable[[str], bool] = lambda url: True,
    delay_seconds: float = 1.0, timeout_seconds: float = 20.0, max_page_bytes: int = 8 << 20,
    user_agent: str = USER_AGENT, on_page: Callable[[str], None] = lambda url: None,
) -> CrawlReport:  # fmt: skip
    """Fetch up to `max_pages` pages of `start_url`'s host, breadth first in the order of their links, into a gzipped WARC 1.1.

    `allow` is asked before each URL but the first. `timeout_seconds` bounds a whole page, `on_page` is told each URL that
    was written. Redirects that leave the host are written but not followed. The file appears under its name only when
    the crawl is over. Raises SourceError if robots.txt forbids the start or cannot be had, or if the start does not answer.
    """
    report = CrawlReport()
    with closing(_Fetcher(start_url, timeout_seconds, max_page_bytes, user_agent)) as fetcher:
        robots, delay_seconds = _ask_robots(fetcher, delay_seconds)
        with _written_at_once(Path(out_path)) as file:
            writer = WARCWriter(file, gzip=True, warc_version="WARC/1.1")
            info = {"software": user_agent, "format": "WARC File Format 1.1", "robots": "obey"}
            writer.write_record(writer.create_warcinfo_record(Path(out_path).name, info))
            queue: deque[tuple[str, int]] = deque([(fetcher.start, 0)])
            seen = {fetcher.start}
            while queue and report.n_pages < max_pages:
                url, n_hops = queue.popleft()
                if not robots.can_fetch(user_agent, url):
                    report.forbidden.append(url)
                    continue
                page = fetcher.fetch(url, delay_seconds)
                if page is None:
                    report.failed.append(url)
                    continue
                _write(writer, page)
                report.n_pages += page.status not in REDIRECTS
                report.n_bytes += len(page.body)
                on_page(url)
                links = [link for link in fetcher.links(page) if link not in seen and allow(link)]
                seen.update(links)
                if page.status not in REDIRECTS:
                    queue.extend((link, 0) for link in dict.fromkeys(links))
                elif n_hops < MAX_REDIRECTS:
                    queue.extendleft((link, n_hops + 1) for link in links)
            if not report.n_pages:
                _refuse(start_url, report)
    return report


def _refuse(start_url: str, report: CrawlReport) -> None:
    if report.forbidden:
        raise SourceError(
            "robots.txt forbids the start of the crawl", where=start_url, fix="crawl another site, or start at an allowed page"
        )
    raise SourceError("the site gave no page", where=start_url, fix="is the server running, and does it stay on this host?")


class _Fetcher:
    """Requests to one host, over one connection where the server keeps it open."""

    def __init__(self, start_url: str, timeout_seconds: float, max_page_bytes: int, user_agent: str) -> None:
        parts = urlsplit(start_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise SourceError("this is not an http or https URL", where=start_url, fix="write it as https://host/path")
        self.scheme, self.netloc = parts.scheme, parts.netloc
        self.start = normalise_url(start_url, "")
        self.timeout_seconds, self.max_page_bytes, self.user_agent = timeout_seconds, max_page_bytes, user_agent
        self.connection: http.client.HTTPConnection | None = None
        self.next_at = 0.0

    def fetch(self, url: str, delay_seconds: float) -> Page | None:
        """The page, after a bounded number of attempts; None if it never answers."""
        page = None
        for attempt in range(MAX_ATTEMPTS):
            time.sleep(max(0.0, self.next_at - time.monotonic()))
            try:
                page = self._request(url)
            except (OSError, http.client.HTTPException, ValueError) as error:
                LOG.info("%s: attempt %d: %s", url, attempt + 1, error)
                self.close()
            self.next_at = time.monotonic() + delay_seconds
            if page is not None and page.status not in RETRIED:
                break
            if attempt + 1 < MAX_ATTEMPTS:
                self.next_at += 0.25 * 4**attempt
        return page

    def _request(self, url: str) -> Page:
        deadline = time.monotonic() + self.timeout_seconds
        if self.connection is None:
            kind = http.client.HTTPSConnection if self.scheme == "https" else http.client.HTTPConnection
            self.connection = kind(self.netloc, timeout=self.timeout_seconds)
        parts = urlsplit(url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = [
            ("Host", self.netloc),
            ("User-Agent", self.user_agent),
            ("Accept", "text/html,*/*;q=0.5"),
            ("Accept-Encoding", "identity"),
        ]
        self.connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            self.connection.putheader(name, value)
        self.connection.endheaders()
        response = self.connection.getresponse()
        body = self._body(response, deadline)
        if not response.isclosed() or response.will_close:
            self.close()
        protocol = "HTTP/1.0" if response.version == 10 else "HTTP/1.1"
        is_cut = len(body) > self.max_page_bytes
        return Page(
            url, response.status, response.reason, protocol, headers, response.getheaders(), body[: self.max_page_bytes], is_cut
        )

    def _body(self, response: http.client.HTTPResponse, deadline: float) -> bytes:
        parts, n_bytes = [], 0
        while n_bytes <= self.max_page_bytes and (part := response.read1(1 << 16)):
            parts.append(part)
            n_bytes += len(part)
            # the socket's own time limit starts again with every byte that a slow server sends
            if time.monotonic() > deadline:
                raise TimeoutError(f"no whole page after {self.timeout_seconds} s")
        if response.length and n_bytes <= self.max_page_bytes:
            raise http.client.IncompleteRead(b"", response.length)
        return b"".join(parts)

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def links(self, page: Page) -> Iterator[str]:
        """The same-host URLs that a page links to, in its order; for a redirect, its target."""
        if page.status in REDIRECTS:
            targets, base = [page.header("location")], page.url
        elif 200 <= page.status < 300 and "html" in page.header("content-type").lower():
            targets, base = _anchors(page)
        else:
            return
        for target in targets:
            url = normalise_url(target, base)
            parts = urlsplit(url)
            if (parts.scheme, parts.netloc) == (self.scheme, self.netloc) and len(url) <= MAX_URL_CHARS:
                yield url


def normalise_url(target: str, base: str) -> str:
    """An absolute URL without fragment, unsafe characters escaped; an empty string if `target` is no URL."""
    try:
        url = urldefrag(urljoin(base, target.strip())).url
        parts = urlsplit(url)
        return parts._replace(
            path=quote(parts.path or "/", safe="/%:@!$&'()*+,;=~"), query=quote(parts.query, safe="/%:@!$&'()*+,;=?~")
        ).geturl()
    except ValueError:
        return ""


class _Anchors(HTMLParser):
    """Collects the targets of a page's links. (resiliparse's element collections take quadratic time: 60 s for 4,000 links.)"""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.base = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get("href") if tag in ("a", "base") else None
        if target and tag == "a":
            self.targets.append(target)
        elif target and not self.base:
            self.base = target


def _anchors(page: Page) -> tuple[list[str], str]:
    charset = page.header("content-type").lower().partition("charset=")[2].strip(" \"'") or None
    parser = _Anchors()
    try:
        parser.feed(decode_html(page.body, charset)[0])
    except (CharsetError, AssertionError, ValueError):
        return [], page.url
    return parser.targets, urljoin(page.url, parser.base)


def _ask_robots(fetcher: _Fetcher, delay_seconds: float) -> tuple[RobotFileParser, float]:
    """The rules of the host and the delay to keep (RFC 9309: 4xx or no rules allows, 5xx or no answer forbids)."""
    url = f"{fetcher.scheme}://{fetcher.netloc}/robots.txt"
    robots = RobotFileParser(url)
    page = fetcher.fetch(url, delay_seconds)
    for _ in range(MAX_REDIRECTS):
        if page is None or page.status not in REDIRECTS:
            break
        target = next(fetcher.links(page), None)
        page = fetcher.fetch(target, delay_seconds) if target else page
    if page is None or page.status >= 500:
        answer = "does not answer" if page is None else f"answers {page.status}"
        raise SourceError(f"robots.txt {answer}, so nothing may be fetched", where=url, fix="try again later")
    rules = page.body[:MAX_ROBOTS_BYTES].decode("utf-8", "replace") if 200 <= page.status < 300 else ""
    robots.parse(rules.splitlines())
    asked = robots.crawl_delay(fetcher.user_agent)
    return robots, max(delay_seconds, min(float(asked or 0), MAX_CRAWL_DELAY_SECONDS))


def _write(writer: WARCWriter, page: Page) -> None:
    # the body is kept without its transfer coding, so the header must not promise one
    kept = [(f"X-Crawler-{name}" if name.lower() == "transfer-encoding" else name, value) for name, value in page.headers]
    head = StatusAndHeaders(f"{page.status} {page.reason}".strip(), kept, protocol=page.protocol)
    marks = {"WARC-Truncated": "length"} if page.is_cut else {}
    response = writer.create_warc_record(
        page.url, "response", payload=io.BytesIO(page.body), length=len(page.body), http_headers=head, warc_headers_dict=marks
    )
    parts = urlsplit(page.url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    asked = StatusAndHeaders(f"GET {target} HTTP/1.1", page.request_headers, is_http_request=True)
    request = writer.create_warc_record(page.url, "request", payload=io.BytesIO(b""), length=0, http_headers=asked)
    writer.write_request_response_pair(request, response)


@contextmanager
def _written_at_once(path: Path) -> Iterator[io.BufferedWriter]:
    """A file that gets its name when it is complete and on disk; on any exception it is removed."""
    name = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with name.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        name.unlink(missing_ok=True)
        raise
