"""Templates and parser functions that carry text: what they show, for those that are common; all others show nothing here.

What a template shows is taken from its documentation on the wikis that define it. Names are compared in
lower case with spaces for underscores, as `template_name` writes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

NAMED = re.compile(r"\s*([^\s=<>\[\]{}&/\"'][^=<>\[\]{}\n\"]{0,39}?)\s*=")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
)  # fmt: skip
RANGE_WORDS = {"-": "–", "–": "–", "and": " and ", "or": " or ", "to": " to ", "x": " x ", "by": " by ", "×": " × ", "+/-": " ± "}


class Arguments(NamedTuple):
    """What a template was called with, white space stripped."""

    positional: list[str]
    named: dict[str, str]

    def get(self, index: int) -> str:
        """The positional argument of that number, from 1; empty if there is none."""
        if str(index) in self.named:
            return self.named[str(index)]
        return self.positional[index - 1] if index <= len(self.positional) else ""


Shown = Callable[[Arguments], str]


def arguments(parts: list[str]) -> Arguments:
    """Sort the parts between the pipes into positional and named ones."""
    positional, named = [], {}
    for part in parts:
        match = NAMED.match(part)
        if match:
            named[match[1].lower()] = part[match.end() :].strip()
        else:
            positional.append(part.strip())
    return Arguments(positional, named)


def template_name(name: str) -> str:
    """A template's name as the tables write it."""
    name = " ".join(name.replace("_", " ").replace("\1", "").split()).lower()
    return name.removeprefix("template:").removeprefix("subst:").strip()


def _argument(index: int) -> Shown:
    return lambda given: given.get(index)


def _constant(text: str) -> Shown:
    return lambda given: text


def _joined(separator: str) -> Shown:
    return lambda given: separator.join(part for part in given.positional if part)


def _last(given: Arguments) -> str:
    return next((part for part in reversed(given.positional) if part), "")


def _prefixed(prefix: str) -> Shown:
    return lambda given: prefix + given.get(1) if given.get(1) else ""


def _quotation(given: Arguments) -> str:
    text = given.named.get("text") or given.named.get("quote") or given.named.get("texte") or given.get(1)
    author = given.named.get("author") or given.named.get("sign") or given.named.get("auteur") or given.get(2)
    return f"\n\n{text}\n" + (f"— {author}\n\n" if author else "\n") if text else ""


def _poem(given: Arguments) -> str:
    return "\n\n" + (given.named.get("text") or given.get(1)) + "\n\n"


def _convert(given: Arguments) -> str:
    """`convert|10|km|mi` as 10 km; `convert|6|ft|2|in` and `convert|3|to|5|m` with all their parts. The result is left out."""
    parts = given.positional
    if len(parts) < 2:
        return parts[0] if parts else ""
    if parts[1].lower() in RANGE_WORDS:
        shown = parts[0]
        at = 1
        while at + 1 < len(parts) and parts[at].lower() in RANGE_WORDS:
            shown += RANGE_WORDS[parts[at].lower()] + parts[at + 1]
            at += 2
        return f"{shown} {parts[at]}" if at < len(parts) else shown
    shown = f"{parts[0]} {parts[1]}"
    if len(parts) > 3 and parts[1].lower() in ("ft", "lb", "st", "mi", "yd", "foot") and re.fullmatch(r"[\d./,]+", parts[2]):
        shown += f" {parts[2]} {parts[3]}"
    return shown


def _as_of(given: Arguments) -> str:
    if "alt" in given.named:
        return given.named["alt"]
    since = "since" in given.named
    words = ("since" if since else "as of") if given.named.get("lc") else ("Since" if since else "As of")
    return f"{words} {_date(given)}".rstrip()


def _date(given: Arguments) -> str:
    year, month, day = (given.get(i) for i in (1, 2, 3))
    named_month = MONTHS[int(month) - 1] if month.isdecimal() and month.isascii() and 1 <= int(month) <= 12 else month
    return " ".join(part for part in (day, named_month, year) if part)


