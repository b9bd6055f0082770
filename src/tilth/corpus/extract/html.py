"""Extracts the main text of an HTML page with resiliparse, trafilatura or both, and says which version did so, and how."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any, NamedTuple

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from tilth.corpus.extract import documentation_html
from tilth.corpus.extract.agreement import Source, join
from tilth.errors import SourceError, did_you_mean

DEFAULT_MODE = "both"
DOCUMENTATION_MODE = "documentation"
MODES = ("both", "resiliparse", "resiliparse_all", "trafilatura", DOCUMENTATION_MODE)
TRAFILATURA_MODES = frozenset({"both", "trafilatura"})
RESILIPARSE_OPTIONS: dict[str, Any] = {
    "alt_texts": False, "comments": True, "form_fields": False, "hidden_elements": False, "links": False, "list_bullets": True,
    "noscript": False, "post_meta": True,
}  # fmt: skip
TRAFILATURA_OPTIONS: dict[str, Any] = {
    "deduplicate": False, "fast": False, "favor_precision": False, "favor_recall": False, "include_comments": False,
    "include_formatting": False, "include_images": False, "include_links": False, "include_tables": True,
}  # fmt: skip
OPTIONS = {
    "resiliparse": RESILIPARSE_OPTIONS,
    "resiliparse_all": RESILIPARSE_OPTIONS,
    "trafilatura": TRAFILATURA_OPTIONS,
    "both": {},
    DOCUMENTATION_MODE: {},
}
# What `both` asks of them. Comments are main text for neither then; trafilatura's own second opinions (readability, justext)
# would double its time, and resiliparse is one.
BOTH_RESILIPARSE, BOTH_TRAFILATURA = {"comments": False}, {"fast": True}
# Where a tenth of what the fast mode gave are lines of the page's source (of scripts and `noscript`), the slower mode is asked.
MARKUP = re.compile(r"<(?:a|br|div|iframe|img|li|p|script|span|table|ul)\b[^<>]*>", re.IGNORECASE)
MAX_MARKUP = 0.1
# Above it resiliparse alone is asked: of 4 MB of table trafilatura takes 11 s and 500 MB, of 16 MB 34 s and 2 GB.
MAX_BOTH_CHARS = 2_000_000

# The time that main-content extraction takes grows with the square of the depth: 0.7 s at 8,000 nested div, 220 s at 100,000.
# Browsers stop at 512.
MAX_DEPTH = 512
BLOCKS = "div|section|article|main|aside|header|footer|nav|center|blockquote"
BLOCK_TAG = re.compile(rf"<(/?)(?=[{''.join(sorted({name[0] for name in BLOCKS.split('|')}))}])(?:{BLOCKS})\b", re.IGNORECASE)
# The time that a tag takes grows with the square of its attributes: 2.8 s at 40,000.
MAX_ATTRIBUTES = 1000
MAX_TRAFILATURA_CHARS = 20_000_000  # MAX_FILE_SIZE in the settings of 2.3.1
ATTRIBUTE = r"[^\s\"'<>/=][^\s\"'<>/=]{0,1000}(?:\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s\"'<>=]+))?"
ATTRIBUTES = re.compile(rf"(<[a-zA-Z][^\s<>/]*(?:[\s/]+{ATTRIBUTE}){{{MAX_ATTRIBUTES}}})((?:[\s/]*{ATTRIBUTE})+)")
TAG_START = re.compile("<[a-zA-Z]")
LONG_TAG_CHARS = 2 * MAX_ATTRIBUTES


class DepthError(ValueError):
    """The page nests its blocks deeper than any real page."""


class SizeError(ValueError):
    """The page is larger than the library takes."""


class Extraction(NamedTuple):
    """The text of a page, its title and declared language (None where it has none), and what extracted it."""

    text: str
    title: str | None
    language: str | None
    tool: str
    n_formulas: int = 0


@dataclass(frozen=True)
class Extractor:
    """How pages become text: the library (`mode`), its options by their own names, and whether formulas are kept as LaTeX."""

    mode: str = DEFAULT_MODE
    options: Mapping[str, Any] = field(default_factory=dict)
    formulas: bool = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Loads the library where the extractor arrives, so that the first page there has its whole time to itself."""
        self.__dict__.update(state)
        if self.mode in TRAFILATURA_MODES:
            import trafilatura  # noqa: F401

    def check(self, where: str) -> None:
        """Raises SourceError if there is no such extraction or option, or an option of the wrong type."""
        if self.mode not in MODES:
            raise SourceError(f"unknown extraction `{self.mode}`", where=where, fix=f"one of: {', '.join(MODES)}")
        known = OPTIONS[self.mode]
        for name, value in self.options.items():
            if name not in known:
                raise SourceError(f"{self.mode} has no option `{name}`", where=where, fix=did_you_mean(name, known))
            if type(value) is not type(known[name]):
                raise SourceError(f"option `{name}` is {value!r}", where=where, fix="give True or False")

    def extract(self, html: str) -> Extraction:
        """Extract the text of a page. Raises ValueError if it cannot be parsed, DepthError if that would
        take minutes, SizeError if the library takes no page of this size.
        """
        depth = block_depth(html)
        if depth > MAX_DEPTH:
            raise DepthError(f"blocks are nested {depth} deep, at most {MAX_DEPTH}")
        html = cut_attributes(html)
        tree = HTMLTree.parse(html)
        n_formulas = 0
        if self.formulas and tree.document is not None:
            from tilth.corpus.extract.formulas import has_formulas, mark_formulas

            n_formulas = mark_formulas(tree) if has_formulas(html) else 0
        tool, source = self.tool, tree.document.html if n_formulas and tree.document else html
        if self.mode == "trafilatura":
            text = _trafilatura(source, self.options)
        elif self.mode == "both":
            text, tool = _both(tree, source)
            tool += " formulas" * self.formulas
        elif self.mode == DOCUMENTATION_MODE:
            text = documentation_html.documentation_text(tree)
        else:
            text = _resiliparse(tree, self.mode, self.options)
        if self.formulas:
            from tilth.corpus.extract.formulas import dollars

            text = dollars(text)
        root = tree.document.query_selector("html") if tree.document else None
        language = root.getattr("lang") if root is not None else None
        title, language = (tree.title or "").strip() or None, (language or "").strip() or None
        return Extraction(text.strip(), title, language, tool, n_formulas)

    @property
    def tool(self) -> str:
        """`resiliparse 2.0.1 main_content`: what a row says of its extraction."""
        chosen = [f"{name}={value}" for name, value in sorted(self.options.items())]
        return " ".join([tool_name(self.mode), *chosen, *(["formulas"] if self.formulas else [])])


