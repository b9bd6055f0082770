"""Licences that a licence file only names: "under the zlib License", "see CC-BY-3.0", "in the public domain"; and Debian's tags.

Names are looked for in what is left of a file when the texts of licences are taken out of it, so that none of them is heard of in
another's text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from tilth.corpus.provenance.licence_texts import LATER, Recognised
from tilth.corpus.provenance.spdx_expressions import normalise_expression

SCORE = 0.7
PUBLIC_DOMAIN = "LicenseRef-public-domain"
_V = r"(?: license)?(?: version| v)? ?"
# Strings of which a text that names the licence holds one, and the names; one counts once, where it stands first.
NAMES = {
    "0BSD": ("0bsd|zero clause|bsd 0", r"0bsd|(?:bsd zero clause|zero clause bsd)(?: license)?|bsd 0 clause"),
    "BSD-2-Clause": (
        "bsd",
        r"(?:bsd 2 clause|2 clause bsd|(?:simplified|two clause) bsd)(?: license)?|freebsd license|bsd two clause",
    ),
    "BSD-3-Clause": (
        "bsd",
        r"(?:bsd 3 clause|3 clause bsd|(?:new|modified|revised|three clause) bsd)(?: license)?|bsd three clause",
    ),
    "BSD-4-Clause": ("bsd", r"(?:bsd 4 clause|4 clause bsd|original bsd)(?: license)?"),
    "MIT": ("mit lic|mit x11|expat|license mit", r"(?:mit|expat)(?: x11)? license|mit licensed|license mit\b"),
    "ISC": ("isc license|license isc", r"isc license|license isc\b"),
    "Zlib": ("zlib", r"zlib(?: libpng)? license|license zlib\b"),
    "Apache-2.0": ("apache|apl 2|asl 2", rf"apache(?: software)?{_V}2(?: 0)?\b|common licenses apache 2 0|\bapl 2 0|\basl 2 0"),
    "BSL-1.0": ("boost|bsl", r"boost software license|bsl 1 0"),
    "MPL-1.1": ("mozilla|mpl", rf"(?:mozilla public|mpl){_V}1 1"),
    "MPL-2.0": ("mozilla|mpl", rf"(?:mozilla public|mpl){_V}2(?: 0)?\b"),
    "EPL-1.0": ("eclipse|epl", rf"(?:eclipse public|epl){_V}1(?: 0)?\b"),
    "EPL-2.0": ("eclipse|epl", rf"(?:eclipse public|epl){_V}2(?: 0)?\b"),
    "CDDL-1.0": ("common development|cddl", rf"(?:common development and distribution license|cddl){_V}(?:cddl version )?1 0"),
    "CDDL-1.1": ("common development|cddl", rf"(?:common development and distribution license|cddl){_V}1 1"),
    "CC0-1.0": ("cc0|commons zero", r"cc0(?: 1 0)?\b|creative commons zero"),
    "WTFPL": ("wtfpl", r"\bwtfpl\b"),
    "Unlicense": ("unlicense", r"\bunlicense\b"),
    "CNRI-Python": ("cnri", r"cnri python\b|cnri s (?:python 1 6 )?license"),
    "Python-2.0": ("python|psf", r"python license|psf license|python software foundation license"),
    "NCSA": ("ncsa", r"(?:university of illinois )?ncsa open source license"),
    "OpenSSL": ("openssl", r"openssl license"),
    "Bitstream-Vera": ("bitstream", r"bitstream vera (?:fonts? )?(?:copyright|license)"),
    "FTL": ("freetype|ftl", r"freetype (?:project )?license|\bftl\b"),
    "Artistic-2.0": ("artistic", rf"artistic{_V}2(?: 0)?\b"),
    "OFL-1.1": ("open font|ofl", rf"(?:sil )?open font{_V}1 1|\bofl 1 1"),
    PUBLIC_DOMAIN: (
        "public domain",
        r"(?:in|into|to|as|is|are|am|been|or) (?:the )?public domain\b(?! (?:software )?is not)|license public domain",
    ),
}
NAME = {spdx: (needles.split("|"), re.compile(rf"\b(?:{names})")) for spdx, (needles, names) in NAMES.items()}
NOT_SO = re.compile(
    r"\b(?:neighboring rights(?: to this software)?|not|neither|nor|isn t|aren t|(?:compatible with|similar to|unlike)(?: the)?)"
    r"(?: \w+)?(?: in)? ?$"
)
# Exceptions that notices name.
EXCEPTIONS = {
    "GCC-exception-3.1": "gcc runtime library exception version 3 1",
    "Classpath-exception-2.0": r"classpath exception\b|linking this library statically or dynamically with other modules",
    "LLVM-exception": "apache(?: license)?(?: version| v)? 2 0 with llvm exceptions?",
    "OpenSSL-exception": "openssl (?:linking )?exception",
}
EXCEPTION = {spdx: re.compile(rf"\b(?:{names})") for spdx, names in EXCEPTIONS.items()}
BSD = re.compile(r"\bbsd(?: style)? license|\bbsd licensed|license bsd\b")
CREATIVE_COMMONS = re.compile(
    r"(?:creative commons attribution|creativecommons org licenses by|\bcc by)(?P<nc> (?:non ?commercial|nc))?"
    r"(?P<nd> (?:no ?derivatives?|no ?derivs|nd))?(?P<sa> (?:share ?alike|sa))?(?: license)?(?: version)? "
    r"(?P<version>[1-4] [05])\b"
)
FREE_DOCUMENTATION = re.compile(r"(?:free documentation license|\bgfdl)(?: version)? 1 ([1-3])\b")
REACH = 80
DEBIAN = re.compile(r"^License:[ \t]{0,20}(\S[^\n]{0,300})$", re.MULTILINE)
DEBIAN_GNU = re.compile(r"((?:a|l)?gpl|gfdl|lgpl)-v?(\d)(\.\d)?(\.0)?(\+?)", re.IGNORECASE)
DEBIAN_NAMES = {
    "expat": "MIT", "mit/x11": "MIT", "mit": "MIT", "bsd": "BSD-3-Clause", "artistic": "Artistic-1.0-Perl", "zlib": "Zlib",
    "public-domain": PUBLIC_DOMAIN, "apache-2": "Apache-2.0", "psf": "PSF-2.0", "psf-2": "PSF-2.0", "cc0": "CC0-1.0",
    "perl": "Artistic-1.0-Perl OR GPL-1.0-or-later", "gpl": "GPL-1.0-or-later", "lgpl": "LGPL-2.0-or-later", "mpl-2": "MPL-2.0",
    "boost-1.0": "BSL-1.0",
}  # fmt: skip


def recognise_names(words: str, texts: Collection[str] = ()) -> list[Recognised]:
    """The licences that are named in what is left of a licence file, each where it is named first.

    `texts` are the licences whose texts were taken out: "BSD license" and "Python license" name one of these, where they fit.
    """
    found = [*_plain(words), *_creative_commons(words), *_free_documentation(words)]
    bsd = BSD.search(words)
    if any(spdx.startswith(("PSF", "Python")) for spdx in texts):
        found = [one for one in found if one.spdx != "Python-2.0"]
    if bsd is not None and not any(spdx.startswith(("BSD", "0BSD")) for spdx in (*texts, *(one.spdx for one in found))):
        found.append(Recognised("BSD-3-Clause", SCORE, bsd.start(), bsd.end() - 1))
    return found


def recognise_exceptions(words: str) -> list[Recognised]:
    """The exceptions that are named, each where it is named first."""
    found = ((spdx, name.search(words)) for spdx, name in EXCEPTION.items())
    return [Recognised(spdx, SCORE, match.start(), match.end() - 1) for spdx, match in found if match]


def debian_licences(text: str) -> Iterator[tuple[str, int]]:
    """(SPDX expression, position) of each `License:` field of Debian's copyright format that is understood."""
    for match in DEBIAN.finditer(text):
        spdx = debian_expression(match[1])
        if spdx is not None:
            yield spdx, match.start()


