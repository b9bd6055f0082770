"""Every signal of RedPajama-V2 without a model against its definition written out plainly, on hard and on random texts."""

from __future__ import annotations

import itertools
import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.quality_signals.registry import compute_families, get_family

FAMILIES = ("natural_language", "repetition", "lines", "stop_words", "bad_words")
STOP_WORDS, BAD_WORDS = {"the", "is", "of", "ς", "été"}, {"darn", "oh dear", "a b c", "i\u0307", "x"}
RESOURCES = {
    "stop_words": '{"en": ["the", "is", "of", "ς", "été"]}'.encode(),
    "bad_words": b'{"en": ["darn", "oh dear", "a b c", "i\\u0307", "x", "", "two  spaces", "Upper"]}',
}
WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
CIRCLED = "".join(
    chr(code)
    for a, b in ((0x24B6, 0x24E9), (0x1F130, 0x1F149), (0x1F150, 0x1F169), (0x1F170, 0x1F189))
    for code in range(a, b + 1)
)


def _kind(char: str) -> str:
    if (
        unicodedata.category(char) in ["Lu", "Ll", "Lt", "Lm", "Lo", "Nl", "Nd", "Mn", "Mc", "Me", "Pc"]
        or char in "\u200c\u200d" + CIRCLED
    ):
        return "word"
    return "space" if char in WHITE_SPACE else "other"


def _normal(text: str) -> str:
    bare = "".join(char for char in text if char not in string.punctuation)
    return unicodedata.normalize("NFD", re.sub(r"\s+", " ", bare.lower().strip()))


def _ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _repetition(words: list[str]) -> dict[str, float]:
    found, total = {}, sum(map(len, words))
    for n in range(2, 11):
        counts = Counter(_ngrams(words, n))
        if n <= 4:
            gram, count = counts.most_common(1)[0] if counts else ((), 0)
            found[f"rps_doc_frac_chars_top_{n}gram"] = sum(map(len, gram)) * count / total if count > 1 else 0.0
        else:
            covered = {i + k for i, gram in enumerate(_ngrams(words, n)) if counts[gram] > 1 for k in range(n)}
            found[f"rps_doc_frac_chars_dupe_{n}grams"] = sum(len(words[i]) for i in covered) / total if total else 0.0
    return found


def _lines(text: str) -> dict[str, list[float]]:
    spans = [match.span() for match in re.finditer(r"[^\n]*\n|[^\n]+$", text)]
    raw = [text[start:end] for start, end in spans]
    normal = [_normal(line) for line in raw]
    return {
        "line_start": [start for start, _ in spans],
        "line_end": [end for _, end in spans],
        "rps_lines_ending_with_terminal_punctution_mark": [line.rstrip().endswith((".", "!", "?", "”")) for line in raw],
        "rps_lines_javascript_counts": [line.split().count("javascript") for line in normal],
        "rps_lines_num_words": [len(line.split()) for line in normal],
        "rps_lines_numerical_chars_fraction": [sum(map(str.isnumeric, line)) / len(line) if line else 0 for line in normal],
        "rps_lines_start_with_bulletpoint": [line.lstrip().startswith(tuple("•‣▶◀◦■□▪▫–")) for line in raw],
        "rps_lines_uppercase_letter_fraction": [sum(map(str.isupper, line)) / len(line) for line in raw],
    }


def _document(text: str, words: list[str], raw: list[str]) -> dict[str, float | None]:
    normal, counts, n, n_raw = _normal(text), Counter(words), len(words), len(raw)
    lines = re.findall(r"[^\n]*\n|[^\n]+$", text)
    lorem = re.findall("lorem ipsum", normal, re.IGNORECASE) if "lorem ipsum" in normal else []
    symbols = text.count("#") + text.count("...") + text.count("…")
    return {
        "rps_doc_word_count": n,
        "rps_doc_mean_word_length": sum(map(len, words)) / n if n else None,
        "rps_doc_num_sentences": len(re.findall(r"\b[^.!?]+[.!?]*", text)),
        "rps_doc_symbol_to_word_ratio": symbols / n_raw if raw else None,
        "rps_doc_frac_lines_end_with_ellipsis": (
            sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines) if lines else None
        ),
        "rps_doc_frac_no_alph_words": 1.0 - sum(bool(re.search("[a-zA-Z]", word)) for word in raw) / n_raw if raw else None,
        "rps_doc_frac_all_caps_words": sum(map(str.isupper, raw)) / n_raw if raw else None,
        "rps_doc_frac_unique_words": len(counts) / n if n else None,
        "rps_doc_unigram_entropy": sum(-count / n * math.log(count / n) for count in counts.values()) if n else None,
        "rps_doc_curly_bracket": (text.count("{") + text.count("}")) / len(text) if text else 0.0,
        "rps_doc_lorem_ipsum": len(lorem) / len(normal) if normal else 0.0,
        "rps_doc_stop_word_fraction": sum(word in STOP_WORDS for word in raw) / n_raw if n else 0.0,
        "rps_doc_ldnoobw_words": sum(" ".join(gram) in BAD_WORDS for n in (1, 2, 3) for gram in _ngrams(words, n)),
    }


