"""Recognises licences by wording that only they have: whole licence files, and notices at the top of source files.

The wording below is each licence's own, cut to the few words that tell it from the others; the names are SPDX's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

WORDINGS_VERSION = "3"
MIN_SHARE = 0.75  # of a licence's phrases that must be found; the first is always required


class Recognised(NamedTuple):
    """An SPDX expression, the share of its phrases that were found, and from where to where in the words."""

    spdx: str
    score: float
    start: int
    end: int


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
_LLVM = "llvm exceptions to the apache 2 0 license"
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
    Wording("Apache-2.0", ("apache license version 2 0 january 2004", _APACHE, "grant of patent license"), unless=(_LLVM,)),
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
    Wording("Zlib", ("altered source versions must be plainly marked as such", "must not be misrepresented"), unless=(_SOURCE,)),
    Wording("bzip2-1.0.6", ("altered source versions must be plainly marked as such", _SOURCE, "must not be misrepresented")),
    Wording("BSL-1.0", ("boost software license version 1 0", "obtaining a copy of the software and accompanying documentation")),
    Wording("PSF-2.0", ("python software foundation license version 2", "psf is making python available to licensee")),
    Wording("Artistic-2.0", ("the artistic license 2 0", "copyright holder")),
    Wording("OFL-1.1", ("sil open font license version 1 1", "reserved font name")),
    Wording("Apache-2.0 OR BSD-3-Clause", ("either of the licenses found in license apache or license bsd",)),
    Wording("Apache-2.0 WITH LLVM-exception", (_LLVM, _APACHE)),
    Wording("WTFPL", ("do what the fuck you want to public license",)),
)  # fmt: skip

# Sentences that grant a licence without its text.
GRANTS = (
    Wording("MIT", ("licensed under the mit license",)),
    Wording("MIT", ("under the terms of the mit license",)),
    Wording("MIT", ("released under the mit license",)),
    Wording("MIT", ("made available under the mit license",)),
    Wording("Apache-2.0", ("licensed under the apache license version 2 0",)),
    Wording("Apache-2.0", ("under the terms of the apache license version 2 0",)),
    Wording("MPL-2.0", ("subject to the terms of the mozilla public license v 2 0",)),
    Wording("MPL-1.1", ("subject to the mozilla public license version 1 1",)),
    Wording("EPL-1.0", ("under the terms of the eclipse public license v1 0",)),
    Wording("EPL-2.0", ("under the terms of the eclipse public license v 2 0",)),
    Wording("EPL-2.0", ("under the terms of the eclipse public license 2 0",)),
    Wording("CDDL-1.0", ("subject to the terms of the common development and distribution license",)),
    Wording("BSL-1.0", ("distributed under the boost software license version 1 0",)),
    Wording("CC0-1.0", ("creativecommons org publicdomain zero 1 0",)),
    Wording("CC-BY-SA-4.0", ("creativecommons org licenses by sa 4 0",)),
    Wording("CC-BY-NC-4.0", ("creativecommons org licenses by nc 4 0",)),
    Wording("CC-BY-NC-SA-4.0", ("creativecommons org licenses by nc sa 4 0",)),
    Wording("CC-BY-4.0", ("creativecommons org licenses by 4 0",)),
    Wording("CECILL-2.1", ("governed by the cecill license",)),
    Wording("EUPL-1.2", ("licensed under the eupl",)),
    Wording("SSPL-1.0", ("terms of the server side public license version 1",)),
    Wording("Artistic-1.0-Perl OR GPL-1.0-or-later", ("under the same terms as perl itself",)),
)
# What stands at the top of source files: short texts, and grants.
SHORT = frozenset({"MIT", "MIT-0", "ISC", "HPND", "0BSD", "BSD-2-Clause", "BSD-3-Clause", "BSD-4-Clause", "Zlib", "Unlicense"})
NOTICES = (*(wording for wording in TEXTS if wording.spdx in SHORT), *GRANTS)
# "version 2 of the GNU ... License", "GNU ... License as published by ...; either version 2", "GPLv2+", "GNU/GPL", "License: GPL"
GNU = re.compile(
    r"(?:\bversion (?P<version>[0-9](?: [0-9])?) (?P<later>or (?:any )?later )?of )?(?:\bthe )?\b(?:gnu )?"
    r"(?:(?:(?P<kind>lesser|library|affero) )?general public license"
    r"|(?<=gnu )(?:(?P<short>lesser|library|affero) )?public license|(?P<bare>[al]?gpl)(?=\b|v?[1-3]))"
)
GNU_VERSION = re.compile(
    r"(?: [al]?gpl)?(?: as published by the free software foundation)?(?: inc)? ?(?:either )?(?:v|version|ver)? ?"
    r"([1-3])(?: ([0-9])\b)?(?![0-9])"
)
LATER = re.compile(r"or (?:at your option )?(?:any )?(?:later|newer|higher|greater|above)")
# "GPL" alone may be anybody's name: it counts where licences are spoken of, or with a version.
GRANT = re.compile(r"licen|under|terms|gnu|spdx|releas|distribut|copying|copyleft|covered|free software")
NOT_GRANTED = re.compile(
    r"\b(?:(?:not|unlike|non)(?: under| covered by| licensed under| subject to)?|compatible with|distributing python under"
    r"|(?:combine|link)\b.*with (?:other )?software that is (?:licensed|released) under)(?: a)? ?$"
)
NOT_MEANT = re.compile(r" (?:(?:from )?compatible|incompatible|instead of this license)\b")
# Where Debian keeps a text, or that it comes along.
POINTER = re.compile(r"(?:common licenses|(?:full|complete) text of(?: the)?(?: gnu)?) $")
FAMILIES = {"lesser": "LGPL", "library": "LGPL", "affero": "AGPL", "lgpl": "LGPL", "agpl": "AGPL"}
VERSIONS = {"GPL": ("1.0", "2.0", "3.0"), "LGPL": ("2.0", "2.1", "3.0"), "AGPL": ("1.0", "3.0")}
GNU_ENDS = re.compile(r"public license|[al]?gpl")  # what every match of GNU ends in
GNU_CHARS = 60  # a match of GNU has fewer before that
GNU_BEFORE = 120  # characters before it that tell whether it is granted
GNU_REACH = 200  # characters after the name in which "or any later version" belongs to it


def recognise_licence(words: str) -> list[Recognised]:
    """The licences whose text is in the words of a licence file (NormalText.words), in the order of TEXTS."""
    return _find(words, TEXTS)


def recognise_notice(words: str) -> list[Recognised]:
    """The licences that the top of a source file grants, by its words (NormalText.words)."""
    return [*_find(words, NOTICES), *_find_gnu(words)]


def recognise_grants(words: str) -> list[Recognised]:
    """The licences that are granted without their text."""
    return [*_find(words, GRANTS), *_find_gnu(words)]


def _find(words: str, known: tuple[Wording, ...]) -> list[Recognised]:
    found: dict[str, Recognised] = {}
    for spdx, phrases, unless in known:
        if phrases[0] not in words or any(phrase in words for phrase in unless):
            continue
        places = [(words.find(phrase), len(phrase)) for phrase in phrases]
        there = [(start, start + length - 1) for start, length in places if start >= 0]
        if len(there) / len(phrases) >= MIN_SHARE:
            place = min(there)[0], max(end for _, end in there)
            found.setdefault(spdx, Recognised(spdx, len(there) / len(phrases), *place))
    return list(found.values())


def _find_gnu(words: str) -> list[Recognised]:
    found: dict[tuple[str, str], Recognised] = {}
    unversioned: dict[str, Recognised] = {}
    pointed: dict[str, Recognised] = {}
    for match in _gnu_names(words):
        family = FAMILIES.get(match["kind"] or match["short"] or match["bare"] or "", "GPL")
        rest = words[match.end() : match.end() + GNU_REACH]
        stated = GNU_VERSION.match(rest)
        if not _is_grant(words, match, stated is not None):
            continue
        version = (match["version"] or (f"{stated[1]} {stated[2] or 0}" if stated else "")).replace(" ", ".")
        version = f"{version}.0" if len(version) == 1 else version
        place = match.start(), match.end() + (stated.end() if stated else 0) - 1
        if POINTER.search(words[max(0, match.start() - GNU_BEFORE) : match.start()]):
            ending = f"{version}-only" if version in VERSIONS[family] else f"{VERSIONS[family][0]}-or-later"
            pointed.setdefault(family, Recognised(f"{family}-{ending}", 0.8, *place))
        elif version in VERSIONS[family]:
            ending = "or-later" if match["later"] or LATER.search(rest) else "only"
            known = found.get((family, version))
            # the notice says "or any later version", and where the text lies says it not
            if known is None or (ending == "or-later" and known.spdx.endswith("only")):
                found[family, version] = Recognised(f"{family}-{version}-{ending}", 1.0, *place)
        else:
            # a GNU licence of no stated version may be used under any version (GPL-2.0, section 9)
            unversioned.setdefault(family, Recognised(f"{family}-{VERSIONS[family][0]}-or-later", 0.8, *place))
    versioned = {family for family, _ in found}
    others = {**pointed, **unversioned}  # where a text lies says less of the version than who grants it
    return [*found.values(), *(one for family, one in others.items() if family not in versioned)]


def _gnu_names(words: str) -> Iterator[re.Match[str]]:
    """What `GNU.finditer` finds; it is tried only where a match can end, for at each place it tries much."""
    at = 0
    for end in GNU_ENDS.finditer(words):
        match = GNU.search(words, max(at, end.start() - GNU_CHARS), end.end() + 2)
        if match is not None:
            yield match
            at = match.end()


def _is_grant(words: str, match: re.Match[str], is_versioned: bool) -> bool:
    before = words[max(0, match.start() - GNU_BEFORE) : match.start()]
    if NOT_GRANTED.search(before) or NOT_MEANT.match(words, match.end()):
        return False
    named = match["bare"] is None or match[0].startswith("gnu") or is_versioned
    return named or bool(GRANT.search(before)) or words.startswith(" licen", match.end())
