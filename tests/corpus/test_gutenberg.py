"""Project Gutenberg's markers of all times, its headers, encodings; tried on five real books in fifteen files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.corpus.extract.gutenberg import decode_book, header_fields, language_code, read_book, split_chapters

BODY = "CHAPTER I\n\nIt began.\n\n" + 'He said: "the end of Project Gutenberg\'s work" is near.\n' * 5 + "\nTHE END"
HEADER = "The Project Gutenberg EBook of A Book, by A. Writer\n\nTitle: A Book\n       And More\n\nAuthor: A. Writer\n\nRelease Date: May, 2001 [EBook #77]\n\nLanguage: English\n\n"


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("*** START OF THIS PROJECT GUTENBERG EBOOK A BOOK ***", "*** END OF THIS PROJECT GUTENBERG EBOOK A BOOK ***"),
        ("*** START OF THE PROJECT GUTENBERG EBOOK A BOOK\nOF LONG TITLE ***", "End of the Project Gutenberg EBook of A Book\n\n*** END OF THE PROJECT GUTENBERG EBOOK A BOOK ***"),
        ("***START OF THE PROJECT GUTENBERG EBOOK A BOOK***", "***END OF THE PROJECT GUTENBERG EBOOK A BOOK***\n\n*** START: FULL LICENSE ***"),
        ("*** START OF THE COPYRIGHTED PROJECT GUTENBERG EBOOK A BOOK ***", "*** END OF THE COPYRIGHTED PROJECT GUTENBERG EBOOK A BOOK ***"),
        ("*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*", "End of Project Gutenberg's Etext of A Book, by A. Writer"),
        ("*END THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.10/04/01*END*", "End of this Project Gutenberg etext of A Book"),
        ("*** START OF THE PROJECT GUTENBERG EBOOK, A BOOK ***", "*** END OF THE PROJECT GUTENBERG EBOOK, A BOOK ***\n***START**THE SMALL PRINT!**START***\n*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*"),
        ("*** START OF THIS PROJECT GUTENBERG EBOOK EIN BUCH ***", "Ende dieses Projekt Gutenberg Etextes Ein Buch"),
        ("*** BEGINN DIESES PROJEKT GUTENBERG BUCHES ***", "*** ENDE DIESES PROJEKT GUTENBERG BUCHES ***"),
        ("*** DÉBUT DU PROJET GUTENBERG LIVRE ***", "Fin de Project Gutenberg's Un Livre"),
        ("*** COMIENZO DEL PROYECTO GUTENBERG LIBRO ***", "*** FIN DEL PROYECTO GUTENBERG LIBRO ***"),
        ("*** INIZIO DEL PROGETTO GUTENBERG LIBRO ***", "*** FINE DEL PROGETTO GUTENBERG LIBRO ***"),
        ("*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n\nProduced by Somebody and the Online\nTeam at http://www.pgdp.net\n", "*** END OF THIS PROJECT GUTENBERG EBOOK X ***"),
    ],
)  # fmt: skip
def test_markers(start: str, end: str) -> None:
    book = read_book(f"{HEADER}{start}\n\n\n{BODY}\n\n\n{end}\n\nterms of the licence\n")
    assert book.text == BODY
    assert book.header == {"title": "A Book And More", "author": "A. Writer", "release_date": "May, 2001", "language": "English"}
    assert book.number == "77"
    assert book.markers


def test_credits_are_kept_aside() -> None:
    book = read_book(f"{HEADER}*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n\nProduced by A. B.\nand C.\n\n{BODY}\n")
    assert book.credits == "Produced by A. B. and C."


def test_a_book_of_others_stays_whole() -> None:
    book = read_book(f"{BODY}\r\n")
    assert book.text == BODY
    assert (book.markers, book.terms, book.header) == ("", "", {})


@pytest.mark.parametrize(
    ("head", "found"),
    [
        ("Titel: Faust\nVerfasser: Goethe\nSprache: Deutsch\n", {"title": "Faust", "author": "Goethe", "language": "Deutsch"}),
        ("Titre : Entre nous\nAuteur : Vos\n", {"title": "Entre nous", "author": "Vos"}),
        ("% Title: In TeX\n% Author: B\n", {"title": "In TeX", "author": "B"}),
        ("Project Gutenberg's Etext of Emma, by Jane Austen\n", {"title": "Emma", "author": "Jane Austen"}),
        ("Note: no field\n", {}),
    ],
)
def test_header_fields(head: str, found: dict[str, str]) -> None:
    assert header_fields(head) == found


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("English", "en"),
        ("French", "fr"),
        ("Español", "es"),
        ("English, French", "en"),
        ("de", "de"),
        ("Klingonic", None),
        ("", None),
    ],
)
def test_languages(name: str, code: str | None) -> None:
    assert language_code(name) == code


@pytest.mark.parametrize(
    ("declared", "encoding", "named"),
    [
        ("UTF-8", "utf-8", "utf-8"), ("UTF-8", "utf-8-sig", "utf-8"), ("ISO-8859-1", "iso-8859-1", "iso-8859-1"), ("ISO-8859-1", "cp1252", "cp1252"),
        ("Windows-1252", "cp1252", "cp1252"), ("CP-850", "cp850", "cp850"), ("MacRoman", "mac_roman", "mac_roman"), ("", "cp1252", "cp1252"), ("", "utf-16", "utf-16-le"),
    ],
)  # fmt: skip
def test_encodings(declared: str, encoding: str, named: str) -> None:
    quoted = "“été”" if encoding in ("cp1252", "utf-8", "mac_roman") else "été"
    text = f"Character set encoding: {declared}\n\n{quoted}\n"
    assert decode_book(text.encode(encoding)) == (text, named)


def test_chapters_are_found_and_contents_are_not() -> None:
    text = "A BOOK\n\nCONTENTS\n\nCHAPTER I. One\n\nCHAPTER II. Two\n\n" + "".join(
        f"\n\nCHAPTER {n}. Name\n\n" + "Words. " * 200 for n in ("I", "II")
    )
    parts = split_chapters(text)
    assert [heading for heading, _ in parts] == ["", "CHAPTER I. Name", "CHAPTER II. Name"]
    assert [heading for heading, _ in split_chapters("no chapters")] == [""]


@given(st.text(max_size=300), st.integers(0, 3))
def test_text_between_markers_comes_back(body: str, n_lines: int) -> None:
    text = (
        f"{HEADER}*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n"
        + "\n" * n_lines
        + f"x{body}x\n*** END OF THIS PROJECT GUTENBERG EBOOK X ***\n"
    )
    assert read_book(text).text == f"x{body}x".replace("\r\n", "\n").replace("\r", "\n").strip("\n")


REAL = {
    "pg_alice11/11-0.txt": ("ALICE’S ADVENTURES IN WONDERLAND", "THE END"),
    "pg_alice11/11.txt": ("ALICE'S ADVENTURES IN WONDERLAND", "THE END"),
    "pg_alice11/old/alice30.txt": ("                ALICE'S ADVENTURES IN WONDERLAND", "THE END"),
    "pg_entrenous44157/44157-0.txt": ("  Au lecteur.", "vensterbank.)"),
    "pg_entrenous44157/44157-8.txt": ("  Au lecteur.", "vensterbank.)"),
    "pg_mobydick2701/2701-0.txt": ("MOBY-DICK;", "only found another orphan."),
    "pg_mobydick2701/2701.txt": ("MOBY DICK; OR THE WHALE", "only found another\norphan."),
    "pg_mobydick2701/old/moby10b.txt": ("Notes on this etext of Moby Dick:", "only found another\norphan."),
    "pg_pride1342/1342-0.txt": ("PRIDE AND PREJUDICE", "had been the means of uniting them."),
    "pg_pride1342/1342.txt": ("PRIDE AND PREJUDICE", "had been the means of uniting them."),
    "pg_pride1342/old/pandp10.txt": ("Pride and Prejudice", "had been the\nmeans of uniting them."),
    "pg_pride1342/old/pandp11.txt": ("Pride and Prejudice", "had been the\nmeans of uniting them."),
    "pg_pride1342/old/pandp12.txt": ("Pride and Prejudice", "had been the\nmeans of uniting them."),
    "pg_quijote2000/2000-8.txt": ("El ingenioso hidalgo don Quijote de la Mancha", "Fin"),
}


@pytest.mark.data
@pytest.mark.parametrize("name", sorted(REAL))
def test_real_books(test_data: Path, name: str) -> None:
    text, _ = decode_book((test_data / name).read_bytes())
    book = read_book(text)
    first, last = REAL[name]
    assert book.text.startswith(first)
    assert book.text.endswith(last)
    assert "Small Print" not in book.text
    assert book.text.count("Project Gutenberg") == (1 if "moby" in name else 0)  # the transcriber of Moby Dick names it
    assert book.number == name.split("/")[0].lstrip("abcdefghijklmnopqrstuvwxyz_")
    assert book.header["title"]
    assert book.terms
