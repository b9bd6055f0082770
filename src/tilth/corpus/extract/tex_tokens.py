"""The lexical level of LaTeX: what is verbatim, what is escaped, where a group ends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

# Environments whose content TeX does not read as commands or comments. Others are declared by documents themselves.
VERBATIM = (
    "verbatim", "verbatim*", "Verbatim", "Verbatim*", "BVerbatim", "LVerbatim", "SaveVerbatim", "VerbatimOut", "verbatimtab",
    "lstlisting", "minted", "alltt", "filecontents", "filecontents*", "tcblisting", "listing*", "spverbatim", "rawlatex",
)  # fmt: skip
DECLARES_VERBATIM = re.compile(
    r"\\(?:lstnewenvironment|DefineVerbatimEnvironment|newtcblisting|newverbatim|RecustomVerbatimEnvironment)\s*\{([A-Za-z]+\*?)\}"
    r"|\\newminted(?:\[([A-Za-z]+)\])?\{([A-Za-z]+)\}"
)
INLINE = (
    r"\\(?:verb|lstinline(?:\[[^\]\n]{0,500}\])?)\*?(?P<mark>[^A-Za-z\s*{])[^\n]{0,2000}?(?P=mark)"
    r"|\\(?:lstinline|mintinline\{\w{1,80}\})\{[^{}\n]*\}"
)
ADDRESS = r"\\(?:url|path|nolinkurl|burl|href|hyperref|hyperimage)\s*\{[^{}\n]*\}"  # a % in them is part of the address
WORD = re.compile(r"\\([A-Za-z@]+)")
SPACE = re.compile(r"\s*")
OPTION_TOKEN = re.compile(r"\\.|[{}\]]", re.DOTALL)
MAX_OPTION_CHARS = 400


class TexError(Exception):
    """The source cannot become text; `reason` is a word for rejects/1."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def scan(pattern: str, text: str) -> Iterator[re.Match[str]]:
    """Matches of `pattern` outside what is verbatim, in the order of the text. Time is linear, whatever is left open."""
    declared = [match[1] or match[2] or f"{match[3]}code" for match in DECLARES_VERBATIM.finditer(text)]
    finder = _finder(pattern, tuple(sorted(set(declared))))
    unclosed: set[str] = set()
    at = 0
    while match := finder.search(text, at):
        at = match.end()
        name = match["env"]
        if name is None and match["inline"] is None:
            yield match
        elif name is not None and name not in unclosed:
            closing = f"\\end{{{name}}}"
            end = text.find(closing, at)
            if end < 0:
                unclosed.add(name)
            else:
                at = end + len(closing)


@lru_cache(maxsize=200)
def _finder(pattern: str, declared: tuple[str, ...]) -> re.Pattern[str]:
    names = "|".join(re.escape(name) for name in (*VERBATIM, *declared))
    return re.compile(rf"\\begin\s*\{{(?P<env>{names})\}}|(?P<inline>{INLINE})|{pattern}")


def brace_pairs(text: str) -> dict[int, int]:
    """For every group that is closed, the index of its `{` and the index after its `}`."""
    pairs: dict[int, int] = {}
    opened: list[int] = []
    for match in scan(r"\\(?s:.)|[{}]", text):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            pairs[opened.pop()] = match.end()
    return pairs


def skip_space(text: str, at: int) -> int:
    """The index of the next character that is no white space."""
    match = SPACE.match(text, at)
    return match.end() if match else at


def argument(text: str, at: int, pairs: dict[int, int]) -> tuple[str, int] | None:
    """(content, index after it) of the argument at `at`: a group without its braces, a command, or one character."""
    at = skip_space(text, at)
    if at >= len(text) or text[at] in "}]":
        return None
    if text[at] == "{":
        end = pairs.get(at)
        return None if end is None else (text[at + 1 : end - 1], end)
    word = WORD.match(text, at)
    end = word.end() if word else at + (2 if text[at] == "\\" else 1)
    return text[at:end], end


def option(text: str, at: int) -> tuple[str, int] | None:
    """(content, index after it) of the optional argument `[...]` at `at`; groups in it may hold brackets."""
    at = skip_space(text, at)
    if at >= len(text) or text[at] != "[":
        return None
    depth = 0
    for match in OPTION_TOKEN.finditer(text, at, at + MAX_OPTION_CHARS):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if match[0] == "]" and depth == 0:
            return text[at + 1 : match.start()], match.end()
        if depth < 0:
            return None
    return None
