"""Which licence is in force: the strictest of a file and its ancestors, the repository's own only where neither speaks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from tilth.corpus.provenance.licence_claims import HEADER_CHARS, Found, header_claims, licence_file_claims, mentions_licence
from tilth.corpus.provenance.package_metadata import METADATA_TOOLS, is_metadata_path, metadata_claims
from tilth.corpus.provenance.readme import is_readme_path, readme_claims
from tilth.corpus.provenance.reuse import SPECIFICATION, Stated, is_licence_store, is_reuse_path, matching, reuse_statements
from tilth.corpus.provenance.spdx_expressions import UNKNOWN, covers, strictness
from tilth.corpus.records import LicenceClaim

LICENCE_FILE = re.compile(
    r"(?:[a-z0-9.+]+[-_])?(?:licen[cs]es?|copying|unlicen[cs]e|copyright)(?:[-_.](?:[a-z0-9.+-]+))?"
    r"|(?:gnu[-_ ]?)?[al]?gpl(?:[-_ ]?v?[0-9.]+)?(?:\.(?:txt|md|rst|html?))?",
    re.IGNORECASE,
)
PAGE = re.compile(r".*(?:licen[cs]e|copying|gpl)[^/]*\.html?", re.IGNORECASE)
CODE_SUFFIXES = (
    ".py", ".pyi", ".pyx", ".c", ".h", ".cc", ".cpp", ".hpp", ".js", ".mjs", ".ts", ".tsx", ".jsx", ".go", ".rs", ".java", ".rb",
    ".php", ".sh", ".json", ".yml", ".yaml", ".toml", ".csv", ".xml", ".css", ".svg", ".png", ".gif", ".jpg",
    ".jpeg", ".db", ".sql", ".in", ".lock", ".tmpl",
)  # fmt: skip

Scan = Callable[[str, str | None], list[Found]]  # (text, SWHID of the bytes it is of): what a slower, better tool says


def is_licence_path(path: str) -> bool:
    """Whether a file's name says that it holds a licence: LICENSE, LICENCE.md, COPYING.LESSER, MIT-LICENSE, gpl-3.0.txt, ..."""
    name = path.rpartition("/")[2]
    is_named = LICENCE_FILE.fullmatch(name) is not None and not name.lower().endswith(CODE_SUFFIXES)
    return is_named and not is_licence_store(path) and not is_reuse_path(path)


def speaks_of_licences(path: str) -> bool:
    """Whether a file is one that LicenceTree.take wants: a licence, package metadata, REUSE's files, the README."""
    return is_licence_path(path) or is_metadata_path(path) or is_reuse_path(path) or is_readme_path(path)


