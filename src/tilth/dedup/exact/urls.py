"""The normal form of a URL (RFC 3986, section 6), in which addresses that lead to the same page are mostly the same.

What does not count: case of scheme and host; default ports and empty ones; dot segments; how something is escaped (`%7e` is
`~`, `%2f` is `%2F`; what may not stand in a URL, as letters outside ASCII or a `%` of its own, is escaped); slashes at the
end of the path; the fragment; parameters that only follow visitors (`utm_*` and TRACKING); empty parameters; the order of
parameters with different names; white space around it. What stays apart: `http` and `https`, `www.` and none, host names in
Unicode and in Punycode, `+` and `%20`.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numba import njit

from tilth.dedup.texts.buffers import Bytes, Utf8, utf8

# What advertisers, mailers and social networks append, in lower case. Other parameters may choose what the page shows.
TRACKING = (
    "gclid", "gclsrc", "dclid", "gbraid", "wbraid", "gad_source", "gad_campaignid", "fbclid", "msclkid", "yclid", "ysclid",
    "twclid", "ttclid", "igshid", "igsh", "srsltid", "mc_cid", "mc_eid", "_ga", "_gl", "_hsenc", "_hsmi", "mkt_tok", "vero_id",
    "oly_anon_id", "oly_enc_id", "li_fat_id", "epik", "rb_clickid", "wickedid", "_openstat", "hsctatracking", "spm_id_from",
)  # fmt: skip
_UNRESERVED, _LEGAL, _HEX = 1, 2, 4
_MOST_PARAMETERS = 1024  # beyond them they keep their order


def normal_urls(urls: pa.Array | pa.ChunkedArray) -> pa.LargeStringArray:
    """The normal form of each of `urls` (string or large_string), empty for a null or a blank one."""
    return normalized(utf8(urls)).to_arrow()


def normalized(urls: Utf8) -> Utf8:
    """The normal forms of URLs."""
    longest = int(np.diff(urls.offsets).max(initial=0))
    out = np.empty(3 * len(urls.data) + 2 * len(urls) + 8, np.uint8)
    scratch = np.empty(3 * longest + 8, np.uint8)
    ends = _normalize(urls.data, urls.offsets, _KINDS, _TRACKING_BYTES, _TRACKING_OFFSETS, out, scratch)
    return Utf8(out[: ends[-1]], ends)


def _kinds() -> Bytes:
    kinds = np.zeros(256, np.uint8)
    unreserved = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
    kinds[list(unreserved)] |= _UNRESERVED | _LEGAL
    kinds[list(b":/?#[]@!$&'()*+,;=")] |= _LEGAL
    kinds[list(b"0123456789abcdefABCDEF")] |= _HEX
    return kinds


_KINDS = _kinds()
_TRACKING_BYTES = np.frombuffer("".join(TRACKING).encode(), np.uint8)
_TRACKING_OFFSETS = np.cumsum([0, *map(len, TRACKING)]).astype(np.int64)


@njit(cache=True, nogil=True)
def _normalize(data, offsets, kinds, tracking, tracking_offsets, out, scratch):  # type: ignore[no-untyped-def]
    ends = np.zeros(len(offsets), np.int64)
    size = 0
    for url in range(len(offsets) - 1):
        start, stop = offsets[url], offsets[url + 1]
        while start < stop and data[start] <= 32:
            start += 1
        while stop > start and data[stop - 1] <= 32:
            stop -= 1
        n = _escaped(data, start, stop, kinds, scratch)
        size = _one(scratch, n, tracking, tracking_offsets, out, size)
        ends[url + 1] = size
    return ends


@njit(cache=True, nogil=True)
def _escaped(data, start, stop, kinds, out):  # type: ignore[no-untyped-def]
    """What comes before the fragment, with every escape in its one form; gives how many bytes."""
    size, at = 0, start
    while at < stop and data[at] != 35:  # '#'
        byte = data[at]
        is_escape = byte == 37 and at + 2 < stop and kinds[data[at + 1]] & _HEX and kinds[data[at + 2]] & _HEX
        if is_escape:
            value = np.uint8(16 * _digit(data[at + 1]) + _digit(data[at + 2]))
            at += 3
            if kinds[value] & _UNRESERVED:
                out[size] = value
                size += 1
                continue
        else:
            value = byte
            at += 1
            if kinds[value] & _LEGAL:
                out[size] = value
                size += 1
                continue
        out[size] = 37
        out[size + 1] = _hex(value >> 4)
        out[size + 2] = _hex(value & 15)
        size += 3
    return size


@njit(cache=True, nogil=True, inline="always")
def _digit(byte):  # type: ignore[no-untyped-def]
    return byte - 48 if byte < 58 else (byte & 0xDF) - 55


@njit(cache=True, nogil=True, inline="always")
def _hex(value):  # type: ignore[no-untyped-def]
    return value + 48 if value < 10 else value + 55


@njit(cache=True, nogil=True, inline="always")
def _lower(byte):  # type: ignore[no-untyped-def]
    return byte + 32 if 65 <= byte <= 90 else byte


@njit(cache=True, nogil=True)
def _find(text, start, stop, byte):  # type: ignore[no-untyped-def]
    while start < stop and text[start] != byte:
        start += 1
    return start


@njit(cache=True, nogil=True)
def _one(text, n, tracking, tracking_offsets, out, size):  # type: ignore[no-untyped-def]
    """Append the normal form of text[:n], whose escapes are in order; gives the end in `out`."""
    begin = size
    scheme = _scheme_end(text, n)
    at = 0
    if scheme > 0:
        while at <= scheme:
            out[size] = _lower(text[at])
            size += 1
            at += 1
    has_authority = at + 1 < n and text[at] == 47 and text[at + 1] == 47
    if has_authority:
        size, at = _authority(text, at, n, out, begin, size)
    query = _find(text, at, n, 63)
    if has_authority:
        size = _path(text, at, query, out, size)
    else:
        for place in range(at, query):
            out[size] = text[place]
            size += 1
    return _parameters(text, query + 1, n, tracking, tracking_offsets, out, size)


@njit(cache=True, nogil=True)
def _scheme_end(text, n):  # type: ignore[no-untyped-def]
    """Place of the colon after the scheme, or -1."""
    for at in range(n):
        byte = _lower(text[at])
        if byte == 58:
            return at if at > 0 else -1
        is_letter = 97 <= byte <= 122
        if not (is_letter or (at > 0 and (48 <= byte <= 57 or byte == 43 or byte == 45 or byte == 46))):
            return -1
    return -1


@njit(cache=True, nogil=True)
def _authority(text, at, n, out, begin, size):  # type: ignore[no-untyped-def]
    """`//user@host:port`: the host in lower case, no port where it is the scheme's own."""
    n_scheme = size - begin
    stop = at + 2
    while stop < n and text[stop] != 47 and text[stop] != 63:
        stop += 1
    host = at + 2
    for place in range(at + 2, stop):
        if text[place] == 64:
            host = place + 1
    end, port = stop, _port(text, host, stop)
    while port > host and text[port - 1] == 58 and (port == end or _is_default(out, begin, n_scheme, text, port, end)):
        end = port - 1
        port = _port(text, host, end)
    place = at
    while place < end:
        byte = text[place]
        if byte == 37 and place + 2 < end:  # an escape keeps its capitals
            out[size], out[size + 1], out[size + 2] = byte, text[place + 1], text[place + 2]
            size, place = size + 3, place + 3
            continue
        out[size] = _lower(byte) if place >= host else byte
        size, place = size + 1, place + 1
    return size, stop


