"""Recognises licences by wording that only they have: whole licence files, and notices at the top of source files.

The wording below is each licence's own, cut to the few words that tell it from the others; the names are SPDX's.
"""

from __future__ import annotations

import re
from typing import NamedTuple

WORDS = re.compile(r"[^a-z0-9]+")
MIN_SHARE = 0.75  # of a licence's phrases that must be found; the first is always required


class Recognised(NamedTuple):
    """An SPDX id and the share of its phrases that were found."""

    spdx: str
    score: float


class Wording(NamedTuple):
    """`phrases` tell that a text is this licence (the first must be there), `unless` that it is another one."""

    spdx: str
    phrases: tuple[str, ...]
    unless: tuple[str, ...] = ()


_MIT = "permission is hereby granted free of charge to any person obtaining a copy of this software"
_NOTICE = "the above copyright notice and this permission notice"
_ISC = "permission to use copy modify and or distribute this software for any purpose with or without fee is hereby granted"
_ISC_AND = "permission to use copy modify and distribute this software for any purpose with or without fee is hereby granted"
_HPND = "permission to use copy modify and distribute this software and its"
_APACHE = "terms and conditions for use reproduction and distribution"
_LGPL_3 = "incorporates the terms and conditions of version 3 of the gnu general public license"
_COPYING, _EPL = "the precise terms and conditions for copying", "accompanying program is provided under the terms"
_NOT_BY = ("noncommercial 4 0", "sharealike 4 0", "noderivatives 4 0")
_SOURCE, _BINARY = "redistributions of source code must retain", "redistributions in binary form must reproduce"
_ENDORSE, _ADVERT = "endorse or promote products derived from this software", "all advertising materials mentioning features"

