"""The answer in a text, and one spelling for all answers that are equal."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from tilth.errors import UserError
from tilth.evaluate.spellings import plain, undressed, with_sums, without_thousands, without_unit
from tilth.tokenize.question_form import NEXT_QUESTION

_MARKED = re.compile(r"(?<!#)####(?!#)[ \t]*(\S[^\n]*)")
_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[\\{}]|[{}]")
_DECIMAL = re.compile(r"-?\d{1,60}(?:\.\d{1,60})?")
_TIME = re.compile(r"(\d+)((?:\s*:\s*\d+)+)(?:\s*([ap])\.?\s*m\.?)?", re.IGNORECASE)
_OTHER_BASE = re.compile(r"(\d+)_\{?(\d+)\}?")
_CHOICE = re.compile(r"\(?([A-Za-z])[).]?")
_WORDS = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+){0,7}")
_NAMED = re.compile(
    r"([a-zA-Z](?:_\w|_\{\w+\})?(?:\([a-zA-Z]\))?|\([a-zA-Z](?:\s*,\s*[a-zA-Z])+\))\s*(?:=|\\in(?![a-zA-Z]))\s*(.+)", re.DOTALL
)
_EQUATION = re.compile(r"(?:\\[a-zA-Z]+|[^a-zA-Z=\\])*=\s*(.+)", re.DOTALL)
_OR = re.compile(r"\bor\b|\band\b")
# (1,000) is a number in brackets
_ZEROS = re.compile(r"0\d")
_PLUS_MINUS = re.compile(r"\\pm(?![a-zA-Z])|\+/-|\+-")
_UNION = re.compile(r"\\cup(?![a-zA-Z])|(?<=[)\]])\s*U\s*(?=[(\[])")


def extract(text: str, is_cut: bool = False) -> str | None:
    """What the last `#### x` (to the end of its line) or `\\boxed{x}` says, whichever comes later; None where neither is.

    What follows a line that begins with "Question:" is left out: a model that goes on asks itself the next problem. A box that
    is not closed, such as in a sample that was cut, does not count; nor, where the text is_cut, does a `####` line that its end
    breaks off: of `#### 15` it may say `#### 1`.
    """
    text, next_question, _ = text.partition(NEXT_QUESTION)
    start, answer = -1, None
    for found in _MARKED.finditer(text):
        if found.end() < len(text) or next_question or not is_cut:
            start, answer = found.start(), found[1].strip()
    boxed_start, boxed = _last_boxed(text)
    return boxed if boxed_start > start else answer


@lru_cache(maxsize=1 << 16)
def canonical(answer: str) -> str | None:
    """One spelling for all answers that are equal; None for what cannot be parsed, which is to be counted.

    Numbers are exact: "0.50", "1/2", "50%", "\\frac12" are all "1/2"; 0.33 is not 1/3. Thousands separators, currency signs and
    units are taken away, not converted: "$1,000.50" is "2001/2", "5 cm" is "5", "5 million" is "5000000". Expressions are
    expanded by sympy: "2\\sqrt{3}" is "2*sqrt(3)". "x = 5" is "5". Tuples and intervals keep their order and brackets;
    "{2, 1}", "1 or 2" and "2, 1" are the set "{1, 2}". Words are compared without case. Nothing is evaluated as code, and time is
    bounded: longer answers than 256 characters, and larger expressions than answers are, give None.
    """
    text = plain(answer)
    if text is None:
        return None
    if _UNION.search(text):
        parts = [_bracketed(undressed(part)) for part in _UNION.split(text)]
        return None if None in parts else " U ".join(sorted(part for part in parts if part))
    return _bracketed(text) or _listed(text)


def is_correct(answer: str | None, reference: str) -> bool:
    """Whether a canonical answer equals the reference, in any spelling; where one of them could not be parsed, it does not."""
    return answer is not None and answer == canonical(reference)


def _last_boxed(text: str) -> tuple[int, str | None]:
    """Where the last outermost `\\boxed{...}` starts, and what is in it, in one pass over the braces."""
    last: tuple[int, str | None] = (-1, None)
    is_open: list[tuple[int, int] | None] = []
    for found in _BRACE.finditer(text):
        if found[0] in ("\\\\", "\\{", "\\}"):
            continue
        if found[0] == "{":
            is_open.append(None)
        elif found[0] != "}":
            is_open.append((found.start(), found.end()))
        elif is_open and (box := is_open.pop()):
            last = (box[0], text[box[1] : found.start()].strip())
    return last


def _bracketed(text: str) -> str | None:
    """A tuple, an interval or a set in brackets; None where the text is none."""
    named = _NAMED.fullmatch(text)
    if named:
        text = undressed(named[2])
    is_set = text.startswith("\\{") and text.endswith("\\}")
    if is_set:
        inner = text[2:-2]
    elif len(text) > 2 and text[0] in "([" and text[-1] in ")]":
        inner = text[1:-1]
    else:
        return None
    parts = _split(inner)
    if parts is None or (len(parts) < 2 and not is_set) or any(_ZEROS.match(part) for part in parts[1:]):
        return None
    values = [_bracketed(undressed(part)) or _value(part) for part in parts]
    if None in values:
        return None
    known = [value for value in values if value is not None]
    if is_set:
        return "{" + ", ".join(sorted(set(known))) + "}"
    return f"{text[0]}{', '.join(known)}{text[-1]}"


def _split(inner: str) -> list[str] | None:
    """At the commas and semicolons outside brackets; None where the brackets do not match."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(inner):
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return None
        if depth == 0 and character in ",;":
            parts.append(inner[start:position])
            start = position + 1
    return None if depth else [*parts, inner[start:]]