@dataclass
class LicenceTree:
    """The licence files and package metadata of one repository or package, and what it says of itself as a whole.

    `repository` decides where neither the file nor its folders speak; `noted` is further evidence that never decides.
    `scan` is asked of licence files and headers in which nothing was recognised.
    """

    origin: str
    by_folder: dict[str, list[LicenceClaim]] = field(default_factory=dict)
    repository: list[LicenceClaim] = field(default_factory=list)
    noted: list[LicenceClaim] = field(default_factory=list)
    scan: Scan | None = None
    reuse: dict[str, tuple[list[Stated], str | None]] = field(default_factory=dict)  # by the path of the file that states it
    _inherited: dict[str, list[LicenceClaim]] = field(default_factory=dict)  # by folder: claims on a file that says nothing

    def take(self, path: str, text: str, swhid: str | None) -> None:
        """Take in a file that says something of others, by what it is."""
        self._inherited.clear()
        if is_licence_path(path):
            self.add(path, text, swhid)
        elif is_metadata_path(path):
            self.add_metadata(path, text, swhid)
        elif is_reuse_path(path):
            self.reuse[path] = reuse_statements(path, text), swhid
        else:
            self.repository += [_claim(self.origin, "", path, one, "repository", swhid) for one in readme_claims(text)]

    def add(self, path: str, text: str, swhid: str | None) -> None:
        """Take in a licence file. One that is not recognised claims LicenseRef-unknown; an empty one claims nothing."""
        if not text.strip():
            return
        found = licence_file_claims(text)
        if self.scan is not None and found[0].spdx == UNKNOWN:
            found = self.scan(text, swhid) or found
        if PAGE.fullmatch(path) and found[0].spdx == UNKNOWN:
            return  # a page with such a name, rather than a licence that nobody knows
        self._add(path, found, swhid)

    def add_metadata(self, path: str, text: str, swhid: str | None) -> None:
        """Take in a package's description of itself; what states no licence claims nothing."""
        self._add(path, metadata_claims(path, text), swhid)

    def _add(self, path: str, found: Sequence[Found], swhid: str | None) -> None:
        claims = [_claim(self.origin, "", path, one, "ancestor", swhid) for one in found]
        self._inherited.clear()
        if claims:
            self.by_folder.setdefault(path.rpartition("/")[0], []).extend(claims)

    def claims(self, path: str, text: str, swhid: str | None) -> list[LicenceClaim]:
        """All claims on one file, those in force marked `effective`."""
        folder = path.rpartition("/")[0]
        heard = self._inherited.get(folder)
        if heard is None:
            heard = self._inherited[folder] = self._marked(path, [])
        own = [_claim(self.origin, path, path, one, "file", swhid) for one in self._own(text, swhid)]
        if own:
            # what a licence file or a package's metadata says was heard already, as a whole
            said = [claim.spdx for claim in heard if claim.scope == "ancestor" and claim.evidence_path == path]
            own = [one for one in own if not any(covers(spdx, one.spdx) for spdx in said)]
        own += self._stated(path, has_own=bool(own))
        return self._marked(path, own) if own else [claim._replace(path=path) for claim in heard]

    def _marked(self, path: str, own: Sequence[LicenceClaim]) -> list[LicenceClaim]:
        inherited = [claim for folder in ancestors(path) for claim in self.by_folder.get(folder, [])]
        found = [*own, *(claim._replace(path=path) for claim in [*inherited, *self.repository])]
        noted = [claim._replace(path=path) for claim in self.noted]
        return [*mark_effective(list(dict.fromkeys(found))), *dict.fromkeys(noted)]

    def _stated(self, path: str, *, has_own: bool) -> list[LicenceClaim]:
        """What REUSE's files say of one: its own `.license`, then the nearest `REUSE.toml`, then `.reuse/dep5`."""
        near = [f"{folder}/REUSE.toml" if folder else "REUSE.toml" for folder in ancestors(path)]
        claims: list[LicenceClaim] = []
        for evidence in [f"{path}.license", *near, ".reuse/dep5"] if self.reuse else ():
            statements, swhid = self.reuse.get(evidence, ([], None))
            stated = matching(statements, path)
            if stated is not None and not (stated.is_closest and (has_own or claims)):
                for spdx in stated.spdx:
                    score = 0.0 if spdx == UNKNOWN else 1.0
                    found = Found(spdx, score, "reuse", SPECIFICATION, stated.line, stated.line)
                    claims.append(_claim(self.origin, path, evidence, found, "file", swhid))
        return claims

    def _own(self, text: str, swhid: str | None) -> Sequence[Found]:
        found = _header_claims(text)
        if not found and self.scan is not None and mentions_licence(text[:HEADER_CHARS]):
            return self.scan(text[:HEADER_CHARS], swhid)
        return found


@lru_cache(maxsize=1)
def _header_claims(text: str) -> tuple[Found, ...]:
    """`header_claims`, kept for the next path or package at which the same blob lies."""
    return tuple(header_claims(text))


def _claim(origin: str, path: str, evidence: str, found: Found, scope: str, swhid: str | None) -> LicenceClaim:
    return LicenceClaim(
        origin, path, found.spdx, scope, evidence, swhid, found.tool, found.score,
        tool_version=found.tool_version, first_line=found.first_line, last_line=found.last_line,
    )  # fmt: skip


def ancestors(path: str) -> list[str]:
    """The folders that a file is in, nearest first; the root is the empty string."""
    folders = []
    while path:
        path = path.rpartition("/")[0]
        folders.append(path)
    return folders or [""]


def mark_effective(claims: list[LicenceClaim]) -> list[LicenceClaim]:
    """Mark the strictest claims of files and ancestors; claims on the whole repository count only where there are none.

    Where a package's metadata offers a choice (`MIT OR GPL-2.0-only`), the licence texts beside it that it names are not in force
    of themselves: they are what may be chosen.
    """
    choices = [claim for claim in claims if claim.tool in METADATA_TOOLS and " OR " in claim.spdx]
    near = [claim for claim in claims if claim.scope != "repository"]
    deciding = [claim for claim in near if not any(_is_offered(claim, choice) for choice in choices)] or near or claims
    limit = max((strictness(claim.spdx) for claim in deciding), default=0)
    in_force = {claim for claim in deciding if strictness(claim.spdx) == limit}
    return [claim._replace(effective=claim in in_force) for claim in claims]


def _is_offered(claim: LicenceClaim, choice: LicenceClaim) -> bool:
    beside = claim.evidence_path.rpartition("/")[0] == choice.evidence_path.rpartition("/")[0]
    return beside and claim.scope == "ancestor" and claim.tool not in METADATA_TOOLS and covers(choice.spdx, claim.spdx)
