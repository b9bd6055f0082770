"""Texts are made within limits: what takes too long or too much is refused alone, and what is ordinary comes out as it did."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilth.corpus.attempts import Pending, Refused, attempt, finished
from tilth.corpus.extract.gutenberg import read_book, split_chapters
from tilth.corpus.extract.post_html import post_to_text
from tilth.corpus.extract.tex import extract_tex
from tilth.corpus.extract.wikitext import wikitext_to_text
from tilth.corpus.records import Document, Reject
from tilth.corpus.sources.arxiv import ArxivSource
from tilth.corpus.sources.books import Books
from tilth.corpus.sources.json_lines import JsonLines
from tilth.corpus.sources.mediawiki import MediaWikiDump
from tilth.corpus.sources.stackexchange import StackExchange
from tilth.corpus.sources.wat import Wat


def rows_of(source: Any) -> list[Document | Reject]:
    return [row for shard in source.plan() for row in source.read(shard)]


@pytest.mark.parametrize("max_seconds", [0, 10.0])
def test_it_returns_what_the_function_does(max_seconds: float) -> None:
    assert attempt("base64:b64encode", b"abc", max_seconds=max_seconds) == b"YWJj"
    with pytest.raises(ValueError, match="hexadecimal"):
        attempt("binascii:unhexlify", b"x1", max_seconds=max_seconds)
    deep = attempt("json:loads", b"[" * 100_000, max_seconds=max_seconds)
    assert deep == Refused("too_deep", "nested deeper than Python goes")


def test_what_does_not_end_and_what_grows() -> None:
    assert attempt("lzma:compress", bytes(1 << 26), max_seconds=0.05).reason == "too_slow"
    assert attempt("operator:mul", b"x", 1 << 31, max_seconds=10).reason == "crashed"


@pytest.mark.parametrize("max_seconds", [0, 10.0])
def test_rows_keep_their_order(max_seconds: float) -> None:
    reject = Reject("r", "empty", "")
    rows = [
        row for i in range(3000) for row in (Pending(str(i), (str(i), 2), 1000, lambda text: Reject(text, "done", "")), reject)
    ]
    found = list(finished(rows, "operator:mul", max_seconds))
    assert [row.location for row in found if isinstance(row, Reject)] == [part for i in range(3000) for part in (str(i) * 2, "r")]


PAGE = "<page><title>T{0}</title><ns>0</ns><id>{0}</id><revision><id>{0}</id><text>{1}</text></revision></page>"
POST = '<row Id="{0}" PostTypeId="1" Score="1" Title="t" Body="{1}"/>'
PAPER = b"\\documentclass{a}\\begin{document}\\section{A} %b\\end{document}"


def wiki(folder: Path) -> MediaWikiDump:
    pages = [PAGE.format(1, "one"), PAGE.format(2, "[[a|b]] {{c|" * 200_000), PAGE.format(3, "three")]
    (folder / "a.xml").write_text(f"<mediawiki>{''.join(pages)}</mediawiki>")
    return MediaWikiDump("w", str(folder / "a.xml"), max_seconds=0.3)


def posts(folder: Path) -> StackExchange:
    rows = [POST.format(1, "one"), POST.format(2, "&lt;p&gt;a" * 300_000), POST.format(3, "three")]
    (folder / "Posts.xml").write_text(f"<posts>{''.join(rows)}</posts>")
    return StackExchange("s", str(folder), max_seconds=0.3)


def papers(folder: Path) -> ArxivSource:
    for i, text in enumerate((b"one", b"{}" * 300_000, b"three")):
        (folder / f"1501.0000{i}.gz").write_bytes(gzip.compress(PAPER % text))
    return ArxivSource("a", str(folder), max_seconds=0.3)


def loose_papers(folder: Path) -> ArxivSource:
    for i, text in enumerate((b"one", b"{}" * 300_000, b"three")):
        (folder / f"{i}.tex").write_bytes(PAPER % text)
    return ArxivSource("a", str(folder), max_seconds=0.3)


def books(folder: Path) -> Books:
    for i, text in enumerate(("<p>one", "a<ul>" * 20_000, "<p>three")):
        (folder / f"{i}.html").write_text(text)
    return Books("b", str(folder), max_seconds=0.3)


@pytest.mark.parametrize("make", [wiki, posts, papers, loose_papers, books])
def test_a_slow_document_of_every_source_is_a_reject(make: Callable[[Path], Any], tmp_path: Path) -> None:
    rows = rows_of(make(tmp_path))
    assert sorted(getattr(row, "reason", "document") for row in rows) == ["document", "document", "too_slow"]
    assert ["one" in row.text or "three" in row.text for row in rows if isinstance(row, Document)] == [True, True]


def grows(work: Callable[[str], Any], unit: str, n_chars: int) -> float:
    """Processor time of four times as much text by that of one time, the least of three."""
    seconds = []
    for size in (n_chars, 4 * n_chars):
        text, least = unit * (size // len(unit)), 1e9
        for _ in range(3):
            start = time.process_time()
            work(text)
            least = min(least, time.process_time() - start)
        seconds.append(least)
    return seconds[1] / max(seconds[0], 1e-3)


def paper(text: str) -> Any:
    return extract_tex({"a.tex": b"\\documentclass{a}\\begin{document}" + text.encode()})


@pytest.mark.parametrize(
    ("work", "unit"),
    [
        (wikitext_to_text, "{{}}"), (wikitext_to_text, "{{a}} , "), (wikitext_to_text, "{"), (wikitext_to_text, "[[a|"),
        (wikitext_to_text, "<ref>"), (wikitext_to_text, "{{c|"), (wikitext_to_text, "<!--"),
        (read_book, "*"), (read_book, "*** START OF "), (lambda text: split_chapters(f"\n\nCHAPTER I{text}"), "a"),
        (post_to_text, "<"), (post_to_text, "<li>"), (post_to_text, "<!--"),
        (lambda text: paper(f"\\title{{{text}}}"), "{}"), (paper, "{"), (paper, "\\def\\a{"), (paper, "\\begin{verbatim}"),
    ],
)  # fmt: skip
def test_time_grows_with_the_text(work: Callable[[str], Any], unit: str) -> None:
    assert grows(work, unit, 20_000) < 9


@pytest.mark.parametrize("size", [10, 2 << 20])
def test_long_lines_of_json_are_read_alike(tmp_path: Path, size: int) -> None:
    record = {"text": "é" * size, "id": "7", "more": [1]}
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + '\n{"text": "b"}\n[' + "1," * size + "]\n")
    first, second, third = rows_of(JsonLines("j", str(tmp_path / "a.jsonl")))
    assert isinstance(first, Document)
    assert (first.text, first.meta, first.occurrences[0].record_id) == ("é" * size, {"id": "7", "more": "[1]"}, "1")
    assert [getattr(row, "reason", "document") for row in (second, third)] == ["document", "invalid_json"]


@pytest.mark.parametrize("n_more", [0, 2 << 20])
def test_long_metadata_of_wat_is_read_alike(tmp_path: Path, warc_record: Callable[..., bytes], n_more: int) -> None:
    head = {"WARC-Type": "response", "WARC-Target-URI": "http://a/"}
    payload = {"HTTP-Response-Metadata": {"HTML-Metadata": {"Head": {"Title": "A title"}}}}
    wat = {"Envelope": {"WARC-Header-Metadata": head, "Payload-Metadata": payload}, "more": "x" * n_more}
    nested = b'{"Envelope": {"WARC-Header-Metadata": {"WARC-Type": "response", "WARC-Target-URI": %b1%b}}}' % (
        b"[" * 900,
        b"]" * 900,
    )
    (tmp_path / "a.wat").write_bytes(
        warc_record(json.dumps(wat).encode(), "metadata") + warc_record(nested, "metadata", number=1)
    )
    first, second = rows_of(Wat("w", str(tmp_path / "a.wat")))
    assert isinstance(first, Document)
    assert (first.text, first.url) == ("A title", "http://a/")
    assert isinstance(second, Reject)