def _listed(text: str) -> str | None:
    """One value, or several as a set: 1 or 2; 1, 2; a ± b. Values with other names or units are told apart by nothing: None."""
    words = _text(text)
    if words:
        return words
    text = without_thousands(text)
    parts = [undressed(part) for piece in _split(text) or [text] for part in _OR.split(piece)]
    parts = [part for part in parts if part]
    if len(_PLUS_MINUS.findall(text)) > 1 or len(parts) > 16:
        return None
    parts = [_PLUS_MINUS.sub(sign, part) for part in parts for sign in (("+", "-") if _PLUS_MINUS.search(part) else ("",))]
    names = {found[1] for part in parts if (found := _NAMED.fullmatch(part))}
    units = {unit for part in parts if (unit := without_unit(part)[1])}
    if len(parts) > 1 and (len(names) > 1 or len(units) > 1):
        return None
    values = {(_bracketed(part) if len(parts) > 1 else None) or _value(part) for part in parts}
    if None in values or not values:
        return None
    known = sorted(value for value in values if value is not None)
    return known[0] if len(known) == 1 else "{" + ", ".join(known) + "}"


def _value(text: str) -> str | None:
    """One number, expression or word."""
    text = undressed(text)
    for pattern in (_NAMED, _EQUATION):
        if found := pattern.fullmatch(text):
            text = undressed(found[found.re.groups].rpartition("=")[2])
    if words := _text(text):
        return words
    text, _ = without_unit(with_sums(without_thousands(text)))
    if _DECIMAL.fullmatch(text):
        return str(Fraction(text))
    return _expression(text)


def _text(text: str) -> str | None:
    """Words, a letter to choose, a time or ratio, or a number in another base; None where the text is none of these."""
    if found := _CHOICE.fullmatch(text):
        return found[1]
    if found := _TIME.fullmatch(text):
        return found[1] + "".join(found[2].split()) + (f" {found[3].lower()}m" if found[3] else "")
    if found := _OTHER_BASE.fullmatch(text):
        return f"{found[1]}_{found[2]}"
    is_word = _WORDS.fullmatch(text) and text not in ("pi", "oo", "inf", "infinity") and not _OR.search(text)
    return text.casefold() if is_word else None


def _expression(text: str) -> str | None:
    try:
        # sympy takes long to import, and most answers are plain numbers
        from tilth.evaluate.expressions import ParseError, simplest
    except ImportError as error:
        raise UserError("answers are compared by sympy, which is not installed", fix='pip install "tilth[train]"') from error
    try:
        return simplest(text)
    except ParseError:
        return None
