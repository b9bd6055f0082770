"""The strictest claim of a file and its folders is in force; nothing under GPL passes for permissive."""

from __future__ import annotations

from importlib.metadata import distributions
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.corpus.provenance.licence_claims import header_claims, licence_file_claims
from tilth.corpus.provenance.licence_texts import GNU, _gnu_names, recognise_licence, recognise_notice
from tilth.corpus.provenance.licences import LicenceTree, is_licence_path
from tilth.corpus.provenance.normal_text import normal_text
from tilth.corpus.provenance.spdx_expressions import UNKNOWN, normalise_expression, strictness

MIT = (
    "MIT License\nCopyright (c) 2024 Somebody\n\nPermission is hereby granted, free of charge, to any person"
    " obtaining\na copy of this software"
    " and associated files, to deal without limitation the rights to use, copy, modify, merge...\nThe above copyright notice"
    " and this permission notice shall be included in all copies."
)
GPL = "GNU GENERAL PUBLIC LICENSE\n  Version 3, 29 June 2007\n\na free, copyleft license for software"
BSD = "Redistributions of source code must retain the above.\n * Redistributions in binary form must reproduce the above."
GPL_HEADER = (
    "# This program is free software: you can redistribute it and/or modify it under the terms of the\n# GNU General Public"
    " License as published by the Free Software Foundation, either version 3 of\n# the License, or (at your option) any later\n"
    "# version.\n"
)


def texts(text: str) -> list[str]:
    return [found.spdx for found in recognise_licence(normal_text(text).words)]


def effective(tree: LicenceTree, path: str, text: str = "x = 1\n") -> set[str]:
    return {claim.spdx for claim in tree.claims(path, text, None) if claim.effective}


def test_planted_tree() -> None:
    tree = LicenceTree("example.org/project")
    tree.add("LICENSE", MIT, "swh:1:cnt:" + "1" * 40)
    tree.add("vendor/readline/COPYING", GPL, "swh:1:cnt:" + "2" * 40)
    tree.add("vendor/odd/LICENSE.txt", "All yours, but only on Sundays.", None)
    assert effective(tree, "src/a.py") == {"MIT"}
    assert effective(tree, "vendor/readline/a.c") == {"GPL-3.0-only"}
    assert effective(tree, "vendor/readline/deep/er/a.c") == {"GPL-3.0-only"}
    assert effective(tree, "vendor/odd/a.c") == {UNKNOWN}
    assert effective(tree, "vendor/a.c") == {"MIT"}
    assert effective(tree, "vendor/readlines/a.c") == {"MIT"}
    assert effective(tree, "src/gpl.py", GPL_HEADER) == {"GPL-3.0-or-later"}
    claims = tree.claims("vendor/readline/a.c", "", None)
    assert {(c.spdx, c.scope, c.evidence_path, c.effective) for c in claims} == {
        ("MIT", "ancestor", "LICENSE", False), ("GPL-3.0-only", "ancestor", "vendor/readline/COPYING", True),
    }  # fmt: skip


def test_a_permissive_file_does_not_loosen_its_folder() -> None:
    tree = LicenceTree("o")
    tree.add("COPYING", GPL, None)
    assert effective(tree, "a.py", "# SPDX-License-Identifier: MIT\n") == {"GPL-3.0-only"}
    assert effective(tree, "b.py", "# SPDX-License-Identifier: AGPL-3.0-only\n") == {"AGPL-3.0-only"}


def test_no_planted_gpl_is_ever_permissive() -> None:
    roots, folders, headers = (["", MIT, BSD], ["", GPL], ["", GPL_HEADER, "// SPDX-License-Identifier: GPL-2.0-only\n"])
    for root, folder, header in product(roots, folders, headers):
        if not folder and not header:
            continue
        tree = LicenceTree("o")
        tree.add("LICENSE", root, None)
        tree.add("lib/COPYING", folder, None)
        assert all(strictness(spdx) >= 3 for spdx in effective(tree, "lib/a.c", header + "int x;\n"))


def test_the_repository_counts_only_where_nothing_else_speaks() -> None:
    from tilth.corpus.records import LicenceClaim

    tree = LicenceTree("o", repository=[LicenceClaim("o", "", "GPL-3.0-only", "repository", "METADATA", None, "t", 1.0)])
    assert effective(tree, "a.py") == {"GPL-3.0-only"}
    assert effective(tree, "a.py", "# SPDX-License-Identifier: MIT\n") == {"MIT"}
    assert LicenceTree("o").claims("a.py", "x = 1\n", None) == []


@pytest.mark.parametrize(
    ("expression", "level"),
    [
        ("MIT", 1), ("MIT OR GPL-3.0-only", 1), ("MIT AND GPL-3.0-only", 3),
        ("(MIT OR GPL-3.0-only) AND LGPL-2.1-only", 2), ("CC0-1.0", 0),
        ("GPL-2.0-only WITH Classpath-exception-2.0", 3), ("AGPL-3.0-or-later", 4), ("LicenseRef-house", 5),
        ("nonsense here", 5), ("", 5),
        ("CC-BY-4.0", 1), ("CC-BY-SA-4.0", 2), ("CC-BY-NC-4.0", 5),
    ],
)  # fmt: skip
def test_or_is_a_choice(expression: str, level: int) -> None:
    assert strictness(expression) == level


