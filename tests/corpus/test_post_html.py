"""Forum posts: code, lists and paragraphs keep their lines, whatever the tags are like."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.corpus.extract.post_html import post_to_text

CASES = {
    "<p>One\ntwo &amp; <em>three</em></p>\n\n<p>four<br>five</p>\n": "One two & three\n\nfour\nfive",
    "<p>a</p><pre><code>if x:\n    y &lt; z\n\n    w\n</code></pre><p>b</p>": "a\n\nif x:\n    y < z\n\n    w\n\nb",
    "<pre class='lang-py'><code>    indented\nnot\n</code></pre>": "    indented\nnot",
    "<ul>\n<li>a</li>\n<li>b\n<ul>\n<li>c</li>\n</ul></li>\n</ul><ol><li><p>d</p></li><li>e</li></ol>": "* a\n* b\n  * c\n\n1. d\n2. e",
    "<blockquote>\n<p>q</p>\n</blockquote><p>r <code>s</code> x<sup>2</sup> 1<sup>st</sup></p>": "q\n\nr s x^2 1st",
    "<p>a <!-- language: lang-js --> <img src='x' alt='no'> <a href='y'>b</a></p><hr>c": "a b\n\nc",
    "<table><tr><th>a</th><th>b</th></tr><tr><td>c</td><td>d</td></tr></table>": "a\tb\nc\td",
    "a < b and b > c, $x<y$": "a < b and b > c, $x<y$",
    "</ul></li><li>a</ol><pre>b": "* a\n\nb",
    "<!-- open <p>a": "open\n\na",
    "": "",
}  # fmt: skip


@pytest.mark.parametrize("html", list(CASES), ids=range(len(CASES)))
def test_posts(html: str) -> None:
    assert post_to_text(html) == CASES[html]


@pytest.mark.parametrize(
    "piece", ["<", "<!--", "<ul><li>", "</ul>", "<pre>", "<p>", "&amp", "<a <", "<td>", " ", "<li>", "\n", "<br>"]
)
def test_a_post_full_of_tags_takes_linear_time(piece: str) -> None:
    began = time.process_time()
    assert post_to_text(piece * (300_000 // len(piece)) + "<p>THE END").endswith("THE END")
    assert time.process_time() - began < 5


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_characters="<>&\x85\xa0", exclude_categories=("Cc", "Cs", "Z"))))
def test_code_stays_as_it_is(code: str) -> None:
    assert post_to_text(f"<p>a</p><pre><code>  {code}|</code></pre><p>b</p>") == f"a\n\n  {code}|\n\nb"
