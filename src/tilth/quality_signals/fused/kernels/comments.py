"""Compiled lexers that find comments and pass over strings. Time is linear for any input."""

from __future__ import annotations

from typing import Any

from numba import njit

from tilth.quality_signals.fused.kernels.code_shape import count_characters

# The numbers of `comment_styles`, again: compiled code freezes them.
ONE_LINE, MANY_LINES, RAW, RAW_LINE, CHARACTER, TRIPLE, OPERAND = range(1, 8)
PYTHON, REGULAR_EXPRESSIONS, SPACED_HASH, RAW_RUST, RAW_CPP, VERBATIM, TAGGED, NESTED = (1 << bit for bit in range(8))
NEWLINE, SPACE, BACKSLASH, HASH, SLASH, QUOTE, APOSTROPHE = 0x0A, 0x20, 0x5C, 0x23, 0x2F, 0x22, 0x27
LONGEST_CHARACTER, LONGEST_DELIMITER = 12, 16  # bytes: '\U0001f600'; R"delimiter( of C++


@njit(cache=True, nogil=True)
def comment_characters(data: Any, offsets: Any, styles: Any, starts: Any, marks: Any, quotes: Any, flags: Any, out: Any) -> None:
    """Fill `out` (int64) with the characters in comments, marks included, of the documents with a style (not -1)."""
    for document in range(len(offsets) - 1):
        start, end, style = offsets[document], offsets[document + 1], styles[document]
        out[document] = 0
        if style < 0:
            continue
        if flags[style] & PYTHON:
            out[document] = _python(data, start, end)
        else:
            out[document] = _marked(data, start, end, starts[style], marks[style], quotes[style], flags[style])


@njit(cache=True, nogil=True)
def _marked(data: Any, start: int, end: int, starts: Any, marks: Any, quotes: Any, flags: int) -> int:
    """Characters in comments of a language whose comments stand between marks."""
    n = 0
    at = start
    no_expression_before = start  # one was sought from an earlier slash up to here, in vain
    if flags & TAGGED:
        at = _tag(data, at, end)
    elif starts[NEWLINE] & 2:
        at, n = _block(data, start - 1, start, end, marks, flags)  # at the very start of the text
    while at < end:
        kind = starts[data[at]]
        if not kind:
            at += 1
            continue
        if kind & 2:
            stop, n_here = _block(data, at, start, end, marks, flags)
            if stop > at:
                n += n_here
                at = stop
                continue
        if kind & 1:
            if flags & TAGGED and data[at] == 0x3F:  # ?>
                at = _tag(data, at, end) if at + 1 < end and data[at + 1] == 0x3E else at + 1
                continue
            if _opens_line_comment(data, at, start, end, marks[0], flags):
                stop = _line_end(data, at, end, flags)
                n += count_characters(data, at, stop)
                at = stop
                continue
        if kind & 4:
            at = _after_quotation(data, at, start, end, quotes[data[at]], flags)
            continue
        if kind & 8 and at >= no_expression_before and not _is_behind_operand(data, at, start):
            stop = _regular_expression(data, at, end)
            if stop < 0:
                no_expression_before = -stop
            at = stop if stop > 0 else at + 1
            continue
        at += 1
    return n


@njit(cache=True, nogil=True)
def _has(data: Any, at: int, start: int, end: int, mark: Any) -> bool:
    """Does the mark stand at `at`? The line feed of a mark is there before the text as well."""
    size = int(mark[0])
    if not size or at + size > end:
        return False
    n_same = 0
    for i in range(size):
        n_same += at + i < start or data[at + i] == mark[i + 1]
    return n_same == size


@njit(cache=True, nogil=True)
def _block(data: Any, at: int, start: int, end: int, marks: Any, flags: int) -> tuple[int, int]:
    """Where the block comment that opens at `at` ends, and its characters; `max(at, start)` and 0 where none opens."""
    for place in range(marks.shape[1]):
        opening, closing = marks[1, place], marks[2, place]
        if not _has(data, at, start, end, opening) or (at < start and opening[1] != NEWLINE):
            continue
        depth = 1
        stop = at + int(opening[0])
        while stop < end and depth:
            if data[stop] == closing[1] and _has(data, stop, start, end, closing):
                depth -= 1
                stop += int(closing[0])
            elif flags & NESTED and data[stop] == opening[1] and _has(data, stop, start, end, opening):
                depth += 1
                stop += int(opening[0])
            else:
                stop += 1
        return stop, count_characters(data, at + (opening[1] == NEWLINE), stop)
    return max(at, start), 0


@njit(cache=True, nogil=True)
def _opens_line_comment(data: Any, at: int, start: int, end: int, marks: Any, flags: int) -> bool:
    for place in range(marks.shape[0]):
        if not _has(data, at, start, end, marks[place]):
            continue
        if marks[place, 0] > 1:
            return True
        # A mark of one byte is none behind an odd number of backslashes: \% of TeX, \# of make, #\; of Lisp.
        before = at
        while before > start and data[before - 1] == BACKSLASH:
            before -= 1
        if (at - before) % 2:
            return False
        if not flags & SPACED_HASH or at == start:
            return True
        byte = data[at - 1]
        # white space, or one of & ( ) ; { | }
        return byte <= SPACE or byte == 0x26 or byte == 0x28 or byte == 0x29 or byte == 0x3B or 0x7B <= byte <= 0x7D
    return False


