"""What both extractions kept stays; of what one kept alone only prose between; nothing is made up and nothing hangs."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.corpus.extract.agreement import Source, join, words_of

FIRST = "Soil made ready for sowing is called tilth, and it takes a year of work to get it."
SECOND = "Ploughing too early in the wet spring spoils it, and a late frost mends what was spoilt."
THIRD = "The old farmers of the valley could tell by the smell of a handful whether it was ready."
LONE = "One library alone has kept this sentence, which is long enough to be taken for prose."


def test_agreed_lines_stay_and_the_rest_goes() -> None:
    page = f"Home\nAbout us\n\n{FIRST}\n\n  • {SECOND}\nShare\nPrint\n{THIRD}\n{LONE}\nRelated"
    assert join(page, f"{FIRST}\n- {SECOND}\n{THIRD}") == (f"{FIRST}\n\n  • {SECOND}\n{THIRD}", Source.BOTH)


def test_prose_between_agreed_lines_stays_in_its_place() -> None:
    agreed = f"{FIRST}\n{SECOND}\n{THIRD}"
    for place in (1, 2):
        lines = agreed.split("\n")
        lines.insert(place, LONE)
        both = "\n".join(lines)
        assert join(both, agreed) == join(agreed, both) == (both, Source.BOTH)
    assert join(f"{LONE}\n{agreed}\n{LONE}", agreed)[0] == agreed


def test_prose_of_one_between_short_lines_of_both_stays() -> None:
    menu = "News\n\n{}\nRanking of the month\n" + "\n".join(
        f"{i}. A long name of a thing that is sold here, as its page has it" for i in range(3)
    )
    assert LONE in join(menu.format(LONE), menu.format(""))[0]


def test_a_heading_between_paragraphs_stays_but_no_author_and_nothing_that_recurs() -> None:
    agreed = f"{FIRST}\n{SECOND}\n{THIRD}"
    assert join(f"{FIRST}\n{SECOND}\nThe smell of it\n{THIRD}", agreed)[0] == f"{FIRST}\n{SECOND}\nThe smell of it\n{THIRD}"
    assert join(f"{FIRST}\nBy a farmer\n{SECOND}\n{THIRD}", agreed)[0] == agreed
    advertised = f"{FIRST}\n{SECOND}\nAdvertisement\n{THIRD}\nAdvertisement\n{FIRST}"
    assert "Advertisement" not in join(advertised, f"{agreed}\n{FIRST}")[0]


def test_invisible_characters_are_no_difference() -> None:
    shy = SECOND.replace("spring", "spr\u00ading").replace("frost", "\u200bfrost")
    quoted = "Ploughing too early in the wet spring spoils it, and a late frost mends"
    assert join(f"{quoted}\n{FIRST}\n{shy}", f"{FIRST}\n{SECOND}") == (f"{FIRST}\n{shy}", Source.BOTH)
    assert words_of("po\u00adli\u00adtics \ufeffmay") == ["politics", "may"]


@pytest.mark.parametrize(
    ("end", "stays"), [(".", True), ("!”", True), ("。", True), ("?)", True), ("...", False), ("…", False), ("", False)]
)
def test_prose_ends_as_a_sentence_does(end: str, stays: bool) -> None:
    line = LONE.rstrip(".") + end
    assert (line in join(f"{FIRST}\n{line}\n{SECOND}", f"{FIRST}\n{SECOND}")[0]) == stays


def test_a_repeated_paragraph_stays_repeated() -> None:
    assert join(f"{FIRST}\n{SECOND}\n{FIRST}", f"{FIRST}\n{SECOND}")[0] == f"{FIRST}\n{SECOND}\n{FIRST}"


def test_lines_may_be_broken_elsewhere() -> None:
    table = f"| Crop | {FIRST} {SECOND} | Barley wheat rye |"
    page = f"{FIRST}\n{SECOND}\nBarley\nwheat rye\n{THIRD}"
    assert join(page, f"{table}\n{THIRD}")[0] == f"{FIRST}\n{SECOND}\nwheat rye\n{THIRD}"  # a word alone says nothing


def test_a_title_that_the_text_quotes_is_not_text() -> None:
    assert join(f"a year of work\n{FIRST}\n{SECOND}", f"{FIRST}\n{SECOND}")[0] == f"{FIRST}\n{SECOND}"


def test_one_alone_and_neither() -> None:
    assert join(FIRST, "") == (FIRST, Source.FIRST)
    assert join(" \n", FIRST) == (FIRST, Source.SECOND)
    assert join("", "")[0] == ""
    assert join("***", "* * *")[0] == "* * *"  # no word at all


def test_without_agreement_the_one_with_more_prose() -> None:
    menu = "\n".join(f"Entry {i} of a menu" for i in range(50))
    assert join(f"{FIRST}\n{SECOND}", menu) == (f"{FIRST}\n{SECOND}", Source.FIRST)
    assert join(menu, f"{FIRST}\n{SECOND}") == (f"{FIRST}\n{SECOND}", Source.SECOND)
    lost = f"{FIRST}\n" + "\n".join(f"{SECOND} {i} {THIRD}" for i in range(20))
    assert join(lost, FIRST) == (lost, Source.FIRST)  # the other lost all but a paragraph
    assert (
        join(f"{menu}\n{FIRST}\n{menu}\n{menu}\n{menu}", FIRST)[0].count("menu") != 0
    )  # so little agreed: more prose, or the first


def test_words_of_scripts_without_spaces_are_characters() -> None:
    assert words_of("漢字かな Tilth ไทย") == [*"漢字かな", "tilth", *"ไทย"]
    assert words_of("Größe") == words_of(unicodedata.normalize("NFD", "GRÖSSE").replace("SS", "ß"))


LINES = st.lists(st.sampled_from([FIRST, SECOND, THIRD, LONE, "Home", "Read more", "", "漢字の文。" * 8, "\ud800"]), max_size=12)


@given(LINES, LINES)
def test_every_line_comes_from_one_of_them(first: list[str], second: list[str]) -> None:
    text, whose = join("\n".join(first), "\n".join(second))
    assert set(text.split("\n")) <= {*first, *second, ""}
    if whose is Source.FIRST:
        assert text == "\n".join(first)
    if whose is Source.SECOND:
        assert text == "\n".join(second)
    shared = {line for line in first if len(line) >= 60} & set(second)
    if whose is Source.BOTH:
        assert shared <= set(text.split("\n"))


@given(LINES)
def test_with_itself_it_is_itself(lines: list[str]) -> None:
    text, _ = join("\n".join(lines), "\n".join(lines))
    assert [line for line in text.split("\n") if words_of(line)] == [line for line in lines if words_of(line)]


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text(first: str, second: str) -> None:
    text, _ = join(first, second)
    assert set(words_of(text)) <= {*words_of(first), *words_of(second)}


def test_time_grows_with_the_size() -> None:
    for first, second in (
        ("a b " * 200_000, "b a " * 200_000),
        ("a b\n" * 100_000, "b a " * 200_000),
        ("\n".join(f"{i} a b c d" for i in range(100_000)), "\n".join(f"a b c d {i}" for i in range(100_000))),
    ):
        started = time.process_time()
        join(first, second)
        assert time.process_time() - started < 10