@njit(cache=True, nogil=True, inline="always")
def _port(text, host, stop):  # type: ignore[no-untyped-def]
    """Where the digits at the end of a host begin."""
    while stop > host and 48 <= text[stop - 1] <= 57:
        stop -= 1
    return stop


@njit(cache=True, nogil=True)
def _is_default(out, begin, n_scheme, text, start, stop):  # type: ignore[no-untyped-def]
    port = 0
    for at in range(start, min(stop, start + 6)):
        port = 10 * port + (text[at] - 48)
    if stop - start > 6:
        return False
    last = out[begin + n_scheme - 2] if n_scheme >= 2 else 0
    is_http = n_scheme >= 5 and out[begin] == 104 and out[begin + 1] == 116 and out[begin + 2] == 116
    is_ws = n_scheme >= 3 and out[begin] == 119 and out[begin + 1] == 115
    is_ftp = n_scheme == 4 and out[begin] == 102 and out[begin + 1] == 116 and out[begin + 2] == 112
    if (is_http and n_scheme == 5 and last == 112) or (is_ws and n_scheme == 3):
        return port == 80
    if (is_http and n_scheme == 6 and last == 115) or (is_ws and n_scheme == 4 and last == 115):
        return port == 443
    return is_ftp and port == 21


@njit(cache=True, nogil=True)
def _path(text, at, stop, out, size):  # type: ignore[no-untyped-def]
    """The path without dot segments (section 5.2.4) and without slashes at its end; gives the end in `out`."""
    root = size
    while at < stop:
        end = _find(text, at + 1, stop, 47)  # text[at] is the slash before the segment
        n_dots = end - at - 1
        is_dot = n_dots == 1 and text[at + 1] == 46
        is_up = n_dots == 2 and text[at + 1] == 46 and text[at + 2] == 46
        if is_up:
            while size > root and out[size - 1] != 47:
                size -= 1
            if size > root:
                size -= 1
        if not (is_dot or is_up):
            for place in range(at, end):
                out[size] = text[place]
                size += 1
        at = end
    while size > root and out[size - 1] == 47:
        size -= 1
    return size


