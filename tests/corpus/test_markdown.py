"""What is cut from Markdown, and what stays: front matter goes, rules stay; comments go, those in code stay."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.corpus.extract.markdown import markdown_edits
from tilth.quality_signals.edits import edited


def prose(text: str, **options: bool) -> str:
    return edited(text, [change[:3] for change in markdown_edits(text, **options)])


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("---\ntitle: A page\ntags:\n  - one\n---\n\n# A page\n", "\n# A page\n"),
        ("\ufeff---\r\ntitle: A\r\n---\r\n# A\r\n", "# A\r\n"),
        ("---\n# a comment\n\ntitle: A\n...\nText\n", "Text\n"),
        ("---\n---\nText\n", "Text\n"),
        ("---\n\"quoted key\": 1\n---", ""),
        ("+++\ntitle = 'A'\n[params]\nx = 1\n+++\nText\n", "Text\n"),
        ("+++\n[params]\n+++\nText\n", "Text\n"),
    ],
)  # fmt: skip
def test_front_matter_goes(text: str, left: str) -> None:
    assert prose(text) == left
    assert prose(text, front_matter=False) == text


@pytest.mark.parametrize(
    "text",
    [
        "---\nA text between two rules.\n---\n", "---\ntitle: never closed\n", "Text\n---\ntitle: A\n---\n", "----\na: b\n----\n",
        "---\nhttp://example.org/a:b\n---\n", "+++\na text\n+++\n", "", "---",
    ],
)  # fmt: skip
def test_what_is_no_front_matter_stays(text: str) -> None:
    assert prose(text) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a <!-- b --> c\n", "a  c\n"),
        ("a\n<!-- one\ntwo -->\nb\n", "a\nb\n"),
        ("a\n  <!-- x -->  \nb <!-- y -->\n", "a\nb \n"),
        ("<!-- x --><!-- y -->\ntext", "\ntext"),
        ("`<!-- code -->` <!-- x -->", "`<!-- code -->` "),
        ("``a ` <!-- code -->`` <!-- x -->", "``a ` <!-- code -->`` "),
        ("a ` lone tick\n\n<!-- x -->\nb ` c", "a ` lone tick\n\nb ` c"),
        ("```html\n<!-- code -->\n```\n<!-- x -->\nend", "```html\n<!-- code -->\n```\nend"),
        ("~~~~\n<!-- code -->\n~~~\n<!-- code -->\n~~~~\n<!-- x -->", "~~~~\n<!-- code -->\n~~~\n<!-- code -->\n~~~~\n"),
        ("```\n<!-- code --> never closed", "```\n<!-- code --> never closed"),
        ("    <!-- indented code -->\n<!-- x -->\n", "    <!-- indented code -->\n"),
        ("<!--\n```\ncode in a comment\n```\n-->\na", "a"),
        ("a <!-- never closed", "a <!-- never closed"),
    ],
)
def test_comments_go_outside_of_code(text: str, left: str) -> None:
    assert prose(text) == left
    assert prose(text, comments=False) == text


def test_offsets_and_reasons() -> None:
    text = "---\na: b\n---\n\u4e2d<!-- x -->\n"
    assert [tuple(change) for change in markdown_edits(text)] == [(0, 13, "", "front_matter"), (14, 24, "", "comment")]


@given(st.text(alphabet="`~-+<>! a:\n\t=", max_size=80))
def test_any_text_gives_edits_that_fit(text: str) -> None:
    left = prose(text)
    assert len(left) <= len(text)
    assert prose(text, front_matter=False, comments=False) == text


@pytest.mark.parametrize(
    "unit", ["`", "` ", "`a``b```c", "<!--", "```\n", "--->", "<!-- -->", "\n\n`", "~~~ a\n", "    a\n", "-\n"]
)
def test_time_is_linear(unit: str) -> None:
    def seconds(n: int) -> float:
        text = unit * n
        begin = time.process_time()
        markdown_edits(text)
        return time.process_time() - begin

    few, many = min(seconds(10_000) for _ in range(3)), seconds(80_000)
    assert many < 32 * max(few, 0.01)  # eight times as much text; 64 would be its square
