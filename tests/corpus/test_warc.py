"""WARC responses become main text with provenance; everything else is a reject that says why."""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilth.corpus.extract.charset import CharsetError, decode_html, decode_text
from tilth.corpus.extract.html import MAX_DEPTH, extract_html
from tilth.corpus.extract.http import BodyError, Response, dechunk, decode_body, parse_response
from tilth.corpus.sources.warc import Warc
from tilth.corpus.swhid import content_swhid
from tilth.errors import SourceError

Make = Callable[..., bytes]
PARAGRAPH = "Soil made ready for sowing is called tilth. "


def page(text: str = PARAGRAPH * 3, head: str = "<title>T</title>") -> bytes:
    return f"<html lang='en'><head>{head}</head><body><p>{text}</p></body></html>".encode()


@pytest.fixture
def read(tmp_path: Path, rows: Callable[..., Any]) -> Callable[..., Any]:
    def reader(*records: bytes, **options: Any) -> Any:
        (tmp_path / "a.warc").write_bytes(b"".join(records))
        return rows(Warc("web", str(tmp_path / "a.warc"), **options))

    return reader


def test_a_page_with_all_its_provenance(read: Callable[..., Any], warc_record: Make, http_response: Make) -> None:
    body = page()
    found = read(warc_record(b"", kind="warcinfo"), warc_record(http_response(body), number=7))
    (row,) = found.documents
    assert row["text"] == (PARAGRAPH * 3).strip()
    assert row["raw_swhid"] == content_swhid(body)
    assert (row["url"], row["encoding"], row["language"], dict(row["meta"])) == (
        "http://example.org/7",
        "utf-8",
        "en",
        {"title": "T"},
    )
    assert row["extraction"].startswith("resiliparse ")
    assert row["extraction"].endswith(" main_content")
    (seen,) = found.occurrences
    assert (seen["kind"], seen["origin"], seen["date"]) == ("warc", "a.warc", "2024-05-06T07:08:09Z")
    assert seen["record_id"] == "<urn:uuid:00000000-0000-0000-0000-000000000007>"
    assert seen["offset"] == len(warc_record(b"", kind="warcinfo"))
    assert not found.rejects


def test_rejects_and_their_reasons(read: Callable[..., Any], warc_record: Make, http_response: Make) -> None:
    records = {
        "http_error": http_response(page(), status="404 Not Found"),
        "not_html": http_response(b"%PDF", Content_Type="application/pdf"),
        "empty": http_response(b""),
        "truncated": http_response(gzip.compress(page())[:-9], Content_Encoding="gzip"),
        "unsupported": http_response(page(), Content_Encoding="sdch"),
        "bad_record": b"no HTTP here",
        "decode": http_response(
            b"\x81\x8d\x8f\x90\x9d" * 40 + bytes(range(128, 256)) * 3, Content_Type="text/html; charset=utf-8"
        ),
        "too_deep": http_response(page("<div>" * (MAX_DEPTH + 1))),
    }
    more = [warc_record(http_response(page("<script>var x = 1</script>")))]
    more += [warc_record(b"example.org. 300 IN A 1.2.3.4", Content_Type="text/dns")]
    more += [warc_record(http_response(page()), WARC_Truncated="length")]
    found = read(*[warc_record(record) for record in records.values()], *more)
    assert found.reasons == [*records, "empty", "not_html", "truncated"]
    assert not found.documents
    assert all(row["location"].startswith("a.warc@") for row in found.rejects)
    assert "404 Not Found http://example.org/0" in found.rejects[0]["detail"]


def test_conversions_stay_as_they_are(read: Callable[..., Any], warc_record: Make) -> None:
    text = "  First line\n\nsecond é\n"
    good = warc_record(text.encode(), kind="conversion", WARC_Identified_Content_Language="eng,fra")
    wrong = warc_record(b"caf\xe9", kind="conversion")
    nul = warc_record(b"a\0b", kind="conversion")
    found = read(good, wrong, nul, warc_record(b"  ", kind="conversion"))
    assert found.texts == [text]
    assert (found.documents[0]["extraction"], found.documents[0]["language"]) == ("as archived", "eng")
    assert found.reasons == ["decode", "nul_byte", "empty"]


