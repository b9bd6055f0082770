"""The ways in which one answer is written: Unicode, Markdown, TeX, currency, units, thousands; made plain before it is parsed."""

from __future__ import annotations

import re
import unicodedata

MAX_LENGTH = 256

_SAME = str.maketrans(
    dict.fromkeys("−–—‒‐‑﹣－", "-")
    | dict.fromkeys("×·⋅∙✕", "*")
    | dict.fromkeys("÷∕⁄", "/")
    | dict.fromkeys('“”"$€£¥₹₽₩°≈', "")
    | {"π": r"\pi ", "θ": r"\theta ", "∞": r"\infty ", "√": r"\sqrt ", "∪": r"\cup ", "±": r"\pm ", "∈": r"\in ", "’": "'"}
)
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+"))
_SUPERSCRIPT = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")

# What TeX sets but does not say, in the order in which it is taken away.
_TEX: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"\\[\[\]()]", " "),
        (r"\{,\}|(?<=\d)\\[,!;: ](?=\d{3}(?!\d))|(?<=\d),\\!(?=\d{3})", ","),
        (r"\\[,!;: ]|~|\\q?quad\b", " "),
        (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|approx)(?![a-zA-Z])", " "),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname|rm|bf|emph)\s*\{([^{}]*)\}", r" \1 "),
        (r"\\(?:boxed|fbox)(?![a-zA-Z])", " "),
        (r"\^\s*\{?\s*(?:\\circ|o)\s*\}?(?![a-zA-Z])|\\degree(?![a-zA-Z])", ""),
        (r"\\([%#&])", r"\1"),
        (r"\\cdots|\\ldots|\\dots", "..."),
        (r"(?<![\\a-zA-Z])sqrt", r"\\sqrt"),
        (r"\\sqrt\s+(\d+)", r"\\sqrt{\1}"),
    )
)
_WRAPPED = re.compile(r"^(\*{1,3}|_{1,3}|`+|~~)(.+)\1$", re.DOTALL)
_LEAD = re.compile(r"^(?:so |thus |hence |therefore,? )?(?:the )?(?:final )?answer(?: is|:)?:?\s+", re.IGNORECASE)
_CURRENCY = re.compile(r"(?:^|(?<=[\s,;(]))(?:us|usd|eur|gbp|inr|cad|aud|rs\.?)\s*(?=-?[\d.])", re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3}(?:,\d{3})+)(?![\d,])")
_SPACED_THOUSANDS = re.compile(r"^(-?\d{1,3}(?: \d{3})+)(?![\d/ ])")
_MIXED = re.compile(
    r"(?<![\d.^/*+\w])(\d+)(?:\s+(\d+)\s*/\s*(\d+)|\s*\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|\s*\\frac\s*(\d)\s*(\d))(?![\d/])"
)

_SCALES = {"thousand": "1000", "million": "10^6", "billion": "10^9", "trillion": "10^12"}
_SHORT_UNITS = re.compile(
    r"[ckmn]?m|[km]?g|[cdkm]?l|lbs?|oz|ft|in|yd|mi|[mk]ph|hrs?|mins?|secs?|[kmgt]b|usd|eur|gbp|cad|aud|st|nd|rd|th|[ap]m|[km]?hz|"
    r"[km]w|kwh|k?pa|mol|rad|deg|sq|cu",
    re.IGNORECASE,
)
_LETTER_UNITS = frozenset("mgshlLWVJNKCF")
_SMALL_WORDS = re.compile(r"of|an?|in|at|to|by|on", re.IGNORECASE)
_NO_UNITS = re.compile(r"pi|sqrt|infinity|inf|and|or", re.IGNORECASE)
_UNIT = re.compile(
    r"^(.*?[\d)}.])(\s*/?\s*)([a-zA-Z][a-zA-Z\s./'-]*(?:\^?\{?[23]\}?)?(?:\s*/\s*[a-zA-Z]+(?:\^?\{?[23]\}?)?)?)$", re.DOTALL
)
_PERCENT = re.compile(r"^(.+?)\s*(?:%|percent(?:age)?(?: points?)?|per cent|pct)$", re.IGNORECASE)


def plain(answer: str) -> str | None:
    """The answer without what only dresses it, on one line; None where it is too long, or has characters that no text has."""
    if len(answer) > MAX_LENGTH:
        return None
    text = _SUPERSCRIPT.sub(lambda found: "^{" + "".join(_SUPERSCRIPTS[c] for c in found[0]) + "}", answer)
    text = "".join(f" {unicodedata.normalize('NFKC', c)}" if unicodedata.category(c) == "No" else c for c in text)
    text = unicodedata.normalize("NFKC", text.replace(r"\$", "")).translate(_SAME)
    if any(unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs") and c not in "\t\n\r" for c in text):
        return None
    for pattern, replacement in _TEX:
        text = pattern.sub(replacement, text)
    text = undressed(text)
    text = _CURRENCY.sub("", _LEAD.sub("", text))
    return undressed(text) or None


def undressed(text: str) -> str:
    """Without blanks, Markdown, braces or full stops around it; blanks within become single."""
    text = " ".join(text.split())
    for _ in range(8):
        before = text
        text = text.strip().rstrip(",;\\ ")
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1]
        if found := _WRAPPED.match(text):
            text = found[2]
        if text.startswith("{") and _closes_at(text) == len(text) - 1:
            text = text[1:-1]
        if text == before:
            break
    return text


def without_thousands(text: str) -> str:
    """1,000,000 and 1 000 000 without what parts their thousands; two figures after a comma are another number."""
    text = _SPACED_THOUSANDS.sub(lambda found: found[1].replace(" ", ""), text)
    return _THOUSANDS.sub(lambda found: found[1].replace(",", ""), text)


def with_sums(text: str) -> str:
    """Mixed numbers as sums: 1 1/2 and 1\\frac{1}{2} become (1+1/2)."""

    def as_sum(found: re.Match[str]) -> str:
        whole, *parts = found.groups()
        above, below = [part for part in parts if part]
        return f"({whole}+{above}/{below})"

    return _MIXED.sub(as_sum, text)


def without_unit(text: str) -> tuple[str, str]:
    """A number without the unit after it, and the unit; thousand, million and so on multiply, percent divides by 100."""
    if found := _PERCENT.match(text):
        return f"({found[1]})/100", "%"
    found = _UNIT.match(text)
    if not found:
        return text, ""
    number, blank, unit = found.groups()
    words = re.sub(r"\^?\{?[23]\}?$|\^?\{?[23]\}?(?=\s*/)", "", unit).replace("/", " ").replace("-", " ").split()
    words = [word.strip(".'") for word in words]
    scale = ""
    if words and words[0].lower() in _SCALES:
        scale, words = f"*{_SCALES[words[0].lower()]}", words[1:]
        if not words:
            return f"({number}){scale}", ""
    if not all(map(_is_unit, words)) or ("/" in blank and len(words[0]) == 1) or not (blank or scale or _is_short_unit(words[0])):
        return text, ""
    return (f"({number}){scale}" if scale else number), " ".join(words).lower()


def _is_unit(word: str) -> bool:
    if _NO_UNITS.fullmatch(word):
        return False
    return len(word) > 2 or word == "" or word in _LETTER_UNITS or bool(_SMALL_WORDS.fullmatch(word)) or _is_short_unit(word)


def _is_short_unit(word: str) -> bool:
    return len(word) >= 2 and bool(_SHORT_UNITS.fullmatch(word))


def _closes_at(text: str) -> int:
    """Where the bracket that the text begins with is closed; -1 = nowhere."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth <= 0:
            return position
    return -1
