"""What a text says of its licence: SPDX tag, text of the SPDX list, near text, wording, notice; each with where and by what."""

from __future__ import annotations

import re
from itertools import compress
from typing import NamedTuple

from tilth.corpus.provenance.licence_names import debian_licences, recognise_exceptions, recognise_names
from tilth.corpus.provenance.licence_texts import (
    WORDINGS_VERSION,
    Recognised,
    recognise_grants,
    recognise_licence,
    recognise_notice,
)
from tilth.corpus.provenance.normal_text import GAP, NormalText, normal_text
from tilth.corpus.provenance.spdx_expressions import UNKNOWN, covers, normalise_expression, strictness
from tilth.corpus.provenance.spdx_passages import Passage, spdx_passages
from tilth.corpus.provenance.spdx_texts import TextMatch, spdx_texts

HEADER_CHARS, HEADER_LINES = 12_000, 150
TAG = re.compile(r"SPDX-Licen[cs]e-Identifier:[ \t]*([^\r\n]{1,200})", re.IGNORECASE)
TAG_END = re.compile(r"\s*(?:\*/|-->|#\}|\*\)|%>|\"\"\"|'''|\\n|&|<|[\"'`]).*$")
LICENCE_WORDS = ("license", "licence", "redistribut", "permission", "public domain", "general public")
GPL_WORD = re.compile(r"\ba?l?gpl")
GNU_WORDS = ("gnu", "gpl", "lgpl", "agpl", "gplv2", "gplv3")
NOT_OF_GNU = ("LLVM-exception", "Swift-exception", "fmt-exception")  # exceptions to permissive licences
PERMISSIVE, MANY_WORDS = 1, 150
# What permissive licences do not say: terms of another kind stand beside them.
RESTRICTION = re.compile(
    r"\b(?:proprietary|confidential|non ?transferable|reverse engineer|decompile|disassemble|evaluation (?:purposes?|only)"
    r"|trade secrets?|end user license|eula|internal use|(?:expressly|strictly) prohibited|non ?commercial use only"
    r"|(?:may|shall|must) not (?:be )?(?:cop(?:y|ied)|modif(?:y|ied)|(?:re)?distributed?|sublicensed?|rent(?:ed)?|leased?|sell"
    r"|sold)(?!(?: \w+){0,6} except\b))\b"
)
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
    tags = [*(tag for tag in _tags(text[:HEADER_CHARS]) if tag.spdx != UNKNOWN), *_debian_tags(text)]
    normal = normal_text(text)
    owned = normal_text(text, without_copyright=True)
    found = _texts(normal, owned)
    untagged = [one for one in found if not any(covers(tag.spdx, one.spdx) for tag in tags)]
    return [*tags, *untagged] or [Found(UNKNOWN, 0.0, "licence text", WORDINGS_VERSION, *normal.span)]


def _texts(normal: NormalText, owned: NormalText) -> list[Found]:
    """The texts of the list, whole or among others; in what is left wordings and notices; else what the words are like."""
    exact = spdx_texts().exact_match(owned) or spdx_texts().exact_match(normal)
    if exact is not None:
        return [_of_list(exact, owned)]
    passages = spdx_passages().find(normal.words.split(" "))
    rest = normal.without([(one.first_word, one.last_word) for one in passages])
    # a text that says nothing of GNU hides no notice that was put into it or behind it
    outside = normal.without([(one.first_word, one.last_word) for one in passages if _speaks_of_gnu(one.spdx)])
    worded: list[Found] = []
    for tool, words, recognised in (
        ("licence text", rest, recognise_licence(rest.words)),
        ("notice", outside, recognise_grants(outside.words)),
        ("name", rest, recognise_names(rest.words, [one.spdx for one in passages])),
    ):
        further = _noticed(words, recognised, tool)
        worded += [one for one in further if not any(covers(known.spdx, one.spdx) for known in worded)]
    texts = [_of_passage(one, normal) for one in passages]
    named = _noticed(rest, recognise_exceptions(rest.words), "name")
    found = _with_exceptions([*texts, *(one for one in named if all(one.spdx != text.spdx for text in texts))], worded)
    alike = None if found else spdx_texts().match(owned) or spdx_texts().match(normal)
    return [*found, *_restricted(rest, found)] if alike is None else [_of_list(alike, owned)]


