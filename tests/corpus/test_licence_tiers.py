"""Each tier by itself: the SPDX list by hash and by words, package metadata, ScanCode behind a cache."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tilth.corpus.provenance import scancode
from tilth.corpus.provenance.licence_claims import header_claims, licence_file_claims
from tilth.corpus.provenance.licences import LicenceTree
from tilth.corpus.provenance.normal_text import normal_text
from tilth.corpus.provenance.package_metadata import is_metadata_path, metadata_claims, stated_licence
from tilth.corpus.provenance.spdx_expressions import UNKNOWN, covers, licences_in
from tilth.corpus.provenance.spdx_texts import COMMON, spdx_texts
from tilth.errors import SourceError

ISC = """Copyright (c) 2019, {owner}

Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted,
provided that the above copyright notice and this permission notice appear in all copies.

THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED
WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT, INDIRECT, OR
CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION OF CONTRACT,
NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE.
"""


def test_the_list_is_whole() -> None:
    texts = spdx_texts()
    assert len(texts.names) >= 700
    assert set(COMMON) <= set(texts.names)
    assert not {"GPL-2.0", "GPL-3.0+", "eCos-2.0"} & set(texts.names)  # deprecated
    assert texts.has_word("LGPL-3.0-only", "gnu")
    assert not texts.has_word("MIT", "gnu")


def test_the_same_words_and_nearly_the_same_words() -> None:
    (exact,) = licence_file_claims(ISC.format(owner="A. Farmer"))
    assert (exact.spdx, exact.tool, exact.score) == ("ISC", "spdx text", 1.0)
    assert (exact.first_line, exact.last_line) == (3, 9)
    (near,) = licence_file_claims(ISC.format(owner="B. Ox").replace("FITNESS. IN", "FITNESS OF ALL KINDS. IN"))
    assert (near.spdx, near.tool) == ("ISC", "spdx passage")
    assert 0.9 < near.score < 1
    assert spdx_texts().match(normal_text("to be sown in spring, and reaped when it is ripe, if it is not wet " * 20)) is None


def test_gnu_in_a_permissive_text_is_not_overheard() -> None:
    found = licence_file_claims(ISC.format(owner="C") + "\nThe folder `rye` is under the GNU GPL, version 2.\n")
    assert {one.spdx for one in found} == {"ISC", "GPL-2.0-only"}


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("package.json", '{"license": "MIT"}', ["MIT"]),
        ("package.json", '{"license": {"type": "ISC", "url": "x"}}', ["ISC"]),
        ("package.json", '{"licenses": [{"type": "MIT"}, {"type": "GPL-2.0"}]}', ["MIT OR GPL-2.0-only"]),
        ("package.json", '{"license": "SEE LICENSE IN x"}', []),
        ("package.json", '{"license": "UNLICENSED"}', [UNKNOWN]),
        ("package.json", "[1", []),
        ("package.json", "[1]", []),
        ("a/composer.json", '{"license": ["MIT", "GPL-3.0-only"]}', ["MIT OR GPL-3.0-only"]),
        ("pyproject.toml", '[project]\nlicense = "MIT AND BSD-3-Clause"', ["MIT AND BSD-3-Clause"]),
        ("pyproject.toml", '[project]\nlicense = {text = "GPLv3+"}', ["GPL-3.0-or-later"]),
        ("pyproject.toml", '[project]\nclassifiers = ["License :: OSI Approved :: MIT License"]', ["MIT"]),
        ("pyproject.toml", '[tool.poetry]\nlicense = "Apache-2.0"', ["Apache-2.0"]),
        ("pyproject.toml", "project = 1", []),
        ("setup.cfg", "[metadata]\nlicense = BSD 3-Clause\n", ["BSD-3-Clause"]),
        ("setup.cfg", "[metadata]\nclassifiers =\n  License :: OSI Approved :: ISC License (ISCL)\n", ["ISC"]),
        ("Cargo.toml", '[package]\nlicense = "MIT/Apache-2.0"', ["MIT OR Apache-2.0"]),
        ("Cargo.toml", "[workspace]\n", []),
        (
            "pom.xml",
            '<project xmlns="http://maven.apache.org/POM/4.0.0"><licenses><license>\n<name>The Apache License, Version 2.0</name>'
            "</license></licenses></project>",
            ["Apache-2.0"],
        ),
        ("pom.xml", "<project><licenses><license><name>MIT</name></license></licenses>", []),
        ("x.gemspec", "Gem::Specification.new do |s|\n  s.license = 'MIT'\nend", ["MIT"]),
        ("x.gemspec", "s.licenses = ['MIT', 'Ruby']", ["MIT OR Ruby"]),
        ("x.gemspec", "s.licenses = %w[MIT GPL-2.0]", ["MIT OR GPL-2.0-only"]),
        ("go.mod", "module x", []),
    ],
)
def test_metadata(path: str, text: str, expected: list[str]) -> None:
    assert [found.spdx for found in metadata_claims(path, text)] == expected
    assert is_metadata_path(path) is (path != "go.mod")


def test_metadata_tells_its_line_and_what_nobody_understands() -> None:
    (found,) = metadata_claims("x.gemspec", "spec\n\ns.license = 'mine alone'\n")
    assert (found.spdx, found.score, found.first_line, found.tool) == (UNKNOWN, 0.0, 3, "*.gemspec")
    assert stated_licence("GNU General Public License v2 or later") == "GPL-2.0-or-later"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            "# Alternatively, this file may be used under the GPL v2, or under the terms of the MIT license",
            ["GPL-2.0-only OR MIT"],
        ),
        ("# This library is under the same terms as Perl itself; see its license", ["Artistic-1.0-Perl OR GPL-1.0-or-later"]),
        ("# Released under the MIT license, which is compatible with the GPL", ["MIT"]),
        ("# a GPL-compatible license: licensed under the MIT license", ["MIT"]),
        ("# not licensed under the GPL", []),
        ("gpl = 3  # a variable", ["GPL-3.0-only"]),  # rather one too many
        ("// License: GNU LGPL v2.1+", ["LGPL-2.1-or-later"]),
        ("# SPDX-License-Identifier: MIT\n# under the GNU General Public License", ["MIT", "GPL-1.0-or-later"]),
        ("# SPDX-License-Identifier: MIT OR GPL-2.0-only\n# under the GPL version 2 or MIT license", ["MIT OR GPL-2.0-only"]),
    ],
)
def test_headers_that_offer_or_deny(header: str, expected: list[str]) -> None:
    assert [found.spdx for found in header_claims(header)] == expected


def test_expressions_cover_each_other() -> None:
    assert licences_in("MIT OR (GPL-2.0-only WITH Classpath-exception-2.0)") >= {"MIT", "GPL-2.0-only"}
    assert covers("MIT OR GPL-2.0-or-later", "GPL-2.0-only")
    assert not covers("MIT", "GPL-2.0-only")


class Detection(SimpleNamespace):
    """What ScanCode answers, as far as it is looked at."""


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """ScanCode's function, standing in for it where it is not installed; the calls that it got."""
    calls: list[dict[str, Any]] = []

    def detect_licenses(**asked: Any) -> list[Detection]:
        calls.append(asked)
        match = SimpleNamespace(score=lambda: 87.5, start_line=2, end_line=4)
        return [Detection(license_expression_spdx="mit AND LicenseRef-scancode-house", matches=[match])]

    module = ModuleType("licensedcode.detection")
    module.detect_licenses = detect_licenses  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "licensedcode", ModuleType("licensedcode"))
    monkeypatch.setitem(sys.modules, "licensedcode.detection", module)
    monkeypatch.setattr(scancode.metadata, "version", lambda name: "32.5.0")
    scancode.scancode_version.cache_clear()
    yield calls
    scancode.scancode_version.cache_clear()