@njit(cache=True, nogil=True)
def _line_end(data: Any, at: int, end: int, flags: int) -> int:
    while at < end and data[at] != NEWLINE:
        if flags & TAGGED and data[at] == 0x3F and at + 1 < end and data[at + 1] == 0x3E:
            return at
        at += 1
    return at


@njit(cache=True, nogil=True)
def _tag(data: Any, at: int, end: int) -> int:
    """Behind the next `<?`."""
    while at + 1 < end:
        if data[at] == 0x3C and data[at + 1] == 0x3F:
            return at + 2
        at += 1
    return end


@njit(cache=True, nogil=True)
def _after_quotation(data: Any, at: int, start: int, end: int, mode: int, flags: int) -> int:
    """Behind the quotation that opens at `at`; behind the mark alone where it opens none."""
    mark = data[at]
    if mode == CHARACTER:
        return _after_character(data, at, end)
    if mode == OPERAND:
        if _is_behind_operand(data, at, start):
            return at + 1
        mode = RAW_LINE
    if flags & RAW_RUST and mark == QUOTE:
        n_hashes = 0
        while at - n_hashes > start and data[at - n_hashes - 1] == HASH:
            n_hashes += 1
        if at - n_hashes > start and data[at - n_hashes - 1] == 0x72:
            return _after_hashes(data, at + 1, end, n_hashes)
    if flags & RAW_CPP and mark == QUOTE and at > start and data[at - 1] == 0x52:
        return _after_delimiter(data, at, end)
    if flags & VERBATIM and mark == QUOTE and at > start:
        before = data[at - 1]
        if before == 0x40 or (before == 0x24 and at - 1 > start and data[at - 2] == 0x40):
            mode = RAW
    if mode == TRIPLE:
        if at + 2 < end and data[at + 1] == mark and data[at + 2] == mark:
            return _after_three(data, at + 3, end, mark)
        mode = ONE_LINE
    at += 1
    while at < end:
        byte = data[at]
        if byte == mark:
            return at + 1
        if byte == NEWLINE and (mode in (ONE_LINE, RAW_LINE)):
            return at
        at += 2 if byte == BACKSLASH and mode <= MANY_LINES else 1
    return end


@njit(cache=True, nogil=True)
def _after_character(data: Any, at: int, end: int) -> int:
    """Behind a literal such as 'a' or '\\n'; behind the mark where something else stands there."""
    if at + 2 >= end:
        return at + 1
    if data[at + 1] == BACKSLASH:
        for stop in range(at + 3, min(at + LONGEST_CHARACTER, end)):
            if data[stop] == APOSTROPHE:
                return stop + 1
            if data[stop] == NEWLINE:
                break
        return at + 1
    stop = at + 2
    while stop < end and data[stop] & 0xC0 == 0x80:
        stop += 1
    return stop + 1 if stop < end and data[stop] == APOSTROPHE and data[at + 1] != NEWLINE else at + 1


@njit(cache=True, nogil=True)
def _after_three(data: Any, at: int, end: int, mark: int) -> int:
    while at < end:
        if data[at] == BACKSLASH:
            at += 2
        elif data[at] == mark and at + 2 < end and data[at + 1] == mark and data[at + 2] == mark:
            return at + 3
        else:
            at += 1
    return end


@njit(cache=True, nogil=True)
def _after_hashes(data: Any, at: int, end: int, n_hashes: int) -> int:
    """Behind the `\"###` that closes a raw string of Rust."""
    while at < end:
        if data[at] == QUOTE:
            n = 0
            while n < n_hashes and at + 1 + n < end and data[at + 1 + n] == HASH:
                n += 1
            if n == n_hashes:
                return at + 1 + n
            at += n
        at += 1
    return end


@njit(cache=True, nogil=True)
def _after_delimiter(data: Any, at: int, end: int) -> int:
    """Behind the `)delimiter\"` that closes a raw string of C++ whose quotation mark stands at `at`."""
    size = 0
    while size <= LONGEST_DELIMITER and at + 1 + size < end and data[at + 1 + size] != 0x28:
        size += 1
    if size > LONGEST_DELIMITER:
        return at + 1
    stop = at + 2 + size
    while stop + size + 1 < end:
        if data[stop] == 0x29 and data[stop + size + 1] == QUOTE:
            same = True
            for i in range(size):
                same = same and data[stop + 1 + i] == data[at + 1 + i]
            if same:
                return stop + size + 2
        stop += 1
    return end


@njit(cache=True, nogil=True)
def _is_name(byte: int) -> bool:
    return 0x61 <= (byte | 0x20) <= 0x7A or 0x30 <= byte <= 0x39 or byte == 0x5F or byte == 0x24 or byte >= 0x80


