"""Turns bytes into characters and names the encoding that did it; refuses what no encoding explains."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
META = re.compile(rb"<meta[^>]{0,400}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.\-]{1,40})", re.IGNORECASE)
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f]")
META_BYTES = 4096
MAX_DAMAGED = 0.001  # share of characters that may be U+FFFD when damage is repaired


class CharsetError(Exception):
    """No encoding explains the bytes."""


def decode_html(data: bytes, declared: str | None = None) -> tuple[str, str]:
    """Return (characters, encoding). `declared` is the charset of the HTTP header.

    Tried in turn, each strictly: byte order mark, `declared`, `<meta>`, UTF-8, detection; labels mean what
    browsers mean by them (WHATWG Encoding). If all fail, the best of them with up to one damaged
    character in a thousand replaced is taken, and `encoding` ends in `+replace`. Raises CharsetError.
    """
    tried: dict[str, None] = {}
    for encoding in _candidates(data, declared):  # lazily: detection takes as long as parsing the page
        text = None if encoding in tried else _strict(data, encoding)
        if text is not None:
            return text, encoding
        tried[encoding] = None
    encoding = next(iter(tried))
    text = data.decode(encoding, "replace").removeprefix("\ufeff")
    n_damaged = text.count("\ufffd")
    if n_damaged > MAX_DAMAGED * len(text):
        raise CharsetError(f"not {', '.join(tried)}; as {encoding}, {n_damaged} of {len(text)} characters are damaged")
    return text, f"{encoding}+replace"


def decode_text(data: bytes) -> tuple[str, str]:
    """Return (characters, encoding) of a plain text file: a byte order mark, UTF-8, else detection. Raises CharsetError.

    Detection is believed only where it leaves no control characters and the bytes have no NUL.
    """
    for encoding in dict.fromkeys(_bom_or_utf8(data)):
        text = _strict(data, encoding)
        if text is not None:
            return text, encoding
    encoding = _detected(data)
    text = _strict(data, encoding)
    if text is None or b"\0" in data or CONTROL.search(text):
        raise CharsetError(f"not UTF-8, nor plain text in {encoding}")
    return text, encoding


def _candidates(data: bytes, declared: str | None) -> Iterator[str]:
    for mark, encoding in BOMS:
        if data.startswith(mark):
            yield encoding
    for label in (declared, _meta(data)):
        known = map_encoding_to_html5(label.strip().lower(), fallback_utf8=False) if label else None
        if known:
            yield known
    yield "utf-8"
    yield _detected(data)


def _bom_or_utf8(data: bytes) -> Iterator[str]:
    for mark, encoding in BOMS:
        if data.startswith(mark):
            yield encoding
    yield "utf-8"


def _detected(data: bytes) -> str:
    return detect_encoding(data, from_html_meta=False) or "utf-8"


def _meta(data: bytes) -> str | None:
    match = META.search(data, 0, META_BYTES)
    if match is None:
        return None
    label = match[1].decode("ascii")
    # a page that can be read as ASCII so far is not UTF-16, whatever it says (WHATWG HTML, 13.2.3.3)
    return "utf-8" if label.lower().startswith("utf-16") else label


def _strict(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except (UnicodeDecodeError, LookupError):
        return None
