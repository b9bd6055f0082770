"""What a token's own form tells of it: a checksum that holds, or a header that can be read."""

from __future__ import annotations

import base64
import json
import string
import zlib

_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_CHECKSUM_LENGTH = 6


def base62_crc32(data: bytes) -> bytes:
    """The CRC-32 of `data` as six digits to the base 62, as tokens of GitHub and npm end in."""
    number, digits = zlib.crc32(data), ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits.encode()


def crc32_in_base62(token: bytes) -> bool:
    """Do the last six characters hold the checksum of what is between them and the prefix?"""
    _, _, body = token.partition(b"_")
    return base62_crc32(body[:-_CHECKSUM_LENGTH]) == body[-_CHECKSUM_LENGTH:]


def is_json_web_token(token: bytes) -> bool:
    """Is the first part the header of a JSON Web Token (RFC 7515): an object that names its algorithm?"""
    header = token.partition(b".")[0]
    try:
        found = json.loads(base64.urlsafe_b64decode(header + b"=" * (-len(header) % 4)))
    except ValueError:
        return False
    return isinstance(found, dict) and "alg" in found
