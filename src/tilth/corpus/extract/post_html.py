"""The small, clean HTML of forum posts (StackExchange bodies) to text: paragraphs, lists, tables and code keep their lines."""

from __future__ import annotations

import re
from html import unescape

TOOL = "tilth post_html 1"
TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*+)[^<>]*+>")
WHITE = str.maketrans("\t\r\n\f", "    ")
SPACES = re.compile("  +")
POWER = re.compile(r"[-+−]?[0-9]{1,4}")
BLOCKS = frozenset(
    (
        "p",
        "div",
        "blockquote",
        "pre",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "ul",
        "ol",
        "table",
        "thead",
        "tbody",
        "dl",
        "dt",
        "dd",
        "hr",
        "section",
        "figure",
    )
)
MAX_INDENT = 10


def post_to_text(html: str) -> str:
    """The text of a post. Code keeps its spaces and lines, list items begin with `* ` or their number, images are left out.

    Never raises, and takes time in proportion to the post for any input.
    """
    page = _Page()
    html = _without_comments(html)
    at = 0
    for match in TAG.finditer(html):
        if match.start() > at:
            page.text(html[at : match.start()])
        page.tag(match[2].lower(), closes=bool(match[1]))
        at = match.end()
    page.text(html[at:])
    return "".join(page.out).strip("\n").rstrip()


def posts_to_text(bodies: list[str]) -> list[str]:
    """The texts of a question and its answers."""
    return [post_to_text(body) for body in bodies]


def _without_comments(html: str) -> str:
    parts, at = [], 0
    while (start := html.find("<!--", at)) >= 0 and (end := html.find("-->", start + 4)) >= 0:
        parts.append(html[at:start])
        at = end + 3
    return "".join([*parts, html[at:].replace("<!--", "")])


class _Page:
    """What was written so far, and how many line ends are due before the next word."""

    def __init__(self) -> None:
        self.out: list[str] = []
        self._due = 0
        self._mark = ""
        self._lists: list[int | None] = []  # the number of the last item; None where items have none
        self._in_code = self._raised = False

    def text(self, raw: str) -> None:
        """Text between two tags."""
        if self._in_code:
            found = unescape(raw)
            if found:
                self._write(found.lstrip("\n") if self._due else found)
            return
        found = unescape(SPACES.sub(" ", raw.translate(WHITE)))
        if self._due or not self.out or self.out[-1][-1:] in " \n\t":
            found = found.lstrip(" ")
        if found:
            self._write("^" + found if self._raised and POWER.fullmatch(found) else found)

    def _write(self, found: str) -> None:
        if self._due and self.out:
            self.out[-1] = self.out[-1].rstrip(" \n")
            self.out.append("\n" * self._due)
        self._due = 0
        if self._mark:
            self.out.append(self._mark)
            self._mark = ""
        self.out.append(found)

    def tag(self, name: str, closes: bool) -> None:
        """A tag that is met."""
        if name == "pre":
            self._in_code = not closes
        if name in ("ul", "ol"):
            if not closes:
                self._lists.append(0 if name == "ol" else None)
            elif self._lists:
                self._lists.pop()
        if name in BLOCKS:
            self._due = max(self._due, 1 if self._lists else 2)
        elif name == "br":
            self._due = min(self._due + 1, 2)
        elif name == "tr":
            self._due = max(self._due, 1)
        elif name in ("td", "th") and not closes and not self._due:
            self._write("\t")
        elif name == "li" and not closes:
            self._item()
        elif name == "sup":
            self._raised = not closes

    def _item(self) -> None:
        self._due = max(self._due, 1)
        indent = "  " * min(max(0, len(self._lists) - 1), MAX_INDENT)
        number = self._lists[-1] if self._lists else None
        if number is None:
            self._mark = f"{indent}* "
        else:
            self._lists[-1] = number + 1
            self._mark = f"{indent}{number + 1}. "
