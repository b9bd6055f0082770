"""REUSE (reuse.software, specification 3.3): files that state the licences of other files.

`REUSE.toml` and `.reuse/dep5` map patterns of paths to SPDX expressions, `picture.png.license` speaks for `picture.png`. In
`LICENSES/` lie the texts that these expressions name: they say nothing of the folder.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tilth.corpus.provenance.licence_names import debian_expression
from tilth.corpus.provenance.spdx_expressions import UNKNOWN, normalise_expression

SPECIFICATION = "REUSE 3.3"
TOML, DEP5, SIDECAR = "REUSE.toml", ".reuse/dep5", ".license"
IDENTIFIER = "SPDX-License-Identifier"
SIDECAR_TAG = re.compile(rf"{IDENTIFIER}:[ \t]*([^\r\n]+)")
PRECEDENCES = ("closest", "aggregate", "override")


class Stated(NamedTuple):
    """Expressions for the paths that `covers`; `closest` where they count only for files that say nothing themselves."""

    covers: Callable[[str], bool]
    spdx: tuple[str, ...]
    is_closest: bool
    line: int


def is_reuse_path(path: str) -> bool:
    """Whether a path is one of the files that state the licences of others."""
    name = path.rpartition("/")[2]
    return name == TOML or path == DEP5 or (name.endswith(SIDECAR) and name != SIDECAR)


def is_licence_store(path: str) -> bool:
    """Whether a path lies in a folder of texts, `LICENSES/`."""
    return path.rpartition("/")[0].rpartition("/")[2] == "LICENSES"


def reuse_statements(path: str, text: str) -> list[Stated]:
    """What such a file states, in its order; nothing if it is broken. An expression that nobody understands is unknown."""
    name = path.rpartition("/")[2]
    if name.endswith(SIDECAR):
        return list(_sidecar(path, text))
    return list(_toml(path, text) if name == TOML else _dep5(text))


def matching(statements: list[Stated], path: str) -> Stated | None:
    """The statement on a path: of several in one file the last."""
    return next((stated for stated in reversed(statements) if stated.covers(path)), None)


def _sidecar(path: str, text: str) -> Iterator[Stated]:
    tags = list(SIDECAR_TAG.finditer(text))
    if tags:
        spdx = tuple(_expression(tag[1]) for tag in tags)
        yield Stated(path.removesuffix(SIDECAR).__eq__, spdx, False, text.count("\n", 0, tags[0].start()) + 1)


def _toml(path: str, text: str) -> Iterator[Stated]:
    try:
        annotations = tomllib.loads(text).get("annotations", [])
    except tomllib.TOMLDecodeError:
        return
    folder = path.rpartition("/")[0]
    base = f"{folder}/" if folder else ""
    lines = [text.count("\n", 0, match.start()) + 1 for match in re.finditer(r"^[ \t]*\[\[annotations\]\]", text, re.MULTILINE)]
    for i, one in enumerate(annotations if isinstance(annotations, list) else []):
        paths, stated = (_strings(one.get(key)) if isinstance(one, dict) else [] for key in ("path", IDENTIFIER))
        if paths and stated:
            patterns = [[base, *_pieces(pattern, "**")] for pattern in paths]
            is_closest = one.get("precedence", PRECEDENCES[0]) == PRECEDENCES[0]
            yield Stated(_matches(patterns), tuple(map(_expression, stated)), is_closest, lines[i] if i < len(lines) else 1)


def _dep5(text: str) -> Iterator[Stated]:
    at = 0
    for paragraph in re.split(r"(?:\n[ \t]*){2,}", text):
        at = text.index(paragraph, at)
        fields = {match[1].lower(): match[2] for match in re.finditer(r"^([A-Za-z-]+):((?:.|\n[ \t])*)", paragraph, re.MULTILINE)}
        patterns, licence = fields.get("files", "").split(), fields.get("license", "").strip().split("\n")[0]
        if patterns and licence:
            yield Stated(
                _matches([_pieces(pattern, "*") for pattern in patterns]),
                (_expression(licence),),
                False,
                text.count("\n", 0, at) + 1,
            )


def _expression(text: str) -> str:
    return normalise_expression(text) or debian_expression(text) or UNKNOWN


def _strings(given: Any) -> list[str]:
    return [one for one in (given if isinstance(given, list) else [given]) if isinstance(one, str)]


def _matches(patterns: list[list[str]]) -> Callable[[str], bool]:
    return lambda path: any(_fits(pieces, path) for pieces in patterns)


def _pieces(pattern: str, anything: str) -> list[str]:
    """A pattern as literal strings, `\\**` (anything), `\\*` (anything but `/`) and `\\?` (any character).

    `anything` is how the pattern writes the first: `**` in REUSE.toml, `*` in Debian's format, which has `?` as well. A backslash
    makes a star a star.
    """
    marks = {anything: "\\**", "*": "\\*"} if anything == "**" else {"*": "\\**", "?": "\\?"}
    parts = re.split(r"(\\.|\*\*|\*)" if anything == "**" else r"(\\.|\*|\?)", pattern)
    return [marks.get(part) or (part[1:] if len(part) == 2 and part[0] == "\\" else part) for part in parts if part]


def _fits(pieces: list[str], path: str) -> bool:
    """Whether the pieces make up the path; in time of their number times its length, whatever they are."""
    ends = {0}  # of what the pieces so far may make up
    for piece in pieces:
        if piece == "\\**":
            ends = set(range(min(ends), len(path) + 1))
        elif piece == "\\*":
            reached: set[int] = set()
            for end in sorted(ends):
                if end not in reached:
                    stop = path.find("/", end)
                    reached.update(range(end, (len(path) if stop < 0 else stop) + 1))
            ends = reached
        elif piece == "\\?":
            ends = {end + 1 for end in ends if end < len(path)}
        else:
            ends = {end + len(piece) for end in ends if path.startswith(piece, end)}
        if not ends:
            return False
    return len(path) in ends
