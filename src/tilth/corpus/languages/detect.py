"""Names a file's programming, markup or data language by linguist's strategies, in linguist's order."""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

from tilth.corpus.languages.classifier import classifier
from tilth.corpus.languages.modeline import modeline
from tilth.corpus.languages.rules import CONSIDERED_BYTES, Head, Names, Rules, rules
from tilth.corpus.languages.shebang import interpreter

BINARY_BYTES = 8000  # as far as git looks for a NUL before it calls a file binary
LONGEST_FOR_EDITORS = 1 << 20  # linguist asks neither modelines nor the XML declaration of longer files
MANUAL_PAGE = re.compile(r"\.(?:[1-9](?![0-9])[a-z_0-9]*|0p|n|man|mdoc)(?:\.in)?$")
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Detected(NamedTuple):
    """A language by linguist's name, None where nothing tells, and the strategy that settled it.

    `how` is modeline, filename, shebang, extension, xml, manpage, heuristics or classifier; binary or unknown without a
    language.
    """

    language: str | None
    how: str


def detect(path: str, content: bytes) -> Detected:
    """The language of a file from its name and bytes; of an empty content, what the name alone tells.

    Each strategy may leave one language, which settles it, or several, among which the next ones choose. Only the first
    50 KiB are searched, and a NUL within 8000 bytes that UTF-16 does not explain makes a file binary.
    """
    if content.startswith(UTF16_MARKS):
        content = content[: CONSIDERED_BYTES * 2].decode("utf-16", "replace").encode()
    if content.find(b"\0", 0, BINARY_BYTES) >= 0:
        return Detected(None, "binary")
    content = content.removeprefix(codecs.BOM_UTF8)
    known, name = rules(), path.rpartition("/")[2]
    short = content if len(content) <= LONGEST_FOR_EDITORS else b""
    mode = modeline(short)
    if mode and (language := known.by_alias.get(mode.lower())):
        return Detected(language, "modeline")
    how, candidates = _by_name_and_start(name, content, short, known)
    if len(candidates) == 1:
        return Detected(candidates[0], how)
    return _by_content(name.lower(), content, candidates, known)


def _by_name_and_start(name: str, content: bytes, short: bytes, known: Rules) -> tuple[str, Names]:
    """The strategies that look at the name and the first line or two."""
    candidates = known.by_name.get(name, ())
    if len(candidates) == 1:
        return "filename", candidates
    command = interpreter(content)
    if command:
        candidates = _among(candidates, known.by_interpreter.get(command, ()))
        if len(candidates) == 1:
            return "shebang", candidates
    lower = name.lower()
    if not known.is_generic(lower):
        candidates = _among(candidates, known.of_extension(lower))
        if len(candidates) == 1:
            return "extension", candidates
    if not candidates:
        if b"<?xml version=" in b"\n".join(short[:CONSIDERED_BYTES].split(b"\n", 2)[:2]):
            return "xml", ("XML",)
        if MANUAL_PAGE.search(lower):
            return "manpage", ("Roff Manpage", "Roff")
    return "unknown", candidates


def _among(candidates: Names, told: Names) -> Names:
    """What a strategy leaves: its languages that are candidates; the candidates as they were where it tells none of them."""
    if not candidates:
        return told
    return tuple(name for name in candidates if name in told) or candidates


def _by_content(name: str, content: bytes, candidates: Names, known: Rules) -> Detected:
    head = Head(content)
    told = next((rule.languages for rule in known.content_rules(name) if rule.holds(head)), ())
    if len(told) == 1:
        return Detected(told[0], "heuristics")
    candidates = told or candidates
    return Detected(classifier().best(head.text, candidates), "classifier") if candidates else Detected(None, "unknown")