def test_expressions_in_spdx_spelling() -> None:
    assert normalise_expression("mit or gpl-2.0+") == "MIT OR GPL-2.0-or-later"
    assert normalise_expression("LicenseRef-house") == "LicenseRef-house"
    for wrong in ("MIT/Apache", "free", "", "MIT OR", "(MIT", "BSD"):
        assert normalise_expression(wrong) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/* SPDX-License-Identifier: Apache-2.0 */", ["Apache-2.0"]), ("<!-- SPDX-License-Identifier: mit -->", ["MIT"]),
        ("# SPDX-License-Identifier: (MIT OR Apache-2.0)\nx", ["MIT OR Apache-2.0"]),
        ("# SPDX-License-Identifier: whatever", [UNKNOWN]),
        ("x = 1\n" * 200 + "# SPDX-License-Identifier: MIT", []), ("# licensed under the GPLv3", ["GPL-3.0-only"]),
        ("# Licensed under the Apache License, Version 2.0 (the ...)", ["Apache-2.0"]), ("licence plates of cars", []),
        ("under the terms of the GNU Lesser General Public License version 2.1 or any later version", ["LGPL-2.1-or-later"]),
        ("under the GNU Affero General Public License, version 3", ["AGPL-3.0-only"]),
        ("under the terms of version 2 of the GNU General Public License", ["GPL-2.0-only"]),
    ],
)  # fmt: skip
def test_headers(text: str, expected: list[str]) -> None:
    assert [found.spdx for found in header_claims(text)] == expected


def test_similar_texts_are_told_apart() -> None:
    three = BSD + " may be used to endorse or promote products derived from this software"
    four = three + " All advertising materials mentioning features"
    assert [found[0] for found in map(texts, (BSD, three, four))] == [
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSD-4-Clause",
    ]
    assert texts(MIT.split("The above")[0]) == ["MIT-0"]
    isc = "Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted"
    assert texts(isc) == ["0BSD"]
    assert texts(isc + ", provided that this notice appear in all copies.") == ["ISC"]
    assert texts(GPL) == ["GPL-3.0-only"]
    assert recognise_notice("see the license file") == []
    (unknown,) = licence_file_claims("\nall rights reserved")
    assert unknown == (UNKNOWN, 0.0, "licence text", "3", 2, 2)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("LICENSE", True), ("a/LICENCE.md", True), ("COPYING.LESSER", True), ("LICENSE-MIT", True),
        ("MIT-LICENSE.txt", True), ("UNLICENSE", True),
        ("licenses.py", False), ("license.json", False), ("copying.c", False), ("LICENSES/MIT.txt", False), ("LICENSES/GPL-2.0.txt", False),
        ("README", False), ("relicense.md", False),
    ],
)  # fmt: skip
def test_licence_file_names(path: str, expected: bool) -> None:
    assert is_licence_path(path) is expected


def test_installed_licence_texts_agree_with_what_their_packages_declare() -> None:
    """An oracle that nobody here wrote: packages that declare one simple licence and ship its text."""
    agree, differ = 0, []
    for distribution in distributions():
        declared = normalise_expression(distribution.metadata.get("License-Expression") or "")
        texts = [file for file in distribution.files or () if ".dist-info" in file.parts[0] and is_licence_path(file.name)]
        if declared is None or " " in declared or len(texts) != 1:
            continue
        found = {one.spdx for one in licence_file_claims(texts[0].read_text())}
        if declared in found:
            agree += 1
        else:
            differ.append((distribution.metadata["Name"], declared, found))
    assert agree >= 10
    assert len(differ) <= agree // 10, differ


GNU_TALK = (
    "version 2 0 or any later of the gnu lesser library affero general public license gpl lgpl agpl gplv2 gplv3 gpl2 algpl"
    " xgpl gplx v 3 as published by free software foundation mozilla"
)


@given(st.lists(st.sampled_from(GNU_TALK.split()), max_size=40).map(" ".join))
def test_gnu_is_found_where_a_whole_search_finds_it(words: str) -> None:
    assert [match.span() for match in _gnu_names(words)] == [match.span() for match in GNU.finditer(words)]


def test_a_file_between_licence_files_hears_those_of_its_own_folders() -> None:
    tree = LicenceTree("o")
    tree.add("LICENSE", MIT, None)
    assert effective(tree, "vendor/a.c") == {"MIT"}
    tree.add("vendor/COPYING", GPL, None)
    assert effective(tree, "vendor/a.c") == {"GPL-3.0-only"}
    assert {claim.path for claim in tree.claims("vendor/b.c", "x", None)} == {"vendor/b.c"}
