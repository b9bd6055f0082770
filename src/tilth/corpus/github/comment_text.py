"""What people wrote in a comment, without what their mail program put around it, and no longer than it may be.

The rules are those of StarCoder's data (bigcode-dataset, preprocessing/utils/utils_issues.py), in linear time, and without what
they cut by accident: all before the last quoted line, and all between a sign-off and the last `>` of the comment.
"""

from __future__ import annotations

import re

# What mail programs write around a reply: these words in this order, anything between them. A reply ends where the first begins.
REPLY_CHAINS = (
    ("From:", "Reply to this email directly", "view it on GitHub"),
    ("On", "notifications@github.com", "wrote:", "Reply to this email directly", "view it on GitHub"),
)
MAIL_ADDRESS, MAIL_END = "notifications@github.com", "Reply to this email directly"
MAIL_DATE = re.compile(r"(?<![0-9])[0-9]{1,4}/[0-9]{1,4}/[0-9]{1,4} [0-9]{2}:[0-9]{2} [AP]M")
PAGE_BREAK = re.compile("_{20,}")
SIGN_OFF = re.compile(r"Signed-off-by: [^<>]+<[^<>]+>")
FENCE = re.compile(r" {0,3}(?:```|~~~)")
QUOTED = re.compile(r"\s*>(?!>> )")  # `>>> ` is Python's prompt
LAST_LINES = 20
LEAST_LINES = LAST_LINES + 1  # what may be asked of `truncated`


def without_mail(text: str) -> str:
    """A comment without the automatic text and the quotations of a reply by mail, sign-offs and page breaks."""
    text = text.strip().replace("\r\n", "\n")
    ends = [end for chain in REPLY_CHAINS if (end := _last_chain(text, chain)) >= 0]
    text = text[: ends[0]] if ends else "\n".join(_own_lines(text.split("\n")))
    text = "\n".join(line for line in text.split("\n") if not SIGN_OFF.fullmatch(line.strip()))
    return PAGE_BREAK.sub("", text).strip()


def without_html_comments(text: str) -> str:
    """Text without `<!-- ... -->`, as pull request templates have it; one that is not closed stays."""
    parts, at = [], 0
    while (start := text.find("<!--", at)) >= 0 and (end := text.find("-->", start + 4)) >= 0:
        parts.append(text[at:start])
        at = end + 3
    return "".join([*parts, text[at:]])


def truncated(text: str, max_lines: int, mark: str) -> str:
    """At most `max_lines` lines: the first ones and the last 20, with `mark` on a line of its own between them."""
    lines = text.split("\n")
    if len(lines) <= max_lines:
        return text
    return "\n".join([*lines[: max_lines - LAST_LINES], mark, *lines[-LAST_LINES:]])


def _last_chain(text: str, chain: tuple[str, ...]) -> int:
    """Where the words of a chain begin, each as late as it can be with something between them; -1 where they are not there."""
    end = len(text) + 1
    for words in reversed(chain):
        end = text.rfind(words, 0, max(0, end - 1))
        if end < 0:
            return -1
    return end


def _own_lines(lines: list[str]) -> list[str]:
    """Lines that are neither quoted nor of a mail's head; code keeps its lines that begin with `>`."""
    begin = max((i for i, line in enumerate(lines) if _is_mail_head(line)), default=-1)
    end = max((i for i, line in enumerate(lines) if MAIL_END in line), default=-1)
    own, in_code = [], False
    for i, line in enumerate(lines):
        if FENCE.match(line):
            in_code = not in_code
        is_mail = i in (begin, end) or 0 <= begin <= i <= end
        if not is_mail and (in_code or not QUOTED.match(line)):
            own.append(line)
    return own


def _is_mail_head(line: str) -> bool:
    match = MAIL_DATE.search(line)
    return MAIL_ADDRESS in line or (match is not None and "wrote" in line[match.end() :])
