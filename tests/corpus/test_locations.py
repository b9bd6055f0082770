"""Files are found, opened and fingerprinted alike, here and behind URLs; the servers are on loopback, the S3 one a stub."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from tilth.corpus.locations import FoundFile, find_files, fingerprint_of, group_by_size, open_raw, plan_files, split_url
from tilth.corpus.records import Document
from tilth.corpus.sources.arxiv import ArxivSource
from tilth.corpus.sources.books import Books
from tilth.corpus.sources.csv_files import CsvFiles
from tilth.corpus.sources.json_lines import JsonLines
from tilth.corpus.sources.mediawiki import MediaWikiDump
from tilth.corpus.sources.stackexchange import StackExchange
from tilth.corpus.sources.warc import Warc
from tilth.errors import SourceError

CONTENT: dict[str, bytes] = {
    "data/a.jsonl": b'{"text": "one"}\n',
    "data/b.jsonl.gz": gzip.compress(b'{"text": "two"}\n', mtime=0),
    "data/deep/c.txt": b"x" * 3000,
}
PAGE = b"<page><title>T</title><ns>0</ns><id>1</id><revision><id>2</id><text>text</text></revision></page>"
S3_LIST = "http://s3.amazonaws.com/doc/2006-03-01/"


class Handler(BaseHTTPRequestHandler):
    """Plain HTTP with ranges and listings, and as much of S3 as listing, HEAD and GET are (path style)."""

    protocol_version = "HTTP/1.1"
    etags: bool | None = True  # None: no date either
    fails = False
    fault = ""  # short, empty, early, no length, no ranges, no head, redirect

    def do_HEAD(self) -> None:
        self._answer(send_body=False)

    def do_GET(self) -> None:
        self._answer(send_body=True)

    def _answer(self, send_body: bool) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        path = unquote(parts.path).lstrip("/")
        if "list-type" in query:
            return self._send(200, self._listing(query), {"Content-Type": "application/xml"}, send_body)
        path = path.removeprefix("bucket/")
        data = CONTENT.get(path)
        if path.endswith("/"):
            names = sorted({name[len(path) :] for name in CONTENT if name.startswith(path)})
            data = "".join(f'<a href="{name}">{name}</a>' for name in names).encode()
        if self.fault == "redirect" and not path.startswith("moved/"):
            return self._send(302, b"", {"Location": f"/moved/{path}"}, send_body)
        data = CONTENT.get(path.removeprefix("moved/")) if data is None else data
        if data is None:
            return self._send(404, b"", {}, send_body)
        if self.fault == "no head" and not send_body:
            return self._send(405, b"", {}, send_body)
        headers = {"Accept-Ranges": "bytes", "Last-Modified": "Mon, 02 Mar 2026 00:00:00 GMT"}
        if self.etags is None:
            del headers["Last-Modified"]
        if self.fault == "no ranges":
            del headers["Accept-Ranges"]
        if self.etags:
            headers["ETag"] = f'"{hashlib.md5(data).hexdigest()}"'
        if self.fails and send_body:
            return self._send(500, b"broken", {}, send_body)
        wanted = self.headers.get("Range")
        if not wanted or self.fault == "no ranges":
            return self._send(200, data, headers, send_body)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        end = min(int(last) + 1, len(data)) if last else len(data)
        if int(first) >= len(data):
            return self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"}, send_body)
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
        part = data[int(first) : end]
        part = {"short": part[: len(part) // 2], "empty": b""}.get(self.fault, part)
        return self._send(206, part, headers, send_body)

    def _listing(self, query: dict[str, list[str]]) -> bytes:
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        keys = [key for key in CONTENT if key.startswith(prefix)]
        folders = sorted(
            {prefix + key[len(prefix) :].split("/")[0] + "/" for key in keys if delimiter and "/" in key[len(prefix) :]}
        )
        plain = [key for key in keys if not (delimiter and "/" in key[len(prefix) :])]
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(CONTENT[key])}</Size><ETag>&quot;{hashlib.md5(CONTENT[key]).hexdigest()}&quot;</ETag>"
            "<LastModified>2026-03-02T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
            for key in plain
        )
        common = "".join(f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in folders)
        head = f"<Name>bucket</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(plain)}</KeyCount><IsTruncated>false</IsTruncated>"
        return f'<?xml version="1.0"?><ListBucketResult xmlns="{S3_LIST}">{head}{entries}{common}</ListBucketResult>'.encode()

    def _send(self, status: int, body: bytes, headers: dict[str, str], send_body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.fault == "no length":
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if send_body:
            self.wfile.write(body[: len(body) // 2] if self.fault == "early" else body)
        self.close_connection = self.fault in ("early", "no length")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.daemon_threads = True
        thread = threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{found.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


def make_tree(root: Path) -> None:
    for name, data in CONTENT.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "data/_hidden.jsonl").write_bytes(b"{}")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{}/data/a.jsonl", ["a.jsonl"]),
        ("{}/data", ["a.jsonl", "b.jsonl.gz", "deep/c.txt"]),
        ("{}/data/*.jsonl*", ["_hidden.jsonl", "a.jsonl", "b.jsonl.gz"]),
        ("{}/*/*.gz", ["data/b.jsonl.gz"]),
        ("{}/data/**", ["_hidden.jsonl", "a.jsonl", "b.jsonl.gz", "deep/c.txt"]),
        ("file://{}/data/[ab].*", ["a.jsonl", "b.jsonl.gz"]),
        ("{}/data/_hidden.jsonl", ["_hidden.jsonl"]),
    ],
)
def test_local_patterns_name_files_below_their_literal_part(tmp_path: Path, pattern: str, names: list[str]) -> None:
    make_tree(tmp_path)
    assert [file.name for file in find_files(pattern.format(tmp_path), "test")] == names


def test_a_folder_is_filtered_by_suffix_and_a_pattern_is_not(tmp_path: Path) -> None:
    make_tree(tmp_path)
    assert [file.name for file in find_files(str(tmp_path), "test", (".txt",))] == ["data/deep/c.txt"]
    assert len(find_files(f"{tmp_path}/data/*.gz", "test", (".txt",))) == 1


@pytest.mark.parametrize("pattern", ["/nowhere/at/all", "{}/data/*.parquet", "s4://bucket/key", "memory://nothing-here"])
def test_what_is_not_there_says_so(tmp_path: Path, pattern: str) -> None:
    make_tree(tmp_path)
    with pytest.raises(SourceError) as caught:
        find_files(pattern.format(tmp_path), "Source x")
    assert caught.value.where
    assert caught.value.fix


def test_an_unknown_scheme_suggests_a_known_one() -> None:
    with pytest.raises(SourceError, match="Did you mean `s3`"):
        split_url("s3a://bucket/x", "x")


def test_memory_files_are_fingerprinted_by_their_content() -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    store.pipe("/tilth-test/a.txt", b"hello")
    (file,) = find_files("memory://tilth-test/*.txt", "test")
    assert file.name == "a.txt"
    assert fingerprint_of(file) == hashlib.sha256(b"hello").hexdigest()
    store.rm("/tilth-test", recursive=True)


def test_http_is_read_with_ranges_and_fingerprinted_by_a_strong_etag(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = find_files(f"{server}/data/deep/c.txt", "test")
    assert (file.name, file.size_bytes) == ("c.txt", 3000)
    with open_raw(file.location) as stream:
        stream.seek(2990)
        assert stream.read() == b"x" * 10
    by_etag = fingerprint_of(file)
    assert by_etag != hashlib.sha256(CONTENT["data/deep/c.txt"]).hexdigest()
    monkeypatch.setattr(Handler, "etags", False)
    (plain,) = find_files(f"{server}/data/deep/c.txt", "test")
    assert plain.checksum == ""
    assert fingerprint_of(plain) == hashlib.sha256(CONTENT["data/deep/c.txt"]).hexdigest()


def test_an_http_listing_is_a_folder(server: str) -> None:
    assert [file.name for file in find_files(f"{server}/data/*.jsonl*", "test")] == ["a.jsonl", "b.jsonl.gz"]


def test_s3_is_listed_read_and_fingerprinted_by_its_etag(server: str) -> None:
    files = find_files("s3://bucket/data", "test")
    assert [file.name for file in files] == ["a.jsonl", "b.jsonl.gz", "deep/c.txt"]
    (one,) = find_files("s3://bucket/data/*.gz", "test")
    assert one.checksum == files[1].checksum != ""
    with open_raw(one.location) as stream:
        assert stream.read() == CONTENT["data/b.jsonl.gz"]


@pytest.mark.parametrize("root", ["{}/data/a.jsonl", "{}/data/*.jsonl*", "s3://bucket/data/*.jsonl*"])
def test_a_source_reads_from_a_server_what_it_reads_from_disk(server: str, tmp_path: Path, root: str) -> None:
    make_tree(tmp_path)
    remote = JsonLines("web", root.format(server))
    local = JsonLines("web", f"{tmp_path}/data/{root.rpartition('/')[2].replace('*.', '[ab].')}")
    rows = [[row for shard in source.plan() for row in source.read(shard)] for source in (remote, local)]
    assert rows[0] == rows[1]
    assert len(rows[0]) in (1, 2)


def test_a_fault_of_the_server_is_an_error_and_never_a_reject(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = JsonLines("web", f"{server}/data/a.jsonl")
    shards = source.plan()
    monkeypatch.setattr(Handler, "fails", True)
    with pytest.raises(SourceError, match="500"):
        list(source.read(shards[0]))


def test_a_file_that_vanished_is_named(server: str, tmp_path: Path) -> None:
    make_tree(tmp_path)
    source = JsonLines("web", f"{tmp_path}/data")
    (shard,) = source.plan()
    (tmp_path / "data/a.jsonl").unlink()
    with pytest.raises(SourceError, match=r"a\.jsonl"):
        list(source.read(shard))
    with pytest.raises(SourceError, match="no such file"):
        open_raw(f"{server}/data/none").read()


def test_shards_are_runs_of_files_and_their_fingerprints_change_with_content(tmp_path: Path) -> None:
    files = [FoundFile(str(i), str(tmp_path / str(i)), size) for i, size in enumerate((60, 60, 10, 200, 1))]
    for file in files:
        Path(file.location).write_bytes(b"a" * file.size_bytes)
    groups = group_by_size(files, [file.size_bytes for file in files], 100)
    assert [[file.size_bytes for file in group] for group in groups] == [[60], [60, 10], [200], [1]]
    before = plan_files("n", groups, {}, 331)
    Path(files[2].location).write_bytes(b"b" * 10)
    after = plan_files("n", groups, {}, 331)
    assert [a.fingerprint == b.fingerprint for a, b in zip(before, after, strict=True)] == [True, False, True, True]
    assert [shard.params["max_bytes"] for shard in before] == [60, 70, 200, 1]
    assert [file.name for file in after[1].files] == ["1", "2"]
    assert str(tmp_path) not in str([shard.params for shard in before])


SOURCES: dict[str, tuple[Any, bytes]] = {
    "a.warc": (Warc, b"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Length: 4\r\n\r\ntext\r\n\r\n" * 50),
    "a.xml.bz2": (MediaWikiDump, bz2.compress(b"<mediawiki>%b</mediawiki>" % (PAGE * 50))),
    "Posts.xml": (
        StackExchange,
        b"<posts>%b</posts>" % b"".join(b'<row Id="%d" PostTypeId="1" Body="b"/>' % i for i in range(50)),
    ),
    "1501.00001.gz": (ArxivSource, gzip.compress(b"\\documentclass{a}\\begin{document}text\\end{document}")),
    "b.txt": (Books, b"A book.\n" * 500),
    "c.csv": (CsvFiles, b"text\n" + b"a\n" * 500),
    "p.jsonl": (JsonLines, b'{"text": "a"}\n' * 500),
}


@pytest.fixture
def remote(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[Any, Any]]:
    """A source on the server and on disk."""

    def make(name: str) -> tuple[Any, Any]:
        kind, data = SOURCES[name]
        monkeypatch.setitem(CONTENT, name, data)
        (tmp_path / name).write_bytes(data)
        return kind("s", f"{server}/{name}"), kind("s", str(tmp_path / name))

    return make


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("fault", ["", "redirect", "no head", "no ranges"])
def test_every_source_reads_from_a_server_what_it_reads_from_disk(
    remote: Callable[[str], tuple[Any, Any]], name: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here = remote(name)
    monkeypatch.setattr(Handler, "fault", fault)
    rows = [[row for shard in source.plan() for row in source.read(shard)] for source in (there, here)]
    assert rows[0] == rows[1]
    assert all(isinstance(row, Document) for row in rows[0])


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("fault", ["short", "empty", "early", "no length"])
def test_what_a_server_holds_back_is_an_error_and_never_the_end_of_a_file(
    remote: Callable[[str], tuple[Any, Any]], name: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here = remote(name)
    shards = there.plan()
    whole = [row for shard in here.plan() for row in here.read(shard)]
    monkeypatch.setattr(Handler, "fault", fault)
    try:
        rows = [row for shard in shards for row in there.read(shard)]
    except SourceError:
        return
    assert fault == "short"  # the rest was asked for once more
    assert rows == whole


@pytest.mark.parametrize("etags", [True, None])
@pytest.mark.parametrize("name", SOURCES)
def test_a_remote_file_that_was_changed_after_planning_is_noticed(
    remote: Callable[[str], tuple[Any, Any]], name: str, etags: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "etags", etags)
    there, _ = remote(name)
    (shard,) = there.plan()
    data = CONTENT[name]
    monkeypatch.setitem(CONTENT, name, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(SourceError, match="changed since"):
        list(there.read(shard))
