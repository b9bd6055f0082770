"""ARC files of both versions become rows as WARC files do; damage costs one record."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilth.corpus.sources.arc import Arc
from tilth.corpus.sources.warc import Warc

Make = Callable[..., bytes]
TEXT = "Soil made ready for sowing is called tilth. " * 3
FIRST = b"1 0 InternetArchive\nURL IP-address Archive-date Content-type Archive-length\n"
SECOND = b"2 0 InternetArchive\nURL IP-address Archive-date Content-type Result-code Checksum Location Offset Filename Archive-length\n"


def record(url: str, block: bytes, fields: str = "1.2.3.4 20080430204826 text/html", length: int | None = None) -> bytes:
    return f"{url} {fields} {len(block) if length is None else length}\n".encode() + block + b"\n"


def page(number: int, http_response: Make) -> bytes:
    return http_response(f"<html><head><title>T</title></head><body><p>{TEXT}{number}</p></body></html>".encode())


@pytest.fixture
def archive(http_response: Make) -> list[bytes]:
    """The records of a file of version 1: its description and four pages."""
    first = record("filedesc://a.arc", FIRST, "0.0.0.0 20080430204825 text/plain")
    return [first, *(record(f"http://example.org/{i}", page(i, http_response)) for i in range(4))]


@pytest.fixture
def read(tmp_path: Path, rows: Callable[..., Any]) -> Callable[..., Any]:
    def reader(data: bytes, **options: Any) -> Any:
        (tmp_path / "a.arc.gz").write_bytes(data)
        return rows(Arc("old", str(tmp_path / "a.arc.gz"), **options))

    return reader


@pytest.mark.parametrize("form", ["plain", "members", "one member", "no line ends"])
def test_whole_archives(read: Callable[..., Any], archive: list[bytes], members: Make, form: str) -> None:
    data = {
        "plain": b"".join(archive),
        "members": members(archive),
        "one member": gzip.compress(b"".join(archive)),
        "no line ends": b"".join(part.removesuffix(b"\n") for part in archive),  # as older crawlers wrote them
    }[form]
    found = read(data)
    assert found.texts == [f"{TEXT}{i}" for i in range(4)]
    assert not found.rejects
    assert [row["url"] for row in found.documents] == [f"http://example.org/{i}" for i in range(4)]
    seen = found.occurrences[0]
    assert (seen["kind"], seen["origin"], seen["date"]) == ("arc", "a.arc.gz", "2008-04-30T20:48:26Z")
    assert dict(found.documents[0]["meta"]) == {"title": "T"}
    offsets = [row["offset"] for row in found.occurrences]
    if form == "members":
        assert [gzip.decompress(data[at:])[:19] for at in offsets] == [b"http://example.org/"] * 4
    else:
        plain = gzip.decompress(data) if form == "one member" else data
        assert [plain[at : at + 19] for at in offsets] == [b"http://example.org/"] * 4


def test_the_second_version(read: Callable[..., Any], http_response: Make) -> None:
    first = record("filedesc://a.arc", SECOND, "0.0.0.0 20080430204825 text/plain 200 - - 0 a.arc")
    block = page(7, http_response)
    found = read(first + record("http://example.org/a b", block, "1.2.3.4 20080430204826 text/html 200 abc - 512 a.arc"))
    assert (found.texts, found.documents[0]["url"]) == ([f"{TEXT}7"], "http://example.org/a b")
    assert not found.rejects


def test_urls_and_types_with_spaces(read: Callable[..., Any], http_response: Make) -> None:
    block = page(1, http_response)
    data = record("http://example.org/x y z", block) + record(
        "http://example.org/2", block, "1.2.3.4 20080430204826 text/html; charset=utf-8"
    )
    assert [row["url"] for row in read(data).documents] == ["http://example.org/x y z", "http://example.org/2"]


def test_what_came_without_http(read: Callable[..., Any]) -> None:
    html = f"<html><body><p>{TEXT}</p></body></html>".encode()
    found = read(
        record("dns:example.org", b"20080430204825\nexample.org. 1 IN A 1.2.3.4", "1.2.3.4 20080430204825 text/dns")
        + record("http://example.org/", html)
        + record("ftp://example.org/a.txt", b"plain text", "1.2.3.4 20080430204825 text/plain")
    )
    assert found.reasons == ["not_html"]
    assert found.texts == [TEXT.strip(), "plain text"]


def test_damage_costs_one_record(read: Callable[..., Any], archive: list[bytes], http_response: Make) -> None:
    wrong = [
        record("http://example.org/w", page(9, http_response), length=99_999),
        record("http://example.org/w", page(9, http_response), length=60),
        record("http://example.org/w", page(9, http_response), "1.2.3.4 20080430204826 text/html x", length=12).replace(
            b" 12\n", b" 12x\n"
        ),
        b"no record at all\n\n",
    ]
    for bad in wrong:
        found = read(b"".join(archive[:3]) + bad + b"".join(archive[3:]))
        assert found.texts == [f"{TEXT}{i}" for i in range(4)], bad[:80]
        assert [row["location"] for row in found.rejects] == [f"a.arc.gz@{len(b''.join(archive[:3]))}"]
        assert found.reasons == ["bad_record"]


def test_a_damaged_member(read: Callable[..., Any], archive: list[bytes], members: Make) -> None:
    data = bytearray(members(archive))
    start = len(members(archive[:2]))
    data[start + 50 : start + 60] = bytes(10)
    found = read(bytes(data))
    assert [text[-1] for text in found.texts] == ["0", "2", "3"]
    assert [(row["location"], row["reason"]) for row in found.rejects] == [(f"a.arc.gz@{start}", "bad_record")]


def test_a_cut_at_any_byte(read: Callable[..., Any], archive: list[bytes]) -> None:
    data = b"".join(archive[:3])
    starts = [len(b"".join(archive[:i])) for i in range(1, 4)]
    for cut in range(starts[0] + 30, len(data), 41):
        found = read(data[:cut], max_seconds=0)
        n_whole = sum(start <= cut + 1 for start in starts[1:])
        assert len(found.documents) == n_whole, cut
        n_begun = sum(start < cut for start in starts[:-1])
        assert found.reasons == ["truncated"] * (n_begun > n_whole), cut


@pytest.mark.data
def test_the_same_crawl_as_arc_and_as_warc(test_data: Path, rows: Callable[..., Any]) -> None:
    """A crawl that its owner keeps in both formats, plain and compressed, gives the same texts from all four."""
    stem = str(test_data / "ukwa_suite/small-arcs-and-warcs/IAH-20080430204825-00000-blackbook-truncated")
    found = [rows(kind("crawl", stem + suffix)) for kind, suffix in
             ((Arc, ".arc"), (Arc, ".arc.gz"), (Warc, ".warc"), (Warc, ".warc.gz"))]  # fmt: skip
    assert len(found[0].documents) == 2
    for other in found[1:]:
        assert other.texts == found[0].texts
        assert [row["url"] for row in other.documents] == [row["url"] for row in found[0].documents]
        assert Counter(other.reasons) == Counter(found[0].reasons)


@pytest.mark.data
@pytest.mark.parametrize(
    ("path", "n_documents", "reasons"),
    [
        ("warcio/test/data/example.arc", 1, {}),
        ("warcio/test/data/example.arc.gz", 1, {}),
        ("warcio/test/data/example-space-in-url.arc", 0, {"truncated": 1}),  # 1,579 of its 1,591 bytes are there
        ("warcio/test/data/bad.arc", 0, {"bad_record": 3, "empty": 1}),
        ("jwat_invalid/jwat-arc/src/test/resources/small_BNF.arc", 3, {"not_html": 2}),
        ("jwat_invalid/jwat-arc/src/test/resources/invalid-arcfile-record-then-garbage.arc", 1, {"truncated": 1}),
        ("jwat_invalid/jwat-arc/src/test/resources/test-arc-1.0-dashed-fields.arc", 0, {"bad_record": 1}),
        ("jwat_invalid/jwat-arc/src/test/resources/test-arc-1.0-invalid-fields.arc", 0, {"bad_record": 2}),
    ],
)
def test_real_archives(
    test_data: Path, rows: Callable[..., Any], path: str, n_documents: int, reasons: dict[str, int]
) -> None:  # fmt: skip
    found = rows(Arc("old", str(test_data / path)))
    assert len(found.documents) == n_documents
    assert Counter(found.reasons) == reasons
