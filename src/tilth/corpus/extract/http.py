"""Takes an archived HTTP response apart: head, transfer and content encodings, each with a bound on its size."""

from __future__ import annotations

import io
import re
import zlib
from typing import NamedTuple

HEAD_END = re.compile(rb"\r?\n\r?\n")
CHUNK_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
GZIP_MAGIC = b"\x1f\x8b"


class BodyError(Exception):
    """The body cannot be recovered; `reason` is a word for rejects/1."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return self.detail


class Response(NamedTuple):
    """A response as it was sent: `body` still has its transfer and content encodings. Header names are lower case."""

    status: int
    phrase: str
    headers: dict[str, str]
    body: bytes


def parse_response(block: bytes) -> Response:
    """Split the block of a `response` record. Raises BodyError `bad_record` where there is no HTTP head."""
    end = HEAD_END.search(block, 0, 1 << 20)
    head, body = (block[: end.start()], block[end.end() :]) if end else (block, b"")
    # not splitlines: byte 0x85, part of many UTF-8 characters, would end a line
    status_line, *lines = head.decode("latin-1").split("\n")
    version, _, rest = status_line.partition(" ")
    code, _, phrase = rest.strip().partition(" ")
    if not version.upper().startswith("HTTP/") or not re.fullmatch(r"[0-9]{3}", code):
        raise BodyError("bad_record", f"no HTTP status line: {status_line[:80]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon and name.strip():
            headers.setdefault(name.strip().lower(), value.strip())
    return Response(int(code), phrase.strip(), headers, body)


def decode_body(response: Response, max_bytes: int) -> bytes:
    """Undo transfer and content encodings. Raises BodyError: truncated, bad_record, unsupported or too_large.

    Archives often keep a header whose encoding they have already undone; a body that does not
    begin as the header says is therefore taken as it is.
    """
    body = response.body
    if "chunked" in response.headers.get("transfer-encoding", "").lower():
        body = dechunk(body)
    names = [name.strip().lower() for name in response.headers.get("content-encoding", "").split(",")]
    for name in reversed(names):
        body = _undo(name, body, max_bytes)
    if len(body) > max_bytes:
        raise BodyError("too_large", f"{len(body)} bytes of body, at most {max_bytes}")
    return body


def dechunk(body: bytes) -> bytes:
    """Undo chunked transfer coding (RFC 9112, 7.1). A body that does not begin with a chunk size is returned unchanged."""
    position = 0
    parts: list[bytes] = []
    while True:
        match = CHUNK_SIZE.match(body, position)
        if match is None:
            if position == 0:
                return body
            reason = "truncated" if position >= len(body.rstrip()) else "bad_record"
            raise BodyError(reason, f"no chunk size at byte {position} of {len(body)}")
        size = int(match[1], 16)
        if size == 0:
            return b"".join(parts)
        chunk = body[match.end() : match.end() + size]
        if len(chunk) < size:
            if position == 0 and not body[match.end() :].strip():
                return body
            raise BodyError("truncated", f"chunk at byte {position} has {len(chunk)} of {size} bytes")
        parts.append(chunk)
        position = match.end() + size
        # the line end that closes a chunk; some servers leave half of it out
        position += 2 if body.startswith(b"\r\n", position) else body.startswith(b"\n", position)


def _undo(name: str, body: bytes, max_bytes: int) -> bytes:
    if name in ("", "identity", "none") or not body:
        return body
    if name in ("gzip", "x-gzip"):
        return _gunzip(body, max_bytes) if body.startswith(GZIP_MAGIC) else body
    if name in ("deflate", "br", "zstd"):
        try:
            return _deflate(body, max_bytes) if name == "deflate" else _stream(name, body, max_bytes)
        except BodyError as error:
            if error.reason == "bad_record" and body[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
                return body
            raise
    raise BodyError("unsupported", f"content encoding {name[:40]!r}")


def _deflate(body: bytes, max_bytes: int) -> bytes:
    # RFC 9110 means zlib, many servers sent bare deflate
    try:
        return _inflate(body, 15, max_bytes)[0]
    except BodyError as error:
        if error.reason != "bad_record":
            raise
        return _inflate(body, -15, max_bytes)[0]


def _gunzip(body: bytes, max_bytes: int) -> bytes:
    """All members of a gzip body (RFC 1952, 2.2); what follows them and is none is left out, as browsers do."""
    parts, n_bytes = [], 0
    while body.startswith(GZIP_MAGIC):
        data, body = _inflate(body, 31, max_bytes - n_bytes)
        parts.append(data)
        n_bytes += len(data)
    return b"".join(parts)


def _inflate(body: bytes, window_bits: int, max_bytes: int) -> tuple[bytes, bytes]:
    """Return (data, what follows the compressed stream)."""
    inflater = zlib.decompressobj(window_bits)
    try:
        data = inflater.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise BodyError("bad_record", f"content encoding: {error}") from None
    if len(data) > max_bytes:
        raise BodyError("too_large", f"more than {max_bytes} bytes after decompression")
    if not inflater.eof:
        raise BodyError("truncated", f"compressed body ends after {len(data)} bytes of text")
    return data, inflater.unused_data


def _stream(name: str, body: bytes, max_bytes: int) -> bytes:
    from fastwarc.stream_io import BrotliReader, ZstdReader

    reader = (BrotliReader if name == "br" else ZstdReader)(io.BytesIO(body))
    parts, n_bytes = [], 0
    try:
        while n_bytes <= max_bytes and (part := reader.read(min(1 << 20, max_bytes + 1 - n_bytes))):
            parts.append(part)
            n_bytes += len(part)
    except (OSError, ValueError) as error:
        raise BodyError("bad_record", f"content encoding {name}: {error}") from None
    if n_bytes > max_bytes:
        raise BodyError("too_large", f"more than {max_bytes} bytes after decompression")
    return b"".join(parts)
