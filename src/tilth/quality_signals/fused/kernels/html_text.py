"""Compiled loop over HTML: how many characters of text it has outside its tags. Time is linear for any input."""

from __future__ import annotations

from typing import Any

from numba import njit

LESS, GREATER, SLASH, BANG, QUESTION, DASH, AND, SEMICOLON, QUOTE, APOSTROPHE, SPACE = (
    0x3C, 0x3E, 0x2F, 0x21, 0x3F, 0x2D, 0x26, 0x3B, 0x22, 0x27, 0x20,
)  # fmt: skip
LONGEST_REFERENCE = 33  # bytes; the longest name of HTML is `CounterClockwiseContourIntegral`


@njit(cache=True, nogil=True)
def visible_characters(data: Any, offsets: Any, is_html: Any, out: Any) -> None:
    """Fill `out` (int64, documents x 2) for the documents that are HTML: characters of text, characters in all."""
    for document in range(len(offsets) - 1):
        out[document, :] = 0
        if is_html[document]:
            _visible(data, offsets[document], offsets[document + 1], out[document])


@njit(cache=True, nogil=True)
def _visible(data: Any, start: int, end: int, out: Any) -> None:
    n_visible = n_chars = 0
    for at in range(start, end):
        n_chars += (data[at] & 0xC0) != 0x80
    at = start
    no_comment_ends = False  # from here on: looked for once, so that a thousand openings do not read on to the end each
    while at < end:
        byte = data[at]
        if byte == LESS and at + 1 < end:
            after = data[at + 1]
            if after == BANG and at + 3 < end and data[at + 2] == DASH and data[at + 3] == DASH and not no_comment_ends:
                stop = _comment_end(data, at + 4, end)
                if stop >= 0:
                    at = stop
                    continue
                no_comment_ends = True
            if after in (BANG, QUESTION) or (after == SLASH and at + 2 < end and _is_letter(data[at + 2])):
                at = _tag_end(data, at + 2, end, False)
                continue
            if _is_letter(after):
                hidden = _hidden_element(data, at + 1, end)
                at = _tag_end(data, at + 1, end, True)
                if hidden:
                    at = _element_end(data, at, end, hidden)
                continue
        if byte == AND:
            n_visible += 1
            at = _reference_end(data, at, end)
            continue
        n_visible += (byte & 0xC0) != 0x80
        at += 1
    out[0], out[1] = n_visible, n_chars


@njit(cache=True, nogil=True)
def _is_letter(byte: int) -> bool:
    return 0x61 <= (byte | 0x20) <= 0x7A


@njit(cache=True, nogil=True)
def _tag_end(data: Any, at: int, end: int, has_attributes: bool) -> int:
    """Behind the `>` that closes a tag: not one between quotes, which begin behind a `=`."""
    quote = 0
    before = 0
    while at < end:
        byte = data[at]
        if quote:
            if byte == quote:
                quote = 0
        elif byte == GREATER:
            return at + 1
        elif has_attributes and before == 0x3D and (byte in (QUOTE, APOSTROPHE)):
            quote = byte
        if byte > SPACE:
            before = byte
        at += 1
    return end


@njit(cache=True, nogil=True)
def _comment_end(data: Any, at: int, end: int) -> int:
    """Behind the next `-->`; -1 where there is none."""
    while at + 2 < end:
        if data[at] == DASH and data[at + 1] == DASH and data[at + 2] == GREATER:
            return at + 3
        at += 1
    return -1


@njit(cache=True, nogil=True)
def _hidden_element(data: Any, at: int, end: int) -> int:
    """1 for `script`, 2 for `style`, else 0, by the name at `at`."""
    if _has_name(data, at, end, b"script"):
        return 1
    return 2 if _has_name(data, at, end, b"style") else 0


@njit(cache=True, nogil=True)
def _has_name(data: Any, at: int, end: int, name: Any) -> bool:
    if at + len(name) >= end:
        return False
    for i in range(len(name)):
        if data[at + i] | 0x20 != name[i]:
            return False
    after = data[at + len(name)]
    return after <= SPACE or after in (GREATER, SLASH)


@njit(cache=True, nogil=True)
def _element_end(data: Any, at: int, end: int, hidden: int) -> int:
    """Behind the closing tag of a script or style; the end of the text where there is none."""
    while at + 1 < end:
        if data[at] == LESS and data[at + 1] == SLASH and _hidden_element(data, at + 2, end) == hidden:
            return _tag_end(data, at + 2, end, False)
        at += 1
    return end


@njit(cache=True, nogil=True)
def _reference_end(data: Any, at: int, end: int) -> int:
    """Behind the character reference that starts at `at`, or behind its `&` alone."""
    stop = at + 1
    while (
        stop < end
        and stop - at < LONGEST_REFERENCE
        and (_is_letter(data[stop]) or 0x30 <= data[stop] <= 0x39 or data[stop] == 0x23)
    ):
        stop += 1
    return stop + 1 if stop < end and stop > at + 1 and data[stop] == SEMICOLON else at + 1
