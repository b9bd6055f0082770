"""Records come out whole, in bounded memory; damage, bombs and DTDs cost the record that they are in."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.corpus.formats.compressed import Gap
from tilth.corpus.formats.xml_stream import XmlDamage, XmlElement, XmlRecords, read_xml

PAGES = XmlRecords("wiki", frozenset({"page", "revision"}), restart="page", max_record_chars=5000)
ROWS = XmlRecords("posts", frozenset({"row"}), restart="row")


def page(number: int, text: str = "text &amp; <b>x</b>") -> str:
    return f"<page><id>{number}</id><revision><text>{text}</text></revision></page>"


def read(data: bytes | Iterable[bytes | Gap], wanted: XmlRecords = PAGES, **options: bool) -> tuple[list[str], list[XmlDamage]]:
    """The ids of pages (attributes of rows), and the damages."""
    ids, damages = [], []
    for found in read_xml([data] if isinstance(data, bytes) else data, wanted, **options):
        if isinstance(found, XmlDamage):
            damages.append(found)
        elif found.name != "revision":
            ids.append(found.attributes.get("Id") or found.child_text("id"))
    return ids, damages


def test_records_with_their_offsets_and_parents() -> None:
    data = f"<wiki lang='xx'><info>no</info>{page(1)}{page(2)}</wiki>".encode()
    found = [element for element in read_xml([data], PAGES) if isinstance(element, XmlElement)]
    assert [element.name for element in found] == ["revision", "page", "revision", "page"]
    revision, first = found[:2]
    assert revision.parent is first
    assert revision.child_text("text") == "text &"
    assert first.parent is not None
    assert first.parent.attributes == {"lang": "xx"}
    assert [child.name for child in first.children] == ["id"]
    assert [data[element.offset :].startswith(f"<{element.name}>".encode()) for element in found] == [True] * 4


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "windows-1251", "iso-8859-1"])
def test_encodings(encoding: str) -> None:
    declared = f"<?xml version='1.0' encoding='{encoding}'?>" if "utf" not in encoding else ""
    word = "тест" if encoding == "windows-1251" else "täst"
    data = f"{declared}<wiki>{page(1, word)}{page(2, word + '<')}{page(3, word)}</wiki>".encode(encoding)
    found = list(read_xml([data[i : i + 7] for i in range(0, len(data), 7)], PAGES))
    texts = [element.child_text("text") for element in found if isinstance(element, XmlElement) and element.name == "revision"]
    assert texts == [word, word]
    assert [damage.reason for damage in found if isinstance(damage, XmlDamage)] == ["bad_xml"]


@pytest.mark.parametrize(
    "broken",
    ["<page><id>2</id><revision><text>a < b</text></revision></page>", "<page><id>2</id><revision><text>a</revision></page>",
     "<page><id>2</id>", "<page><id>2</id>&bomb;</page>", "<page><id>2</id>&#0;</page>", "</page>", "<page/><<"],
)  # fmt: skip
def test_damage_costs_one_record(broken: str) -> None:
    data = f"<wiki>{page(1)}{broken}{page(3)}{page(4)}</wiki>".encode()
    for size in (1, 10, 1000):
        ids, damages = read(data[i : i + size] for i in range(0, len(data), size))
        assert [one for one in ids if one] == ["1", "3", "4"]
        assert [damage.reason for damage in damages] == ["bad_xml"]
        assert len(f"<wiki>{page(1)}") <= damages[0].offset <= len(f"<wiki>{page(1)}{broken}<page>")


def test_a_dtd_is_refused_with_all_its_entities() -> None:
    bomb = '<!DOCTYPE wiki [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'
    ids, damages = read(f"{bomb}<wiki>{page(1, '&b;')}{page(2)}</wiki>".encode())
    assert ids == ["2"]
    assert [damage.reason for damage in damages] == ["forbidden_dtd", "bad_xml"]


def test_limits() -> None:
    deep = "<page>" + "<a>" * 100 + "</a>" * 100 + "</page>"
    many = "<page>" + "<a/>" * 100 + "</page>"
    ids, damages = read(f"<wiki>{page(1)}{deep}{page(2, 'x' * 6000)}{many}{page(3)}</wiki>".encode())
    assert ids == ["1", "2", "3"]  # the page stays, its revision is too large
    assert [damage.reason for damage in damages] == ["too_deep", "too_large", "too_large"]


def test_a_tag_without_end_does_not_fill_memory() -> None:
    def endless() -> Iterable[bytes]:
        yield b"<posts><row Id='1'/><row Id='"
        for _ in range(6):
            yield b"x" * 1_000_000
        yield b"'/><row Id='2'/></posts>"

    ids, damages = read(endless(), ROWS)
    assert ids == ["1", "2"]
    assert [(damage.reason, damage.offset) for damage in damages] == [("too_large", 20)]


def test_a_tag_that_swallows_the_rest_gives_it_back() -> None:
    for broken in ("<?age>", "<!-- ", "<page "):
        ids, damages = read(f"<wiki>{page(1)}{broken}{page(3)}{page(4)}</wiki>".encode())
        assert ids == ["1", "3", "4"]
        assert damages


def test_a_file_cut_off() -> None:
    whole = f"<wiki>{page(1)}{page(2)}".encode()
    assert [damage.detail for damage in read(whole)[1]] == ["the file ends before </wiki>"]
    assert read(page(1).encode() + page(2).encode(), starts_inside=True, ends_inside=True) == (["1", "2"], [])
    ids, damages = read(whole[:-20])
    assert ids == ["1"]
    assert [(damage.reason, damage.offset) for damage in damages] == [("truncated", len(whole) - len(page(2)) + 16)]
    assert read(b"")[1] == [XmlDamage(0, "empty", "no XML in the file")]
    assert [damage.reason for damage in read(b"  \n ")[1]] == ["bad_xml"]


def test_a_gap_costs_the_records_on_its_edges() -> None:
    parts: list[bytes | Gap] = [
        f"<wiki>{page(1)}<page><id>".encode(),
        Gap(77, "damaged", "crc"),
        f"9</id></page>{page(4)}</wiki>".encode(),
    ]
    ids, damages = read(parts)
    assert ids == ["1", "4"]
    assert [(damage.reason, damage.packed) for damage in damages] == [("damaged", True), ("truncated", False)]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_damage_leaves_the_records_around_it(data: st.DataObject) -> None:
    rows = [f'<row Id="{i}" Body="&lt;p&gt;{i}&lt;/p&gt;" />\n' for i in range(20)]
    whole = "".join(["<posts>\n", *rows, "</posts>"]).encode()
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + data.draw(st.integers(0, 30)) + 1 :]
    ids, damages = read(changed, ROWS)
    starts = [len("<posts>\n") + sum(map(len, rows[:i])) for i in range(20)]
    untouched = {str(i) for i in range(20) if starts[i] + len(rows[i]) < at or starts[i] > at + 200}
    assert untouched <= set(ids)
    assert len(ids) == len(set(ids)) or damages or changed != whole
