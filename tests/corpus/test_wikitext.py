"""What wikitext shows becomes text; markup never stays, never costs text that is not markup, never costs more than linear time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.corpus.extract.wikitext import Wiki, wikitext_to_text

GERMAN = Wiki("de", files=("Datei",), categories=("Kategorie",))
CASES = {
    # inline
    "'''Bold''' and ''italic'' and '''''both''''', l'''''amour''": "Bold and italic and both, lamour",
    "x<!-- no -->y <!-- not closed": "xy not closed",
    "5&nbsp;km &amp; &lt;b&gt; &#x41;&#66; &unknown; &#0; &copy;": "5 km & <b> AB &unknown; &#0; ©",
    "a<ref name='x'>note {{cite|[[b]]}}</ref>b<ref name=y /> c.": "ab c.",
    "m<sup>2</sup>, 19<sup>th</sup>, H<sub>2</sub>O, 10<sup>−6</sup>": "m^2, 19th, H2O, 10^−6",
    "one<br>two<br/>three": "one\ntwo\nthree",
    "<span class='x'>s</span> <small>t</small> a < b > c": "s t a < b > c",
    "__NOTOC__word __init__ __TOC__": "word __init__",
    "<math>\\frac{a}{b}</math> and <math display=block> x &lt; {{y}} </math>": "$\\frac{a}{b}$ and $x < {{y}}$",
    "<nowiki>[[a]] {{b}} ''c''</nowiki> <code>d</code>": "[[a]] {{b}} ''c'' d",
    "a\n<pre>\n  x  [[y]]\n   z\n</pre>\nb": "a\n\n  x  [[y]]\n   z\n\nb",
    "<syntaxhighlight lang='c'>\nif (a[i]) {{\n  b; }}\n</syntaxhighlight>": "if (a[i]) {{\n  b; }}",
    "-{zh-hans:软件; zh-hant:軟體}- -{plain}- -{H|x}-": "软件 plain",
    # links
    "[[a]]s, [[a|b]], [[a|''b'']], [[:Category:C|c]], [[wikt:w|w]], [[a (b)|]]": "as, b, b, c, w, a",
    "[[Category:C]]x[[fr:X]]": "x",
    "a [[File:x.jpg|thumb|100px|See [[that]] and [http://x y]]] b": "a b",
    "a [[Image:x.png|left|[[b|c]] [[File:y.png|d [[e]]]]]] f": "a f",
    "[http://x.org text] [http://x.org] http://y.org [//z zz] [sic]": "text http://y.org zz [sic]",
    "[[Vaizdas:x.jpg|thumb|Localised]] text": "text",
    "[[a|b [c] d]]": "b [c] d",
    # templates
    "a{{cite web|url=x|title=[[b|c]]}} b": "a b",
    "{{Infobox\n|a = {{small|x}}\n|b = [[c|d]]\n}}\nText": "Text",
    "{{lang|fr|mot}} {{nowrap|a b}} {{convert|10|km|mi}} {{convert|3|to|5|m}} {{as of|2005|4}}": "mot a b 10 km 3 to 5 m As of April 2005",
    "{{lang-de|Wort}} {{transl|ja|ISO|kotoba}} {{frac|1|2}} {{val|1.5|u=m}} {{nihongo|E|漢|r}}": "Wort kotoba 1/2 1.5 m E (漢, r)",
    "{{quote|Words.|Someone}}": "Words.\n— Someone",
    "{{formatnum:12345}} {{uc:ab}} {{#if:x|yes|no}}{{#if:|yes|no}} {{#invoke:X|y}}z": "12345 AB yesno z",
    "{{PAGENAME}} {{{1|default}}} {{{2}}}x": "Title default x",
    "x ({{IPA-de|ˈa}}; {{born|1}}) y ({{born}}) z {{fact}}.": "x ([ˈa]) y z.",
    "{{nowrap|{{lang|de|{{small|tief}}}}}}": "tief",
    "{{lang|1={{!}}|2=a=b}}": "a=b",
    # lines
    "== H ==\ntext\n=== Empty ===\n== Next ==\n* a\n** b\n# c\n# d\n: e\n; f": "H\n\ntext\n\nNext\n\n* a\n  * b\n1. c\n2. d\ne\nf",
    "a\n\n\n\n----\nb": "a\n\nb",
    "text\n== References ==\n<references />\n{{reflist}}": "text",
    # tables
    '{| class="x"\n|+ Caption\n! A !! B\n|-\n| 1 || style="y" | 2\n|-\n|colspan=2| [[c|3]]<br>4\n|}\nafter': "Caption\nA\tB\n1\t2\n3 4\n\nafter",
    "{|\n| a\n|\n{|\n| b || c\n|}\n| d\n|}": "a\tb c\td",
    "{|\n| only\n* a\n* b\n|}": "only\n* a\n* b",
    "{|\n| open || table\ntext": "open\ttable text",
    "<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>": "a\tb\n\nc",
    # not balanced
    "a {{open b [[c]] {{lang|fr|d}}": "a open b c d",
    "a }} b ]] c {{lang|fr|d}} {": "a b c d {",
    "a [[b ''c'' {{x}} d": "a b c d",
    "a <ref>b c <ref>d</ref> e": "a b c e",
    "a <nowiki>b [[c]]": "a b c",
    "": "",
}  # fmt: skip


@pytest.mark.parametrize("wikitext", list(CASES), ids=range(len(CASES)))
def test_what_is_shown(wikitext: str) -> None:
    assert wikitext_to_text(wikitext, Wiki("en"), "Title") == CASES[wikitext]


def test_names_of_the_wiki_and_its_language() -> None:
    assert wikitext_to_text("[[Datei:x|mini|y]][[Kategorie:z]][[Fichier:u|v]]a", GERMAN) == "u|va".replace(
        "u|", ""
    )  # Fichier is no file there
    assert wikitext_to_text("[[Kategorie:z]][[分類:y]]a") == "a"  # an export without siteinfo
    assert wikitext_to_text("{{s-|XIX|e}} {{unité|12|km}}", Wiki("fr")) == "XIXe siècle 12 km"
    assert wikitext_to_text("{{unité|12|km}}a", Wiki("en")) == "a"


def test_tables_can_be_left_out() -> None:
    assert wikitext_to_text("a\n{|\n| b\n|}\nc", tables=False) == "a\n\nc"
    assert wikitext_to_text("a\n{|\n| b\nc", tables=False) == "a\n\nb\nc"  # what never ends is no table


HOSTILE = [
    "{{", "[[", "{{a|", "{|\n", "<ref>", "<!--", "[http://a ", "{{lang|en|", "[[a|", "[[File:a|", "<math>", "'''", "}}", "]]", "{",
    "{{{", "-{", "&amp", "==", "* ", "|-\n|a\n", "{{lang|en|a}}", "<nowiki", "[[a|[b]", "{{#if:x|", "((((", "<br>", "(\x01", "{|\n|a\n",
    "{{x|[[", "__A", "\n= =\n", "<ref <", "{{{a|{{b|", "[[a|b]", "<sup>", "|}\n", "(,", "[[a]]{{",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_page_full_of_markup_takes_linear_time_and_never_the_rest_of_the_page(piece: str) -> None:
    began = time.process_time()
    text = wikitext_to_text(piece * (300_000 // len(piece)) + "\n\nTHE END")
    assert text.endswith("THE END")
    assert time.process_time() - began < 5  # 0.03 to 0.4 s alone; a quadratic pass takes half a minute


MARKUP = st.lists(
    st.sampled_from(["{{", "}}", "[[", "]]", "|", "{|", "|}", "|-", "\n", "a", " b ", "'''", "<ref>", "</ref>", "<!--", "-->", "=", "== ",
                     "lang|en|", "<nowiki>", "</nowiki>", "*", "#", ":", "{{{", "}}}", "<math>", "</math>", "File:", "<br>", "&lt;", "(", ")",
                     "http://x", "[", "]", "!", "\x01", "\x02" "0\x03"]),
    max_size=60,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(MARKUP)
def test_any_markup_gives_text_without_marks(pieces: list[str]) -> None:
    source = "".join(pieces)
    text = wikitext_to_text(source)
    assert not set(text) & set("\0\1\2\3\4\5")
    assert text == text.strip("\n").rstrip()
    if not {"[", "]", "<nowiki>", "<math>"} & set(pieces):
        assert "[[" not in text
    assert wikitext_to_text(source) == text


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_characters="'[]{}|<>&=*#:;_-!\x7f~()", exclude_categories=("Cc", "Cs", "Z")), max_size=50))
def test_text_without_markup_stays_as_it_is(word: str) -> None:
    assert wikitext_to_text(f"a {word} b") == f"a {word} b".replace("  ", " ")