@njit(cache=True, nogil=True)
def _parameters(text, at, n, tracking, tracking_offsets, out, size):  # type: ignore[no-untyped-def]
    """`?name=value&...` without those that only track, by name; equal names keep their order."""
    most = 1
    for place in range(at, n):
        most += text[place] == 38
    starts, stops = np.empty(most, np.int64), np.empty(most, np.int64)
    n_kept = 0
    while at < n:
        stop = _find(text, at, n, 38)
        if stop > at and not _is_tracking(text, at, _find(text, at, stop, 61), tracking, tracking_offsets):
            starts[n_kept], stops[n_kept] = at, stop
            n_kept += 1
        at = stop + 1
    if n_kept <= _MOST_PARAMETERS:
        for i in range(1, n_kept):
            start, stop, place = starts[i], stops[i], i
            while place > 0 and _comes_after(text, starts[place - 1], stops[place - 1], start, stop):
                starts[place], stops[place] = starts[place - 1], stops[place - 1]
                place -= 1
            starts[place], stops[place] = start, stop
    for i in range(n_kept):
        out[size] = 63 if i == 0 else 38
        size += 1
        for place in range(starts[i], stops[i]):
            out[size] = text[place]
            size += 1
    return size


@njit(cache=True, nogil=True)
def _comes_after(text, start, stop, other, other_stop):  # type: ignore[no-untyped-def]
    """Whether the name of the parameter at `start` is greater than that at `other`, by bytes."""
    stop, other_stop = _find(text, start, stop, 61), _find(text, other, other_stop, 61)
    for i in range(min(stop - start, other_stop - other)):
        if text[start + i] != text[other + i]:
            return text[start + i] > text[other + i]
    return stop - start > other_stop - other


@njit(cache=True, nogil=True)
def _is_tracking(text, start, stop, tracking, offsets):  # type: ignore[no-untyped-def]
    n = stop - start
    is_utm = n >= 4 and _lower(text[start]) == 117 and _lower(text[start + 1]) == 116 and _lower(text[start + 2]) == 109
    if is_utm and text[start + 3] == 95:
        return True
    for known in range(len(offsets) - 1):
        if offsets[known + 1] - offsets[known] != n:
            continue
        i = 0
        while i < n and _lower(text[start + i]) == tracking[offsets[known] + i]:
            i += 1
        if i == n:
            return True
    return False
