"""Extracts the main text of an HTML page with resiliparse and says which version of it did so."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import NamedTuple

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

MODES = ("resiliparse", "resiliparse_all")


class Extraction(NamedTuple):
    """The text of a page, its title and declared language (None where it has none), and what extracted it."""

    text: str
    title: str | None
    language: str | None
    tool: str


def extract_html(html: str, mode: str = "resiliparse") -> Extraction:
    """Extract plain text, paragraphs and lists kept as lines.

    `resiliparse` keeps the main content, without navigation and footers; `resiliparse_all`
    keeps everything visible. Raises ValueError for another mode, or where the HTML cannot be parsed.
    """
    if mode not in MODES:
        raise ValueError(f"unknown extraction `{mode}`, known: {', '.join(MODES)}")
    tree = HTMLTree.parse(html)
    text = extract_plain_text(tree, main_content=mode == "resiliparse", alt_texts=False)
    root = tree.document.query_selector("html") if tree.document else None
    language = root.getattr("lang") if root is not None else None
    return Extraction(text.strip(), (tree.title or "").strip() or None, (language or "").strip() or None, tool_name(mode))


@cache
def tool_name(mode: str) -> str:
    """`resiliparse 1.2.3 main_content`: what a row says of its extraction."""
    return f"resiliparse {version('resiliparse')} {'main_content' if mode == 'resiliparse' else 'all'}"
