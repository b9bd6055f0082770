"""What the section on the licence in a README at a repository's root says of the whole."""

from __future__ import annotations

import re

from tilth.corpus.provenance.licence_claims import Found, licence_file_claims
from tilth.corpus.provenance.package_metadata import stated_licence
from tilth.corpus.provenance.spdx_expressions import UNKNOWN

VERSION, SCORE = "1", 0.5
README = re.compile(r"readme(?:\.(?:md|markdown|rst|txt|adoc|asciidoc|org|rdoc|textile))?", re.IGNORECASE)
MARK = r"[ ]{0,3}(?:#{1,6}|={1,6}|\*{1,6}|h[1-6]\.)"
TITLE = r"[^\w\n]{0,20}(?:copyright (?:and|&) )?(?:the )?licen[cs](?:e|es|ing)(?: information)?[^\w\n]{0,20}"
HEADING = re.compile(
    rf"^(?:{MARK}[ \t]*{TITLE}$|[ ]{{0,3}}{TITLE}\n[ ]{{0,3}}(?:=+|-+|~+|\^+)[ \t]*$)", re.IGNORECASE | re.MULTILINE
)
NEXT = re.compile(rf"^(?:{MARK}[ \t]+\S|[^\n]+\n[ ]{{0,3}}(?:={{3,}}|-{{3,}}|~{{3,}}|\^{{3,}})[ \t]*$)", re.MULTILINE)
LINK = re.compile(r"!?\[([^\]\n]*)\](?:\([^)\n]*\)|\[[^\]\n]*\])|`([^`\n]+)`__?")
LONGEST, SHORT = 4_000, 120  # characters of the section that are read; of a line that may be a name alone
OWNER = re.compile(r"(?:copyright|\(c\)|©|&copy;).*$", re.IGNORECASE)


def is_readme_path(path: str) -> bool:
    """Whether a path is a README at the root."""
    return README.fullmatch(path) is not None


def readme_claims(text: str) -> list[Found]:
    """The licences that its section "License" names or holds, of low score; none where there is no such section."""
    heading = HEADING.search(text)
    if heading is None:
        return []
    start = heading.end()
    following = NEXT.search(text, start)
    section = LINK.sub(lambda link: link[1] or link[2] or " ", text[start : following.start() if following else None][:LONGEST])
    found = licence_file_claims(section)
    if found[0].spdx == UNKNOWN:
        found = _names(section)
    before = text.count("\n", 0, start)
    return [
        Found(one.spdx, min(one.score, SCORE), "readme", VERSION, before + one.first_line, before + one.last_line)
        for one in found
    ]


def _names(section: str) -> list[Found]:
    """A licence that stands alone in the first line with words: `MIT`, `Apache 2.0 (c) A. Farmer`."""
    for number, line in enumerate(section.split("\n"), 1):
        name = OWNER.sub("", line).strip(" \t.*_-|,:")
        if name:
            spdx = stated_licence(name) if len(name) <= SHORT else UNKNOWN
            return [] if spdx == UNKNOWN else [Found(spdx, SCORE, "readme", VERSION, number, number)]
    return []