def test_body_encodings(read: Callable[..., Any], warc_record: Make, http_response: Make) -> None:
    import io

    from fastwarc.stream_io import BrotliWriter

    body = page()
    stream = io.BytesIO()
    writer = BrotliWriter(stream)
    writer.write(body)
    writer.finish()
    writer.close()
    chunked = (
        b"".join(b"%x;ext=1\r\n%s\r\n" % (len(body[i : i + 50]), body[i : i + 50]) for i in range(0, len(body), 50))
        + b"0\r\n\r\n"
    )
    bare = zlib.compressobj(wbits=-15)
    found = read(
        warc_record(http_response(gzip.compress(body), Content_Encoding="gzip")),
        warc_record(http_response(zlib.compress(body), Content_Encoding="deflate")),
        warc_record(http_response(bare.compress(body) + bare.flush(), Content_Encoding="deflate")),
        warc_record(http_response(stream.getvalue(), Content_Encoding="br")),
        warc_record(http_response(chunked, Transfer_Encoding="chunked")),
        warc_record(http_response(body, Content_Encoding="gzip", Transfer_Encoding="chunked")),  # undone by the archiver
    )
    assert found.texts == [(PARAGRAPH * 3).strip()] * 6, found.rejects
    assert found.documents[0]["raw_swhid"] == content_swhid(gzip.compress(body)) or found.documents[0][
        "raw_swhid"
    ] != content_swhid(body)


def test_damaged_brotli_is_a_reject(read: Callable[..., Any], warc_record: Make, http_response: Make) -> None:
    assert read(warc_record(http_response(b"\xff" * 50, Content_Encoding="br"))).reasons == ["bad_record"]


def test_gzip_of_several_members() -> None:
    one, two = gzip.compress(b"one "), gzip.compress(b"two")
    assert decode_body(Response(200, "OK", {"content-encoding": "gzip"}, one + two + b"junk"), 100) == b"one two"
    for body, limit, reason in ((one + two[:-3], 100, "truncated"), (one + two, 5, "too_large")):
        with pytest.raises(BodyError) as caught:
            decode_body(Response(200, "OK", {"content-encoding": "gzip"}, body), limit)
        assert caught.value.reason == reason


def test_bytes_that_unicode_takes_for_line_ends() -> None:
    head = b"HTTP/1.1 200 OK\r\nX-Place: caf\x85Content-Type: image/png\r\nContent-Type: text/html\r\n\r\nbody"
    assert parse_response(head).headers == {"x-place": "caf\x85Content-Type: image/png", "content-type": "text/html"}


def test_decompression_bombs_are_bounded() -> None:
    bomb = gzip.compress(bytes(30 << 20))
    with pytest.raises(BodyError, match="more than 1000000 bytes"):
        decode_body(Response(200, "OK", {"content-encoding": "gzip"}, bomb), 1_000_000)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"5\r\nabc", "truncated"),
        (b"3\r\nabc\r\n", "truncated"),
        (b"3\r\nabc\r\nzz\r\n", "bad_record"),
        (b"<html>", None),
        (b"3\nabc\n0\n\n", None),
    ],
)
def test_dechunk(body: bytes, reason: str | None) -> None:
    if reason is None:
        assert dechunk(body) in (b"<html>", b"abc")
    else:
        with pytest.raises(BodyError) as caught:
            dechunk(body)
        assert caught.value.reason == reason


def test_heads_with_bare_line_feeds() -> None:
    response = parse_response(b"HTTP/1.0 200\nContent-Type: text/html; Charset=X\nno colon\n\nbody\n")
    assert (response.status, response.phrase, response.body) == (200, "", b"body\n")
    assert response.headers == {"content-type": "text/html; Charset=X"}