def _plain(text: str) -> dict[str, Any]:
    words = _normal(text).split()
    raw = ["".join(run) for kind, run in itertools.groupby(text, _kind) if kind != "space"]
    found = {**_document(text, words, raw), **_repetition(words), **_lines(text)}
    return {
        name: [round(x, 8) for x in value] if isinstance(value, list) else value if value is None else round(value, 8)
        for name, value in found.items()
    }


def _fast(documents: Callable[..., pa.Table], texts: list[str]) -> list[dict[str, Any]]:
    scored = compute_families(map(get_family, FAMILIES), documents(texts), resources=RESOURCES)
    rows: list[dict[str, Any]] = [{} for _ in texts]
    for name, table in scored.items():
        for row, values in zip(rows, table.drop(["shard", "row", f"{name}_undefined"]).to_pylist()):
            row.update(values)
    return rows


EDGES = {
    "final_sigma": "ΟΔΟΣ ΣΑΣ. Σ ΑΣ1 ΑΣ' ΑΣ'Β",
    "sigma_before_removed_punctuation": "ΑΣ.Β ΑΣ-\nΣ",
    "sigma_after_mark": "Α\u0301Σ Α\u0301Σ\u0301Α",
    "dotted_capital_i": "İstanbul İİ I ı i\u0307",
    "dotless_lorem": "lorem ipsum lorem ıpſum LOREM IPSUM",
    "dotless_lorem_alone": "lorem ıpsum",
    "lorem_over_lines": "xlorem\n\n ipsumy lorem-ipsum lorem. ipsum",
    "marks_in_order": "a\u0323\u0307 a\u0307\u0323 \u1e0b\u0323 d\u0323\u0307",
    "marks_over_punctuation": "a\u0301.\u0323b a\u0307-\u0323",
    "marks_over_space": "a\u0307 \u0323b\n\u0323c\u0307\n",
    "mark_first": "\u0301a \u0323\u0301",
    "crlf": "One.\r\nTwo...\r\n\r\n• three\r\n",
    "carriage_returns_alone": "a\rb\r\r• c.",
    "line_separators": "a.\u2028b.\u2029c…\x85d",
    "information_separators": "a\x1cb\x1d.\x1e\x1f\nc",
    "vertical_tab_form_feed": "a\vb\fc.\v\n\f• d",
    "nul": "a\0b \0 \0\0\n\0",
    "empty": "",
    "one_newline": "\n",
    "newlines": "\n\n\n",
    "blank": " \t\u3000\n \xa0\n",
    "no_last_newline": "a\nb",
    "trailing_space": "End.  \nEnd… \t\nEnd... \u3000\nEnd.. .\n",
    "dots": ".... ...... .....\n. . .\n..",
    "ellipsis_mix": "…... …\n...…",
    "terminal_marks": 'a?\na!\na”\na.”)\na"\n”',
    "bullets": "• a\n‣b\n ▶c\n◀\n◦ ■\n□\n▪\n▫\n– d\n- e\n* f\n\u3000– g",
    "bullet_last": "a •\n•",
    "hangul": "한글 한글 각",
    "hangul_jamo": "\u1112\u1161\u11ab 한 \u1100\u1161\u11a8",
    "greek": "Ἀθῆναι ᾼ ᾳ Ὀδυσσεύς ΐ",
    "turkish": "ISPARTA ISPARTA'DA ıspanak İĞÜŞÇÖ",
    "german": "STRASSE Straße ẞ GROẞ",
    "zwj_emoji": "👩\u200d👧 👍🏽 🇩🇪 a\u200db",
    "rtl": "שלום, עולם! مرحبا بالعالم؟ \u202eabc\u202c",
    "arabic_marks": "مُحَمَّد مُحَمَّد",
    "full_width": "１２３ ＡＢＣ ｊａｖａ ，．！",
    "other_digits": "٣٤ ४५ ½ Ⅷ 五 ² ① 𝟘",
    "ligatures": "ﬁn ﬀ ﬆ œ Æ",
    "titlecase": "ǅ ǅA ǈ DŽ ᾈ ǅUNGLA",
    "capitals": "A1 A-1 1 ÉTÉ été Ⓐ ⓐ Ⅷ ⅷ NASA's ªA ʰA",
    "compatibility": "Å Ω K ` \u1fef \u037e ;",
    "cjk_compatibility": "\uf9d1 六 \U0002f800 豈",
    "musical": "\U0001d15e\U0001d160 𝔘𝔫𝔦",
    "musical_and_marks": "\U0001d15f\U0001d16e a\U000e0101b",
    "deseret": "𐐀𐐨 𐐀𐐁 𞤀",
    "tibetan_and_thai": "ཀྵ \u0f73\u0f72 กำ ที่",
    "private_and_unassigned": "\ue000 \U000f0000 \U00010fff \uffff \U0010ffff",
    "soft_hyphen_bom": "\ufeffco\u00adop \u200b x",
    "joiners_underscores": "a_b __ ‿ a‿b \u200c",
    "curly": "{{}} } { ｛｝",
    "sentences": "One. Two?! Three… four... «Five.» ¡Six! 7.8 _. é.",
    "sentence_starts": "... !? a. .b ½. ².x",
    "javascript": "JavaScript java-script javascript's <javascript> JAVASCRIPT ja\u0301vascript",
    "words_of_lists": "The the THE of is été ÉTÉ e\u0301te\u0301 darn Oh, dear oh dear dear x X a b c a b c",
    "bad_words_overlap": "x x a b x oh\ndear oh dear upper two spaces i\u0307 İ",
    "ties": "b c b c a d a d the long the long",
    "overlaps": "a a a a a a a a a a a a",
    "repeated_passage": "one two three four five six seven eight nine ten eleven " * 3,
    "equal_hash_lengths": "ab ba aab aba baa " * 4,
    "long_word": "x" * 5000 + "é" * 3000,
    "only_punctuation": "!!! ... ,,, -",
    "punctuation_and_marks": ".\u0301 -\u0323-\u0301",
    "sigma_and_ignorable": "Α\u00adΣ ΑΣ\u00adΑ ΑΣ·Β ·Σ Α·Σ ʰΣ Σʰ Α\u0345Σ ΑΣ\u0345 1Σ ΑΣ\u200dΑ ǅΣ ªΣ",
    "sigma_at_the_eighth_byte": "ΑΒΓΣ ΑΒΓΔΑΒΓΣ aΑΒΣ ΣΣΣΣ ΣΣΣΣΣΣΣΣ",
    "sigma_over_lines": "ΑΣ\nΑ ΑΣ\u2028Α ΑΣ\r\nΣΑ",
    "long_run_of_marks": "e" + "\u0301\u0323\u0344" * 300 + "x " + "\u0323\u0301" * 8,
    "marks_of_mapped_letters": "ǖ\u0323 ṩ\u0301\u0323 \u0344\u0323 \u0f73\u0f71 가\u0323\u302e",
    "words_of_eight_bytes": "abcdefgh abcdefgi abcdefg abcdefghi abcdefgh abcdefghi \0\0 \0 \0\0\0 abcdefgh\0",
    "nul_words": "\0a a \0\0a a\0 \0a",
    "crlf_ellipsis": "a...\r\nb…\r\n...\r\n",
    "byte_order_marks": "\ufeff• a\n\ufeff\n\ufeffEnd.",
    "ideographic_stops": "终。 完！ 了？ 終．",
    "many_lines": "a\n\nb. \n" * 700,
    "many_words": " ".join(str(i % 977) for i in range(6000)),
}


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in EDGES.items()])
def test_edges(documents: Callable[..., pa.Table], text: str) -> None:
    assert _fast(documents, [text]) == [_plain(text)]


