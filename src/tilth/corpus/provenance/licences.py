"""Claims of licences, and which is in force: the strictest of a file and its ancestors, else what the whole repository says."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from tilth.corpus.provenance.licence_texts import Recognised, recognise_licence, recognise_notice
from tilth.corpus.records import LicenceClaim
from tilth.errors import SourceError

UNKNOWN = "LicenseRef-unknown"
HEADER_CHARS, HEADER_LINES = 4096, 60
TAG = re.compile(r"SPDX-License-Identifier:[ \t]*([^\r\n]{1,200})")
TAG_END = re.compile(r"\s*(?:\*/|-->|#\}|\*\)|%>|\"\"\"|'''|\\n|[\"'`]).*$")
MENTIONS_LICENCE = re.compile(r"licen[cs]e|redistribut|permission|\bA?L?GPL|public domain", re.IGNORECASE)
LICENCE_FILE = re.compile(
    r"(?:[a-z0-9.+]+[-_])?(?:licen[cs]es?|copying|unlicen[cs]e|copyright)(?:[-_.](?:[a-z0-9.+-]+))?", re.IGNORECASE
)
CODE_SUFFIXES = (
    ".py", ".pyi", ".pyx", ".c", ".h", ".cc", ".cpp", ".hpp", ".js", ".mjs", ".ts", ".tsx", ".jsx", ".go", ".rs", ".java", ".rb",
    ".php", ".sh", ".json", ".yml", ".yaml", ".toml", ".csv", ".xml", ".css", ".html", ".htm", ".svg", ".png", ".gif", ".jpg",
    ".jpeg", ".db", ".sql", ".in", ".lock", ".tmpl",
)  # fmt: skip

# How much a licence asks of who passes the work on. What nobody here knows asks the most.
STRICTNESS = (
    (0, "CC0-1.0 Unlicense 0BSD MIT-0 WTFPL PDDL-1.0 blessing LicenseRef-public-domain* LicenseRef-scancode-public-domain"),
    (1, "MIT MIT-* BSD-* Apache-* ISC Zlib zlib-* BSL-1.0 PSF-2.0 Python-2.0 Python-2.0.* CNRI-* HPND HPND-* NCSA X11 Unicode-*"),
    (1, "PostgreSQL AFL-* CC-BY-1.0 CC-BY-2.* CC-BY-3.* CC-BY-4.* BlueOak-* MulanPSL-* libtiff OpenSSL curl bzip2-* NTP OFL-1.1"),
    (1, "Artistic-2.0 ImageMagick FTL UPL-1.0"),
    (2, "LGPL-* MPL-* EPL-* CDDL-* EUPL-* CC-BY-SA-* CPL-* IPL-* Artistic-1.0 Artistic-1.0-* OSL-* MS-RL"),
    (3, "GPL-*"),
    (4, "AGPL-* SSPL-1.0"),
)
STRICTEST = 5


@cache
def _licensing() -> Any:
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


@cache
def normalise_expression(text: str) -> str | None:
    """An SPDX expression in SPDX's spelling; None if it is not one. `LicenseRef-` names are allowed."""
    from license_expression import ExpressionError, ExpressionParseError

    try:
        parsed = _licensing().parse(text.strip())
        if parsed is None:
            return None
        unknown = [str(key) for key in _licensing().unknown_license_keys(parsed)]
    except (ExpressionError, ExpressionParseError, ValueError, AttributeError):
        return None
    return str(parsed) if all(re.fullmatch(r"(?:DocumentRef-.*:)?LicenseRef-[A-Za-z0-9.-]+", key) for key in unknown) else None


def declared_licence(expression: str | None, where: str) -> str | None:
    """What a recipe declares for a whole source, in SPDX's spelling. Raises SourceError if it is no SPDX expression."""
    normal = normalise_expression(expression) if expression else None
    if expression and normal is None:
        raise SourceError(f"`{expression}` is not an SPDX expression", where, "for example CC-BY-SA-4.0, or LicenseRef-my-terms")
    return normal


@cache
def strictness(expression: str) -> int:
    """0 (no conditions) to 5 (unknown). `OR` is a choice and counts as its least strict side, `AND` as its strictest."""
    normal = normalise_expression(expression)
    return STRICTEST if normal is None else _strictness(_licensing().parse(normal))


