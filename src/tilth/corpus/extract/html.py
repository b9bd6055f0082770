"""Extracts the main text of an HTML page with resiliparse and says which version of it did so."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import version
from typing import NamedTuple

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

MODES = ("resiliparse", "resiliparse_all")
# The time that main-content extraction takes grows with the square of the depth: 0.7 s at 8,000 nested div, 220 s at 100,000.
# Browsers stop at 512.
MAX_DEPTH = 512
BLOCK_TAG = re.compile(r"<(/?)(?:div|section|article|main|aside|header|footer|nav|center|blockquote)\b", re.IGNORECASE)


class DepthError(ValueError):
    """The page nests its blocks deeper than any real page."""


class Extraction(NamedTuple):
    """The text of a page, its title and declared language (None where it has none), and what extracted it."""

    text: str
    title: str | None
    language: str | None
    tool: str


def extract_html(html: str, mode: str = "resiliparse") -> Extraction:
    """Extract plain text, paragraphs and lists kept as lines.

    `resiliparse` keeps the main content, without navigation and footers; `resiliparse_all`
    keeps everything visible. Raises ValueError for another mode, or where the HTML cannot be parsed;
    DepthError where extraction would take minutes.
    """
    if mode not in MODES:
        raise ValueError(f"unknown extraction `{mode}`, known: {', '.join(MODES)}")
    depth = block_depth(html)
    if depth > MAX_DEPTH:
        raise DepthError(f"blocks are nested {depth} deep, at most {MAX_DEPTH}")
    tree = HTMLTree.parse(html)
    text = extract_plain_text(tree, main_content=mode == "resiliparse", alt_texts=False)
    root = tree.document.query_selector("html") if tree.document else None
    language = root.getattr("lang") if root is not None else None
    return Extraction(text.strip(), (tree.title or "").strip() or None, (language or "").strip() or None, tool_name(mode))


@cache
def tool_name(mode: str) -> str:
    """`resiliparse 1.2.3 main_content`: what a row says of its extraction."""
    return f"resiliparse {version('resiliparse')} {'main_content' if mode == 'resiliparse' else 'all'}"


def block_depth(html: str) -> int:
    """How deep block elements are nested, by counting tags (comments and scripts count too: an upper bound)."""
    depth = deepest = 0
    for match in BLOCK_TAG.finditer(html):
        depth = max(0, depth - 1) if match[1] else depth + 1
        deepest = max(deepest, depth)
    return deepest
