"""Decides whether a file's bytes are text, and decodes them."""

from __future__ import annotations

import codecs

from tilth.corpus.extract.charset import CharsetError, decode_text
from tilth.corpus.records import screen

HEAD_BYTES = 8000  # as far as git looks for a NUL before it calls a file binary
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class NotTextError(Exception):
    """The bytes are no document; `reason` is a word for rejects/1: empty, binary, nul_byte, decode."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def read_text(data: bytes) -> tuple[str, str]:
    """Return (text, encoding). Raises NotTextError."""
    at = data.find(b"\0") if not data.startswith(UTF16_MARKS) else -1
    if at >= 0:
        raise NotTextError("binary" if at < HEAD_BYTES else "nul_byte", f"NUL at byte {at} of {len(data)}")
    try:
        text, encoding = decode_text(data)
    except CharsetError as error:
        raise NotTextError("decode", str(error)) from None
    if unfit := screen(text):
        raise NotTextError(*unfit)
    return text, encoding


def decoded(data: bytes) -> str:
    """Text of whatever bytes there are, for a search in it: as `read_text` decodes them, else as UTF-8 with what it can hold."""
    try:
        return read_text(data)[0]
    except NotTextError:
        return data.decode("utf-8", "replace")
