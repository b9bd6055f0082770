"""Which package an archive holds, by its metadata: wheels, source distributions, npm, crates, gems, Go modules, Composer."""

from __future__ import annotations

import json
import re
import tomllib
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tilth.corpus.formats.members import GEM_METADATA
from tilth.corpus.optout.requests import repository_names
from tilth.corpus.optout.subjects import FORGES
from tilth.corpus.provenance.distributions import home_page, parsed_metadata
from tilth.corpus.provenance.package_metadata import gem_field
from tilth.corpus.records import printable

MAX_METADATA_BYTES = 4 << 20
GO_ROOT = re.compile(r"(?P<module>[^@]+)@(?P<version>v[^/@]+)/")
WHEEL_METADATA = re.compile(r"[^/]+\.dist-info/METADATA")
SHORT_URL = re.compile(r"(?:(?P<host>github|gitlab|bitbucket):)?(?P<path>[\w.-]+/[\w.-]+)")
SCP_URL = re.compile(r"(?:ssh://)?git@(?P<host>[\w.-]+)[:/](?P<path>[^?#]+)")
REPOSITORY_LABELS = ("source", "sourcecode", "repository", "code", "github", "gitlab")
OF_FORGE = re.compile(r"https?://(?:www\.)?(?:github\.com|bitbucket\.org|codeberg\.org)/[^/]+/[^/?#]+")
FAULTS = (ValueError, TypeError, AttributeError, KeyError, RecursionError, zlib.error)

Facts = tuple[str, str, list[str]]  # name, version, URLs of its project


@dataclass(frozen=True)
class ArchivedPackage:
    """A package as its registry names it. `ecosystem` is the type of a package URL: pypi, npm, cargo, gem, golang, composer.

    `root` is the folder of the archive that holds it (empty, or ending in `/`), `metadata` the member that describes it.
    """

    ecosystem: str
    name: str
    version: str
    root: str
    metadata: str
    repository: str | None

    @property
    def purl(self) -> str:
        """The package URL: `pkg:npm/express@5.3.0`; without a version where the package states none."""
        name = re.sub(r"[-_.]+", "-", self.name).lower() if self.ecosystem == "pypi" else self.name
        version = f"@{quote(self.version, safe='')}" if self.version else ""
        return f"pkg:{self.ecosystem}/{quote(name, safe='/')}{version}"


def is_description(name: str) -> bool:
    """Whether a member may be what describes the package of its archive."""
    own_name = name.rpartition("/")[2]
    if own_name == "go.mod":
        return GO_ROOT.match(name) is not None
    at_root = name.count("/") <= 1 and own_name in (*_READERS, "Cargo.toml.orig")
    return at_root or name == GEM_METADATA or WHEEL_METADATA.fullmatch(name) is not None


def identify(archive: str, members: Mapping[str, bytes]) -> ArchivedPackage | None:
    """The package of an archive file of this name, from the members that may describe it; None if nothing does."""
    for name, ecosystem, read in _candidates(archive, members):
        root = name[: name.rfind("/") + 1]
        if ecosystem == "golang":
            match = GO_ROOT.match(name)
            root = match[0] if match else ""
        elif name == GEM_METADATA or WHEEL_METADATA.fullmatch(name):
            root = ""
        try:
            title, version, urls = read(name, members[name])
        except FAULTS:
            continue  # broken, or another file of that name
        if title:
            repository = _repository([printable(url) for url in urls])
            return ArchivedPackage(ecosystem, printable(title), printable(version), root, name, repository)
    return None