def _nihongo(given: Arguments) -> str:
    inside = ", ".join(part for part in (given.get(2), given.get(3)) if part)
    return given.get(1) + (f" ({inside})" if inside else "")


def _fraction(given: Arguments) -> str:
    parts = given.positional
    return {0: "", 1: "1/" + "".join(parts), 2: "/".join(parts)}.get(
        len(parts), f"{parts[0]} {'/'.join(parts[1:3])}" if parts else ""
    )


def _value(given: Arguments) -> str:
    shown = given.get(1) + (f"±{given.get(2)}" if given.get(2) else "")
    power = f"×10^{given.named['e']}" if given.named.get("e") else ""
    return f"{shown}{power} {given.named.get('u') or given.named.get('ul') or ''}".strip()


def _chinese(given: Arguments) -> str:
    return ", ".join(given.named[key] for key in ("c", "t", "s", "p", "w", "j") if given.named.get(key)) or _last(given)


def _items(given: Arguments) -> str:
    return "".join(f"\n* {part}" for part in given.positional if part) + "\n"


def _name(given: Arguments) -> str:
    return f"{given.get(1)} {given.get(2)}".strip()


def _spoken(given: Arguments) -> str:
    return f"[{given.get(1)}]" if given.get(1) else ""


def _century(given: Arguments) -> str:
    return f"{given.get(1)}{given.get(2) or 'e'} siècle" if given.get(1) else ""


def _unit(given: Arguments) -> str:
    return " ".join(part for part in given.positional[:2] if part)


