"""Wikitext to plain text: a straight scanner in four passes (preprocessor, links, tables, lines), each linear in the page.

Headings, paragraphs, lists and the rows of tables stay as lines; a heading with nothing under it is left out. Markup that
is not balanced is taken out and the text around it stays. Definitions: the documentation of MediaWiki's parser and preprocessor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from html import unescape
from html.entities import html5

from tilth.corpus.extract.wikitext_links import link_resolver
from tilth.corpus.extract.wikitext_preprocess import DROPPED, Preprocessor
from tilth.corpus.extract.wikitext_tables import CELL, ROW, tables_to_lines

TOOL = "tilth wikitext 1"
CONTROLS = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f]")
KEPT = re.compile("\2([0-9]+)\3")
QUOTES = re.compile(r"''++")
SWITCH = re.compile(r"__[^\W\d_]{3,30}__")
VARIANT = re.compile(r"-\{([^{}\n]*+)\}-")
VARIANT_NAME = re.compile(r"zh|[a-z]{2,3}-[a-z]+")
ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
POWER = re.compile(r"<sup>\s*([-+−]?[0-9]{1,4}|[a-z])\s*</sup>(?![a-z])", re.IGNORECASE)
INLINE_TAGS = (
    "abbr", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font", "i", "ins", "kbd", "mark",
    "nobr", "nowiki", "onlyinclude", "noinclude", "includeonly", "q", "rb", "rp", "rt", "rtc", "ruby", "s", "samp",
    "small", "span", "strike", "strong", "sub", "sup", "time", "translate", "tt", "tvar", "u", "var", "wbr",
    "references", "ref",
)  # fmt: skip
BLOCK_TAGS = (
    "blockquote", "center", "dd", "div", "dl", "dt", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "ol", "p", "poem", "pre",
    "section", "table", "tbody", "thead", "tr", "ul", "caption", "gallery",
)  # fmt: skip
BREAKS = {**dict.fromkeys(INLINE_TAGS, ""), **dict.fromkeys(BLOCK_TAGS, "\n"), "br": "\n", "li": "\n* ", "td": CELL, "th": CELL}
TAG = re.compile(r"<(/?)(" + "|".join(sorted(BREAKS, key=len, reverse=True)) + r")(?:\s[^<>]*+|/)?>", re.IGNORECASE)
# White space and brackets around what was taken out. Each pattern begins with a rare character, which is what makes it fast.
EMPTY_BRACKETS = re.compile(r"[(（][\s,;:]*+\x01[\s\x01,;:/–-]*+[)）]")
AFTER_BRACKET = re.compile(r"([(（])\s*+\x01[\s\x01]*+[,;:]?\s*+")
BEFORE_BRACKET = re.compile(r"([,;:]?\x01[\s\x01]*+)([)）]?)")  # takes runs whole, also where it then leaves them
BEFORE_POINT = re.compile(r"(\x01[ \t\x01]*+)([.,;:!?。、，]?)")
DROPPED_LINE = re.compile(r"\n[ \t]*+\x01[\x01 \t]*+(?=\n)")
SPACES = re.compile(r"  +")
BLANK_LINES = re.compile(r"\n\n\n+")


@dataclass(frozen=True)
class Wiki:
    """What the pages of one wiki have in common: its language and its names for files and categories."""

    language: str = ""
    files: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()


def wikitext_to_text(source: str, wiki: Wiki | None = None, title: str = "", tables: bool = True) -> str:
    """The text that a page shows, as plain text; never longer than a small multiple of `source`.

    `tables=False` leaves tables out. Never raises, and takes time in proportion to the page for any input.
    """
    site = wiki or Wiki()
    kept: list[str] = []

    def protect(name: str, tag: str, content: str) -> str:
        kept.append(_verbatim(name, content))
        mark = f"\2{len(kept) - 1}\3"
        return f"\n\n{mark}\n\n" if name in ("pre", "syntaxhighlight", "source") and "inline" not in tag else mark

    text = CONTROLS.sub("", source.replace("\r\n", "\n").replace("\r", "\n"))
    text = Preprocessor(site.language.partition("-")[0], title, protect).run(text)
    text = _resolver(site.files, site.categories)(text)
    text = tables_to_lines(text, tables)
    text = _lines(_inline(text))
    text = KEPT.sub(lambda match: kept[int(match[1])], text)
    return text.strip("\n").rstrip()


@cache
def _resolver(files: tuple[str, ...], categories: tuple[str, ...]):  # type: ignore[no-untyped-def]
    return link_resolver(files, categories)


def _verbatim(name: str, content: str) -> str:
    if name in ("math", "chem", "ce"):
        formula = " ".join(unescape(content).split())
        return f"${formula}$" if formula else ""
    if name in ("syntaxhighlight", "source"):
        return content.strip("\n")
    text = ENTITY.sub(_character, content)
    return text.strip("\n") if name == "pre" else text


def _inline(text: str) -> str:
    """Markup inside lines: quotes, tags, switches, entities; then what is left around things that were taken out."""
    if "''" in text:
        text = QUOTES.sub(_apostrophes, text)
    if "__" in text:
        text = SWITCH.sub(lambda match: match[0] if match[0].islower() or match[0].istitle() else DROPPED, text)
    if "-{" in text:
        text = VARIANT.sub(_variant, text)
    if "<" in text:
        text = POWER.sub(r"^\1", text)
        text = TAG.sub(_tag, text)
    text = ENTITY.sub(_character, text.replace("&nbsp;", " "))
    if DROPPED in text:
        text = EMPTY_BRACKETS.sub(DROPPED, text).replace(" " + DROPPED, DROPPED + " ")
        text = AFTER_BRACKET.sub(r"\1", text)
        text = BEFORE_BRACKET.sub(_before, text)
        text = BEFORE_POINT.sub(_before, text)
        text = DROPPED_LINE.sub("", "\n" + text).replace(DROPPED, "")
    return SPACES.sub(" ", text)


def _before(match: re.Match[str]) -> str:
    return match[2] or match[1]


def _apostrophes(match: re.Match[str]) -> str:
    """Two are italic, three bold, five both; others are apostrophes besides."""
    length = match.end() - match.start()
    return "'" if length == 4 else "'" * max(0, length - 5)


def _tag(match: re.Match[str]) -> str:
    name = match[2].lower()
    if match[1]:
        return "" if name in ("td", "th", "li", "br") else BREAKS[name]
    return BREAKS[name]


def _variant(match: re.Match[str]) -> str:
    """Language conversion (Chinese and others): `-{text}-`, `-{zh-hans:a; zh-hant:b}-` (the first), `-{H|...}-` (hidden)."""
    flags, bar, rules = match[1].rpartition("|")
    if bar and set(flags.replace(";", "").strip()) & set("HT-"):
        return DROPPED
    first = rules.split(";")[0]
    name, colon, shown = first.partition(":")
    return shown.strip() if colon and VARIANT_NAME.fullmatch(name.strip()) else rules


def _character(match: re.Match[str]) -> str:
    name = match[0][1:]
    if name[0] != "#":
        return html5.get(name, match[0])
    code = int(name[2:-1], 16) if name[1] in "xX" else int(name[1:-1])
    usable = code in (9, 10) or 32 <= code < 127 or 160 <= code < 0xD800 or 0xE000 <= code < 0x110000
    return chr(code) if usable else match[0]


def _lines(text: str) -> str:
    """Headings, lists, indents and rows, line by line."""
    out: list[str] = []
    headings: list[tuple[int, str]] = []  # those that nothing has followed yet
    numbers: dict[int, int] = {}
    for raw in text.split("\n"):
        line = raw.strip()
        first = line[:1]
        if not first:
            out.append("")
            continue
        if first == "=" and line[-1] == "=":
            heading = _heading(line)
            if heading is None:
                continue
            while headings and headings[-1][0] >= heading[0]:
                headings.pop()
            headings.append(heading)
            numbers.clear()
            continue
        if first in "*#:;":
            line = _item(line, numbers)
        elif first == ROW:
            line = line[1:].strip(" ").replace(CELL, "\t")
        else:
            line = line.lstrip("-").lstrip() if line.startswith("----") else line.strip(CELL + ROW + " ").replace(CELL, "\t")
            numbers.clear()
        line = line.replace(ROW, "")
        if line.strip():
            out += [part for _, title in headings for part in ("", title, "")]
            headings.clear()
            out.append(line)
    return BLANK_LINES.sub("\n\n", "\n".join(out))


def _heading(line: str) -> tuple[int, str] | None:
    lead, trail = len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("="))
    level = min(lead, trail, 6)
    title = line[level:-level].strip()
    return (level, title) if title else None


def _item(line: str, numbers: dict[int, int]) -> str:
    """`*` items keep their mark, `#` items get their number, deeper ones are indented; `:` and `;` lose their marks."""
    content = line.lstrip("*#:;")
    marks = line[: len(line) - len(content)]
    content = content.strip()
    if not content:
        return ""
    depth = len(marks)
    for deeper in [known for known in numbers if known > depth]:
        del numbers[deeper]
    if marks[-1] not in "*#":
        return content
    indent = "  " * min(depth - 1, 10)
    if marks[-1] == "*":
        return f"{indent}* {content}"
    numbers[depth] = numbers.get(depth, 0) + 1
    return f"{indent}{numbers[depth]}. {content}"