def debian_expression(text: str) -> str | None:
    """`GPL-2+ or Expat` as SPDX writes it; None where a name is unknown."""
    if " WITH " in text and (spdx := normalise_expression(text)):
        return spdx
    parts = re.split(r"[ ,]+(and|or|with)[ ]+", text.strip().rstrip(","), flags=re.IGNORECASE)
    if "with" in [part.lower() for part in parts[1::2]]:
        parts = parts[: [part.lower() for part in parts].index("with")]  # Debian has no names of exceptions
    names = [_debian_name(part.strip("() ")) for part in parts[0::2]]
    if None in names:
        return None
    joined = " ".join(f"{name} {operator.upper()}" for name, operator in zip(names, [*parts[1::2], ""], strict=True))
    return normalise_expression(joined.strip())


def _debian_name(name: str) -> str | None:
    gnu = DEBIAN_GNU.fullmatch(name)
    if gnu is not None:
        return f"{gnu[1].upper()}-{gnu[2]}{gnu[3] or '.0'}-{'or-later' if gnu[5] else 'only'}"
    known = DEBIAN_NAMES.get(name.lower()) or normalise_expression(re.sub(r"(?<=\d)-clause", "-Clause", name))
    return f"({known})" if known and " " in known else known


def _plain(words: str) -> Iterator[Recognised]:
    for spdx, (needles, name) in NAME.items():
        for match in name.finditer(words) if any(needle in words for needle in needles) else ():
            if not NOT_SO.search(words[max(0, match.start() - REACH) : match.start()]):
                yield Recognised(spdx, SCORE, match.start(), match.end() - 1)
                break


def _creative_commons(words: str) -> Iterator[Recognised]:
    for match in CREATIVE_COMMONS.finditer(words):
        kind = "".join(f"-{part.upper()}" for part in ("nc", "nd", "sa") if match[part])
        yield Recognised(f"CC-BY{kind}-{match['version'].replace(' ', '.')}", SCORE, match.start(), match.end() - 1)


def _free_documentation(words: str) -> Iterator[Recognised]:
    found: dict[str, Recognised] = {}
    for match in FREE_DOCUMENTATION.finditer(words):
        ending = "or-later" if LATER.match(words[match.end() : match.end() + REACH].strip()) else "only"
        if match[1] not in found or (ending == "or-later" and found[match[1]].spdx.endswith("only")):
            found[match[1]] = Recognised(f"GFDL-1.{match[1]}-{ending}", SCORE, match.start(), match.end() - 1)
    yield from found.values()
