"""Installed Python distributions as data: what their metadata says, which files they brought, under which licence."""

from __future__ import annotations

import csv
import email.parser
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from functools import cached_property
from importlib.metadata import Distribution, FileHash, PackagePath, distributions
from typing import NamedTuple

from tilth.corpus.provenance.licence_claims import Found, licence_file_claims
from tilth.corpus.provenance.licences import LicenceTree, is_licence_path
from tilth.corpus.provenance.package_metadata import CLASSIFIER, CLASSIFIERS
from tilth.corpus.provenance.spdx_expressions import normalise_expression
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.records import LicenceClaim

OWN_NAME = "tilth"
MAX_LICENCE_BYTES = 1 << 20
LANGUAGES = {"text/markdown": "Markdown", "text/x-rst": "reStructuredText", "text/plain": "Text"}
HOME_LABELS = ("homepage", "home", "repository", "source", "sourcecode", "github")


@dataclass(frozen=True)
class Package:
    """One installed distribution. `metadata` is the raw METADATA file, `record_digest` the sha256 of RECORD."""

    name: str
    version: str
    metadata: bytes
    record_digest: str
    distribution: Distribution

    @cached_property
    def files(self) -> tuple[PackagePath, ...]:
        """The entries of RECORD that carry a hash; parsed when asked for, since to see whether anything changed needs none."""
        return tuple(file for file in _recorded_files(self.distribution) if file.hash is not None and file.hash.mode == "sha256")

    @property
    def label(self) -> str:
        """`name==version`."""
        return f"{self.name}=={self.version}"

    def headers(self) -> Message:
        """The fields of METADATA (core metadata specification); its body is the long description."""
        return parsed_metadata(self.metadata)


def installed_packages(search_path: Sequence[str] = ()) -> Iterator[Package]:
    """The distributions of this environment (or of the given folders) by normalised name; the first of a name counts.

    Left out: tilth itself, editable installations, and distributions without RECORD or METADATA (of other installers).
    """
    found: dict[str, tuple[str, Distribution]] = {}
    for distribution in distributions(path=list(search_path)) if search_path else distributions():
        headers = distribution.metadata  # parsed at every call
        if "Name" in headers:
            found.setdefault(re.sub(r"[-_.]+", "-", headers["Name"]).lower(), (headers["Version"], distribution))
    for name, (version, distribution) in sorted(found.items()):
        record, metadata = distribution.read_text("RECORD"), distribution.read_text("METADATA")
        if name == OWN_NAME or record is None or metadata is None or _is_editable(distribution):
            continue
        digest = hashlib.sha256(record.encode("utf-8", "surrogatepass")).hexdigest()
        yield Package(name, version, metadata.encode("utf-8", "surrogatepass"), digest, distribution)


def _is_editable(distribution: Distribution) -> bool:
    try:
        url = json.loads(distribution.read_text("direct_url.json") or "{}")
    except ValueError:
        return False
    return bool(isinstance(url, dict) and url.get("dir_info", {}).get("editable"))


def packages_fingerprint(packages: Sequence[Package]) -> str:
    """sha256 over names, versions, and digests of RECORD and METADATA."""
    digest = hashlib.sha256()
    for package in packages:
        digest.update(f"{package.label}\0{package.record_digest}\0{content_swhid(package.metadata)}\n".encode())
    return digest.hexdigest()


def licence_tree(package: Package) -> LicenceTree:
    """What an installed package says of its own licence."""
    files = [file for file in package.files if is_licence_path(file.as_posix()) or _is_noted(file.as_posix())]
    contents = ((file.as_posix(), read_file(file, MAX_LICENCE_BYTES)) for file in files)
    return stated_licences(package.label, "METADATA", package.metadata, contents)


def stated_licences(origin: str, path: str, metadata: bytes, files: Iterable[tuple[str, bytes]]) -> LicenceTree:
    """What a distribution says of its licence, from its metadata (at `path`) and its licence files (path, content).

    Its expression decides, else the licence files beside the metadata, else the older fields; everything said is kept as
    evidence. Licence files in the package's folders (vendored code) hold for what is below them.
    """
    tree = LicenceTree(origin)
    contents = list(files)
    stated = _Stated(origin, path, content_swhid(metadata), parsed_metadata(metadata))
    decided = False
    for level in (stated.expression(), stated.files(contents), stated.fields()):
        deciding = not decided and any(claim.score > 0 for claim in level)
        decided = decided or deciding
        (tree.repository if deciding else tree.noted).extend(level)
    if not decided:
        tree.repository, tree.noted = tree.noted, []
    for name, data in contents:
        if is_licence_path(name) and not in_metadata(name):
            tree.add(name, data.decode("utf-8", "replace"), content_swhid(data))
    return tree