TEXTS = (
    Wording("MIT", (_MIT, _NOTICE, "without limitation the rights to use copy modify merge")),
    Wording("MIT-0", (_MIT, "without limitation the rights to use copy modify merge"), unless=(_NOTICE,)),
    Wording("ISC", (_ISC, "notice appear in all copies")),
    Wording("ISC", (_ISC_AND, "notice appear in all copies"), unless=("supporting documentation",)),
    Wording("HPND", (_HPND, "without fee is hereby granted", "supporting documentation")),
    Wording("0BSD", (_ISC,), unless=("notice appear in all copies",)),
    Wording("BSD-2-Clause", (_SOURCE, _BINARY), unless=(_ENDORSE, _ADVERT, "may not be used to endorse")),
    Wording("BSD-3-Clause", (_SOURCE, _BINARY, _ENDORSE), unless=(_ADVERT,)),
    Wording("BSD-4-Clause", (_ADVERT, _SOURCE, _BINARY, _ENDORSE)),
    Wording("Apache-2.0", ("apache license version 2 0 january 2004", _APACHE, "grant of patent license")),
    Wording("GPL-2.0-only", ("gnu general public license version 2 june 1991", _COPYING)),
    Wording("GPL-3.0-only", ("gnu general public license version 3 29 june 2007", "a free copyleft license for software")),
    Wording("AGPL-3.0-only", ("gnu affero general public license version 3 19 november 2007", "remote network interaction")),
    Wording("LGPL-2.0-only", ("gnu library general public license version 2 june 1991", _COPYING)),
    Wording("LGPL-2.1-only", ("gnu lesser general public license version 2 1 february 1999", _COPYING)),
    Wording("LGPL-3.0-only", ("gnu lesser general public license version 3 29 june 2007", _LGPL_3)),
    Wording("MPL-1.1", ("mozilla public license version 1 1", "covered code")),
    Wording("MPL-2.0", ("mozilla public license version 2 0", "covered software")),
    Wording("EPL-1.0", ("eclipse public license v 1 0", _EPL)),
    Wording("EPL-2.0", ("eclipse public license v 2 0", _EPL)),
    Wording("CDDL-1.0", ("common development and distribution license cddl version 1 0", "covered software")),
    Wording("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    Wording("CC0-1.0", ("cc0 1 0 universal", "affirmer")),
    Wording("CC-BY-4.0", ("attribution 4 0 international", "creative commons"), unless=_NOT_BY),
    Wording("CC-BY-SA-4.0", ("attribution sharealike 4 0 international", "creative commons")),
    Wording("CC-BY-NC-4.0", ("attribution noncommercial 4 0 international", "creative commons")),
    Wording("CC-BY-NC-SA-4.0", ("attribution noncommercial sharealike 4 0 international", "creative commons")),
    Wording("CC-BY-NC-ND-4.0", ("attribution noncommercial noderivatives 4 0 international", "creative commons")),
    Wording("Zlib", ("altered source versions must be plainly marked as such", "must not be misrepresented")),
    Wording("BSL-1.0", ("boost software license version 1 0", "obtaining a copy of the software and accompanying documentation")),
    Wording("PSF-2.0", ("python software foundation license version 2", "psf is making python available to licensee")),
    Wording("Artistic-2.0", ("the artistic license 2 0", "copyright holder")),
    Wording("OFL-1.1", ("sil open font license version 1 1", "reserved font name")),
    Wording("WTFPL", ("do what the fuck you want to public license",)),
)  # fmt: skip

NOTICES = (
    *TEXTS[:9],
    Wording("Apache-2.0", ("licensed under the apache license version 2 0",)),
    Wording("MPL-2.0", ("subject to the terms of the mozilla public license v 2 0",)),
    Wording("BSL-1.0", ("distributed under the boost software license version 1 0",)),
    Wording("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    Wording("Zlib", ("altered source versions must be plainly marked as such",)),
)
# "under the terms of version 2 of the GNU ... License", "GNU ... License as published by ...; either version 2", "GPLv2+"
GNU = re.compile(
    r"(?:under|by|of) (?:the )?(?:terms of )?(?:version ([0-9](?: [0-9])?) of )?(?:the )?"
    r"(gnu (?:(lesser|library|affero) )?general public license|[al]?gpl)"
)
GNU_VERSION = re.compile(
    r"(?: as published by the free software foundation)?(?: inc)? ?(?:either )?(?:v|version) ?([0-9])(?: ([0-9])\b)?"
)
LATER = re.compile(r"or (?:at your option )?(?:any )?later")
FAMILIES = {"lesser": "LGPL", "library": "LGPL", "affero": "AGPL", "lgpl": "LGPL", "agpl": "AGPL"}
VERSIONS = {"GPL": ("1.0", "2.0", "3.0"), "LGPL": ("2.0", "2.1", "3.0"), "AGPL": ("1.0", "3.0")}


def normalise(text: str) -> str:
    """Lower-case words and digits, one space between them; comment marks, punctuation and line breaks are gone."""
    return WORDS.sub(" ", text.lower()).strip()


def recognise_licence(text: str) -> list[Recognised]:
    """The licences whose text is in a licence file, in the order of TEXTS; empty if none is known."""
    return _find(normalise(text), TEXTS)


def recognise_notice(header: str) -> list[Recognised]:
    """The licences that the top of a source file grants."""
    words = normalise(header)
    return [*_find(words, NOTICES), *_find_gnu(words)]


def _find(words: str, known: tuple[Wording, ...]) -> list[Recognised]:
    found = {}
    for spdx, phrases, unless in known:
        if phrases[0] not in words or any(phrase in words for phrase in unless):
            continue
        score = sum(phrase in words for phrase in phrases) / len(phrases)
        if score >= MIN_SHARE:
            found[spdx] = Recognised(spdx, score)
    return list(found.values())


def _find_gnu(words: str) -> list[Recognised]:
    found: dict[str, Recognised] = {}
    unversioned: dict[str, Recognised] = {}
    for match in GNU.finditer(words):
        family = FAMILIES.get(match[3] or match[2], "GPL")
        rest = words[match.end() : match.end() + 120]
        stated = GNU_VERSION.match(rest)
        version = match[1].replace(" ", ".") if match[1] else f"{stated[1]}.{stated[2] or 0}" if stated else ""
        version = version if not version or "." in version else f"{version}.0"
        if version in VERSIONS[family]:
            spdx = f"{family}-{version}-{'or-later' if LATER.search(rest) else 'only'}"
            found[family] = Recognised(spdx, 1.0)
        else:
            # a GNU licence of no stated version may be used under any version (GPL-2.0, section 9)
            unversioned[family] = Recognised(f"{family}-{VERSIONS[family][0]}-or-later", 0.8)
    return list({**unversioned, **found}.values())
