"""Books as text, HTML and LaTeX: what becomes a document, its licence, its chapters."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from tilth.corpus.batches import batches
from tilth.corpus.records import Document, Reject
from tilth.corpus.sources.books import COPYRIGHTED, PUBLIC_DOMAIN_USA, Books

HEADER = (
    "The Project Gutenberg EBook of A Book, by A. Writer\n\nThis eBook is for the use of anyone anywhere at no cost\n\nTitle: A Book\n\n"
    "Language: French\n\n[EBook #77]\n\n*** START OF THIS PROJECT GUTENBERG EBOOK A BOOK ***\n"
)
FOOTER = "\n*** END OF THIS PROJECT GUTENBERG EBOOK A BOOK ***\nlicence\n"


def rows(path: Path, **options: object) -> list[Document | Reject]:
    source = Books("books", str(path), **options)  # type: ignore[arg-type]
    return [row for shard in source.plan() for row in source.read(shard)]


def documents(path: Path, **options: object) -> list[Document]:
    found = rows(path, **options)
    assert all(isinstance(row, Document) for row in found)
    return [row for row in found if isinstance(row, Document)]


def test_text_html_and_latex_have_the_same_words(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"{HEADER}\nÉté comme hiver.\n{FOOTER}")
    (tmp_path / "b.htm").write_text(
        f"<html><head><title>x</title></head><body><pre>{HEADER}</pre><p>Été comme hiver.</p><pre>{FOOTER}</pre></body></html>"
    )
    latex = HEADER.replace("\n", "\n% ")
    (tmp_path / "c.tex").write_text(
        f"% {latex}\n\\documentclass{{book}}\n\\def\\hiver{{hiver}}\\begin{{document}}\nÉté comme \\hiver. % no\n\\end{{document}}\n"
    )
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress((tmp_path / "a.txt").read_bytes(), mtime=0))
    found = documents(tmp_path)
    assert [row.text.strip() for row in found] == ["Été comme hiver."] * 4
    assert {row.meta["title"] for row in found} == {"A Book"}
    assert {row.language for row in found} == {"fr"}
    assert {row.url for row in found} == {"https://www.gutenberg.org/ebooks/77"}


def test_the_licence_is_what_the_header_says(tmp_path: Path) -> None:
    (tmp_path / "free.txt").write_text(f"{HEADER}\nText.\n{FOOTER}")
    (tmp_path / "kept.txt").write_text(
        f"**This is a COPYRIGHTED Project Gutenberg Etext, Details Below**\n{HEADER}\nText.\n{FOOTER}"
    )
    (tmp_path / "other.txt").write_text("Text.\n")
    by_name = {
        row.occurrences[0].path: [(claim.spdx, claim.evidence_path) for claim in row.licences]
        for row in documents(tmp_path, licence="CC0-1.0")
    }
    assert by_name == {
        "free.txt": [(PUBLIC_DOMAIN_USA, "free.txt")], "kept.txt": [(COPYRIGHTED, "kept.txt")], "other.txt": [("CC0-1.0", "")],
    }  # fmt: skip


def test_chapters_are_documents_if_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(
        f"{HEADER}\nTITLE\n\n" + "".join(f"\n\nCHAPTER {n}\n\n" + "Words. " * 100 for n in ("I", "II", "III")) + FOOTER
    )
    assert len(documents(tmp_path)) == 1
    found = documents(tmp_path, chapters=True)
    assert [row.meta["chapter"] for row in found] == ["", "CHAPTER I", "CHAPTER II", "CHAPTER III"]
    assert len({row.doc_id for row in found}) == 4


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.txt", b"", "empty"), ("a.txt", b"\0\1binary", "binary"), ("a.tex", b"%PDF-1.4 ...", "binary"), ("a.txt", b"x" * 2000, "too_large"),
        ("a.txt.gz", gzip.compress(b"x" * 1000, mtime=0)[:-12], "truncated"), ("a.tex", b"\\def\\a{\\b\\b}\\def\\b{" + b"x" * 900 + b"}" + b"\\a" * 9, None),
    ],
)  # fmt: skip
def test_what_is_no_book_is_rejected(tmp_path: Path, name: str, data: bytes, reason: str | None) -> None:
    (tmp_path / name).write_bytes(data)
    (row,) = rows(tmp_path, max_file_bytes=1500)
    assert getattr(row, "reason", None) == reason


@pytest.mark.data
def test_every_file_of_real_books_is_a_row(test_data: Path, tmp_path: Path) -> None:
    source = Books("gutenberg", str(test_data / "pg_*/**/*[0-9a-z].[th]*"))
    (shard,) = source.plan()
    found = list(source.read(shard))
    rejects = [row for row in found if isinstance(row, Reject)]
    assert [(row.location, row.reason) for row in rejects] == [
        ("pg_pride1342/old/pandp12t.tex", "binary")
    ]  # a PDF by another name
    by_name = {row.occurrences[0].path: row for row in found if isinstance(row, Document)}
    assert len(by_name) == 19
    assert sum(1 for row in by_name.values() if row.licences) == 18  # all but pandp09.txt, a listing of a folder
    page, text = by_name["pg_mobydick2701/2701-h/2701-h.htm"], by_name["pg_mobydick2701/2701-0.txt"]
    words = [set(re.findall(r"\w+", row.text)) for row in (page, text)]
    assert len(words[0] & words[1]) > 0.97 * len(words[0] | words[1])  # they are two editions: 0.975
    assert sum(batch.documents.num_rows + batch.rejects.num_rows for batch in batches(found, shard)) == len(found)
