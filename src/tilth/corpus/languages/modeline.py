"""Editors' modelines: the language that a comment for Emacs or Vim near a file's start or end names."""

from __future__ import annotations

import re

N_LINES = 5
LONGEST_LINE = 1024  # longer lines are cut: nobody writes a modeline behind a kilobyte
EMACS = re.compile(rb"-\*-(.*?)-\*-")
EMACS_WORD = re.compile(rb"[ \t]*([^:;\s]+)[ \t]*")
EMACS_MODE = re.compile(rb"(?:^|[ \t;])mode[ \t]*:[ \t]*([^:;\s]+)(?=[ \t;]|$)", re.IGNORECASE)
VIM = re.compile(rb"(?:(?:^|[ \t])(?:vi|[vV]im(?:[<=>]?[0-9]+)?)|[ \t]ex):")
VIM_SET = re.compile(rb"[ \t]*set?[ \t][^:]+:")
VIM_SET_WORD = re.compile(rb"[ \t]*set?[ \t]")
VIM_OPTION = re.compile(rb"(\w*)(?:=((?:\\.|[^\\\s:])*))?(?=[ \t:]|$)")
FILE_TYPES = (b"filetype", b"ft", b"syntax")
MARKS = (b"-*-", b"vi:", b"vim", b"Vim", b"ex:")


def modeline(content: bytes) -> str | None:
    """What the modeline calls the language; Emacs is asked before Vim, as linguist does. None without a modeline."""
    reach = N_LINES * LONGEST_LINE
    start, end = content[:reach], content[-reach:]
    near = b"\n".join([*start.split(b"\n", N_LINES)[:N_LINES], *end.rsplit(b"\n", N_LINES + 1)[-N_LINES - 1 :]])
    if not any(map(near.__contains__, MARKS)) or b"UseVimball" in start:
        return None
    lines = [line[:LONGEST_LINE] for line in start.splitlines()[:N_LINES] + end.splitlines()[-N_LINES:]]
    return next(filter(None, map(_emacs, lines)), None) or next(filter(None, map(_vim, lines)), None)


def _emacs(line: bytes) -> str | None:
    found = EMACS.search(line)
    if not found:
        return None
    named = EMACS_WORD.fullmatch(found[1]) or EMACS_MODE.search(found[1])
    return named[1].decode("utf-8", "replace") if named else None


def _vim(line: bytes) -> str | None:
    """The last file type of the options behind `vim:`; with `set`, the options must end at a colon."""
    for start in VIM.finditer(line):
        rest = line[start.end() :]
        if VIM_SET_WORD.match(rest) and not VIM_SET.match(rest):
            continue
        rest = re.sub(rb"[ \t]+=", b"=", rest)
        named, at, in_value = None, 0, False
        while (option := VIM_OPTION.match(rest, at)) or in_value:
            if option is None:  # the rest of a value that has a colon
                at = min((found for sign in (b" ", b"\t", b":") if (found := rest.find(sign, at)) >= 0), default=len(rest))
            else:
                if option[1] in FILE_TYPES and option[2] and re.fullmatch(rb"\w+", option[2]):
                    named = option[2].decode()
                at, in_value = option.end(), option[2] is not None
            if at >= len(rest):
                break
            in_value &= rest[at] == ord(":")
            at += 1
        if named:
            return named
    return None
