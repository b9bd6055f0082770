"""Installed Python distributions as data: what their metadata says, which files they brought, under which licence."""

from __future__ import annotations

import csv
import email.parser
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from functools import cached_property
from importlib.metadata import Distribution, FileHash, PackagePath, distributions

from tilth.corpus.provenance.licence_claims import Found, licence_file_claims
from tilth.corpus.provenance.licences import LicenceTree, is_licence_path
from tilth.corpus.provenance.package_metadata import CLASSIFIER, CLASSIFIERS
from tilth.corpus.provenance.spdx_expressions import normalise_expression
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.records import LicenceClaim

OWN_NAME = "tilth"
MAX_LICENCE_BYTES = 1 << 20


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
        text = self.metadata.decode("utf-8", "replace")
        return email.parser.Parser().parsestr(text)


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
    """What the package says of its own licence: its expression decides, else its licence files, else the older fields.

    Everything said is kept as evidence. Licence files in the package's folders (vendored code) hold for what is below them.
    """
    tree = LicenceTree(package.label)
    decided = False
    for level in (_expression(package), _licence_files(package), _fields(package)):
        deciding = not decided and any(claim.score > 0 for claim in level)
        decided = decided or deciding
        (tree.repository if deciding else tree.noted).extend(level)
    if not decided:
        tree.repository, tree.noted = tree.noted, []
    for file in package.files:
        if is_licence_path(file.as_posix()) and not in_metadata(file):
            data = read_file(file, MAX_LICENCE_BYTES)
            tree.add(file.as_posix(), data.decode("utf-8", "replace"), content_swhid(data))
    return tree


def in_metadata(file: PackagePath) -> bool:
    """Whether a file belongs to the installation's own notes."""
    return file.parts[0].endswith(".dist-info")


def read_file(file: PackagePath, max_bytes: int) -> bytes:
    """At most `max_bytes` of an installed file; nothing where it cannot be read."""
    try:
        with open(file.locate(), "rb") as opened:
            return opened.read(max_bytes)
    except OSError:
        return b""


def _claim(package: Package, spdx: str, tool: str) -> LicenceClaim:
    version = package.headers().get("Metadata-Version", "")
    return LicenceClaim(
        package.label, "", spdx, "repository", "METADATA", content_swhid(package.metadata), tool, 1.0, tool_version=version
    )


def _file_claim(package: Package, found: Found, path: str, data: bytes) -> LicenceClaim:
    return LicenceClaim(
        package.label, "", found.spdx, "repository", path, content_swhid(data), found.tool, found.score,
        tool_version=found.tool_version, first_line=found.first_line, last_line=found.last_line,
    )  # fmt: skip


def _expression(package: Package) -> list[LicenceClaim]:
    given = package.headers().get("License-Expression", "")
    spdx = normalise_expression(given) if given else None
    return [_claim(package, spdx, "License-Expression")] if spdx else []


def _licence_files(package: Package) -> list[LicenceClaim]:
    claims = []
    for file in package.files:
        if in_metadata(file) and (is_licence_path(file.name) or "licenses" in file.parts):
            data = read_file(file, MAX_LICENCE_BYTES)
            found = licence_file_claims(data.decode("utf-8", "replace")) if data.strip() else []
            # AUTHORS and NOTICE lie there too; only a file that is named like a licence may be an unknown one
            known = [claim for claim in found if claim.score > 0 or is_licence_path(file.name)]
            claims += [_file_claim(package, one, file.as_posix(), data) for one in known]
    return claims


def _fields(package: Package) -> list[LicenceClaim]:
    headers = package.headers()
    names = [value.removeprefix(CLASSIFIER) for value in headers.get_all("Classifier", []) if value.startswith(CLASSIFIER)]
    claims = [_claim(package, CLASSIFIERS[name], "Classifier") for name in names if name in CLASSIFIERS]
    spdx = normalise_expression(str(headers.get("License", "")))
    return [*claims, _claim(package, spdx, "License")] if spdx else claims


def _recorded_files(distribution: Distribution) -> Iterator[PackagePath]:
    """What RECORD lists. `Distribution.files` leaves out what has vanished, in some versions of Python only."""
    for row in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
        if len(row) == 3:
            file = PackagePath(row[0])
            file.hash = FileHash(row[1]) if row[1] else None
            file.size = int(row[2]) if row[2].isdigit() else None
            file.dist = distribution
            yield file
