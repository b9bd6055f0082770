"""Project Gutenberg's books without its header, licence and small print, and what the header says of the book.

The markers changed over fifty years: `*** START OF THE/THIS PROJECT GUTENBERG EBOOK ... ***` (since 2001),
`*END*THE SMALL PRINT!` before the text (1991 to 2001) or after it (2001 to 2004), `End of Project Gutenberg's ...`,
and translations of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise

from tilth.corpus.formats.content import decode_marked

PROJECT = (
    r"(?:the |this |das |des |dieses |du |de |del |di |do |el |het |van )*(?:copyrighted )?"
    r"(?:project|projekt|projet|progetto|proyecto|projeto) gutenberg"
)
BEGIN = r"start|beginn|d[ée]but|inicio|in[ií]cio|comienzo|inizio|begin|alku"
FINISH = r"end|ende|fin|fim|fine|einde|loppu"
OF = r"(?: of| de| du| del| des| di| do| van)?"
START_MARKER = re.compile(rf"^[ \t]*\*{{2,4}}[ \t]*(?:{BEGIN}){OF}[ \t]+(?:{PROJECT})[^*]{{0,600}}\*{{2,4}}[^\n]*$", re.I | re.M)
END_MARKER = re.compile(rf"^[ \t]*\*{{2,4}}[ \t]*(?:{FINISH}){OF}[ \t]+(?:{PROJECT})", re.I | re.M)
END_LINE = re.compile(rf"^[ \t_*\\]*(?:{FINISH}){OF}[ \t]+(?:{PROJECT})", re.I | re.M)
SMALL_PRINT_START = re.compile(r"^(?:[ \t*\[\"]*+START\*\*THE SMALL PRINT|(?:[ \t\[\"]*+\*++)++[ \t]*+SMALL PRINT!)", re.M)
SMALL_PRINT_END = re.compile(r"^[^\n]{0,40}\*[ \t]?END[* ]{1,3}(?:OF )?THE SMALL PRINT[^\n]*$", re.I | re.M)
HEADING = re.compile(r"project gutenberg(?:['’]s)?|proje[ck]t gutenberg|\[(?:etext|ebook) #\d", re.I)
CREDITS = re.compile(
    r"\s*((?:\[?(?:Produced|E-?text prepared|This (?:e-?(?:text|book)|file) was (?:prepared|produced|first posted)"
    r"|Transcribed|Scanned|Prepared)"
    r" by|Note: |Images? (?:of the original|generously)|Updated editions will)(?:[^\n]+\n?)+)",
    re.I,
)  # fmt: skip
HEADER_CHARS = 60_000  # headers before 2001 have up to 20,000
CLOSING_CHARS = 1500  # between "End of Project Gutenberg's" and the marker

FIELDS = {
    "title": ("title", "titel", "titre", "título", "titolo", "titulo", "nimeke"),
    "author": ("author", "autor", "auteur", "autore", "verfasser", "tekijä"),
    "translator": ("translator", "übersetzer", "traducteur", "traductor", "traduttore", "vertaler"),
    "editor": ("editor", "herausgeber"),
    "illustrator": ("illustrator",),
    "posting_date": ("posting date",),
    "release_date": ("release date", "veröffentlichungsdatum", "date de publication"),
    "language": ("language", "sprache", "langue", "idioma", "lingua", "taal", "kieli", "língua"),
    "charset": ("character set encoding", "character set", "zeichensatz"),
}
FIELD_OF = {label: name for name, labels in FIELDS.items() for label in labels}
FIELD = re.compile(r"^[ \t%]*([^\W\d_][\w \t]{2,30}?)[ \t]*:[ \t]+(\S[^\n]*(?:\n[ \t]{2,}\S[^\n]*)*)", re.M)
NOT_VALUE = re.compile(r"\[(?:e-?book|e-?text)[^\]]*\]|\s*(?:last|most recently) updated:.*", re.I | re.S)
NUMBER = re.compile(r"\[?\b(?:e-?text|e-?book)[- ]?(?:no\.?|nr\.?)?[ \t]*#[ \t]*(\d{1,6})\b", re.I)
FIRST_RELEASE = re.compile(
    r"^[ \t]*((?:January|February|March|April|May|June|July|August|September|October|November|December),? \d{4})\s*\[Etext", re.M
)
CHARSET = re.compile(rb"(?:character set(?: encoding)?|zeichensatz)[ \t]*:[ \t]*([^\r\n]{2,40})", re.I)
CHARSETS = (
    (r"utf-?8", "utf-8"), (r"utf-?16", "utf-16"), (r"windows.?1252|cp.?1252|ansi", "cp1252"),
    (r"8859-15|latin-?9", "iso-8859-15"), (r"windows.?1251", "cp1251"),
    (r"8859-2\b|latin-?2", "iso-8859-2"), (r"8859-7", "iso-8859-7"), (r"8859-1\b|latin-?1|iso latin", "iso-8859-1"),
    (r"mac", "mac_roman"), (r"cp.?850|codepage 850", "cp850"), (r"cp.?437|ibm", "cp437"), (r"big-?5", "big5"), (r"gb", "gbk"),
    (r"shift", "shift_jis"), (r"euc-?jp", "euc-jp"),
)  # fmt: skip
LANGUAGES = {
    "english": "en", "french": "fr", "français": "fr", "german": "de", "deutsch": "de", "spanish": "es", "español": "es",
    "italian": "it", "italiano": "it", "portuguese": "pt", "português": "pt", "dutch": "nl", "nederlands": "nl", "finnish": "fi",
    "swedish": "sv", "svenska": "sv", "danish": "da", "norwegian": "no", "latin": "la", "greek": "el", "chinese": "zh",
    "japanese": "ja", "esperanto": "eo", "hungarian": "hu", "polish": "pl", "russian": "ru", "czech": "cs", "catalan": "ca",
    "tagalog": "tl", "welsh": "cy", "icelandic": "is", "hebrew": "he", "bulgarian": "bg", "romanian": "ro", "serbian": "sr",
    "irish": "ga", "scots": "sco", "frisian": "fy", "galician": "gl", "afrikaans": "af", "arabic": "ar", "yiddish": "yi",
}  # fmt: skip
CHAPTER = re.compile(
    r"(?:\A|\n[ \t]*\n)[ \t]*((?:(?:chapter|chapitre|kapitel|cap[íi]tulo|capitolo|hoofdstuk|letter"
    r"|canto|act|book|part|livre|buch|libro)"
    r"[ \t]+(?:[ivxlcdm]+|\d+|the [a-z]+|primero|premier|première|erstes?|[a-z]{1,20}-?[a-z]{0,20}teen"
    r"|one|two|three|four|five|six|seven|eight|nine|ten)\b[^\n]{0,100}"
    r"|(?:epilogue|prologue|etymology|preface|introduction|epílogo|prólogo)\.?[ \t]*))(?=\n)",
    re.I,
)  # fmt: skip
MIN_CHAPTER_CHARS = 500  # what is shorter is a line of a table of contents


@dataclass(frozen=True)
class Book:
    """A book's text; `markers` says what told header and footer apart ("" if nothing did: the text is whole)."""

    text: str
    header: dict[str, str] = field(default_factory=dict)  # title, author, language, release_date, ...
    number: str = ""
    credits: str = ""
    markers: str = ""
    terms: str = ""  # the sentence of the header that says how the book may be used