@pytest.mark.parametrize(
    ("data", "declared", "expected"),
    [
        ("Grüße".encode("latin-1"), "ISO-8859-1", ("Grüße", "cp1252")),
        (b"<meta charset=windows-1251>" + "Привет".encode("cp1251"), None, ("Привет", "cp1251")),
        (b"<meta charset=windows-1251>" + "Привет".encode(), "utf-8", ("Привет", "utf-8")),
        ("Grüße".encode("utf-8-sig"), "latin-1", ("Grüße", "utf-8")),
        ("Grüße".encode("utf-16"), None, ("Grüße", "utf-16-le")),
        ("Grüße".encode(), "no-such-charset", ("Grüße", "utf-8")),
        ("日本語のページです。これは文字です。".encode("euc-jp"), "utf-8", ("日本語のページです。これは文字です。", "euc_jp")),
    ],
)
def test_charsets(data: bytes, declared: str | None, expected: tuple[str, str]) -> None:
    text, encoding = decode_html(data, declared)
    assert (text.rpartition(">")[2], encoding.lower().replace("euc-jp", "euc_jp").replace("windows-", "cp")) == expected


def test_a_few_damaged_bytes_are_repaired_and_named() -> None:
    # Japanese in UTF-8 cannot be anything else by its bytes, so one broken character does not send it elsewhere
    text, encoding = decode_html("日本語のページ。".encode() * 400 + b"\xe6\x97 end", "utf-8")
    assert encoding == "utf-8+replace"
    assert text == "日本語のページ。" * 400 + "\ufffd end"
    with pytest.raises(CharsetError):
        decode_text(b"\x01\x02\x03\xff\xfe\xfa" * 20)


def test_main_content_leaves_navigation_out() -> None:
    navigation, footer = "<nav><a href=/>Home</a> <a href=/a>About</a></nav>", "<footer>Copyright</footer>"
    html = f"<body>{navigation}<main><h1>Title</h1><p>{PARAGRAPH}</p></main>{footer}</body>"
    assert extract_html(html).text == f"Title\n\n{PARAGRAPH.strip()}"
    assert "Home" in extract_html(html, "resiliparse_all").text
    with pytest.raises(ValueError, match="unknown extraction"):
        extract_html(html, "magic")


def test_plan_names_archives_below_their_common_folder(
    tmp_path: Path, warc_record: Make, http_response: Make, rows: Callable[..., Any]
) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.warc").write_bytes(warc_record(http_response(page())))
    source = Warc("web", f"{tmp_path}/**/*.warc", max_bytes=1000)
    shards = source.plan()
    assert [(s.name, s.params["archive"], s.params["max_bytes"]) for s in shards] == [
        ("web/00000", "x/a.warc", 500),
        ("web/00001", "y/a.warc", 500),
    ]
    assert shards[0].fingerprint == shards[1].fingerprint
    assert all(str(tmp_path) not in str(shard.params) for shard in shards)
    ids = [row["doc_id"] for row in rows(source).documents]
    assert len(set(ids)) == 2


def test_a_licence_that_the_recipe_declares(read: Callable[..., Any], warc_record: Make, http_response: Make) -> None:
    record = warc_record(http_response(page()))
    (claim,) = read(record, licence="cc-by-sa-4.0").licences
    assert (claim["spdx"], claim["scope"], claim["effective"]) == ("CC-BY-SA-4.0", "declared", True)
    assert read(record).licences == []


@pytest.mark.parametrize(
    "options",
    [
        {"path": "nowhere/*.warc.gz"},
        {"path": __file__, "extract": "magic"},
        {"path": __file__, "licence": "do what you like"},
    ],
)
def test_wrong_descriptions(options: dict[str, str]) -> None:
    with pytest.raises(SourceError) as caught:
        Warc("web", **options).plan()
    assert len(str(caught.value).splitlines()) == 3


