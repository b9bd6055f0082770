"""Pages of exports become documents with their provenance; all else is a reject, and damage costs the pages that it is in."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest

from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.records import Document, Reject
from tilth.corpus.sources.mediawiki import MediaWikiDump, page_url
from tilth.errors import SourceError

TEXT = "'''Tilth''' is [[soil]]{{cite}} made ready."
NAMESPACES = '<namespace key="0" /><namespace key="1">Diskussion</namespace><namespace key="6">Datei</namespace><namespace key="14">Kategorie</namespace>'
HEAD = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="de"><siteinfo>'
    "<sitename>Wikipedia</sitename><dbname>dewiki</dbname><base>https://de.wikipedia.org/wiki/Wikipedia:Hauptseite</base>"
    f"<namespaces>{NAMESPACES}</namespaces></siteinfo>"
)


def revision(number: int, text: str = TEXT, **fields: str) -> str:
    stamp, model = fields.get("stamp", f"2020-01-{number % 28 + 1:02d}T00:00:00Z"), fields.get("model", "wikitext")
    who = fields.get("who", "<username>Ann</username><id>5</id>")
    return (
        f"<revision><id>{number}</id><timestamp>{stamp}</timestamp><contributor>{who}</contributor><model>{model}</model>"
        f"<text bytes='{len(text)}' xml:space='preserve'>{escape(text)}</text></revision>"
    )


def page(number: int, *revisions: str, title: str = "", ns: str | None = "0", extra: str = "") -> str:
    space = "" if ns is None else f"<ns>{ns}</ns>"
    return f"<page><title>{title or f'Page {number}'}</title>{space}<id>{number}</id>{extra}{''.join(revisions or [revision(100 + number)])}</page>\n"


def dump(*pages: str, head: str = HEAD) -> bytes:
    return f"{head}\n{''.join(pages)}</mediawiki>".encode()


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Any]:
    def reader(data: bytes, name: str = "wiki.xml", **options: Any) -> tuple[list[Document], list[Reject]]:
        (tmp_path / name).write_bytes(data)
        return rows(MediaWikiDump("w", str(tmp_path / name), **options))

    return reader


def rows(source: MediaWikiDump) -> tuple[list[Document], list[Reject]]:
    found = [row for shard in source.plan() for row in source.read(shard)]
    return [row for row in found if isinstance(row, Document)], [row for row in found if isinstance(row, Reject)]


def test_a_page_with_all_its_provenance(read: Callable[..., Any]) -> None:
    data = dump(page(7, title="Möhren &amp; Co?"))
    ((document,), rejects) = read(data)
    assert not rejects
    assert document.text == "Tilth is soil made ready."
    assert document.raw_swhid == content_swhid(TEXT.encode())
    assert document.url == "https://de.wikipedia.org/wiki/M%C3%B6hren_%26_Co%3F"
    assert (document.language, document.encoding, document.extraction) == ("de", "utf-8", "tilth wikitext 1")
    assert document.meta == {
        "title": "Möhren & Co?", "page_id": "7", "revision_id": "107", "timestamp": "2020-01-24T00:00:00Z", "contributor": "Ann",
        "wiki": "dewiki",
    }  # fmt: skip
    (seen,) = document.occurrences
    assert (seen.kind, seen.origin, seen.path, seen.record_id) == ("mediawiki", "wiki.xml", "Möhren & Co?", "page 7 revision 107")
    assert (seen.offset, seen.date) == (data.index(b"<revision>"), "2020-01-24T00:00:00Z")
    (claim,) = document.licences
    assert (claim.spdx, claim.scope, claim.effective) == ("CC-BY-SA-4.0", "declared", True)
    assert "https://de.wikipedia.org/" in claim.evidence_path


def test_what_is_no_document_is_a_reject(read: Callable[..., Any]) -> None:
    documents, rejects = read(
        dump(
            page(1, extra="<redirect title='Page 9' />"), page(2, revision(2, "#WEITERLEITUNG [[Page 9]]")), page(3, revision(3, "{{x}}")),
            page(4, revision(4, "{}", model="json")), page(5, "<revision><id>5</id><text deleted='deleted' /></revision>"),
            page(6, "<x />"), page(7, revision(7, "x" * 2000)), page(8), page(9, ns="1"),
        ),
        max_page_chars=1000,
    )  # fmt: skip
    assert [document.meta["page_id"] for document in documents] == ["8"]
    assert [reject.reason for reject in rejects] == [
        "redirect",
        "redirect",
        "empty",
        "not_wikitext",
        "deleted",
        "empty",
        "too_large",
    ]
    assert rejects[0].detail == "to Page 9"
    assert rejects[1].location.startswith("wiki.xml@")


def test_namespaces_are_chosen_also_where_the_export_does_not_name_them(read: Callable[..., Any]) -> None:
    pages = [
        page(1),
        page(2, ns="1", title="Diskussion:X"),
        page(3, ns=None, title="Diskussion:Y"),
        page(4, ns=None, title="Titel: Z"),
    ]
    assert [document.meta["page_id"] for document in read(dump(*pages))[0]] == ["1", "4"]
    assert [document.meta["page_id"] for document in read(dump(*pages), namespaces=(1, 5))[0]] == ["2", "3"]
    documents, rejects = read(dump(*pages), namespaces=(99,))
    assert not documents
    assert [(reject.reason, reject.detail) for reject in rejects] == [("empty", "no page in namespaces 99: 2 in 0, 2 in 1")]


def test_the_newest_revision_or_all(read: Callable[..., Any]) -> None:
    revisions = [
        revision(1, "old"),
        revision(3, "new", stamp="2021-01-01T00:00:00Z"),
        revision(2, "older", who="<ip>192.0.2.1</ip>"),
    ]
    assert [document.text for document in read(dump(page(1, *revisions)))[0]] == ["new"]
    documents, _ = read(dump(page(1, *revisions)), history=True)
    assert [(document.text, document.meta["contributor"]) for document in documents] == [
        ("old", "Ann"),
        ("new", "Ann"),
        ("older", "192.0.2.1"),
    ]
    assert len({document.doc_id for document in documents}) == 3


def test_other_wikis_have_the_licence_that_is_declared(read: Callable[..., Any]) -> None:
    head = HEAD.replace("https://de.wikipedia.org/wiki/Wikipedia:Hauptseite", "http://x.org/w/index.php?title=Main_Page")
    ((document,), _) = read(dump(page(1, title="A B"), head=head))
    assert (document.url, document.licences) == ("http://x.org/w/index.php?title=A_B", [])
    ((document,), _) = read(dump(page(1), head=head), licence="CC0-1.0")
    assert [(claim.spdx, claim.tool) for claim in document.licences] == [("CC0-1.0", "recipe")]
    ((document,), _) = read(dump(page(1), head="<mediawiki>"))
    assert (document.url, document.language, document.licences) == (None, None, [])
    assert page_url("https://de.wikipedia.org/wiki/A", "Ä/b:c") == "https://de.wikipedia.org/wiki/%C3%84/b:c"


@pytest.mark.parametrize("pack", [bz2.compress, gzip.compress, lzma.compress], ids=["bz2", "gz", "xz"])
def test_packed_exports(pack: Callable[[bytes], bytes], read: Callable[..., Any]) -> None:
    data = dump(*(page(i) for i in range(50)))
    plain = read(data)
    assert [row.text for row in read(pack(data), "wiki.xml.x")[0]] == [row.text for row in plain[0]]
    assert [row.occurrences[0].offset for row in read(pack(data), "wiki.xml.x")[0]] == [
        row.occurrences[0].offset for row in plain[0]
    ]


def multistream(folder: Path, n_streams: int) -> Path:
    """A dump of 10 pages a stream, and its index."""
    data, index = bz2.compress(HEAD.encode()), []
    for stream in range(n_streams):
        numbers = range(stream * 10, stream * 10 + 10)
        index += [f"{len(data)}:{number}:Page {number}" for number in numbers]
        data += bz2.compress("".join(page(number, revision(number, f"text {number}")) for number in numbers).encode())
    (folder / "x-pages-articles-multistream.xml.bz2").write_bytes(data + bz2.compress(b"</mediawiki>"))
    (folder / "x-pages-articles-multistream-index.txt.bz2").write_bytes(bz2.compress("\n".join(index).encode() + b"\n"))
    return folder / "x-pages-articles-multistream.xml.bz2"


def test_a_multistream_dump_gives_the_same_in_any_number_of_shards(tmp_path: Path) -> None:
    file = multistream(tmp_path, 12)
    whole = rows(MediaWikiDump("w", str(tmp_path)))
    assert len(whole[0]) == 120
    assert not whole[1]
    for shard_bytes in (1, 1500, 4000):
        source = MediaWikiDump("w", str(file), shard_bytes=shard_bytes)
        parts = rows(source)
        assert len(source.plan()) > 1
        assert [row.doc_id for row in parts[0]] == [row.doc_id for row in whole[0]]
        assert {(row.url, row.language, row.licences[0].spdx) for row in parts[0]} == {
            (row.url, "de", "CC-BY-SA-4.0") for row in whole[0]
        }
        assert not parts[1]


def test_a_damaged_block_and_a_broken_page_cost_what_is_in_them(tmp_path: Path, read: Callable[..., Any]) -> None:
    chance = random.Random(3)
    pages = [page(i, revision(i, " ".join(f"{chance.getrandbits(40):x}" for _ in range(200)))) for i in range(400)]
    packed = bytearray(bz2.compress(dump(*pages), 1))
    packed[len(packed) // 2] ^= 1
    documents, rejects = read(bytes(packed), "wiki.xml.bz2")
    assert 300 < len(documents) < 400
    assert Counter(reject.reason for reject in rejects) == {"damaged": 1, "truncated": 1}
    documents, rejects = read(dump(page(1), page(2).replace("</text>", "</tex>"), page(3)))
    assert [document.meta["page_id"] for document in documents] == ["1", "3"]
    assert [reject.reason for reject in rejects] == ["bad_xml"]
    documents, rejects = read(dump(page(1), page(2))[:-60])
    assert [reject.reason for reject in rejects] == ["truncated"]
    assert read(b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + dump(page(1)))[1][0].reason == "forbidden_dtd"


def test_mistakes_of_users(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no file"):
        MediaWikiDump("w", str(tmp_path / "*.xml")).plan()
    (tmp_path / "a.xml").write_bytes(dump(page(1)))
    with pytest.raises(SourceError, match="SPDX"):
        MediaWikiDump("w", str(tmp_path / "a.xml"), licence="no licence").plan()
    file = multistream(tmp_path, 2)
    file.with_name("x-pages-articles-multistream-index.txt.bz2").write_bytes(bz2.compress(b"no index\n"))
    with pytest.raises(SourceError, match="not a multistream index"):
        MediaWikiDump("w", str(file), shard_bytes=1).plan()


@pytest.mark.data
def test_real_dumps_leave_no_markup(test_data: Path) -> None:
    left: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for pattern in ("gensim_wiki/gensim/test/test_data/*wiki*.bz2", "dbpedia_minidumps/**/wiki.xml.bz2"):
        documents, rejects = rows(MediaWikiDump("w", str(test_data / pattern)))
        assert len({document.doc_id for document in documents}) == len(documents)
        found.update(["document"] * len(documents) + [reject.reason for reject in rejects])
        for document in documents:
            left.update(
                mark for mark in ("{{", "[[", "]]", "{|", "|}", "<ref", "</ref", "'''", "\n==", "&nbsp;") if mark in document.text
            )
    assert found["redirect"] == 102
    assert found["document"] == 268
    assert set(found) == {"document", "redirect", "not_wikitext", "empty"}
    assert left == {"{{": 2}  # both in LaTeX formulas


@pytest.mark.data
def test_words_agree_with_mwparserfromhell(test_data: Path) -> None:
    parser = pytest.importorskip("mwparserfromhell")
    from tilth.corpus.extract.wikitext import Wiki, wikitext_to_text
    from tilth.corpus.formats.xml_stream import XmlElement, XmlRecords, read_xml

    path = test_data / "gensim_wiki/gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
    shares = []
    for found in read_xml([bz2.decompress(path.read_bytes())], XmlRecords("mediawiki", frozenset({"revision"}), "page")):
        assert isinstance(found, XmlElement)
        source = found.child_text("text")
        if 5000 < len(source) < 30_000 and len(shares) < 25:
            ours, theirs = (
                Counter(text.split()) for text in (wikitext_to_text(source, Wiki("en")), parser.parse(source).strip_code())
            )
            shares.append(sum((ours & theirs).values()) / sum(ours.values()))
    assert len(shares) == 25
    assert sorted(shares)[len(shares) // 2] > 0.93  # the rest: lists, what templates show, and cells that are joined otherwise
