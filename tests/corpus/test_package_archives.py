"""Archives of every ecosystem in the layout of its registry, whole and damaged."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tilth.corpus.archived_packages import identify
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.sources.package_archives import PackageArchives
from tilth.errors import SourceError

README = "# Plough\n\nTurns the soil.\n"
MIT = (
    "Permission is hereby granted, free of charge, to any person obtaining a copy of this software, to deal in the Software "
    "without restriction, including without limitation the rights to use, copy, modify, merge. "
    "The above copyright notice and this permission notice shall be included."
)
GPL = "GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007\n"
METADATA = (
    "Metadata-Version: 2.4\nName: Plough_Tool\nVersion: 1.0+local\nLicense-Expression: MIT\n"
    "Project-URL: Documentation, https://plough.example.org\nProject-URL: Source, https://github.com/octo/plough\n"
    "Description-Content-Type: text/markdown; charset=UTF-8\n\n# The long description\n"
)
GEMSPEC = (
    "--- !ruby/object:Gem::Specification\nname: plough\nversion: !ruby/object:Gem::Version\n  version: 2.1.0\n"
    "platform: ruby\ndependencies:\n- !ruby/object:Gem::Dependency\n  name: rack\n"
    "homepage: https://plough.example.org\nlicenses:\n- MIT\n- GPL-3.0-only\nmetadata:\n"
    "  source_code_uri: https://github.com/octo/plough\n"
)


def tar(files: Mapping[str, str | bytes], mode: str = "w:gz") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=tarfile.PAX_FORMAT) as archive:
        for name, text in files.items():
            data = text.encode() if isinstance(text, str) else text
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zipped(files: Mapping[str, str | bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return file.getvalue()


def gem(files: Mapping[str, str | bytes], spec: str = GEMSPEC) -> bytes:
    parts = {"metadata.gz": gzip.compress(spec.encode()), "data.tar.gz": tar(files), "checksums.yaml.gz": gzip.compress(b"---")}
    return tar(parts, "w:")


NPM = {
    "package/package.json": '{"name": "@octo/plough", "version": "3.0.0", "license": "MIT", "repository": "octo/plough"}',
    "package/README.md": README, "package/docs/guide.md": "# Guide\n", "package/lib/index.js": "let a = 1;\n",
    "package/node_modules/gpl/COPYING": GPL, "package/node_modules/gpl/README.md": "# Bundled\n",
}  # fmt: skip
SDIST = {
    "plough_tool-1.0/PKG-INFO": METADATA, "plough_tool-1.0/README.rst": "Plough\n======\n", "plough_tool-1.0/LICENSE": MIT,
    "plough_tool-1.0/docs/guide.txt": "A guide.\n", "plough_tool-1.0/package.json": '{"name": "x"}',
    "plough_tool-1.0/plough.egg-info/SOURCES.txt": "setup.py\n", "plough_tool-1.0/setup.py": "import setuptools\n",
}  # fmt: skip
CRATE = {
    "plough-0.2.0/Cargo.toml": '[package]\nname = "plough"\nversion = "0.2.0"\nlicense = "MIT OR GPL-3.0-only"\n'
    'repository = "git@github.com:octo/plough.git"\n',
    "plough-0.2.0/Cargo.toml.orig": "", "plough-0.2.0/README.md": README, "plough-0.2.0/LICENSE-MIT": MIT,
    "plough-0.2.0/LICENSE-GPL": GPL, "plough-0.2.0/src/lib.rs": "//! Documented.\n",
}  # fmt: skip
GO = {
    "github.com/octo/plough/v2@v2.3.4/go.mod": "module github.com/octo/plough/v2\n",
    "github.com/octo/plough/v2@v2.3.4/README.md": README, "github.com/octo/plough/v2@v2.3.4/LICENSE": MIT,
    "github.com/octo/plough/v2@v2.3.4/docs/use.adoc": "= Use\n", "github.com/octo/plough/v2@v2.3.4/a.go": "package a\n",
}  # fmt: skip
COMPOSER = {
    "octo-plough-1a2b3c4/composer.json": '{"name": "octo/plough", "license": ["MIT", "GPL-3.0-only"]}',
    "octo-plough-1a2b3c4/package.json": '{"name": "assets"}', "octo-plough-1a2b3c4/README.md": README,
    "octo-plough-1a2b3c4/src/A.php": "<?php\n",
}  # fmt: skip
WHEEL = {
    "plough/__init__.py": "a = 1\n", "plough/_vendor/gpl/LICENSE": GPL, "plough/_vendor/gpl/README.md": "# Vendored\n",
    "plough_tool-1.0.dist-info/METADATA": METADATA, "plough_tool-1.0.dist-info/licenses/LICENSE": MIT,
    "plough_tool-1.0.dist-info/RECORD": "",
}  # fmt: skip
GEM = {"README.rdoc": "= Plough\n", "lib/plough.rb": "A = 1\n", "doc/guide.md": "# Guide\n"}

# file -> (archive, package URL, {documentation: licence in force})
ARCHIVES = {
    "octo-plough-3.0.0.tgz": (tar(NPM), "pkg:npm/%40octo/plough@3.0.0", {
        "README.md": "MIT", "docs/guide.md": "MIT", "node_modules/gpl/README.md": "GPL-3.0-only"}),
    "plough_tool-1.0.tar.gz": (tar(SDIST), "pkg:pypi/plough-tool@1.0%2Blocal", {"README.rst": "MIT", "docs/guide.txt": "MIT"}),
    "plough_tool-1.0.tar.bz2": (tar(SDIST, "w:bz2"), "pkg:pypi/plough-tool@1.0%2Blocal", {
        "README.rst": "MIT", "docs/guide.txt": "MIT"}),
    "plough-0.2.0.crate": (tar(CRATE), "pkg:cargo/plough@0.2.0", {"README.md": "MIT OR GPL-3.0-only"}),
    "v2.3.4.zip": (zipped(GO), "pkg:golang/github.com/octo/plough/v2@v2.3.4", {"README.md": "MIT", "docs/use.adoc": "MIT"}),
    "1a2b3c4.zip": (zipped(COMPOSER), "pkg:composer/octo/plough", {"README.md": "MIT OR GPL-3.0-only"}),
    "plough_tool-1.0-py3-none-any.whl": (zipped(WHEEL), "pkg:pypi/plough-tool@1.0%2Blocal", {
        "plough/_vendor/gpl/README.md": "GPL-3.0-only", "plough_tool-1.0.dist-info/METADATA": "MIT"}),
    "plough-2.1.0.gem": (gem(GEM), "pkg:gem/plough@2.1.0", {
        "README.rdoc": "MIT OR GPL-3.0-only", "doc/guide.md": "MIT OR GPL-3.0-only"}),
}  # fmt: skip


@pytest.fixture
def read(tmp_path: Path, rows: Callable[..., Any]) -> Callable[..., Any]:
    """Reads archives, given as bytes by name."""

    def run(archives: Mapping[str, bytes], **options: Any) -> Any:
        for name, data in archives.items():
            (tmp_path / name).write_bytes(data)
        return rows(PackageArchives("packages", str(tmp_path), **options))

    return run


@pytest.mark.parametrize("name", list(ARCHIVES))
def test_documentation_with_package_and_licence(read: Callable[..., Any], name: str) -> None:
    data, purl, expected = ARCHIVES[name]
    found = read({name: data})
    assert {row["origin"] for row in found.occurrences} == {purl}
    assert {row["path"] for row in found.occurrences} == set(expected)
    assert {row["kind"] for row in found.occurrences} == {"package"}
    assert {(row["path"], row["spdx"]) for row in found.licences if row["effective"]} == set(expected.items())
    assert found.rejects == []
    meta = dict(found.documents[0]["meta"])
    assert meta["archive"] == name
    assert meta["ecosystem"] == purl.partition("/")[0].removeprefix("pkg:")
    if meta["ecosystem"] != "composer":  # its dists state neither
        assert purl.endswith("@" + meta["version"].replace("+", "%2B"))
        assert meta["repository"] == "https://github.com/octo/plough"


def test_the_files_of_a_package_are_named_by_their_bytes(read: Callable[..., Any]) -> None:
    found = read({"a.tgz": tar(NPM), "b.whl": zipped(WHEEL)})
    by_path = {place["path"]: row for place, row in zip(found.occurrences, found.documents, strict=True)}
    assert by_path["README.md"]["text"] == README
    assert by_path["README.md"]["raw_swhid"] == content_swhid(README.encode())
    described = by_path["plough_tool-1.0.dist-info/METADATA"]
    assert described["text"] == "# The long description"
    assert described["raw_swhid"] == content_swhid(METADATA.encode())
    assert (described["extraction"], described["language"]) == ("body of METADATA", "Markdown")


def test_every_text_file_of_a_package(read: Callable[..., Any]) -> None:
    found = read({"a.tgz": tar({**NPM, "package/logo.png": b"\x89PNG\0"}), "p.gem": gem(GEM)}, only="all")
    assert [row["path"] for row in found.occurrences] == [
        "package.json", "README.md", "docs/guide.md", "lib/index.js", "node_modules/gpl/COPYING", "node_modules/gpl/README.md",
        "README.rdoc", "lib/plough.rb", "doc/guide.md",
    ]  # fmt: skip
    assert found.reasons == ["binary"]
    with pytest.raises(SourceError, match="only='docs'"):
        read({"a.tgz": tar(NPM)}, only="docs")


def test_a_package_without_a_readme_or_a_description(read: Callable[..., Any]) -> None:
    bare = METADATA.partition("\n\n")[0]
    sdist = {"p-1/PKG-INFO": METADATA, "p-1/setup.py": "a = 1\n"}
    found = read({"a.tar.gz": tar(sdist), "b.tar.gz": tar({**sdist, "p-1/PKG-INFO": bare})})
    assert [row["path"] for row in found.occurrences] == ["PKG-INFO"]
    assert [(row["location"], row["reason"]) for row in found.rejects] == [("pkg:pypi/plough-tool@1.0%2Blocal:PKG-INFO", "empty")]


def test_a_declared_licence_is_for_packages_that_say_nothing(read: Callable[..., Any]) -> None:
    silent = {"package/package.json": '{"name": "silent"}', "package/README.md": README}
    found = read({"a.tgz": tar(silent), "b.tgz": tar(NPM)}, licence="CC0-1.0")
    effective = {(row["origin"], row["spdx"]) for row in found.licences if row["effective"] and row["path"] == "README.md"}
    assert effective == {("pkg:npm/silent", "CC0-1.0"), ("pkg:npm/%40octo/plough@3.0.0", "MIT")}


def test_what_is_no_package(read: Callable[..., Any]) -> None:
    found = read({
        "a.tar.gz": tar({"p/README.md": README}), "b.zip": b"no zip at all", "c.tgz": gzip.compress(b"no tar"), "d.gem": b"",
        "e.tgz": tar({"package/package.json": "[1, 2]"}), "f.zip": zipped({"p/composer.json": "{", "p/README.md": README}),
        "g.crate": tar({"p-1/Cargo.toml": "[workspace]\n"}), "notes.txt": b"left alone",
    })  # fmt: skip
    assert found.documents == []
    assert [(row["location"].partition("@")[0], row["reason"]) for row in found.rejects] == [
        ("a.tar.gz", "not_a_package"), ("b.zip", "truncated"), ("c.tgz", "truncated"), ("d.gem", "bad_header"),
        ("e.tgz", "not_a_package"), ("f.zip", "not_a_package"), ("g.crate", "not_a_package"),
    ]  # fmt: skip


def test_names_and_kinds_that_lead_elsewhere(read: Callable[..., Any]) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, kind in (("package/docs/link.md", tarfile.SYMTYPE), ("package/docs/hard.md", tarfile.LNKTYPE),
                           ("package/docs/pipe.md", tarfile.FIFOTYPE)):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    whole = tar({**NPM, "../../docs/x.md": "# out\n", "/docs/y.md": "# out\n", "package/README.md": README}, "w:")
    twice = tar({"package/README.md": "another"}, "w:")
    links = gzip.decompress(file.getvalue())
    joined = b"".join(data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512) for data in (whole, links, twice)) + bytes(1024)
    found = read({"a.tgz": gzip.compress(joined)})
    assert [(row["location"].partition(":")[2].rpartition(":")[2], row["reason"]) for row in found.rejects] == [
        ("../../docs/x.md", "path_traversal"), ("/docs/y.md", "path_traversal"), ("docs/link.md", "link"), ("docs/hard.md", "link"),
        ("docs/pipe.md", "special_file"), ("README.md", "duplicate_name"),
    ]  # fmt: skip
    assert README in found.texts


def test_bombs_cost_no_memory(read: Callable[..., Any]) -> None:
    large = {**NPM, "package/docs/large.md": "a" * 3_000_000}
    found = read({"a.tgz": tar(large), "b.whl": zipped({**WHEEL, "docs/large.md": "a" * 3_000_000})}, max_file_bytes=1_000_000)
    assert found.reasons == ["too_large", "too_large"]
    many = {f"docs/{i}.md": "a" * 9_000_000 for i in range(12)}
    found = read({"a.tgz": tar({**NPM, "package/docs/large.md": bytes(90_000_000)}), "b.whl": zipped({**WHEEL, **many})})
    assert found.reasons[0] == "too_large", "gzip of zeros"
    assert found.reasons[-1] == "too_large", "many members that unpack to too much together"
    assert sum(len(text) for text in found.texts) < 100_000_000


@pytest.mark.parametrize("name", list(ARCHIVES))
def test_damage_is_never_fatal(read: Callable[..., Any], name: str) -> None:
    whole = ARCHIVES[name][0]
    chance = random.Random(name)
    for _ in range(12):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        found = read({name: bytes(data)})
        assert found.documents or found.rejects
        cut = read({name: whole[: chance.randrange(min(1600, len(whole) // 2))]})
        assert cut.rejects, "a truncated archive"


def test_a_truncated_tar_keeps_what_came_before(read: Callable[..., Any]) -> None:
    many = {**NPM, **{f"package/docs/{i}.md": random.Random(i).randbytes(2000).hex() for i in range(50)}}
    data = tar(many)
    found = read({"a.tgz": data[: len(data) // 2]})
    assert README in found.texts
    assert 10 < len(found.texts) < 45
    assert "truncated" in found.reasons


def test_names_that_are_no_text_and_files_named_like_another_ecosystems(read: Callable[..., Any]) -> None:
    odd = {"package/package.json": '{"name": "a\\ud800 b", "version": "1\\udfff"}', "package/README.md": README}
    other = {**WHEEL, "metadata.gz": b"no gzip", "package.json": "{", "Cargo.toml": "["}
    found = read({"a.tgz": tar(odd), "b.whl": zipped(other)})
    assert [row["origin"] for row in found.occurrences] == [
        "pkg:npm/a%5Cud800%20b@1%5Cudfff", "pkg:pypi/plough-tool@1.0%2Blocal", "pkg:pypi/plough-tool@1.0%2Blocal",
    ]  # fmt: skip


def test_the_same_package_in_two_forms_is_two_rows_each(read: Callable[..., Any]) -> None:
    found = read({"a.tgz": tar(NPM), "b.tgz": tar(NPM)})
    assert len({row["doc_id"] for row in found.documents}) == len(found.documents) == 6


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("git+https://github.com/octo/plough.git", "https://github.com/octo/plough"), ("gitlab:octo/plough", "https://gitlab.com/octo/plough"),
        ("git://github.com/octo/plough.git", "https://github.com/octo/plough"), ("bitbucket:a/b", "https://bitbucket.org/a/b"),
        ("git+ssh://git@github.com/octo/plough.git", "https://github.com/octo/plough"), ("file:../x", None), ("", None),
        ("https://github.com/octo/plough/tree/main/packages/a", "https://github.com/octo/plough"),
    ],
)  # fmt: skip
def test_repositories_in_the_spellings_of_npm(given: str, url: str | None) -> None:
    package = identify("a.tgz", {"package/package.json": f'{{"name": "a", "repository": {{"url": "{given}"}}}}'.encode()})
    assert package is not None
    assert package.repository == url


def test_the_repository_of_a_python_package_is_what_is_named_so() -> None:
    def repository(*lines: str) -> str | None:
        head = "\n".join(["Name: p", "Version: 1", *(f"Project-URL: {line}" for line in lines)])
        package = identify("p.tar.gz", {"p-1/PKG-INFO": head.encode()})
        return package.repository if package else ""

    assert (
        repository("Changelog, https://p.example.org/news", "Source Code, https://git.example.org/p")
        == "https://git.example.org/p"
    )
    assert (
        repository("Homepage, https://github.com/octo/plough", "Source, https://p.example.org")
        == "https://github.com/octo/plough"
    )
    assert repository("Changelog, https://p.example.org/news") is None