def in_metadata(path: str) -> bool:
    """Whether a file belongs to the installation's own notes."""
    return path.partition("/")[0].endswith(".dist-info")


def _is_noted(path: str) -> bool:
    """Whether a file of the notes is among the licences."""
    return in_metadata(path) and "licenses" in path.split("/")


def parsed_metadata(data: bytes) -> Message:
    """The fields of METADATA or PKG-INFO (core metadata specification); the body is the long description."""
    return email.parser.Parser().parsestr(data.decode("utf-8", "replace"))


def description(headers: Message) -> str:
    """The long description: the body, or the field of older metadata with its indentation taken off; empty if there is none."""
    body = str(headers.get_payload()).strip()
    if not body:
        body = "\n".join(
            line.removeprefix("        ").removeprefix("|") for line in str(headers.get("Description", "")).splitlines()
        )
    return "" if body.strip() == "UNKNOWN" else body.strip()


def description_language(headers: Message) -> str | None:
    """linguist's name for the markup of the long description."""
    return LANGUAGES.get(str(headers.get("Description-Content-Type", "")).partition(";")[0].strip().lower())


def home_page(headers: Message) -> str | None:
    """The project's home page: `Home-page`, else the Project-URL whose label says so."""
    given = str(headers.get("Home-page", "")).strip()
    if given and given != "UNKNOWN":
        return given
    pairs = (str(value).partition(",") for value in headers.get_all("Project-URL", []))
    urls = {label.strip().lower().replace(" ", "").replace("-", ""): url.strip() for label, _, url in pairs}
    return next((urls[label] for label in HOME_LABELS if urls.get(label)), None)


def read_file(file: PackagePath, max_bytes: int) -> bytes:
    """At most `max_bytes` of an installed file; nothing where it cannot be read."""
    try:
        with open(file.locate(), "rb") as opened:
            return opened.read(max_bytes)
    except OSError:
        return b""


class _Stated(NamedTuple):
    """The claims of one distribution on itself as a whole."""

    origin: str
    path: str
    swhid: str
    headers: Message

    def expression(self) -> list[LicenceClaim]:
        given = self.headers.get("License-Expression", "")
        spdx = normalise_expression(given) if given else None
        return [self._claim(spdx, "License-Expression")] if spdx else []

    def files(self, contents: Iterable[tuple[str, bytes]]) -> list[LicenceClaim]:
        claims = []
        for path, data in contents:
            is_named = is_licence_path(path)
            if in_metadata(path) and (is_named or _is_noted(path)):
                found = licence_file_claims(data.decode("utf-8", "replace")) if data.strip() else []
                # AUTHORS and NOTICE lie there too; only a file that is named like a licence may be an unknown one
                claims += [self._file_claim(one, path, data) for one in found if one.score > 0 or is_named]
        return claims

    def fields(self) -> list[LicenceClaim]:
        lines = [str(value) for value in self.headers.get_all("Classifier", [])]
        names = [line.removeprefix(CLASSIFIER) for line in lines if line.startswith(CLASSIFIER)]
        claims = [self._claim(CLASSIFIERS[name], "Classifier") for name in names if name in CLASSIFIERS]
        spdx = normalise_expression(str(self.headers.get("License", "")))
        return [*claims, self._claim(spdx, "License")] if spdx else claims

    def _claim(self, spdx: str, tool: str) -> LicenceClaim:
        version = self.headers.get("Metadata-Version", "")
        return LicenceClaim(self.origin, "", spdx, "repository", self.path, self.swhid, tool, 1.0, tool_version=version)

    def _file_claim(self, found: Found, path: str, data: bytes) -> LicenceClaim:
        return LicenceClaim(
            self.origin, "", found.spdx, "repository", path, content_swhid(data), found.tool, found.score,
            tool_version=found.tool_version, first_line=found.first_line, last_line=found.last_line,
        )  # fmt: skip


def _recorded_files(distribution: Distribution) -> Iterator[PackagePath]:
    """What RECORD lists. `Distribution.files` leaves out what has vanished, in some versions of Python only."""
    for row in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
        if len(row) == 3:
            file = PackagePath(row[0])
            file.hash = FileHash(row[1]) if row[1] else None
            file.size = int(row[2]) if row[2].isdigit() else None
            file.dist = distribution
            yield file
