"""Ruby's regular expressions in linguist's rules, rewritten for Python's `re` on bytes, and the literals they need."""

from __future__ import annotations

import re
import re._constants as kinds
import re._parser as parser
from typing import Any

INLINE = re.compile(r"\(\?([imx]+|-m)\)")
MAX_NEEDLES = 24
# A search for `^\s*X` finds what one within X's line finds, and that takes no square of the number of empty lines;
# likewise for the other ways to begin. `[ \t] ` has lost the flag under which its space means nothing.
REWRITTEN = (
    ("[ \\t] ", r"[ \t]"),
    (r"[\s&&[^\r\n]]", r"[^\S\r\n]"),
    (r"\z", r"\Z"),
    (r"(?:\A\W{0,3}|^)\s*", r"(?:\A\W{0,3}\s*|^[^\S\n]*)"),
    (r"(?:^|<)\s*", r"(?:^[^\S\n]*|<\s*)"),
    (r"(?:.*(?:\r?\n|\r))", r"(?:[^\r\n]*(?:\r?\n|\r))"),
    (r"^\s*", r"^[^\S\n]*"),
    (r"^(\s*)", r"^[^\S\n]*"),
    (r"^\s+", r"^(?:[^\S\n]*\n|[^\S\n]+)"),
    (r"\s*$", r"[^\S\n]*$"),
)
# Beginnings of expressions whose time is more than linear in some contents (those that read on across lines from every
# line, say); they are tried on a shorter start of the content. tests/corpus/test_languages.py finds any that is missing.
STEEP = (
    r"([\/\\].*:\s+", r'^(?i:[^"m]*mov', r"package\s+\w+|", r"^module\s+[\w.]*", r"^((\/{2,3})?", r"^[^#;=\[]+", r"^[^\[#]+:-",
    "\\/\\/|[\"']use", r"^[^\S\n]*(?:public\s+|private\s+|\s*)function", r"(?i:[ \t]*gosub", r"^[^\S\n]*package\s*[",
    r"=> |case", r"((?i:[A-Z.]", r"^(?:<|[a-zA-Z-]", r"^[#\s]*\[", r"(^[^\S\n]*module)|let rec", r"^[^\S\n]*(?:package(?:",
    r"^(?i:[c*][^abd-z]", r"\bpragma\s+sol", r"(\w+\.prototype", r"(?i:^begin[", r"^[^#]+:-", r"^[^#]*:-", r"^[^#!][^:]*:",
    r"^[^#!;][^=]*=",
)  # fmt: skip


def translated(pattern: str) -> str:
    """The same expression for `re` with MULTILINE.

    Names, calls and inline flags of groups, which `re` has not, are written out.
    """
    source = _without_names(pattern)
    for ruby, ours in REWRITTEN:
        source = source.replace(ruby, ours)
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


def is_steep(source: str) -> bool:
    """Whether the time of a search is more than linear in the length of some contents."""
    return source.startswith(STEEP)


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
