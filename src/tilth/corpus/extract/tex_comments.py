r"""Removes what TeX would not typeset: comments, `comment` environments, branches of `\iffalse` and `\iftrue` never taken.

RedPajama-V1 removes with two regular expressions what begins with `%`; the second also takes the character before
it, and both take percent signs of verbatim text and addresses. Here what is typeset stays the same.
"""

from __future__ import annotations

import re

from tilth.corpus.extract.tex_tokens import ADDRESS, scan

COMMENT_END = "\\end{comment}"
BRANCH_WORDS = (
    r"\\(?P<newif>newif\s*\\if[A-Za-z@]*)"
    r"|\\(?P<word>if[A-Za-z@]*|else|or|fi)(?![A-Za-z@])(?P<after>\s*(?:false(?![A-Za-z])|0\s*1?(?!\d)))?"
)
# TeX's own conditionals (The TeXbook, chapter 20; e-TeX; pdfTeX). Others exist only if a document declares them.
CONDITIONALS = frozenset({
    "if", "ifcat", "ifnum", "ifdim", "ifodd", "ifvmode", "ifhmode", "ifmmode", "ifinner", "ifvoid", "ifhbox", "ifvbox", "ifx",
    "ifeof", "iftrue", "iffalse", "ifcase", "ifdefined", "ifcsname", "iffontchar", "ifincsname", "ifpdfabsnum", "ifpdfabsdim",
    "ifpdfprimitive", "ifpdf", "ifxetex", "ifluatex",
})  # fmt: skip
DECLARED = re.compile(r"\\newif\s*\\(if[A-Za-z@]*)")
NEVER, ALWAYS = "never", "always"


def normalise_newlines(text: str) -> str:
    """Line feeds for CR LF and CR."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def strip_comments(text: str) -> str:
    r"""The source without comments; `text` has line feeds only.

    A line that is only a comment goes with its line feed; so do white space and comment at the end of a line, but
    not its line feed. Where no space comes before it, the `%` itself stays: it joins two lines (`{%`). `\%` and
    what is verbatim or an address stay as they are; `comment` environments go.
    """
    parts: list[str] = []
    done = 0
    for match in scan(rf"(?P<block>\\begin\s*\{{comment\}})|{ADDRESS}|\\.|(?P<comment>%[^\n]*)", text):
        if match.start() < done:
            continue  # inside a comment environment
        if match["block"] is not None:
            parts.append(text[done : match.start()])
            end = text.find(COMMENT_END, match.end())
            done = len(text) if end < 0 else end + len(COMMENT_END)
        elif match["comment"] is not None:
            start, end = match.span()
            line_start = max(text.rfind("\n", 0, start) + 1, done)
            before = text[line_start:start]
            whole = not before.strip() and (line_start == 0 or text[line_start - 1] == "\n")
            if whole:
                parts.append(text[done:line_start])
                done = min(end + 1, len(text))
            elif before[-1:] in (" ", "\t"):
                parts.append(text[done : line_start + len(before.rstrip(" \t"))])
                done = end
            else:
                parts.append(text[done : start + (1 if end < len(text) else 0)])
                done = end
    parts.append(text[done:])
    return "".join(parts)


def strip_dead_branches(text: str) -> str:
    r"""The source without the branches of `\iffalse`, `\if0`, `\if false` and `\iftrue` that are never taken.

    Conditionals that need a value stay as they are. One that is never closed stays, too.
    """
    known = CONDITIONALS | set(DECLARED.findall(text))
    removed: list[tuple[int, int]] = []
    open_conditionals: list[list[tuple[str, int, int]]] = []  # of each its words: (kind or word, start, end)
    for match in scan(rf"\\\\|{BRANCH_WORDS}", text):
        word = match["word"]
        if word is None:
            continue
        end = match.start("after") if match["after"] else match.end()
        if word in known:
            kind = _kind(word, match["after"])
            open_conditionals.append([(kind, match.start(), match.end() if kind == NEVER else end)])
        elif word in ("else", "or") and open_conditionals:
            open_conditionals[-1].append((word, match.start(), end))
        elif word == "fi" and open_conditionals:
            words = open_conditionals.pop()
            if words[0][0]:
                removed += _dead([*words, ("fi", match.start(), end)])
    return _without(text, removed)


def _kind(word: str, after: str | None) -> str:
    if word == "iffalse" or (word == "if" and after):
        return NEVER
    return ALWAYS if word == "iftrue" else ""


def _dead(words: list[tuple[str, int, int]]) -> list[tuple[int, int]]:
    kind, start, end = words[0]
    fi = words[-1]
    middle = next(((a, b) for word, a, b in words[1:-1] if word == "else"), None)
    if kind == NEVER:
        return [(start, middle[1]), fi[1:]] if middle else [(start, fi[2])]
    return [(start, end), (middle[0], fi[2])] if middle else [(start, end), fi[1:]]


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    parts: list[str] = []
    done = 0
    for start, end in sorted(spans):
        if end <= done:
            continue  # inside a branch that has gone already
        start = max(start, done)
        line_start = text.rfind("\n", 0, start) + 1
        stop = end
        while stop < len(text) and text[stop] in " \t":
            stop += 1  # TeX skips white space after a command
        if not text[line_start:start].strip() and line_start >= done and text[stop : stop + 1] in ("\n", ""):
            start, stop = line_start, min(stop + 1, len(text))
        parts.append(text[done:start])
        done = stop
    parts.append(text[done:])
    return "".join(parts)