COMMON: dict[Shown, str] = {
    _argument(1): """
        nowrap nobr nobreak no_wrap nobold normal nowrap_begin small smaller smallsup big larger large huge abbr tooltip
        abbrv ipa ipalink ipaslink ipa-all api-fr phonetic lang-latn sic typo not_a_typo proper_name vanchor visible_anchor
        visible_link ill interlanguage_link link-interwiki illm interlanguage_link_multi em strong strongbad var kbd key
        keypress samp tt mono code codes inline_code math mvar bigmath unicode polytonic hebrew arabic script/hebrew
        script/arabic sc smallcaps small_caps angle_bracket sup sub su superscript subscript underline u strike overline
        uline plainlist flatlist startplainlist columns-list cols block_indent blockindent center centre align left right
        font noitalic italic_correction italics nts number_table_sorting formatnum: numero num fmtn flag flagu flagcountry
        flagdeco country flag_country date dts ordinal script iast gloss lit. decade notatypo quote_inline text initials
        chem2 ce nastaliq marriage longitem ruby-ja noflag
    """,
    _argument(2): """
        lang wikt-lang color colour font_color fontcolor sort rtl-lang langue lang2 zh-tr resize audio col
    """,
    _last: "transl transliteration transliterate translit tlit romanize",
    _convert: "convert cvt convertir conversie",
    _quotation: """
        quote blockquote cquote quotation bquote bq centered_pull_quote rquote quote_box quotebox citation_bloc zitat cita
        citazione citat cytat
    """,
    _poem: "poem_quote poemquote poem verse verse_translation",
    _as_of: "as_of asof",
    _nihongo: "nihongo nihongo2 nihongo_foot",
    _fraction: "frac fraction sfrac",
    _value: "val",
    _chinese: "zh zh-full lang-zh zh-cn chinese",
    _items: "unbulleted_list ubl ublist vunblist bulleted_list blist plain_list ordered_list",
    _joined(" · "): "hlist",
    _joined(""): "chem linktext ruby su ipac s",
    _name: "sortname",
    _prefixed("c. "): "circa c. ca. ca c",
    _prefixed("fl. "): "floruit fl. fl",
    _prefixed("r. "): "reign r.",
    _prefixed("ISBN "): "isbn",
    _prefixed("×10^"): "e esp",
    _prefixed("10^"): "10^ pow10",
    _prefixed("US$"): "us$ usd",
    _prefixed("€"): "€ eur euro",
    _prefixed("£"): "£ gbp pound pound_sterling",
    _prefixed("₹"): "inr indian_rupee ₹",
    _prefixed('"'): '"-',
    _constant("–"): "ndash en_dash nbndash endash",
    _constant("—"): "mdash em_dash emdash mdashb",
    _constant(" – "): "spaced_ndash snd spnd spaced_en_dash dash",
    _constant(" — "): "spaced_mdash spaced_em_dash",
    _constant(" "): "nbsp space spaces thinsp thin_space hair_space hairsp nnbsp 0  tab",
    _constant("|"): "! pipe",
    _constant("="): "=",
    _constant("'"): "' apostrophe",
    _constant("'s"): "'s",
    _constant("' \""): "'\"",
    _constant("·"): "· • dot middot bull bullet ·w •w",
    _constant("Yes"): "yes ",
    _constant("No"): "no ",
    _constant("N/A"): "n/a na",
    _constant("Won"): "won",
    _constant("Nominated"): "nom nominated",
    _constant("{"): "( lb",
    _constant("}"): ") rb",
    _constant("..."): "... ellipsis",
}
BY_LANGUAGE: dict[str, dict[Shown, str]] = {
    "ja": {_argument(1): "仮リンク"},
    "zh": {_argument(1): "le tsl"},
    "fr": {
        _century: "s s- siècle",
        _unit: "unité unite",
        _argument(
            1
        ): "nombre citation citation_étrangère « guil heure page incise date- date terme_défini exp ind nobr_romains romain",
        _constant("er"): "er ier",
        _constant("e"): "e ième",
        _joined(" "): "date date_de_naissance date_de_décès",
    },
    "de": {_argument(2): "lang1", _argument(1): "formatnum zitat-inline nobr höhe", _joined(" "): "datum"},
    "es": {_argument(1): "esd cita unidad nowrap", _joined(" "): "fecha"},
    "it": {_argument(1): "citazione_inline formatnum m tutto_attaccato", _constant("a.C."): "a.c."},
    "pt": {_argument(1): "fmtn séc", _joined(" "): "dtext data"},
    "ru": {_argument(1): "s nobr нп5 нп3 comment число", _joined(" "): "дата"},
}
LANGUAGE_TEMPLATE = re.compile(r"(?:link-[a-z]{2,3}|lang-[a-z-]{2,12}|ipa-[a-z-]{2,12}|ipa [a-z]{2,3})$")


@cache
def _table(language: str) -> dict[str, Shown]:
    found = {}
    for table in (COMMON, BY_LANGUAGE.get(language, {})):
        for shown, names in table.items():
            found.update({name.replace("_", " "): shown for name in names.split()})
    return found


def shown_template(name: str, language: str) -> Shown | None:
    """What a template of that name (as `template_name` writes it) shows on a wiki of that language; None for nothing."""
    known = _table(language).get(name)
    if known is None and LANGUAGE_TEMPLATE.match(name):
        return _spoken if name.startswith("ipa") else _argument(1)
    return known


def parser_function(name: str, parts: list[str], title: str) -> str | None:
    """What `{{name:first|second|...}}` or a variable such as {{PAGENAME}} shows; None if it is neither.

    `parts` are what the pipes separate, the first of them with the name.
    """
    head, colon, first = name.partition(":")
    head = head.strip().lower()
    if not colon:
        return {"pagename": title.rpartition(":")[2], "fullpagename": title, "subpagename": title}.get(head)
    first, rest = first.strip(), [part.strip() for part in parts[1:]] + ["", "", ""]
    if head == "#if":
        return rest[0] if first.strip("\1 ") else rest[1]
    if head == "#ifeq":
        return rest[1] if first == rest[0] else rest[2]
    simple = {"lc": str.lower, "uc": str.upper, "lcfirst": _lower_first, "ucfirst": _upper_first, "formatnum": str.strip}
    if head in simple:
        return simple[head](first)
    return "" if head.startswith("#") else None


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]
