"""The first pass over wikitext: comments, extension tags and templates, left to right as MediaWiki's preprocessor takes them.

Takes time in proportion to the page: every token is met once, or twice where braces are not balanced. A `{{` that is
never closed is taken out and what follows it stays text, where MediaWiki would show it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from tilth.corpus.extract.wikitext_templates import Shown, arguments, parser_function, shown_template, template_name

DROPPED = "\1"  # stands where something was taken out, until white space and brackets around it are mended
MAX_DEPTH = 40  # MediaWiki's own limit of expansion
EMPTIED = (
    "ref",
    "references",
    "gallery",
    "timeline",
    "score",
    "hiero",
    "graph",
    "mapframe",
    "maplink",
    "templatedata",
    "templatestyles",
    "imagemap",
    "inputbox",
    "section",
    "includeonly",
    "categorytree",
    "rss",
    "indicator",
    "chart",
)
VERBATIM = ("nowiki", "pre", "syntaxhighlight", "source", "math", "chem", "ce")
TAG = r"<(?P<tag>" + "|".join([*EMPTIED, *VERBATIM]) + r")(?=[\s/>])[^<>]*+>"
PLAIN_TEMPLATE = r"\{\{(?P<name>[^{}|\[\]<]*+)(?P<rest>\|[^{}\[\]<]*+)?\}\}"
OUTSIDE = re.compile(rf"<!--|{TAG}|{PLAIN_TEMPLATE}|\{{\{{+|\}}\}}+", re.IGNORECASE)
IN_DROPPED = re.compile(rf"<!--|{TAG}|\{{\{{+|\}}\}}+", re.IGNORECASE)
IN_SHOWN = re.compile(rf"<!--|{TAG}|{PLAIN_TEMPLATE}|\{{\{{+|\}}\}}+|\||\[\[[^\[\]{{}}<]*+\]\]|\[\[|\]\]", re.IGNORECASE)


@dataclass
class _Frame:
    """An open `{{` or `{{{`: `braces` are those not closed yet, the first of them at `start`."""

    start: int
    braces: int
    dropped: bool
    parts: list[list[str]] = field(default_factory=lambda: [[]])
    n_links: int = 0
    shown: Shown | None = None


class Preprocessor:
    """Resolves one page. `protect` stores text that no later pass may touch and returns what stands for it."""

    def __init__(self, language: str, title: str, protect: Callable[[str, str, str], str]) -> None:
        self._language, self._title, self._protect = language, title, protect

    def run(self, text: str) -> str:
        """The page without comments, extension tags and templates; DROPPED stands where one was."""
        found, unclosed = self._pass(text, {})
        return self._pass(text, unclosed)[0] if unclosed else found

    def _pass(self, text: str, literal: dict[int, int]) -> tuple[str, dict[int, int]]:
        """`literal` says how many of the braces at an offset are no markup. Returns also those found to be unclosed."""
        self._text, self._closes = text, dict[str, tuple[int, int]]()
        out: list[str] = []
        stack: list[_Frame] = []
        at = 0
        while True:
            top = stack[-1] if stack else None
            pattern = OUTSIDE if top is None else IN_DROPPED if top.dropped else IN_SHOWN
            match = pattern.search(text, at)
            into = None if top is not None and top.dropped else out if top is None else top.parts[-1]
            if match is None:
                break
            start = match.start()
            if into is not None and start > at:
                into.append(text[at:start])
            at = match.end()
            token = match[0]
            if token[0] == "{":
                if token[-1] == "}":
                    assert into is not None
                    into.append(self._expand([match["name"], *(match["rest"] or "").split("|")[1:]]))
                    continue
                braces = len(token) - literal.get(start, 0)
                if braces >= 2:
                    hidden = len(stack) >= MAX_DEPTH or (top is not None and top.dropped)
                    stack.append(_Frame(start, braces, hidden))
            elif token[0] == "}":
                self._close(len(token), stack, out)
            elif token[0] == "<":
                at = self._tag(match, into)
            else:
                assert top is not None
                self._inside(token, top)
        rest = text[at:]
        if not stack:
            out.append(rest)
        else:
            for frame in stack:
                out.extend(piece for part in frame.parts for piece in part)
            out.append(rest)
        return "".join(out), {frame.start: frame.braces for frame in stack}

    def _inside(self, token: str, frame: _Frame) -> None:
        if token == "|" and frame.n_links == 0:
            if len(frame.parts) == 1 and frame.braces == 2:
                frame.shown, frame.dropped = self._lookup("".join(frame.parts[0]))
            frame.parts.append([])
            return
        frame.parts[-1].append(token)
        if token == "[[":
            frame.n_links += 1
        elif token == "]]":
            frame.n_links = max(0, frame.n_links - 1)

    def _lookup(self, name: str) -> tuple[Shown | None, bool]:
        shown = shown_template(template_name(name), self._language)
        is_function = ":" in name and parser_function(name, [name], self._title) is not None
        return shown, shown is None and not is_function

    def _close(self, n_braces: int, stack: list[_Frame], out: list[str]) -> None:
        while n_braces >= 2 and stack:
            frame = stack[-1]
            taken = 3 if n_braces >= 3 and frame.braces >= 3 else 2
            n_braces -= taken
            frame.braces -= taken
            if frame.dropped:
                found = DROPPED
            else:
                parts = ["".join(part) for part in frame.parts]
                found = self._expand(parts, frame.shown) if taken == 2 else (parts[1] if len(parts) > 1 else "")
            if frame.braces >= 2:
                frame.parts, frame.shown, frame.n_links = [[found]], None, 0
                continue
            stack.pop()
            if frame.braces:
                found = "{" + found
            if not stack:
                out.append(found)
            elif not stack[-1].dropped:
                stack[-1].parts[-1].append(found)
        if n_braces == 1 and not (stack and stack[-1].dropped):
            (stack[-1].parts[-1] if stack else out).append("}")

    def _expand(self, parts: list[str], shown: Shown | None = None) -> str:
        name = parts[0]
        shown = shown or shown_template(template_name(name), self._language)
        if shown is not None:
            return shown(arguments(parts[1:])) or DROPPED
        found = parser_function(name, parts, self._title)
        return DROPPED if found is None else found or DROPPED

    def _tag(self, match: re.Match[str], into: list[str] | None) -> int:
        """Take a comment or an extension tag with what is in it; returns where to go on. Unclosed, only the tag is lost."""
        if match[0] == "<!--":
            end = self._find("-->", match.end())
            return end[1] if end else match.end()
        name = match["tag"].lower()
        if match[0].endswith("/>"):
            if into is not None and name not in VERBATIM:
                into.append(DROPPED)
            return match.end()
        close = self._find(name, match.end())
        if close is None:
            return match.end()
        content = self._text[match.end() : close[0]]
        if name == "ref" and OPEN_REF.search(content):  # its own end is missing
            return match.end()
        if into is not None:
            into.append(self._protect(name, match[0], content) if name in VERBATIM else DROPPED)
        return close[1]

    def _find(self, name: str, at: int) -> tuple[int, int] | None:
        """The next end of a comment or tag behind `at`; each place of the page is looked through once for each name."""
        start, end = self._closes.get(name, (-1, -1))
        if start < at and start != NONE:
            match = _closing(name).search(self._text, at)
            start, end = match.span() if match else (NONE, NONE)
            self._closes[name] = start, end
        return None if start == NONE else (start, end)


NONE = -2
OPEN_REF = re.compile(r"<ref(?:\s[^<>]*[^<>/]|\s*)>", re.IGNORECASE)
CLOSING = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in (*EMPTIED, *VERBATIM)}


def _closing(name: str) -> re.Pattern[str]:
    return CLOSING.get(name) or re.compile("-->")
