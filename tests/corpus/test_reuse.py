"""REUSE's files state the licences of others; a README's section on the licence speaks where nobody else does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilth.corpus.provenance.licences import LicenceTree, speaks_of_licences
from tilth.corpus.provenance.readme import readme_claims
from tilth.corpus.provenance.reuse import matching, reuse_statements
from tilth.corpus.provenance.spdx_expressions import UNKNOWN
from tilth.corpus.sources.folder import Folder
from tilth.corpus.sources.git import GitRepository

TOML = """version = 1

[[annotations]]
path = ["src/**", "docs/*.md"]
SPDX-FileCopyrightText = "2024 A. Farmer"
SPDX-License-Identifier = "GPL-3.0-or-later"

[[annotations]]
path = "src/free/**"
precedence = "aggregate"
SPDX-License-Identifier = ["MIT", "CC0-1.0"]

[[annotations]]
path = "odd/\\\\*.c"
SPDX-License-Identifier = "no such licence"
"""
DEP5 = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: plough

Files: *
Copyright: 2020 A. Farmer
License: GPL-2+

Files: data/*.csv
 docs/?.txt
Copyright: 2020 B. Ox
License: CC0-1.0
"""


def stated(path: str, text: str, of: str) -> tuple[str, ...] | None:
    found = matching(reuse_statements(path, text), of)
    return found.spdx if found else None


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        ("src/a.c", ("GPL-3.0-or-later",)),
        ("src/deep/a.c", ("GPL-3.0-or-later",)),
        ("src/free/a.c", ("MIT", "CC0-1.0")),  # the last one that matches
        ("docs/a.md", ("GPL-3.0-or-later",)),
        ("docs/deep/a.md", None),
        ("odd/*.c", (UNKNOWN,)),
        ("odd/a.c", None),
        ("a.c", None),
    ],
)
def test_patterns_of_reuse_toml(of: str, expected: tuple[str, ...] | None) -> None:
    assert stated("REUSE.toml", TOML, of) == expected
    assert stated("lib/REUSE.toml", TOML, f"lib/{of}") == expected
    assert stated("lib/REUSE.toml", TOML, of) is None


@pytest.mark.parametrize(
    ("of", "expected"),
    [("a.c", "GPL-2.0-or-later"), ("data/deep/a.csv", "CC0-1.0"), ("docs/a.txt", "CC0-1.0"), ("docs/ab.txt", "GPL-2.0-or-later")],
)
def test_patterns_of_dep5(of: str, expected: str) -> None:
    assert stated(".reuse/dep5", DEP5, of) == (expected,)


def test_what_is_broken_states_nothing() -> None:
    for text in ("annotations = 1", "[[annotations]]\npath = 1", "[[annotations", "annotations = [1]", ""):
        assert reuse_statements("REUSE.toml", text) == []
    assert reuse_statements(".reuse/dep5", "Files: *\n\nLicense: MIT\n") == []
    assert reuse_statements("a.png.license", "all rights reserved") == []


def test_no_pattern_takes_long() -> None:
    path = "a" * 2000
    for stars in ("**a" * 200, "*a" * 200, "**/*" * 200):
        started = time.process_time()
        text = f'[[annotations]]\npath = "{stars}b"\nSPDX-License-Identifier = "MIT"\n'
        assert stated("REUSE.toml", text, path) is None
        assert time.process_time() - started < 2
    started = time.process_time()
    for line in ("=" * 500_000, "# " * 250_000, "[" * 500_000, "license " * 60_000):
        assert readme_claims(f"{line}\n\n## License\n\nMIT\n") != []
    assert time.process_time() - started < 2


def claims(tree: LicenceTree, path: str, text: str = "x = 1\n") -> set[tuple[str, str, bool]]:
    return {(claim.spdx, claim.evidence_path, claim.effective) for claim in tree.claims(path, text, None)}


def test_what_is_closest_counts_where_a_file_is_silent_and_the_strictest_is_in_force() -> None:
    tree = LicenceTree("o")
    tree.take("REUSE.toml", TOML, "swh:1:cnt:" + "1" * 40)
    tree.take("src/pictures/a.png.license", "SPDX-FileCopyrightText: 2024 C\n\nSPDX-License-Identifier: CC-BY-SA-4.0\n", None)
    assert claims(tree, "src/a.py") == {("GPL-3.0-or-later", "REUSE.toml", True)}
    assert claims(tree, "src/b.py", "# SPDX-License-Identifier: MIT\n") == {("MIT", "src/b.py", True)}
    assert claims(tree, "src/free/b.py", "# SPDX-License-Identifier: AGPL-3.0-only\n") == {
        ("AGPL-3.0-only", "src/free/b.py", True), ("MIT", "REUSE.toml", False), ("CC0-1.0", "REUSE.toml", False),
    }  # fmt: skip
    assert claims(tree, "src/pictures/a.png") == {("CC-BY-SA-4.0", "src/pictures/a.png.license", True)}
    (found,) = tree.claims("docs/a.md", "text", None)
    assert (found.tool, found.score, found.first_line, found.scope) == ("reuse", 1.0, 3, "file")
    assert found.evidence_swhid == "swh:1:cnt:" + "1" * 40


