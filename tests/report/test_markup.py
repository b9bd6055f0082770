"""Text stays text, numbers are written as people write them."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.report.blocks import Cell, Chart, Table
from tilth.report.markup import Markup, json_script, shorten, tag, text
from tilth.report.numbers import number, seconds, share, size


class Reader(HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.found, self.title = "", ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.title = dict(attrs).get("title") or ""

    def handle_data(self, data: str) -> None:
        self.found += data


@given(st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Cn")), max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_is_one_text_node_and_one_attribute(value: str) -> None:
    read = Reader(tag("p", value, title=value))
    assert read.tags == ["p"]
    assert read.found == value
    assert read.title == value


def test_what_cannot_be_seen_is_marked() -> None:
    assert text("a\x00b\u202ec\ud800d\x1be") == "a\ufffdb\ufffdc?d\ufffde"
    assert text("tab\tand\nline") == "tab\tand\nline"


def test_markup_is_not_escaped_twice_but_a_joined_string_is() -> None:
    inner = tag("b", "x & y")
    assert tag("p", inner) == "<p><b>x &amp; y</b></p>"
    assert "&lt;b&gt;" in tag("p", "plus " + inner)


@given(st.text(max_size=40))
@settings(max_examples=100, deadline=None)
def test_a_data_block_cannot_be_left(value: str) -> None:
    block = json_script({"text": value, "more": "</script><!--<script>"})
    body = block.removeprefix('<script type="application/json">').removesuffix("</script>")
    assert "<" not in body
    assert json.loads(body)["text"] == value


def test_nan_has_no_place_in_a_spec() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        Chart("x", "x", {"data": float("nan")}).html()


def test_a_table_carries_the_exact_number() -> None:
    html = Table(["what", "n"], [["<b>", Cell(1234567, name="sum")], ["x", Cell(0.1234567)]]).html()
    assert '<data value="1234567" data-name="sum" data-value="1234567">1,234,567</data>' in html
    assert 'data-value="0.1234567">0.123</data>' in html
    assert "&lt;b&gt;" in html
    assert isinstance(html, Markup)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (1234567, "1,234,567"), (None, "–"), (float("nan"), "–"), (12345.678, "12,346"), (0.012345, "0.0123"),
     (-0.25, "-0.25"), (3.0, "3"), (123.456, "123.5"), (12.345, "12.35"), (1e-7, "1e-07")],
)  # fmt: skip
def test_numbers(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_sizes_shares_and_times() -> None:
    assert [size(n) for n in (None, 12, 1_900_000, 58_200_000_000_000)] == ["–", "12 B", "1.9 MB", "58.2 TB"]
    assert [share(1, 0), share(1, 3), share(3, 3), share(0, 3)] == ["–", "33.3 %", "100 %", "0 %"]
    assert [seconds(s) for s in (0.004, 0.42, 12.34, 245, 7800)] == ["4 ms", "0.42 s", "12.3 s", "4 min 05 s", "2 h 10 min"]


def test_shortened_texts_say_so() -> None:
    assert shorten("short", 10) == "short"
    assert shorten("a text that is too long", 10) == "a text th…"
