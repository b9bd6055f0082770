"""The text of a page that a documentation generator made: all of the element that it marks as the page's own, and nothing beside.

What finds main content on the web leaves out what looks like navigation or is no sentence. In documentation that is signatures,
tables of methods, lists of links and single lines of code, so that programs lose their braces.
"""

from __future__ import annotations

from typing import Any

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

VERSION = 1
# Where generators put the page, the more telling first; one that occurs more than once (articles of a blog) tells nothing.
CONTAINERS = (
    "article[role=main]",  # Furo, PyData: Sphinx themes
    "div[role=main]",  # Sphinx, Read the Docs
    "article.md-content__inner",  # Material for MkDocs
    ".theme-doc-markdown",  # Docusaurus
    "#main-content",  # rustdoc
    "div.contents",  # Doxygen
    "main", "[role=main]",  # javadoc, RDoc, GitBook, mdBook, pkgdown
    "#content",  # YARD, AsciiDoctor
    "article",
)  # fmt: skip
SKIPPED = [
    "nav", "[role=navigation]", "button", "script", "style", "template", "dialog", "summary.hideme",
    # links to the place itself, to the source, to copy, edit, go on
    "a.headerlink", "a.anchor", "a.anchor-link", "a.hash-link", "a.doc-anchor", "a.header-anchor", "a.copybtn", "button.copy",
    ".viewcode-link", ".viewcode-back", "a.src", ".source-link", "a.md-content__button", ".md-source-file", ".edit-this-page",
    ".theme-edit-this-page", ".pagination-nav", ".prev-next-area", ".related-pages", ".rst-footer-buttons", ".breadcrumbs",
    ".theme-doc-breadcrumbs", ".toc-drawer", ".bd-sidebar-secondary", ".sphinxsidebar", ".related", "#skip-navigation-links",
    # gutters with the numbers of lines
    "td.linenos", "span.linenos", ".src-line-numbers", ".lineno",
]  # fmt: skip
OPTIONS: dict[str, Any] = {"alt_texts": False, "preserve_formatting": True, "skip_elements": SKIPPED}


def documentation_text(tree: HTMLTree) -> str:
    """The text of the page's own element. A fragment without navigation, as DevDocs saves it, is taken whole.

    Of another page the main content by resiliparse, without what is skipped.
    """
    container = _container(tree)
    if container is not None:
        return extract_plain_text(container.html, **OPTIONS)
    is_page = tree.document is not None and tree.document.query_selector("nav, header, footer, aside") is not None
    return extract_plain_text(tree, main_content=is_page, **OPTIONS)


def _container(tree: HTMLTree) -> Any:
    if tree.document is None:
        return None
    for selector in CONTAINERS:
        found = tree.document.query_selector_all(selector)
        if len(found) == 1 and (found[0].text or "").strip():
            return found[0]
    return None
