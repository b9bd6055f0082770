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
            regex = re.compile("|".join(re.escape(base) + _glob(pattern) for pattern in paths), re.DOTALL)
            is_closest = one.get("precedence", PRECEDENCES[0]) == PRECEDENCES[0]
            yield Stated(_matches(regex), tuple(map(_expression, stated)), is_closest, lines[i] if i < len(lines) else 1)


def _dep5(text: str) -> Iterator[Stated]:
    at = 0
    for paragraph in re.split(r"(?:\n[ \t]*){2,}", text):
        at = text.index(paragraph, at)
        fields = {match[1].lower(): match[2] for match in re.finditer(r"^([A-Za-z-]+):((?:.|\n[ \t])*)", paragraph, re.MULTILINE)}
        patterns, licence = fields.get("files", "").split(), fields.get("license", "").strip().split("\n")[0]
        if patterns and licence:
            regex = re.compile("|".join(_debian_glob(pattern) for pattern in patterns), re.DOTALL)
            yield Stated(_matches(regex), (_expression(licence),), False, text.count("\n", 0, at) + 1)


def _expression(text: str) -> str:
    return normalise_expression(text) or debian_expression(text) or UNKNOWN


def _strings(given: Any) -> list[str]:
    return [one for one in (given if isinstance(given, list) else [given]) if isinstance(one, str)]


def _matches(regex: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda path: regex.fullmatch(path) is not None


def _glob(pattern: str) -> str:
    """`**` is anything, `*` anything but `/`, and a backslash makes a star a star."""
    meaning = {"**": ".*", "*": "[^/]*"}
    parts = re.split(r"(\\.|\*\*|\*)", pattern)
    return "".join(
        meaning.get(part) or re.escape(part[1:] if part.startswith("\\") and len(part) == 2 else part) for part in parts
    )


def _debian_glob(pattern: str) -> str:
    """`*` is anything, `/` too, and `?` any character."""
    parts = re.split(r"(\\.|\*|\?)", pattern)
    meaning = {"*": ".*", "?": "."}
    return "".join(
        meaning.get(part) or re.escape(part[1:] if part.startswith("\\") and len(part) == 2 else part) for part in parts
    )