def _strictness(node: Any) -> int:
    operator = getattr(node, "operator", "").strip()
    if operator in ("OR", "AND"):
        return (min if operator == "OR" else max)(_strictness(part) for part in node.args)
    key = str(getattr(node, "license_symbol", node).key)
    return next((level for level, names in STRICTNESS if any(fnmatchcase(key, name) for name in names.split())), STRICTEST)


def is_licence_path(path: str) -> bool:
    """Whether a file's name says that it holds a licence: LICENSE, LICENCE.md, COPYING.LESSER, MIT-LICENSE, ..."""
    name = path.rpartition("/")[2]
    return LICENCE_FILE.fullmatch(name) is not None and not name.lower().endswith(CODE_SUFFIXES)


@dataclass
class LicenceTree:
    """The licence files of one repository or package, and what it says of itself as a whole.

    `repository` decides where neither the file nor its folders speak; `noted` is further evidence that never decides.
    """

    origin: str
    by_folder: dict[str, list[LicenceClaim]] = field(default_factory=dict)
    repository: list[LicenceClaim] = field(default_factory=list)
    noted: list[LicenceClaim] = field(default_factory=list)

    def add(self, path: str, text: str, swhid: str | None) -> None:
        """Take in a licence file. One that is not recognised claims LicenseRef-unknown; an empty one claims nothing."""
        if not text.strip():
            return
        found = licence_file_claims(text)
        self.by_folder.setdefault(path.rpartition("/")[0], []).extend(
            LicenceClaim(self.origin, "", spdx, "ancestor", path, swhid, tool, score) for spdx, score, tool in found
        )

    def claims(self, path: str, text: str, swhid: str | None) -> list[LicenceClaim]:
        """All claims on one file, those in force marked `effective`."""
        own = [
            LicenceClaim(self.origin, path, spdx, "file", path, swhid, tool, score) for spdx, score, tool in header_claims(text)
        ]  # fmt: skip
        inherited = [claim for folder in ancestors(path) for claim in self.by_folder.get(folder, [])]
        found = [*own, *(replace(claim, path=path) for claim in [*inherited, *self.repository])]
        noted = [replace(claim, path=path) for claim in self.noted]
        return [*mark_effective(list(dict.fromkeys(found))), *dict.fromkeys(noted)]


def ancestors(path: str) -> list[str]:
    """The folders that a file is in, nearest first; the root is the empty string."""
    folders = []
    while path:
        path = path.rpartition("/")[0]
        folders.append(path)
    return folders or [""]


def mark_effective(claims: list[LicenceClaim]) -> list[LicenceClaim]:
    """Mark the strictest claims of files and ancestors; claims on the whole repository count only where there are none."""
    near = [claim for claim in claims if claim.scope != "repository"]
    deciding = near or claims
    limit = max((strictness(claim.spdx) for claim in deciding), default=0)
    in_force = {claim for claim in deciding if strictness(claim.spdx) == limit}
    return [replace(claim, effective=claim in in_force) for claim in claims]


def header_claims(text: str) -> list[tuple[str, float, str]]:
    """(SPDX expression, score, tool) for the SPDX tags at the top of a file; only without a tag, for its licence notice."""
    header = "\n".join(text[:HEADER_CHARS].split("\n")[:HEADER_LINES])
    tags = [TAG_END.sub("", match[1]).strip() for match in TAG.finditer(header)]
    if tags:
        return [(normalise_expression(tag) or UNKNOWN, 1.0, "spdx tag") for tag in dict.fromkeys(tags)]
    if not MENTIONS_LICENCE.search(header):
        return []
    return [(spdx, score, "notice") for spdx, score in recognise_notice(header)]


def licence_file_claims(text: str) -> list[tuple[str, float, str]]:
    """(SPDX expression, score, tool) for the text of a licence file; LicenseRef-unknown with score 0 if nothing is recognised."""
    found: list[Recognised] = recognise_licence(text) or recognise_notice(text)
    tags = [normalise_expression(TAG_END.sub("", match[1]).strip()) for match in TAG.finditer(text[:HEADER_CHARS])]
    tagged = [(tag, 1.0, "spdx tag") for tag in tags if tag]
    return [*tagged, *((spdx, score, "licence text") for spdx, score in found)] or [(UNKNOWN, 0.0, "licence text")]
