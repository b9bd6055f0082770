"""What all sources of files share: small files in one shard, the same rows for any shards, and no output of another file's key."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tilth.corpus.formats.parquet_pages import MAX_PAGES, Chunk, Page, footer_bytes, pages, read_footer
from tilth.corpus.records import Document, Reject
from tilth.corpus.sources.arc import Arc
from tilth.corpus.sources.arxiv import ArxivSource
from tilth.corpus.sources.books import Books
from tilth.corpus.sources.csv_files import CsvFiles
from tilth.corpus.sources.folder import Folder
from tilth.corpus.sources.hugging_face import HuggingFaceDataset
from tilth.corpus.sources.json_lines import JsonLines
from tilth.corpus.sources.mediawiki import MediaWikiDump
from tilth.corpus.sources.parquet_files import ParquetFiles
from tilth.corpus.sources.redpajama_v2 import RedPajamaV2
from tilth.corpus.sources.stackexchange import StackExchange
from tilth.corpus.sources.warc import Warc
from tilth.corpus.sources.wat import Wat
from tilth.errors import SourceError

HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html><body><p>%b</p></body></html>"
WAT = {
    "Envelope": {
        "WARC-Header-Metadata": {"WARC-Type": "response"},
        "Payload-Metadata": {"HTTP-Response-Metadata": {"HTML-Metadata": {"Head": {"Title": "TEXT"}}}},
    }
}
WIKI = b"<mediawiki><page><title>T</title><ns>0</ns><id>1</id><revision><id>2</id><text>%b</text></revision></page></mediawiki>"


def warc(kind: bytes, block: bytes) -> bytes:
    head = b"WARC/1.0\r\nWARC-Type: %b\r\nContent-Type: application/http\r\nContent-Length: %d\r\n\r\n" % (kind, len(block))
    return gzip.compress(head + block + b"\r\n\r\n", mtime=0)


def parquet(text: bytes) -> bytes:
    out = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": [text.decode()]}), out)
    return out.getvalue().to_pybytes()


def arc(text: bytes) -> bytes:
    block = HTTP % text
    return b"http://a/ 1.2.3.4 20080430204825 text/html %d\n%b\n" % (len(block), block)


SOURCES: dict[str, tuple[Any, str, Callable[[bytes], bytes]]] = {
    "warc": (Warc, "{}.warc.gz", lambda text: warc(b"response", HTTP % text)),
    "arc": (Arc, "{}.arc", arc),
    "wat": (Wat, "{}.wat.gz", lambda text: warc(b"metadata", json.dumps(WAT).encode().replace(b"TEXT", text))),
    "mediawiki": (MediaWikiDump, "{}.xml.bz2", lambda text: bz2.compress(WIKI % text)),
    "stackexchange": (
        StackExchange,
        "{}/Posts.xml",
        lambda text: b'<posts><row Id="1" PostTypeId="1" Body="%b"/></posts>' % text,
    ),
    "arxiv": (
        ArxivSource,
        "1501.{}.gz",
        lambda text: gzip.compress(b"\\documentclass{a}\\begin{document}%b\\end{document}" % text),
    ),
    "books": (Books, "{}.txt", bytes),
    "jsonl": (JsonLines, "{}.jsonl", lambda text: b'{"text": "%b"}\n' % text),
    "csv": (CsvFiles, "{}.csv", lambda text: b"text\n%b\n" % text),
    "parquet": (ParquetFiles, "{}.parquet", parquet),
    "hub": (HuggingFaceDataset, "{}.jsonl", lambda text: b'{"text": "%b"}\n' % text),
    "redpajama": (
        RedPajamaV2,
        "documents/2023-06/{}/en_head.json.gz",
        lambda text: gzip.compress(b'{"raw_content": "%b"}\n' % text),
    ),
    "folder": (Folder, "{}.txt", bytes),
}
N_FILES = 7


def write(folder: Path, kind: str, number: int, text: bytes) -> Path:
    _, name, make = SOURCES[kind]
    path = folder / name.format(f"{number:05d}" if kind == "arxiv" else f"{number:04d}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make(text))
    return path


def rows_of(source: Any) -> list[Document | Reject]:
    return [row for shard in source.plan() for row in source.read(shard)]


@pytest.mark.parametrize("kind", SOURCES)
def test_small_files_share_a_shard_and_any_shards_give_the_same_rows(kind: str, tmp_path: Path) -> None:
    for i in range(N_FILES):
        write(tmp_path, kind, i, b"Some text that says number %d." % i)
    make = SOURCES[kind][0]
    together, alone = make("s", str(tmp_path), shard_bytes=128 << 20), make("s", str(tmp_path), shard_bytes=1)
    assert len(together.plan()) == 1
    assert len(alone.plan()) == N_FILES
    rows = rows_of(together)
    assert rows == rows_of(alone)
    assert [f"number {i}" in row.text for i, row in enumerate(rows) if isinstance(row, Document)] == [True] * N_FILES
    assert str(tmp_path) not in str([(shard.params, shard.fingerprint) for shard in together.plan()])
    fingerprints = {shard.name: shard.fingerprint for shard in alone.plan()}
    write(tmp_path, kind, 3, b"Some text that says something else.")
    assert [name for name, one in ((shard.name, shard.fingerprint) for shard in alone.plan()) if fingerprints[name] != one] == [
        "s/00003"
    ]


@pytest.mark.parametrize("kind", SOURCES)
def test_a_file_that_was_written_after_planning_is_noticed(kind: str, tmp_path: Path) -> None:
    for i in range(2):
        path = write(tmp_path, kind, i, b"Some text of version 1.")
    make = SOURCES[kind][0]
    source = make("s", str(tmp_path), shard_bytes=1)
    first, second = source.plan()
    before = path.stat()
    write(tmp_path, kind, 1, b"Some text of version 2.")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    assert len(list(source.read(first))) == 1
    with pytest.raises(SourceError, match="changed since"):
        list(source.read(second))
    path.unlink()
    with pytest.raises(SourceError, match=r"no such file|changed since"):
        list(source.read(second))


def test_a_file_that_is_written_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n' * 100)
    source = JsonLines("j", str(path))
    (shard,) = source.plan()
    rows = source.read(shard)
    assert isinstance(next(rows), Document)
    path.write_bytes(b'{"text": "b"}\n' * 101)
    with pytest.raises(SourceError, match="changed since"):
        list(rows)


@pytest.mark.parametrize(
    ("make", "name", "data", "says"),
    [
        (JsonLines, "nothing.jsonl", None, "no such file or folder"),
        (JsonLines, "*.zzz", None, "no file is there"),
        (Books, "", None, r"\.htm, \.html, \.xhtml, \.tex, \.ltx, \.txt, \.text, \.utf8, \.asc, packed or not, is there"),
        (ParquetFiles, "", None, r"ends in \.parquet, \.parq, \.pq is there"),
        (Folder, "", None, "give a folder with files"),
        (CsvFiles, "a.csv", b"text;id\na;1\n", "separator=';'"),
        (CsvFiles, "a.csv", "text,größe\na,1\n".encode("latin-1"), "encoding="),
        (CsvFiles, "a.csv", b"txt,id\na,1\n", "Did you mean `txt`"),
        (JsonLines, "http://127.0.0.1:9/a.jsonl", None, "cannot reach it"),
    ],
)
def test_mistakes_are_told(make: Any, name: str, data: bytes | None, says: str, tmp_path: Path) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=says):
        rows_of(make("s", name if "://" in name else str(tmp_path / name)))


@pytest.mark.parametrize(
    ("make", "name", "data", "reason"),
    [
        (ArxivSource, "2301.00001.zip", b"PK\x03\x04", "not_tex"), (Books, "a.epub", b"PK\x03\x04", "binary"),
        (Books, "a.html", b"<div>" * 2000, "too_deep"), (JsonLines, "a.json", b'[\n{"text": "a"}\n]\n', "invalid_json"),
        (CsvFiles, "a.csv", b"text" + b",c" * 10_000 + b"\na\n", "too_wide"), (ParquetFiles, "a.parquet", b"PAR1", "damaged"),
        (Warc, "a.warc", b"<html>", "bad_record"), (MediaWikiDump, "a.xml", b"<!DOCTYPE html><html>", "forbidden_dtd"),
    ],
)  # fmt: skip
def test_what_is_something_else_is_a_reject(make: Any, name: str, data: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    (first, *_) = rows_of(make("s", str(tmp_path / name)))
    assert isinstance(first, Reject)
    assert first.reason == reason
    assert first.location.startswith(name)


@pytest.mark.parametrize("options", [{}, {"data_page_version": "2.0"}, {"use_dictionary": False}, {"compression": "none"}])
def test_pages_of_parquet_are_as_large_as_the_footer_says(tmp_path: Path, options: dict[str, Any]) -> None:
    rows = [{"text": f"{i} " * (i % 300), "l": [i, 1]} for i in range(20_000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=7000, **options)
    facts = pq.read_metadata(tmp_path / "a.parquet")
    with (tmp_path / "a.parquet").open("rb") as file:
        groups = read_footer(footer_bytes(file))
        assert not isinstance(groups, str)
        for i, group in enumerate(groups):
            for j, chunk in enumerate(group.chunks):
                found = list(pages(file, chunk))
                size = facts.row_group(i).column(j).total_uncompressed_size  # with the headers
                assert size * 0.97 - 200 * len(found) < sum(page.n_bytes for page in found) < size
                assert any(page.is_dictionary for page in found) == facts.row_group(i).column(j).has_dictionary_page


def page_header(kind: int, unpacked: int, packed: int) -> bytes:
    """The three fields that every page has, in Thrift's compact protocol."""

    def number(value: int) -> bytes:
        value, found = value << 1, b""
        while value > 127:
            value, found = value >> 7, found + bytes([value & 127 | 128])
        return found + bytes([value])

    return b"".join(b"\x15" + number(value) for value in (kind, unpacked, packed)) + b"\0"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x18" + b"\xff" * 9 + b"\x01" + bytes(100), "no page header"),  # a text of 2^64 bytes
        (b"\x1c" * 100, "nested too deep"),
        (page_header(0, 10, (1 << 62) - 1), "no byte"),
        (page_header(0, 0, 0) * (MAX_PAGES + 1), "more than 100000 pages"),
    ],
    ids=["text without end", "deep", "far", "pages"],
)
def test_headers_that_no_page_has(data: bytes, says: str) -> None:
    assert list(pages(io.BytesIO(page_header(0, 7, 0) * 3), Chunk("text", 0, 21))) == [Page(7 * i, False, 7) for i in range(3)]
    with pytest.raises(ValueError, match=says):
        list(pages(io.BytesIO(data), Chunk("text", 0, 1 << 63)))


def test_what_parquet_unpacks_is_bounded(tmp_path: Path) -> None:
    values = pa.array(["a", "b" * 5000, "c"])
    pq.write_table(pa.table({"text": values}), tmp_path / "a.parquet")
    large, row = (
        rows_of(ParquetFiles("p", str(tmp_path), **limit)) for limit in ({"max_page_bytes": 1000}, {"max_row_bytes": 1000})
    )
    assert [(row.reason, row.location) for row in large if isinstance(row, Reject)] == [("too_large", "a.parquet:0")]
    assert [getattr(row, "reason", "document") for row in row] == ["document", "too_large", "document"]
    bomb = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), pa.array(["x" * (2 << 20)]))  # 200 GB
    pq.write_table(pa.table({"text": bomb}), tmp_path / "a.parquet", compression="zstd")
    *documents, last = rows_of(ParquetFiles("p", str(tmp_path)))
    n_chars = sum(len(row.text) for row in documents if isinstance(row, Document))
    assert n_chars < (64 << 20) + 250 * (tmp_path / "a.parquet").stat().st_size
    assert isinstance(last, Reject)
    assert last.reason == "too_large"