def test_scancode_is_asked_once_of_what_is_left_and_given_a_time_of_day(detector: list[dict[str, Any]], tmp_path: Path) -> None:
    scan = scancode.ScanCode(tmp_path / "deep/answers.sqlite", seconds=50)
    for origin in ("a", "b"):
        tree = LicenceTree(origin, scan=scan)
        tree.add("LICENSE", "All yours,\nbut only on Sundays.", None)
        tree.add("known/LICENSE", ISC.format(owner="D"), None)
        (claim,) = tree.claims("x.c", "int x;", None)
        assert (claim.spdx, claim.score, claim.tool) == ("MIT AND LicenseRef-scancode-house", 0.875, "scancode")
        assert (claim.tool_version, claim.first_line, claim.last_line) == ("32.5.0", 2, 4)
    assert len(detector) == 1
    assert time.time() < detector[0]["deadline"] <= time.time() + 50
    tree.claims("y.c", "// by permission of the owner\n", None)
    assert len(detector) == 2


def test_without_scancode_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def none(name: str) -> str:
        raise PackageNotFoundError(name)

    scancode.scancode_version.cache_clear()
    monkeypatch.setattr(scancode.metadata, "version", none)
    with pytest.raises(SourceError, match="ScanCode is not installed"):
        scancode.ScanCode(tmp_path / "a.sqlite")("text", None)


def test_answers_are_plain_json(detector: list[dict[str, Any]], tmp_path: Path) -> None:
    import sqlite3

    scan = scancode.ScanCode(tmp_path / "answers.sqlite")
    first, again = scan("a text", None), scan("a text", None)
    assert first == again
    ((found,),) = sqlite3.connect(scan.cache).execute("select found from answers").fetchall()
    assert json.loads(found)[0][0] == first[0].spdx
