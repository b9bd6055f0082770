"""How a record begins: WARC (ISO 28500, versions 0.17 to 1.1) and ARC (Internet Archive 1996, versions 1 and 2)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

MAX_HEAD_BYTES, MAX_URL_BYTES = 1 << 16, 8000
WARC_LINE = re.compile(rb"WARC/[0-9]\.[0-9]{1,2}[ \t]*\r?\n", re.IGNORECASE)
# Not only where a line begins: damage may have taken the end of the line before.
WARC_START = re.compile(WARC_LINE.pattern + rb"(?=[A-Za-z][A-Za-z\-]{2,40}[ \t]*:)", re.IGNORECASE)
WARC_KINDS = frozenset(["warcinfo", "response", "resource", "request", "metadata", "revisit", "conversion", "continuation"])
WARC_VERSIONS = (b"1.0", b"1.1", b"0.17", b"0.18")
HEAD_END = re.compile(rb"\r?\n\r?\n")
FOLD = re.compile(r"\r?\n[ \t]+")

# Address, date and type as they should be: after damage, only such a line can be told from text.
ARC_URL = re.compile(rb"(?:https?|ftp|dns|filedesc|gopher|nntp|news|mms|rtsp|whois|metadata|urn|file):", re.IGNORECASE)
ARC_REST = re.compile(rb" (?:[0-9A-Fa-f.:]{2,45}|-) [0-9]{8,18} [^\r\n]{1,2000}? -?[0-9]{1,15}\r?\n")
ARC_LINE = re.compile(ARC_URL.pattern + rb"[^\r\n]{0,8000}?" + ARC_REST.pattern, re.IGNORECASE)
ARC_FIELDS = {1: 5, 2: 10}
ARC_HTTP = re.compile(rb"(?:HTTP|ICY)/?[0-9. ]", re.IGNORECASE)


class Head(NamedTuple):
    """The head of a record: how long it is itself and how long its block. Header names are lower case."""

    size: int
    headers: dict[str, str]
    length: int


class NoHead(NamedTuple):
    """Why there is no head. `begun`: it is that of a record, though a broken one; `is_cut`: it ends where the bytes do."""

    problem: str
    begun: bool
    is_cut: bool = False


class Format(NamedTuple):
    """A kind of archive: the kinds of its records, where one can begin, whether some bytes do so, and how to read its head."""

    name: str
    kinds: frozenset[str]
    find_start: Callable[[bytes], int | None]
    begins: Callable[[bytes], bool]
    head: Callable[[bytes, bool], Head | NoHead]


def warc_start(data: bytes) -> int | None:
    """Where in some bytes the first record can begin."""
    match = WARC_START.search(data)
    return match.start() if match else None


def warc_begins(data: bytes) -> bool:
    """Whether `data` begins like a WARC record."""
    return WARC_LINE.match(data) is not None


def warc_head(data: bytes, is_all: bool) -> Head | NoHead:
    """Read a head; `is_all` says that nothing follows `data`."""
    if not warc_begins(data):
        is_cut = is_all and any((b"WARC/%s\r\n" % version).startswith(data) for version in WARC_VERSIONS)
        return NoHead("no record begins here", begun=is_cut, is_cut=is_cut)
    after = data.find(b"\nWARC/", 5) + 1  # no head goes on behind the first line of another
    end = HEAD_END.search(data, 0, after or len(data))
    if end is None:
        return NoHead("the head has no end", begun=True, is_cut=not after)
    headers = warc_headers(data[: end.start()])
    if not headers.get("warc-type"):
        return NoHead("no WARC-Type", begun=True)
    given = headers.get("content-length", "")
    if not (given.isascii() and given.isdigit() and len(given) < 19):
        return NoHead(f"no valid Content-Length: {given[:40]!r}", begun=True)
    return Head(end.end(), headers, int(given))


def warc_headers(head: bytes) -> dict[str, str]:
    """The named fields of a head, names in lower case; of a repeated one the last."""
    # not splitlines: a URL may hold what Unicode counts as the end of a line
    text = head.decode("utf-8", "replace")
    lines = (FOLD.sub(" ", text) if "\n " in text or "\n\t" in text else text).split("\n")[1:]
    pairs = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def arc_start(data: bytes) -> int | None:
    """Where in some bytes the first record can begin: at the URL before an address, a date and a length."""
    for rest in ARC_REST.finditer(data):
        line = data.rfind(b"\n", 0, rest.start()) + 1
        if ARC_URL.match(data, line) and rest.start() - line <= MAX_URL_BYTES:
            return line
        # no line end before it, as some writers leave out: the URL has no space then
        word = max(line, data.rfind(b" ", 0, rest.start()) + 1, rest.start() - MAX_URL_BYTES)
        if url := ARC_URL.search(data, word, rest.start()):
            return url.start()
    return None


def arc_begins(data: bytes) -> bool:
    """Whether `data` begins like an ARC record, of which the first line may go on behind it."""
    if ARC_URL.match(data) is None:
        return False
    line, end, _ = data.partition(b"\n")
    return ARC_LINE.match(data) is not None if end else len(line) > 60


def arc_head(data: bytes, is_all: bool) -> Head | NoHead:
    """Read the line before a block: version 1 has five fields, version 2 ten; the URL may hold spaces."""
    line, end, _ = data.partition(b"\n")
    begun = ARC_URL.match(data) is not None
    if not end:
        return NoHead("the URL line has no end", begun=begun, is_cut=begun or len(data) < len("filedesc:"))
    if not begun:
        return NoHead("no record begins here", begun=False)
    fields = line.decode("utf-8", "replace").rstrip("\r").split(" ")
    if not (fields[-1].isascii() and fields[-1].isdigit() and len(fields[-1]) < 19) or len(fields) < ARC_FIELDS[1]:
        return NoHead(f"not a URL line: {line[-60:]!r}", begun=True)
    is_second = len(fields) >= ARC_FIELDS[2] and fields[-2] != "" and re.fullmatch(r"[0-9]{3}|-", fields[-6]) is not None
    cut = len(fields) - (ARC_FIELDS[2 if is_second else 1] - 1)
    url, date, kind, length = " ".join(fields[:cut]), fields[cut + 1], fields[cut + 2], int(fields[-1])
    if not is_second and not re.fullmatch(r"[0-9]{8,18}|-", date):  # a type with spaces in it: `text/html; charset=x`
        at = next((i for i in range(2, len(fields) - 2) if re.fullmatch(r"[0-9]{8,18}", fields[i])), None)
        if at is not None:
            url, date, kind = " ".join(fields[: at - 1]), fields[at], " ".join(fields[at + 1 : -1])
    headers = {"warc-type": "filedesc" if url.startswith("filedesc:") else "response", "warc-target-uri": url}
    if when := _arc_date(date):
        headers["warc-date"] = when
    return Head(len(line) + 1, headers | {"arc-content-type": kind}, length)


def _arc_date(digits: str) -> str:
    """`20080430204825` as 2008-04-30T20:48:25Z; empty if it is no date."""
    match = re.match(r"(\d{4})(\d\d)(\d\d)(\d\d)?(\d\d)?(\d\d)?", digits)
    if match is None:
        return ""
    year, month, day, *clock = match.groups(default="00")
    return f"{year}-{month}-{day}T{':'.join(clock)}Z"


WARC = Format("WARC", WARC_KINDS, warc_start, warc_begins, warc_head)
ARC = Format("ARC", frozenset({"filedesc", "response"}), arc_start, arc_begins, arc_head)