def test_edges_in_one_batch(documents: Callable[..., pa.Table]) -> None:
    assert len(EDGES) >= 64
    assert _fast(documents, list(EDGES.values())) == list(map(_plain, EDGES.values()))


WORDS = ["the", "oh", "dear", "javascript", "lorem", "ipsum", "ıpſum", "ΑΣ", "A1"]
PARTS = st.sampled_from(
    [*WORDS, *"abxΣΣİςǅ½漢한😀 \n\r\t\u2028\x1c\0.!?…#{}’”'-•–_éê\u0301\u0323\u0307\u0344\u200d\u00ad·ʰ\U0001d160"]
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.lists(PARTS, max_size=40).map("".join) | st.text(st.characters(exclude_categories=("Cs",)), max_size=60), max_size=4
    )
)
def test_random_texts(documents: Callable[..., pa.Table], texts: list[str]) -> None:
    assert _fast(documents, texts) == list(map(_plain, texts))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["a", "bb", "ccc", "é"]), min_size=10, max_size=60))
def test_repeated_words(documents: Callable[..., pa.Table], words: list[str]) -> None:
    text = " ".join(words)
    assert _fast(documents, [text]) == [_plain(text)]


def test_each_code_point(documents: Callable[..., pa.Table]) -> None:
    """Every code point once between letters, in lines that any error would show in."""
    codes = [code for code in range(0x30000) if not 0xD800 <= code < 0xE000]
    texts = ["".join(f"a{chr(code)}b {chr(code)}\n" for code in codes[i : i + 512]) for i in range(0, len(codes), 512)]
    checked = texts[:100] + texts[100::23]
    assert _fast(documents, checked) == list(map(_plain, checked))


@pytest.mark.data
def test_declarations_in_many_languages(documents: Callable[..., pa.Table], test_data: Path) -> None:
    texts = []
    for path in sorted((test_data / "udhr_xml" / "data" / "udhr").glob("udhr_*.xml"))[::5]:
        text = re.sub("<[^>]*>", "", path.read_bytes()[:9000].decode("utf-8", "replace"))
        texts += [text, text.upper()]
    assert len(texts) > 100
    assert _fast(documents, texts) == list(map(_plain, texts))