FILES = {
    "LICENSES/GPL-2.0.txt": "GNU GENERAL PUBLIC LICENSE\nVersion 2, June 1991\n",
    "LICENSES/MIT.txt": "Permission is hereby granted, free of charge\n",
    "REUSE.toml": TOML,
    "src/a.py": "x = 1\n",
    "src/free/b.py": "y = 1\n",
    "other.py": "z = 1\n",
    "README.md": "# Plough\n\nIt ploughs.\n\n## License\n\n[Apache 2.0](LICENSES/Apache-2.0.txt) © A. Farmer\n\n## Thanks\n\nMIT\n",
}


@pytest.mark.parametrize("kind", [GitRepository, Folder])
def test_a_repository_with_reuse_and_a_readme(kind: Any, tmp_path: Path, rows: Callable[..., Any], repo: Any) -> None:
    for path, text in FILES.items():
        repo.write(path, text)
    repo.commit()
    found = rows(kind("o", str(repo.path))).licences
    in_force: dict[str, set[str]] = {}
    for claim in found:
        if claim["effective"]:
            in_force.setdefault(claim["path"], set()).add(claim["spdx"])
    assert in_force["src/a.py"] == {"GPL-3.0-or-later"}
    assert in_force["src/free/b.py"] == {"MIT", "CC0-1.0"} - {"CC0-1.0"}
    assert in_force["other.py"] == {"Apache-2.0"}
    assert in_force["LICENSES/MIT.txt"] == {"Apache-2.0"}  # the GPL beside it is a text, no statement
    assert {(claim["tool"], claim["score"], claim["scope"]) for claim in found if claim["path"] == "other.py"} == {
        ("readme", 0.5, "repository")
    }


@pytest.mark.parametrize(
    ("readme", "expected"),
    [
        ("# A\n\n## License\n\nMIT\n", [("MIT", 5)]),
        ("A\n=\n\nLicence\n-------\n\nReleased under the MIT license.\n\nMore\n----\n\nGPL", [("MIT", 7)]),
        ("= A\n\n== Copyright and License\n\nBSD-3-Clause\n", [("BSD-3-Clause", 5)]),
        (
            "## License\nThe server is under the GNU GPL version 3, the client under the ISC license.\n",
            [("GPL-3.0-only", 2), ("ISC", 2)],
        ),
        (
            "## 📄 License\n\n![MIT](https://img.shields.io/badge/license-MIT-green)\n\nMIT © [A. Farmer](https://example.org)\n",
            [("MIT", 3)],
        ),
        ("**License:** MIT\n", []),
        ("## License\n\nSee the file.\n", []),
        ("## License\n\nReleases are under our EULA.\nParts are under the MIT license.\n", [("MIT", 4), (UNKNOWN, 3)]),
        ("## Licenses of others\n\nMIT\n", []),
        ("## License\n\nAsk us.\n\n## Other\n\nMIT\n", []),
        ("no heading, MIT license", []),
    ],
)
def test_the_section_of_a_readme(readme: str, expected: list[tuple[str, int]]) -> None:
    found = readme_claims(readme)
    assert [(one.spdx, one.first_line) for one in found] == expected
    assert all(one.score == (0 if one.spdx == UNKNOWN else 0.5) and one.tool == "readme" for one in found)


def test_a_readme_counts_only_at_the_root_and_where_nothing_else_speaks() -> None:
    assert speaks_of_licences("README.rst")
    assert not speaks_of_licences("docs/README.rst")
    tree = LicenceTree("o")
    tree.take("README.md", "## License\n\nMIT\n", None)
    assert claims(tree, "a.py") == {("MIT", "README.md", True)}
    tree.take("lib/COPYING", "under the terms of the GNU General Public License version 2", None)
    assert claims(tree, "lib/a.py") == {("GPL-2.0-only", "lib/COPYING", True), ("MIT", "README.md", False)}