def _restricted(rest: NormalText, found: list[Found]) -> list[Found]:
    """LicenseRef-unknown beside permissive claims, where what is left forbids things, or is long and only names a licence."""
    if not found or max(strictness(one.spdx) for one in found) > PERMISSIVE:
        return []
    match = RESTRICTION.search(rest.words)
    if match is not None:
        lines = rest.line_at(match.start()), rest.line_at(match.end() - 1)
    elif all(one.tool == "name" for one in found) and rest.words.count(" ") > MANY_WORDS:
        lines = rest.span
    else:
        return []
    return [Found(UNKNOWN, 0.0, "licence text", WORDINGS_VERSION, *lines)]


def _speaks_of_gnu(spdx: str) -> bool:
    """Whether the text of a licence names GNU or one of its licences; of an exception it goes without saying."""
    return spdx in spdx_passages().exceptions or any(spdx_texts().has_word(spdx, word) for word in GNU_WORDS)


def _with_exceptions(passages: list[Found], worded: list[Found]) -> list[Found]:
    """One claim a licence; an exception goes with the licence before it that it fits, or else the next one, or none."""
    exceptions = spdx_passages().exceptions
    passages = sorted(passages, key=lambda one: one.first_line)
    texts = [one for one in passages if one.spdx not in exceptions]
    others = [one for one in worded if not any(covers(text.spdx, one.spdx) and not _widens(one, text) for text in texts)]
    kept = [text for text in texts if not any(_widens(one, text) for one in worded)]
    found = sorted([*kept, *others], key=lambda one: (one.first_line, one.last_line))
    for exception in [one for one in passages if one.spdx in exceptions]:
        is_gnu = exception.spdx not in NOT_OF_GNU
        fitting = [i for i, one in enumerate(found) if " " not in one.spdx and ("GPL" in one.spdx) == is_gnu]
        before = [i for i in fitting if found[i].first_line <= exception.first_line]
        at = before[-1] if before else next(iter(fitting), -1)
        if at >= 0 and (joined := normalise_expression(f"{found[at].spdx} WITH {exception.spdx}")):
            last = max(found[at].last_line, exception.last_line)
            first = min(found[at].first_line, exception.first_line)
            found[at] = found[at]._replace(spdx=joined, first_line=first, last_line=last)
    once: dict[str, Found] = {}
    for one in found:
        once.setdefault(one.spdx, one)
    return list(once.values())


def _widens(notice: Found, text: Found) -> bool:
    """Whether a notice grants a text "or any later version", which the text itself cannot say."""
    return notice.spdx.endswith("-or-later") and text.spdx == notice.spdx.replace("-or-later", "-only")


def _ungapped(words: str, position: int) -> tuple[int, int]:
    """The stretch around a position in which licences are spoken of together, up to where a text was taken out."""
    begin = max(words.rfind(GAP, 0, position), position - 4 * CHOICE_CHARS)
    end = words.find(GAP, position)
    return begin, len(words) if end < 0 else end


def _tags(text: str) -> list[Found]:
    found: dict[str, Found] = {}
    for match in TAG.finditer(text) if "spdx-licen" in text.lower() else ():
        spdx = normalise_expression(TAG_END.sub("", match[1]).strip()) or UNKNOWN
        line = text.count("\n", 0, match.start()) + 1
        found.setdefault(spdx, Found(spdx, 1.0, "spdx tag", "SPDX 2.3", line, line))
    return list(found.values())


def _debian_tags(text: str) -> list[Found]:
    found: dict[str, Found] = {}
    for spdx, start in debian_licences(text):
        line = text.count("\n", 0, start) + 1
        found.setdefault(spdx, Found(spdx, 1.0, "debian field", WORDINGS_VERSION, line, line))
    return list(found.values())


def _of_passage(one: Passage, text: NormalText) -> Found:
    lines = text.line_of(one.first_word), text.line_of(one.last_word)
    return Found(one.spdx, one.score, "spdx passage", spdx_texts().version, *lines)


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
    begin, end = _ungapped(text.words, choice.start())
    after = [one for one in recognised if 0 <= one.start - choice.start() <= CHOICE_CHARS and one.start < end]
    offered = [one in after or begin <= one.start <= choice.start() for one in recognised]
    if not after or sum(offered) < 2:
        return found
    joined = list(compress(found, offered))
    spdx = normalise_expression(" OR ".join(sorted(one.spdx for one in joined)))
    lines = [line for one in joined for line in (one.first_line, one.last_line)]
    either = Found(str(spdx), min(one.score for one in joined), tool, WORDINGS_VERSION, min(lines), max(lines))
    return [*(one for one, is_offered in zip(found, offered, strict=True) if not is_offered), either]
