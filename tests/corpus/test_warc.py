"""WARC responses become main text with provenance; everything else is a reject that says why."""

from __future__ import annotations

import base64
import gzip
import hashlib
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilth.corpus.extract.charset import CharsetError, decode_html, decode_text
from tilth.corpus.extract.html import MAX_DEPTH, extract_html
from tilth.corpus.extract.http import BodyError, Response, dechunk, decode_body, parse_response
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.sources.warc import Warc
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
    assert row["extraction"].startswith("both, resiliparse ")
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


def test_bodies_that_the_archiver_had_decoded(read: Callable[..., Any], warc_record: Make, http_response: Make) -> None:
    encodings = ("gzip", "deflate", "br", "zstd", "gzip, br")
    found = read(*[warc_record(http_response(page(), Content_Encoding=encoding)) for encoding in encodings])
    assert found.texts == [(PARAGRAPH * 3).strip()] * len(encodings), found.rejects


def test_zstd_bodies(read: Callable[..., Any], warc_record: Make, http_response: Make) -> None:
    from backports import zstd

    whole = zstd.compress(page())
    found = read(*[warc_record(http_response(body, Content_Encoding="zstd")) for body in (whole, whole[:-1], whole[:-20])])
    assert (len(found.documents), found.reasons) == (1, ["bad_record", "bad_record"])


def test_revisits_say_what_they_refer_to(read: Callable[..., Any], warc_record: Make, http_response: Make) -> None:
    digest = {"WARC_Payload_Digest": "sha1:ABC"}
    first = warc_record(http_response(page()), number=1, **digest)
    by_id = {"WARC_Refers_To": "<urn:uuid:00000000-0000-0000-0000-000000000001>"}
    by_url = {"WARC_Refers_To_Target_URI": "http://example.org/1", "WARC_Refers_To_Date": "2024-05-06T07:08:09Z", **digest}
    profile = {"WARC_Profile": "http://netpreserve.org/warc/1.1/revisit/identical-payload-digest"}
    revisits = [
        warc_record(b"", kind="revisit", number=5, **fields)
        for fields in (by_id, {**by_url, **profile}, {"WARC_Refers_To": "<x>"})
    ]
    found = read(first, *revisits)
    assert len(found.documents) == 1
    assert found.reasons == ["revisit"] * 3
    known, with_url, unknown = (row["detail"] for row in found.rejects)
    assert known == "no profile of <urn:uuid:00000000-0000-0000-0000-000000000001>, that is a.warc@0; http://example.org/5"
    assert "identical-payload-digest of http://example.org/1 2024-05-06T07:08:09Z, that is a.warc@0" in with_url
    assert "<x>, not before it in this archive" in unknown


def test_resources_become_documents(read: Callable[..., Any], warc_record: Make) -> None:
    found = read(
        warc_record(page(), kind="resource", Content_Type="text/html; charset=utf-8"),
        warc_record("Grüße".encode("latin-1"), kind="resource", Content_Type="text/plain; charset=latin-1"),
        warc_record(b"\x89PNG", kind="resource", Content_Type="image/png"),
        warc_record(b"wget --warc", kind="resource", WARC_Target_URI="metadata://gnu.org/wget.txt"),
        warc_record(b" ", kind="resource"),
    )
    assert found.texts == [(PARAGRAPH * 3).strip(), "Grüße"]
    assert [row["extraction"].split(",")[0] for row in found.documents] == ["both", "as archived"]
    assert found.reasons == ["not_html", "not_html", "empty"]


def test_segments_are_counted(read: Callable[..., Any], warc_record: Make, http_response: Make) -> None:
    begin = warc_record(http_response(page()), WARC_Segment_Number="1")
    end = warc_record(b"rest", kind="continuation", WARC_Segment_Number="2", WARC_Segment_Origin_ID="<urn:x>")
    found = read(begin, end, warc_record(b"", kind="request"), warc_record(b"", kind="metadata"))
    assert (found.reasons, found.documents) == (["segment", "segment"], [])
    assert "segment 2 of <urn:x>" in found.rejects[1]["detail"]


@pytest.mark.parametrize("write", ["hex", "base32", "base64"])
def test_a_block_that_is_not_what_its_digest_says(
    read: Callable[..., Any], warc_record: Make, http_response: Make, write: str
) -> None:
    """It is kept and marked: a filter is SQL."""
    block = http_response(page())
    digest = hashlib.sha1(block).digest()
    told = {"hex": digest.hex(), "base32": base64.b32encode(digest).decode(), "base64": base64.b64encode(digest).decode()}[write]
    other = {"hex": "0" * 40, "base32": "A" * 32, "base64": "A" * 27 + "="}[write]
    found = read(*[warc_record(block, WARC_Block_Digest=f"sha1:{value}") for value in (told, other, "nonsense", "")])
    assert [dict(row["meta"]).get("block_digest") for row in found.documents] == [None, "differs", None, None]


def test_libraries_and_options_are_in_the_key(tmp_path: Path, warc_record: Make) -> None:
    (tmp_path / "a.warc").write_bytes(warc_record(b""))
    choices: list[dict[str, Any]] = [
        {}, {"extract": "trafilatura"}, {"extract": "trafilatura", "extract_options": {"favor_recall": True}},
        {"formulas": True}, {"max_seconds": 5.0},
    ]  # fmt: skip
    params = [Warc("web", str(tmp_path / "a.warc"), **options).plan()[0].params for options in choices]
    assert len({repr(sorted(value.items(), key=str)) for value in params}) == len(choices)
    assert params[1]["trafilatura"]


def test_archives_behind_a_url(rows: Callable[..., Any], warc_record: Make, http_response: Make, members: Make) -> None:
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    data = members([warc_record(http_response(page()), number=i) for i in range(3)])
    store.pipe("/crawl/a.warc.gz", data)
    store.pipe("/crawl/b.warc.gz", data[:-9])
    found = rows(Warc("web", "memory://crawl/*.warc.gz"))
    assert (len(found.documents), found.reasons) == (5, ["truncated"])
    assert {row["origin"] for row in found.occurrences} == {"a.warc.gz", "b.warc.gz"}
    store.rm("/crawl", recursive=True)


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
    source = Warc("web", f"{tmp_path}/**/*.warc", max_bytes=1000, shard_bytes=1)
    shards = source.plan()
    assert [(s.name, s.params["files"], s.params["max_bytes"]) for s in shards] == [
        ("web/00000", ["x/a.warc"], 500),
        ("web/00001", ["y/a.warc"], 500),
    ]
    (one,) = replace(source, shard_bytes=1 << 20).plan()
    assert (one.params["files"], one.params["max_bytes"]) == (["x/a.warc", "y/a.warc"], 1000)
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
