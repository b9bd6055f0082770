"""What a text says of its licence: SPDX tag, text of the SPDX list, near text, wording, notice; each with where and by what."""

from __future__ import annotations

import re
from typing import NamedTuple

from tilth.corpus.provenance.licence_texts import (
    WORDINGS_VERSION,
    Recognised,
    recognise_grants,
    recognise_licence,
    recognise_notice,
)
from tilth.corpus.provenance.normal_text import NormalText, normal_text
from tilth.corpus.provenance.spdx_expressions import UNKNOWN, covers, licences_in, normalise_expression, strictness
from tilth.corpus.provenance.spdx_texts import SURE, TextMatch, spdx_texts

HEADER_CHARS, HEADER_LINES = 12_000, 150
TAG = re.compile(r"SPDX-Licen[cs]e-Identifier:[ \t]*([^\r\n]{1,200})", re.IGNORECASE)
TAG_END = re.compile(r"\s*(?:\*/|-->|#\}|\*\)|%>|\"\"\"|'''|\\n|&|<|[\"'`]).*$")
LICENCE_WORDS = ("license", "licence", "redistribut", "permission", "public domain", "general public")
GPL_WORD = re.compile(r"\ba?l?gpl")
GNU_WORDS = ("gnu", "gpl", "lgpl", "agpl", "gplv2", "gplv3")
# Two licences of which one may take either. What follows within these many characters is among the choices.
CHOICE = re.compile(
    r"\bdual(?:ly)? licensed|\bdual license\b|\balternatively (?:this|the|you|it)\b"
    r"|\bat your (?:choice|option) (?:under|of|either)\b|\byour choice of\b"
    r"|\beither of the (?:following |two |these )?licenses|\b(?:under|of) either (?:of )?the\b|\btri license"
)
CHOICE_CHARS = 400


class Found(NamedTuple):
    """An SPDX expression, how sure it is (0-1), what found it in which version, and the lines, from 1, that say so."""

    spdx: str
    score: float
    tool: str
    tool_version: str
    first_line: int
    last_line: int


def header_claims(text: str) -> list[Found]:
    """What the top of a source file says: its SPDX tags, and the notices of licences that no tag speaks of."""
    header = "\n".join(text[:HEADER_CHARS].split("\n", HEADER_LINES)[:HEADER_LINES])
    if not mentions_licence(header):
        return []
    tags = _tags(header)
    normal = normal_text(header)
    noticed = _noticed(normal, recognise_notice(normal.words), "notice")
    return [*tags, *(found for found in noticed if not any(covers(tag.spdx, found.spdx) for tag in tags))]


def mentions_licence(text: str) -> bool:
    """Whether a text may speak of its licence."""
    lower = text.lower()
    return any(word in lower for word in LICENCE_WORDS) or ("gpl" in lower and GPL_WORD.search(lower) is not None)


def licence_file_claims(text: str) -> list[Found]:
    """What a licence file holds; LicenseRef-unknown with score 0 if nothing in it is recognised."""
    tags = [tag for tag in _tags(text[:HEADER_CHARS]) if tag.spdx != UNKNOWN]
    normal = normal_text(text)
    owned = normal_text(text, without_copyright=True)
    found = _texts(normal, owned)
    untagged = [one for one in found if not any(covers(tag.spdx, one.spdx) for tag in tags)]
    return [*tags, *untagged] or [Found(UNKNOWN, 0.0, "licence text", WORDINGS_VERSION, *normal.span)]


def _texts(normal: NormalText, owned: NormalText) -> list[Found]:
    """Texts of the list and wordings, the surer first; a notice counts where neither is there, or speaks of GNU alone."""
    alike = spdx_texts().match(owned) or spdx_texts().match(normal)
    worded = _noticed(normal, recognise_licence(normal.words), "licence text")
    listed = [] if alike is None else [_of_list(alike, owned)]
    if alike is not None and alike.score < SURE and worded:
        # a wording names the licence, the set of words may name its twin; of the two the stricter is not given up
        limit = max(strictness(one.spdx) for one in worded)
        listed = [one for one in listed if strictness(one.spdx) > limit]
    found = listed if alike is not None and alike.score >= SURE else [*worded, *listed]
    # GNU's texts speak of each other; whose licence they are part of says which of them is meant
    noticed = _noticed(normal, recognise_grants(normal.words, of_gnu=not found or _speaks_of_gnu(normal, found)), "notice")
    return [*found, *(one for one in noticed if not any(covers(known.spdx, one.spdx) for known in found))]


def _speaks_of_gnu(text: NormalText, found: list[Found]) -> bool:
    """Whether GNU's licences are spoken of and none of the texts that were found says so itself."""
    spoken = set(text.words.split(" "))
    names = {name for one in found for name in licences_in(one.spdx)} & set(spdx_texts().names)
    return any(word in spoken and not any(spdx_texts().has_word(name, word) for name in names) for word in GNU_WORDS)


def _tags(text: str) -> list[Found]:
    found: dict[str, Found] = {}
    for match in TAG.finditer(text) if "spdx-licen" in text.lower() else ():
        spdx = normalise_expression(TAG_END.sub("", match[1]).strip()) or UNKNOWN
        line = text.count("\n", 0, match.start()) + 1
        found.setdefault(spdx, Found(spdx, 1.0, "spdx tag", "SPDX 2.3", line, line))
    return list(found.values())


def _of_list(alike: TextMatch, text: NormalText) -> Found:
    tool = "spdx text" if alike.is_exact else "spdx words"
    return Found(alike.spdx, alike.score, tool, spdx_texts().version, *text.span)


def _noticed(text: NormalText, recognised: list[Recognised], tool: str) -> list[Found]:
    found = [
        Found(one.spdx, one.score, tool, WORDINGS_VERSION, text.line_at(one.start), text.line_at(one.end)) for one in recognised
    ]
    choice = CHOICE.search(text.words) if len(found) > 1 else None
    if choice is None:
        return found
    # "GPL ..., alternatively MIT ...": one of the licences is named before or after, another one after
    after = [one for one in recognised if 0 <= one.start - choice.start() <= CHOICE_CHARS]
    others = [one for one in recognised if one in after or 0 <= choice.start() - one.start <= CHOICE_CHARS * 4]
    if not after or len(others) < len(recognised):
        return found
    spdx = normalise_expression(" OR ".join(sorted(one.spdx for one in found)))
    lines = [line for one in found for line in (one.first_line, one.last_line)]
    return [Found(str(spdx), min(one.score for one in found), tool, WORDINGS_VERSION, min(lines), max(lines))]
