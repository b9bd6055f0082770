"""Pages of documentation generators, in a folder: the page whole, with its code, and nothing of the site around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilth.corpus.extract.html import Extractor
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.sources.html_files import HtmlFiles
from tilth.errors import SourceError

CODE = '{\n    "extra": {\n        "depth": 3\n    }\n}'
BODY = (
    '<h1>Plough<a class="headerlink" href="#plough">¶</a></h1><p>Turns the soil.</p>'
    "<dl><dt><code>plough(<em>depth: int</em>) → bool</code></dt><dd><p>Deep or not.</p></dd></dl>"
    '<ul><li><a href="a.html">turn</a></li><li><a href="b.html">stop</a></li></ul>'
    f"<div class=highlight><button>Copy</button><pre>{CODE}</pre></div>"
)
AROUND = "<nav><a href=index.html>All projects</a></nav>{}<aside class=toc>Contents of the site</aside><footer>Imprint</footer>"
PAGES = {
    "sphinx": f'<div class="sphinxsidebar" role="navigation">Menu</div><div class="body" role="main">{BODY}</div>',
    "furo": f'<main><article role="main" id="furo-main-content">{BODY}</article><div class="related-pages">Next</div></main>',
    "mkdocs": f'<main><article class="md-content__inner md-typeset"><a class="md-content__button">Edit</a>{BODY}</article></main>',
    "docusaurus": f'<main><article><div class="theme-doc-markdown markdown">{BODY}</div></article></main>',
    "rustdoc": f'<nav class="sidebar">Crates</nav><main><section id="main-content"><a class="src" href=x>Source</a>{BODY}</section></main>',
    "javadoc": f'<main role="main">{BODY}</main>',
    "doxygen": f'<div id="top">Main Page</div><div class="contents">{BODY}</div>',
    "yard": f'<div id="menu">Index</div><div id="content">{BODY}</div>',
}  # fmt: skip


@pytest.mark.parametrize("generator", list(PAGES))
def test_the_page_of_a_generator_whole_and_alone(generator: str) -> None:
    html = f"<html lang=en><head><title>T</title></head><body>{AROUND.format(PAGES[generator])}</body></html>"
    found = Extractor("documentation").extract(html)
    expected = ["Plough", "Turns the soil.", "plough(depth: int) → bool", "Deep or not.", "• turn", "• stop", *CODE.split("\n")]
    assert [line.strip() for line in found.text.split("\n") if line.strip()] == [line.strip() for line in expected]
    assert CODE in found.text
    assert (found.title, found.language) == ("T", "en")
    assert found.tool.split(" ", 2)[::2] == ["resiliparse", "documentation 1"]


def test_a_fragment_is_taken_whole_and_other_pages_by_their_main_content() -> None:
    text = Extractor("documentation").extract(BODY).text
    assert text.startswith("Plough")
    assert "stop" in text
    assert CODE in text
    assert "¶" not in text
    article = f"<article><p>{'A long paragraph of prose that is the main text. ' * 5}</p></article>"
    blog = f"<html><body><header>Blog</header>{article * 2}<footer>Imprint</footer></body></html>"
    text = Extractor("documentation").extract(blog).text
    assert text.count("A long paragraph") == 10
    assert "Imprint" not in text
    assert Extractor("documentation").extract("").text == ""


def test_a_folder_of_pages(tmp_path: Path, rows: Callable[..., Any]) -> None:
    page = f"<html lang=en><title>Plough</title><body>{AROUND.format(PAGES['sphinx'])}</body></html>".encode()
    for name, data in {
        "api/plough.html": page, "caf\u00e9 x.htm": page, "search.html": b"<html><body><div role=main> </div></body></html>",
        "_modules/plough.html": page, "deep.html": b"<div>" * 600 + b"text", "large.html": page + b" " * 20_000,
        "style.css": b"a {}",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    source = HtmlFiles(
        "docs", str(tmp_path), extract="documentation", base_url="https://plough.example.org/en/", licence="MIT",
        max_file_bytes=10_000,
    )  # fmt: skip
    found = rows(source)
    assert [row["url"] for row in found.documents] == [
        "https://plough.example.org/en/api/plough.html", "https://plough.example.org/en/caf%C3%A9%20x.htm",
    ]  # fmt: skip
    assert [row["path"] for row in found.occurrences] == ["api/plough.html", "caf\u00e9 x.htm"]
    assert found.documents[0]["raw_swhid"] == content_swhid(page)
    assert dict(found.documents[0]["meta"]) == {"title": "Plough"}
    assert {(row["spdx"], row["scope"], row["effective"]) for row in found.licences} == {("MIT", "declared", True)}
    assert [(row["location"], row["reason"]) for row in found.rejects] == [
        ("deep.html", "too_deep"), ("large.html", "too_large"), ("search.html", "empty"),
    ]  # fmt: skip


def test_another_extraction_is_refused_and_one_that_takes_long_is_a_reject(tmp_path: Path, rows: Callable[..., Any]) -> None:
    (tmp_path / "a.html").write_text(f"<main>{'<p>text</p>' * 150_000}</main>")
    with pytest.raises(SourceError, match="unknown extraction"):
        HtmlFiles("docs", str(tmp_path), extract="documents").plan()
    assert rows(HtmlFiles("docs", str(tmp_path), extract="documentation", max_seconds=0.05)).reasons == ["too_slow"]
    assert len(rows(HtmlFiles("docs", str(tmp_path), extract="documentation")).texts) == 1