def test_a_file_that_vanishes_after_planning(tmp_path: Path, warc_record: Make) -> None:
    file = tmp_path / "a.warc"
    file.write_bytes(warc_record(b""))
    source = Warc("web", str(file))
    (shard,) = source.plan()
    file.unlink()
    with pytest.raises(SourceError, match="no such file"):
        list(source.read(shard))


def test_the_cap_is_kept(read: Callable[..., Any], warc_record: Make, http_response: Make) -> None:
    records = [warc_record(http_response(page()), number=i) for i in range(10)]
    size = len((PARAGRAPH * 3).strip())
    assert len(read(*records, max_bytes=size * 4 + 1).documents) == 4


def test_a_line_of_fifty_megabytes(read: Callable[..., Any], warc_record: Make, http_response: Make) -> None:
    body = b"<html><body><p>" + b"word " * 10_000_000 + b"</p></body></html>"
    found = read(warc_record(http_response(body)), warc_record(http_response(page())))
    assert [len(text) for text in found.texts] == [49_999_999, len((PARAGRAPH * 3).strip())]
    assert read(warc_record(http_response(body)), max_record_bytes=16 << 20).reasons == ["too_large"]


@given(
    data=st.binary(max_size=400),
    status=st.sampled_from(["200 OK", "200", "abc"]),
    kind=st.sampled_from(["text/html", "", "text/html; charset=\xff"]),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_body_is_a_row(
    read: Callable[..., Any], warc_record: Make, http_response: Make, data: bytes, status: str, kind: str
) -> None:
    for more in ({}, {"Transfer_Encoding": "chunked"}, {"Content_Encoding": "gzip, br, deflate"}):
        found = read(warc_record(http_response(data, status=status, Content_Type=kind, **more)))
        assert len(found.documents) + len(found.rejects) == 1


@pytest.mark.data
def test_real_archives_give_a_row_for_every_response(test_data: Path, rows: Callable[..., Any]) -> None:
    found = rows(Warc("cc", str(test_data / "whirlwind_cc" / "whirlwind.warc.gz")))
    assert (len(found.documents), len(found.rejects)) == (1, 0)
    assert found.documents[0]["url"].startswith("https://an.wikipedia.org/")
    found = rows(
        Warc("wget", str(test_data / "webarchive_commons/src/test/resources/org/archive/format/gzip/IAH-urls-wget.warc.gz"))
    )
    assert Counter(found.reasons) == {"http_error": 9, "not_html": 8}  # three of them resources in which wget tells of itself
    assert len(found.documents) == 2
    found = rows(Warc("encodings", str(test_data / "resiliparse_warc/tests/data/warcfile.warc.gz")))
    assert (len(found.documents), len(found.rejects)) == (16, 0)
    assert not any("\ufffd" in text for text in found.texts)


@pytest.mark.data
def test_main_content_against_pages_with_known_main_text(test_data: Path) -> None:
    """130 pages whose main part somebody chose by hand (Mozilla Readability's tests), compared word by word."""
    recalls, precisions = [], []
    for folder in sorted((test_data / "readability_pages" / "test" / "test-pages").iterdir()):
        page_html, main_html = (decode_html((folder / name).read_bytes())[0] for name in ("source.html", "expected.html"))
        expected = Counter(re.findall(r"\w+", extract_html(main_html, "resiliparse_all").text.lower()))
        found = Counter(re.findall(r"\w+", extract_html(page_html).text.lower()))
        common = (expected & found).total()
        recalls.append(common / max(1, expected.total()))
        precisions.append(common / max(1, found.total()))
    assert len(recalls) > 100
    assert sum(recalls) / len(recalls) > 0.95  # 0.980 with resiliparse 2.0.1
    assert sum(precisions) / len(precisions) > 0.85  # 0.916; everything visible would be 0.737