def read_book(text: str) -> Book:
    """Separate a book from Project Gutenberg's header and footer. `text` may be plain text, LaTeX or the text of a page."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")
    start, end, markers = _bounds(text)
    if not HEADING.search(text[: max(start, 3000)]) and not markers:
        return Book(text.strip("\n"))
    head, body = text[:start] or text[:3000], text[start:end].strip("\n")
    credits_found: list[str] = []
    while (match := CREDITS.match(body)) and len(match[1]) < 3000:
        credits_found.append(" ".join(match[1].split()))
        body = body[match.end() :].strip("\n")
    numbers = NUMBER.findall(head)
    return Book(
        text=body, header=header_fields(head), number=numbers[0] if numbers else "", credits="\n".join(credits_found),
        markers=markers, terms=_terms(head + text[end:]),
    )  # fmt: skip


def _bounds(text: str) -> tuple[int, int, str]:
    """Where the book begins and ends, and the names of the markers that say so."""
    start, names = 0, []
    if match := START_MARKER.search(text):
        start, names = match.end(), ["start"]
    end = len(text)
    if match := END_MARKER.search(text, start):
        end, names = match.start(), [*names, "end"]
    small_prints = list(SMALL_PRINT_END.finditer(text, start, min(end, HEADER_CHARS + start)))
    if small_prints:
        start, names = small_prints[-1].end(), ["small print", *names]
    elif "end" not in names and (match := SMALL_PRINT_START.search(text, start)) and match.start() > HEADER_CHARS:
        end = match.start()
        names.append("small print after")
    lines = list(END_LINE.finditer(text, start, end))
    if lines and ("end" not in names or end - lines[-1].start() < CLOSING_CHARS) and (names or lines[-1].start() > end * 0.8):
        end = lines[-1].start()
        names.append("end line")
    return start, end, ", ".join(names)


def header_fields(head: str) -> dict[str, str]:
    """Title, author, language, release date and more, as the header gives them; lines that go on are joined."""
    fields: dict[str, str] = {}
    for match in FIELD.finditer(head):
        name = FIELD_OF.get(" ".join(match[1].lower().split()))
        if name and name not in fields:
            fields[name] = " ".join(NOT_VALUE.sub("", match[2]).split())
    if "release_date" not in fields and (match_release := FIRST_RELEASE.search(head)):
        fields["release_date"] = match_release[1]
    if "title" not in fields and (
        match_title := re.search(r"project gutenberg(?:['’]s)? (?:e-?text|e-?book)(?: of|,) ([^\n*]{3,120})", head, re.I)
    ):
        title, _, author = match_title[1].strip().partition(", by ")
        fields["title"] = title.strip()
        if author:
            fields.setdefault("author", author.strip())
    return fields


def language_code(name: str) -> str | None:
    """ISO 639 code of the first language that a header names; None if it is not known."""
    first = re.split(r"[,;/]| and ", name.strip().lower())[0].strip()
    return LANGUAGES.get(first) or (first if re.fullmatch(r"[a-z]{2,3}", first) else None)


def without_markers(text: str) -> str:
    """The part of `text` between the markers."""
    start, end, _ = _bounds(text)
    return text[start:end].strip("\n")


def declared_charset(data: bytes) -> str | None:
    """The character set that a header names, in Python's names; None if none that is known."""
    match = CHARSET.search(data[:HEADER_CHARS])
    if match is None:
        return None
    label = match[1].decode("ascii", "replace").lower()
    return next((encoding for pattern, encoding in CHARSETS if re.search(pattern, label)), None)


