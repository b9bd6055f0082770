"""Ruby's regular expressions in linguist's rules, rewritten for Python's `re` on bytes, and the literals they need."""

from __future__ import annotations

import re
import re._constants as kinds
import re._parser as parser
from typing import Any

INLINE = re.compile(r"\(\?([imx]+|-m)\)")
MAX_NEEDLES = 24


def translated(pattern: str) -> str:
    """The same expression for `re` with MULTILINE.

    A line's leading white space is matched within the line: what may come before it cannot matter to a search, and a page
    of empty lines would cost the square of its length.
    """
    source = _without_names(pattern).replace("[ \\t] ", r"[ \t]").replace(r"[\s&&[^\r\n]]", r"[^\S\r\n]").replace(r"\z", r"\Z")
    source = source.replace(r"^\s*", r"^[^\S\n]*").replace(r"^(\s*)", r"^[^\S\n]*")
    source = re.sub(r"^\\s\*", "", source)
    while found := INLINE.search(source):
        end = _end_of_group(source, found.end())
        flags = found[1].replace("m", "s") if found[1] != "-m" else ""
        inner = source[found.end() : end]
        source = source[: found.start()] + (f"(?{flags}:{inner})" if flags else inner) + source[end:]
    re.compile(source.encode(), re.MULTILINE)
    return source


def _without_names(pattern: str) -> str:
    """Named groups without their names, and calls of such groups replaced by their text."""
    groups = {}
    for found in re.finditer(r"\(\?<([a-z]\w*)>", pattern):
        groups[found[1]] = pattern[found.end() : _end_of_group(pattern, found.end())]
    pattern = re.sub(r"\\g<(\w+)>", lambda found: f"(?:{groups[found[1]]})", pattern)
    return re.sub(r"\(\?<[a-z]\w*>", "(?:", pattern)


def _end_of_group(pattern: str, start: int) -> int:
    """Where the group that `start` is in ends; the end of the pattern outside of any."""
    depth, at, in_class = 0, start, False
    while at < len(pattern):
        sign = pattern[at]
        if sign == "\\":
            at += 1
        elif in_class:
            in_class = sign != "]"
        elif sign == "[":
            in_class = True
            at += 1 + (pattern[at + 1] == "^")  # a bracket that comes first is a member
        elif sign == "(":
            depth += 1
        elif sign == ")":
            depth -= 1
            if depth < 0:
                return at
        at += 1
    return at


def needles(source: str) -> tuple[list[str], bool]:
    """Literals of which every match contains one, and whether case is ignored; no literals where none can be told."""
    ignores_case = "(?i" in source or "(?si" in source or "(?xi" in source or "(?is" in source
    found = _needed(parser.parse(source, re.MULTILINE))
    if found is None or len(found) > MAX_NEEDLES or any(len(needle) < 2 for needle in found):
        return [], False
    return sorted({needle.lower() for needle in found} if ignores_case else found), ignores_case


def _needed(items: Any) -> set[str] | None:
    """The best set of literals of a sequence: the one whose shortest member is longest."""
    choices: list[set[str]] = []
    run = ""
    for kind, value in [*items, (None, None)]:
        if kind is kinds.LITERAL and 0 < value < 128:
            run += chr(value)
            continue
        if run:
            choices.append({run})
        run = ""
        of_part = _needed_part(kind, value)
        if of_part:
            choices.append(of_part)
    return max(choices, key=lambda choice: (min(map(len, choice)), -len(choice)), default=None)


def _needed_part(kind: Any, value: Any) -> set[str] | None:
    if kind is kinds.SUBPATTERN:
        return _needed(value[3])
    if kind is kinds.ATOMIC_GROUP:
        return _needed(value)
    if kind in (kinds.MAX_REPEAT, kinds.MIN_REPEAT, kinds.POSSESSIVE_REPEAT):
        return _needed(value[2]) if value[0] else None
    if kind is kinds.BRANCH:
        found = [_needed(branch) for branch in value[1]]
        return None if any(not one for one in found) else set().union(*found)  # type: ignore[arg-type]
    return None