def extract_html(html: str, mode: str = DEFAULT_MODE) -> Extraction:
    """Extract plain text, paragraphs and lists kept as lines.

    `resiliparse` and `trafilatura` keep the main content, without navigation and footers; `both` keeps what they agree on
    and the prose between (`agreement.py`); `resiliparse_all` keeps everything visible; `documentation` all of what generators
    of documentation mark as the page's own (`documentation_html.py`).
    Raises ValueError for another mode, or where the HTML cannot be parsed;
    DepthError where extraction would take minutes.
    """
    if mode not in MODES:
        raise ValueError(f"unknown extraction `{mode}`, known: {', '.join(MODES)}")
    return Extractor(mode).extract(html)


@cache
def tool_name(mode: str) -> str:
    """Library, version and what part of the page it keeps."""
    if mode == "both":
        return f"both, resiliparse {version('resiliparse')} and trafilatura {version('trafilatura')}"
    if mode == "trafilatura":
        return f"trafilatura {version('trafilatura')} main_content"
    if mode == DOCUMENTATION_MODE:
        return f"resiliparse {version('resiliparse')} documentation {documentation_html.VERSION}"
    return f"resiliparse {version('resiliparse')} {'main_content' if mode == 'resiliparse' else 'all'}"


def block_depth(html: str) -> int:
    """How deep block elements are nested, by counting tags (comments and scripts count too: an upper bound)."""
    depth = deepest = 0
    for is_end in BLOCK_TAG.findall(html):
        if is_end:
            depth -= depth > 0
        else:
            depth += 1
            deepest = max(deepest, depth)
    return deepest


def cut_attributes(html: str) -> str:
    """A page without the attributes of a tag that come after its thousandth; the text is the same."""
    long = [tag for tag in html.split(">") if len(tag) >= LONG_TAG_CHARS]
    return ATTRIBUTES.sub(r"\1", html) if any(map(_has_many_attributes, long)) else html


def _has_many_attributes(tag: str) -> bool:
    """Whether what ends with a `>` may be such a tag: it has as many separators (scripts are long, and most begin no tag)."""
    start = TAG_START.search(tag)
    return start is not None and sum(tag.count(separator, start.start()) for separator in " \t\n\f\r/") >= MAX_ATTRIBUTES


def _both(tree: Any, source: str) -> tuple[str, str]:
    """(text, tool): `both, resiliparse 2.0.1 main_content` where the text is that of one library alone."""
    text = _resiliparse(tree, "resiliparse", BOTH_RESILIPARSE)
    if len(source) > MAX_BOTH_CHARS:
        return text, f"both, {tool_name('resiliparse')}"
    other = _trafilatura(source, BOTH_TRAFILATURA)
    if _is_markup(other):
        other = _trafilatura(source, {})
    text, whose = join(text, other)
    if whose is Source.BOTH:
        return text, tool_name("both")
    return text, f"both, {tool_name('resiliparse' if whose is Source.FIRST else 'trafilatura')}"


def _is_markup(text: str) -> bool:
    n_markup = sum(len(line) for line in text.split("\n") if MARKUP.search(line))
    return n_markup > MAX_MARKUP * len(text)


def _resiliparse(tree: Any, mode: str, options: Mapping[str, Any]) -> str:
    return extract_plain_text(tree, main_content=mode == "resiliparse", **{"alt_texts": False, **options})


def _trafilatura(html: str, options: Mapping[str, Any]) -> str:
    import trafilatura

    if len(html) > MAX_TRAFILATURA_CHARS:  # it would say nothing and return nothing
        raise SizeError(f"{len(html)} characters, trafilatura takes at most {MAX_TRAFILATURA_CHARS}")
    return trafilatura.extract(html, **{**TRAFILATURA_OPTIONS, **options}) or ""
