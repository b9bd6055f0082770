"""Main text by either library, formulas as LaTeX where they stand, and pages that were made to be slow."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tilth.corpus.extract.html
from tilth.corpus.extract.charset import decode_html
from tilth.corpus.extract.formulas import dollars, has_formulas, image_tex
from tilth.corpus.extract.html import MAX_BOTH_CHARS, MODES, Extractor, SizeError, cut_attributes, extract_html
from tilth.errors import SourceError

PARAGRAPH = "Soil made ready for sowing is called tilth, and it takes a year of work to get it. "
PAGE = (
    "<html lang=en><head><title>T</title></head><body><nav><a href=/>Home</a></nav>"
    f"<article><h1>Title</h1><p>{PARAGRAPH * 3}</p><p>{{}}</p></article><footer>Imprint</footer></body></html>"
)
MATH = '<math{}><semantics><mrow><mi>x</mi></mrow><annotation encoding="application/x-tex">{}</annotation></semantics></math>'


@pytest.mark.parametrize("mode", MODES)
def test_every_library_finds_the_text(mode: str) -> None:
    found = extract_html(PAGE.format("The end."), mode)
    assert PARAGRAPH.strip() in found.text
    assert "The end." in found.text
    assert (found.title, found.language) == ("T", "en")
    assert ("Imprint" in found.text) == (mode == "resiliparse_all")
    assert re.match(r"(both, )?(resiliparse|trafilatura) \d", found.tool)


def test_options_are_those_of_the_library() -> None:
    link = PAGE.format('See <a href="http://example.org/x">this page</a> for more of it.')
    plain, linked = (Extractor("trafilatura", options).extract(link) for options in ({}, {"include_links": True}))
    assert "(http://example.org/x)" in linked.text
    assert "(http" not in plain.text
    assert linked.tool.endswith("main_content include_links=True")
    image = PAGE.format('<img alt="a field" src=x>')
    assert "a field" in Extractor("resiliparse", {"alt_texts": True}).extract(image).text
    assert "a field" not in Extractor("resiliparse").extract(image).text


@pytest.mark.parametrize(
    ("mode", "options", "says"),
    [
        ("resilliparse", {}, "unknown extraction"),
        ("trafilatura", {"favour_recall": True}, "Did you mean `favor_recall`"),
        ("resiliparse", {"favor_recall": True}, "has no option"),
        ("both", {"links": True}, "has no option"),
        ("trafilatura", {"fast": "yes"}, "is 'yes'"),
    ],
)
def test_wrong_options(mode: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(SourceError, match=says) as caught:
        Extractor(mode, options).check("Warc web")
    assert len(str(caught.value).splitlines()) == 3


def test_both_says_whose_text_it_took() -> None:
    assert re.fullmatch(r"both, resiliparse \S+ and trafilatura \S+", extract_html(PAGE.format("The end."), "both").tool)
    assert extract_html("<body><p>", "both").text == ""
    large = PAGE.format("The end.") + "<!--" + "x" * MAX_BOTH_CHARS + "-->"
    found = extract_html(large, "both")
    assert re.fullmatch(r"both, resiliparse \S+ main_content", found.tool)
    assert found.text == Extractor("resiliparse", {"comments": False}).extract(large).text


def test_both_asks_the_slower_mode_where_the_fast_one_gives_source(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Mapping[str, Any]] = []
    prose = "Ploughing too early in the wet spring spoils it, and a late frost mends what was spoilt."
    source = "<a href='/ads'><img src='/ads.gif' alt=''></a>"

    def text_of(html: str, options: Mapping[str, Any]) -> str:
        asked.append(options)
        return f"{prose}\n{source if options else prose}"

    monkeypatch.setattr(tilth.corpus.extract.html, "_trafilatura", text_of)
    page = f"<body><main><p>{prose}</p><p>{prose}</p></main>"
    assert source not in extract_html(page, "both").text
    assert asked == [{"fast": True}, {}]
    source = "1 < 2"
    extract_html(page, "both")
    assert asked[2:] == [{"fast": True}]


FORMULAS = [
    (MATH.format("", "x^2"), "$x^2$"),
    (MATH.format(' display="block"', "x^2"), "$$x^2$$"),
    (r'<math alttext="{\displaystyle E=mc^{2}}"><mi>E</mi></math>', "$E=mc^{2}$"),
    (f'<span class="katex"><span class="katex-mathml">{MATH.format("", "y_1")}</span>'
     '<span class="katex-html" aria-hidden="true"><span>y1</span></span></span>', "$y_1$"),
    (f'<span class="katex-display"><span class="katex">{MATH.format("", "y_1")}</span></span>', "$$y_1$$"),
    ('<span class="MathJax_Preview">b a</span><span class="MathJax">a b</span><script type="math/tex">a &lt; b</script>', "$a < b$"),
    (r'<script type="math/tex; mode=display">\sum_i  i</script>', r"$$\sum_i i$$"),
    (r"\(q+1\)", "$q+1$"),
    (r"\[q+1\]", "$$q+1$$"),
    ("$$q+1$$", "$$q+1$$"),
    ("$q+1$", "$q+1$"),
    (r'<img class="latex" src="/l.png" alt="\alpha &gt; 1">', r"$\alpha > 1$"),
    ('<img src="https://latex.codecogs.com/gif.latex?x%5E2+1" alt="">', "$x^2 1$"),
    ('<span class="mwe-math-element"><span class="mwe-math-mathml-inline" style="display: none;">'
     '<math alttext="{\\displaystyle a_{1}}"><mi>a</mi></math></span>'
     '<img class="mwe-math-fallback-image-inline" alt="{\\displaystyle a_{1}}" aria-hidden="true"></span>', "$a_{1}$"),
    ("<math><mfrac><mn>1</mn><msqrt><mi>x</mi></msqrt></mfrac><mo>≤</mo><msup><mi>e</mi><mi>x</mi></msup></math>",
     r"$\frac{1}{\sqrt{x}} \le e^{x}$"),
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("html", "tex"), FORMULAS)
def test_formulas_stand_where_they_stood(mode: str, html: str, tex: str) -> None:
    page = PAGE.format(f"The well known law, namely {html} holds for all of them.")
    text = Extractor(mode, formulas=True).extract(page).text
    assert f"The well known law, namely {tex} holds for all of them." in text


def test_without_formulas_nothing_changes() -> None:
    page = PAGE.format(r"This costs $5 and \(q\) is <img class=photo alt='a field'> here.")
    assert Extractor().extract(page).text == extract_html(page).text
    assert r"\(q\)" in extract_html(page).text
    assert "a field" not in Extractor(formulas=True).extract(page).text
    assert Extractor(formulas=True).extract(PAGE.format("No mathematics.")).n_formulas == 0
    assert not has_formulas(PAGE.format("No mathematics."))
    assert image_tex("photo", "/field.png", "a field") is None


def test_malformed_formulas_are_left_or_dropped() -> None:
    for html in ("<math>", "<math></math>", "<script type='math/mml'><math", r"\(", r"\[ \( \)", "<img class=tex>"):
        assert PARAGRAPH.strip() in Extractor(formulas=True).extract(PAGE.format(html)).text
    deep = "<mrow>" * 5000 + "<mi>x</mi>"
    assert PARAGRAPH.strip() in Extractor(formulas=True).extract(PAGE.format(f"<math>{deep}</math>")).text


@given(st.text("\\([])ab$ ", max_size=60))
def test_dollars_change_delimiters_only(text: str) -> None:
    changed = dollars(text)
    letters = [re.sub(r"[^ab]", "", value) for value in (text, changed)]
    assert letters[0] == letters[1]


@pytest.mark.parametrize("attribute", ['a{}="1"', "a{}=1", "a{}", "a{}='x y'"])
def test_a_tag_with_many_attributes(attribute: str) -> None:
    tag = "<p " + " ".join(attribute.format(i) for i in range(100_000)) + ">"
    started = time.process_time()
    assert extract_html(f"<body>{tag}{PARAGRAPH}</p></body>").text == PARAGRAPH.strip()
    assert time.process_time() - started < 3  # 17 s with all of them


def test_a_page_that_trafilatura_does_not_take() -> None:
    large = "<body><p>" + PARAGRAPH * 250_000
    with pytest.raises(SizeError, match="trafilatura takes at most"):
        Extractor("trafilatura").extract(large)


def test_long_tags_stay() -> None:
    for html in (
        f'<img src="data:{"x" * 50_000}" alt="a"> text',
        f'<path d="{"M 1 2 " * 20_000}"> text',
        "a < b " * 5000,
        "<p title='" + "<>" * 9000 + "'>x",
    ):
        assert cut_attributes(html) == html


@pytest.mark.slow
@pytest.mark.data
def test_scores_on_pages_with_known_main_text(test_data: Path) -> None:
    """Readability's 130 pages; benchmarks/extraction.py has goose3's too, and each language."""
    found: dict[str, list[float]] = {mode: [] for mode in MODES}
    for folder in sorted((test_data / "readability_pages" / "test" / "test-pages").iterdir()):
        source, main = (decode_html((folder / name).read_bytes())[0] for name in ("source.html", "expected.html"))
        expected = Counter(re.findall(r"\w+", extract_html(main, "resiliparse_all").text.lower()))
        for mode, scores in found.items():
            words = Counter(re.findall(r"\w+", extract_html(source, mode).text.lower()))
            scores.append(2 * (expected & words).total() / (expected.total() + words.total()))
    score = {mode: mean(values) for mode, values in found.items()}
    assert score["both"] > max(score["resiliparse"], score["trafilatura"])
    assert min(score["resiliparse"], score["trafilatura"]) > score["resiliparse_all"] + 0.05