@njit(cache=True, nogil=True)
def _is_behind_operand(data: Any, at: int, start: int) -> bool:
    """Is what stands before `at` a value, so that a slash divides it and an apostrophe transposes it?"""
    at -= 1
    while at >= start and (data[at] == SPACE or data[at] == 0x09):
        at -= 1
    if at < start:
        return False
    byte = data[at]
    if _is_name(byte):
        return (
            not _ends_in(data, at, start, b"return")
            and not _ends_in(data, at, start, b"typeof")
            and not _ends_in(data, at, start, b"case")
        )
    # ) ] } ' " ` .
    return byte == 41 or byte == 93 or byte == 125 or byte in (APOSTROPHE, QUOTE) or byte == 96 or byte == 46


@njit(cache=True, nogil=True)
def _ends_in(data: Any, last: int, start: int, word: Any) -> bool:
    first = last - len(word) + 1
    if first < start or (first > start and _is_name(data[first - 1])):
        return False
    n_same = 0
    for i in range(len(word)):
        n_same += data[first + i] == word[i]
    return n_same == len(word)


@njit(cache=True, nogil=True)
def _regular_expression(data: Any, at: int, end: int) -> int:
    """Behind the slash that closes the expression which opens at `at`; minus the line's end where none does."""
    at += 1
    in_class = False
    while at < end and data[at] != NEWLINE:
        byte = data[at]
        if byte == BACKSLASH:
            at += 1
        elif byte == 0x5B:
            in_class = True
        elif byte == 0x5D:
            in_class = False
        elif byte == SLASH and not in_class:
            return at + 1
        at += 1
    return -max(at, 1)


@njit(cache=True, nogil=True)
def _python(data: Any, start: int, end: int) -> int:
    """Characters in Python's comments, and in its docstrings between their marks.

    A docstring is a string alone as the first statement of the text or behind a line that begins with `class`, `def` or
    `async` and ends in a colon, as `ast` finds them.
    """
    n = depth = 0
    at = line_start = _statement(data, start, end)
    takes_docstring = True  # none but comments since the start or since the colon
    comment = -1  # where the comment of this line begins
    while at < end:
        byte = data[at]
        if byte == HASH:
            comment = at
            at = _line_end(data, at, end, 0)
            n += count_characters(data, comment, at)
        elif byte in (QUOTE, APOSTROPHE):
            is_three = at + 2 < end and data[at + 1] == byte and data[at + 2] == byte
            stop = _after_three(data, at + 3, end, byte) if is_three else _after_quotation(data, at, start, end, ONE_LINE, 0)
            if takes_docstring and not depth and _is_plain_prefix(data, line_start, at) and _ends_statement(data, stop, end):
                size = 3 if is_three else 1
                n += count_characters(data, at + size, stop - size)
            at = stop
        elif byte == NEWLINE:
            is_continued = depth > 0 or (at > start and data[at - 1] == BACKSLASH)
            if not is_continued and line_start < at and comment != line_start:
                takes_docstring = _opens_body(data, line_start, at if comment < 0 else comment)
            at += 1
            comment = -1
            if not is_continued:
                at = line_start = _statement(data, at, end)
        else:
            if byte == 0x28 or byte == 0x5B or byte == 0x7B:
                depth += 1
            elif byte == 0x29 or byte == 0x5D or byte == 0x7D:
                depth = max(depth - 1, 0)
            elif byte == BACKSLASH and at + 1 < end and data[at + 1] != NEWLINE:
                at += 1
            at += 1
    return n


@njit(cache=True, nogil=True)
def _statement(data: Any, at: int, end: int) -> int:
    """The first byte of the line that is neither a space nor a tab, nor a form feed or carriage return."""
    while at < end and (data[at] == SPACE or data[at] == 0x09 or data[at] == 0x0C or data[at] == 0x0D):
        at += 1
    return at


@njit(cache=True, nogil=True)
def _is_plain_prefix(data: Any, first: int, at: int) -> bool:
    """Nothing, or r or u: with f or b a string is no docstring."""
    return at == first or (at == first + 1 and (data[first] | 0x20 == 0x72 or data[first] | 0x20 == 0x75))


@njit(cache=True, nogil=True)
def _ends_statement(data: Any, at: int, end: int) -> bool:
    at = _statement(data, at, end)
    return at >= end or data[at] == NEWLINE or data[at] == HASH or data[at] == 0x3B


@njit(cache=True, nogil=True)
def _opens_body(data: Any, first: int, end: int) -> bool:
    """Does the statement begin with class, def or async, and end in a colon?"""
    last = end - 1
    while last > first and data[last] <= SPACE:
        last -= 1
    if data[last] != 0x3A:
        return False
    after = first
    while after < last and _is_name(data[after]):
        after += 1
    return (
        _ends_in(data, after - 1, first, b"def")
        or _ends_in(data, after - 1, first, b"class")
        or _ends_in(data, after - 1, first, b"async")
    )
