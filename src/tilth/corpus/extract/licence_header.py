"""Takes the copyright notice off the top of a source file.

RedPajama-V1 (branch rp_v1, data_prep/github/github_clean_dedup_local.py) drops every leading line that is empty or begins with
`//`, `#` or `--`: with the notices go shebangs, `#include`, documentation and whatever else stands there. Here a comment
goes only if it speaks of copyright or a licence, and directives are no comments.
"""

from __future__ import annotations

import re

VERSION = 1
# What a file may have to begin with: byte order mark, #! line, encoding, XML or PHP opening. It stays.
OPENING = re.compile(r"\ufeff?(?:#![^\n]*\n|#[^\n]{0,200}coding[:=][^\n]*\n|<\?(?:php|xml\b[^\n]{0,200}\?>)[^\n]*\n|[ \t\r]*\n)*")
DIRECTIVE = r"(?:!|\[|(?:include|import|define|undef|if|ifdef|ifndef|elif|else|endif|pragma|error|warning|line|region)\b)"
COMMENT = re.compile(
    rf"/\*.*?\*/[ \t\r]*\n?|<!--.*?-->[ \t\r]*\n?"
    rf"|(?:[ \t]*//[^\n]*(?:\n|\Z))+|(?:[ \t]*#(?!{DIRECTIVE})[^\n]*(?:\n|\Z))+|(?:[ \t]*--[^\n]*(?:\n|\Z))+",
    re.DOTALL,
)
NOTICE = re.compile(
    r"copyright|\(c\) *(?:19|20)\d\d|©|spdx-license-identifier|all rights reserved|licen[cs]ed (?:under|to)", re.I
)
BLANK = re.compile(r"(?:[ \t\r]*\n)+")


def strip_licence_header(text: str) -> str:
    """The text without the comments at its top that hold a copyright or licence notice, and the blank lines after them.

    A comment is a block (`/* */`, `<!-- -->`) or a run of lines that begin with `//`, `#` or `--`. The first one
    that holds no notice ends the search; a text without a notice comes back as it is.
    """
    opening = OPENING.match(text)
    start = end = opening.end() if opening else 0
    while (comment := COMMENT.match(text, end)) and NOTICE.search(comment[0]):
        end = comment.end()
        blank = BLANK.match(text, end)
        end = blank.end() if blank else end
    return text[:start] + text[end:]