def decode_book(data: bytes) -> tuple[str, str]:
    """(text, encoding): byte order mark, UTF-8, what the header declares, Windows-1252, DOS. Raises ValueError if binary.

    With a byte order mark, what does not fit is replaced and `encoding` ends in `+replace`.
    """
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if data.startswith(mark):
            return decode_marked(data[len(mark) :], encoding)
    if b"\0" in data or data.startswith((b"%PDF-", b"PK\x03\x04", b"%!PS")):
        raise ValueError(f"begins as {data[:8]!r}")
    declared: str | None = declared_charset(data)
    # 0x80 to 0x9f are letters and quotes in Windows-1252 and control characters, which no book has, in Latin-1
    charset = "cp1252" if declared == "iso-8859-1" and re.search(rb"[\x80-\x9f]", data) else declared
    for label in ("utf-8", charset, "cp1252"):
        if label:
            try:
                return data.decode(label), label
            except UnicodeDecodeError:
                continue
    return data.decode("cp437"), "cp437"  # what Windows-1252 lacks are letters of DOS, and control characters in Latin-1


def split_chapters(text: str) -> list[tuple[str, str]]:
    """(heading, text with its heading) of every chapter; what precedes the first has no heading. One part if there are none."""
    starts = [match.start(1) for match in CHAPTER.finditer(text)]
    real = [a for a, b in pairwise([*starts, len(text)]) if b - a >= MIN_CHAPTER_CHARS]
    cuts = [0, *(a for a in real if a > 0), len(text)]
    parts = [text[a:b].strip("\n") for a, b in pairwise(cuts)]
    return [(part.split("\n", 1)[0].strip() if CHAPTER.match(part) else "", part) for part in parts if part.strip()]


def _terms(boilerplate: str) -> str:
    """`copyrighted`, or the words that give the book free; empty if the boilerplate has neither."""
    plain = " ".join(boilerplate.split())
    if re.search(r"This is a COPYRIGHTED Project Gutenberg|\*\*\* ?START OF TH(?:E|IS) COPYRIGHTED", plain, re.I):
        return "copyrighted"
    for words in (
        r"for the use of anyone anywhere[^.]{0,200}",
        r"FOR PUBLIC DOMAIN E(?:TEXT|BOOK)S",
        r"public domain in the United States",
    ):
        if match := re.search(words, plain, re.I):
            return match[0][:200]
    return ""