def _candidates(archive: str, members: Mapping[str, bytes]) -> Iterable[tuple[str, str, Callable[[str, bytes], Facts]]]:
    """(member, ecosystem, reader), the surest first: a source distribution may hold a package.json, a crate never PKG-INFO."""
    by_depth = sorted(members, key=lambda name: (name.count("/"), name))
    yield from ((name, "gem", _gem) for name in by_depth if name == GEM_METADATA)
    yield from ((name, "pypi", _python) for name in by_depth if WHEEL_METADATA.fullmatch(name))
    yield from ((name, "golang", _go) for name in by_depth if GO_ROOT.match(name))
    order = ["PKG-INFO", "package.json", "composer.json", "Cargo.toml"]
    is_crate = archive.lower().endswith(".crate") or any(name.endswith("/Cargo.toml.orig") for name in members)
    first = "Cargo.toml" if is_crate else "composer.json" if archive.lower().endswith(".zip") else "PKG-INFO"
    for kind in sorted(order, key=lambda kind: (kind != "PKG-INFO", kind != first, order.index(kind))):
        yield from ((name, *_READERS[kind]) for name in by_depth if name.count("/") <= 1 and name.rpartition("/")[2] == kind)


def _python(name: str, data: bytes) -> Facts:
    headers = parsed_metadata(data)
    pairs = (str(value).partition(",") for value in headers.get_all("Project-URL", []))
    labelled = [(re.sub(r"[\W_]", "", label).lower(), url.strip()) for label, _, url in pairs]
    sources = [url for label, url in labelled if label in REPOSITORY_LABELS]
    return str(headers["Name"] or ""), str(headers["Version"] or ""), [*sources, home_page(headers) or ""]


def _npm(name: str, data: bytes) -> Facts:
    found = json.loads(data.removeprefix(b"\xef\xbb\xbf"))
    given = found.get("repository")
    url = given.get("url") if isinstance(given, dict) else given
    return _text(found["name"]), _text(found.get("version")), [_text(url), _text(found.get("homepage"))]


def _composer(name: str, data: bytes) -> Facts:
    found = json.loads(data.removeprefix(b"\xef\xbb\xbf"))
    support = found.get("support") or {}
    return _text(found["name"]).lower(), _text(found.get("version")), [_text(support.get("source")), _text(found.get("homepage"))]


def _cargo(name: str, data: bytes) -> Facts:
    found = tomllib.loads(data.decode("utf-8"))["package"]
    return _text(found["name"]), _text(found.get("version")), [_text(found.get("repository")), _text(found.get("homepage"))]


def _gem(name: str, data: bytes) -> Facts:
    text = unpacked_gem_metadata(data)
    urls = [gem_field(text, field) for field in ("source_code_uri", "homepage_uri", "homepage")]
    return gem_field(text, "name"), gem_field(text, "version"), urls


def _go(name: str, data: bytes) -> Facts:
    match = GO_ROOT.match(name)
    return (match["module"], match["version"], [f"https://{match['module']}"]) if match else ("", "", [])


def unpacked_gem_metadata(data: bytes) -> str:
    """The YAML of a gem's metadata.gz. Raises zlib.error, ValueError."""
    return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, MAX_METADATA_BYTES).decode("utf-8", "replace")


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _repository(urls: list[str]) -> str | None:
    """The first URL of a known forge, else the first that is one."""
    found = [url for url in map(_web_url, urls) if url]
    return next((url for url in found if repository_names(url)[0].partition("/")[0] in FORGES), found[0] if found else None)


def _web_url(given: str) -> str:
    """`git+https://github.com/a/b.git#x`, `git@github.com:a/b.git`, `github:a/b`, `a/b` as https://github.com/a/b, or empty."""
    if short := SHORT_URL.fullmatch(given):
        host = {"bitbucket": "bitbucket.org"}.get(short["host"], f"{short['host'] or 'github'}.com")
        return f"https://{host}/{short['path']}"
    plain = given.removeprefix("git+")
    if scp := SCP_URL.fullmatch(plain):
        plain = f"https://{scp['host']}/{scp['path']}"
    plain = re.sub(r"^git://", "https://", plain)
    if repository := OF_FORGE.match(plain):  # not a folder or a branch of it
        plain = repository[0]
    plain = plain.removesuffix(".git")
    return plain if re.match(r"https?://[^/]+", plain) else ""


_READERS: dict[str, tuple[str, Callable[[str, bytes], Facts]]] = {
    "PKG-INFO": ("pypi", _python), "package.json": ("npm", _npm), "composer.json": ("composer", _composer),
    "Cargo.toml": ("cargo", _cargo),
}  # fmt: skip
