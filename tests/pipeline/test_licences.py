"""From a repository with a vendored GPL folder to SQL over its licences, a subset that states its rule, and a NOTICE."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

RECIPE = """
from tilth import Corpus, GitRepository


def corpus() -> Corpus:
    return Corpus(sources=[GitRepository("code", {path!r}), GitRepository("fork", {fork!r})], signals=(), tokenizer=None)
"""
GPL = "# This file is under the terms of the GNU General Public License, version 3.\n"
FILES = {
    "LICENSE": "SPDX-License-Identifier: MIT\nCopyright (c) 2020 A. Farmer\n", "src/plough.py": "# (c) 2021 B. Ox\nplough()\n",
    "src/seed.py": f"{GPL}sow()\n", "vendor/rye/COPYING": "SPDX-License-Identifier: GPL-2.0-only\n", "vendor/rye/rye.c": "int rye;\n",
    "shared.py": "the_same = True\n",
}  # fmt: skip
FORK = {"COPYING": "SPDX-License-Identifier: GPL-3.0-or-later\n", "shared.py": "the_same = True\n"}


def commit(folder: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    who = {f"GIT_{one}_{what}": "a@example.org" for one in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True, env={**os.environ, **who})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tilth: Run) -> Path:
    folder = tmp_path_factory.mktemp("licences")
    commit(folder / "farm", FILES)
    commit(folder / "fork", FORK)
    (folder / "project/recipes").mkdir(parents=True)
    recipe = RECIPE.format(path=str(folder / "farm"), fork=str(folder / "fork"))
    (folder / "project/recipes/code.py").write_text(recipe)
    tilth("build", "code", cwd=folder / "project")
    return folder / "project"


def ask(tilth: Run, project: Path, query: str) -> list[dict[str, object]]:
    return list(json.loads(tilth("sql", query, "--json", cwd=project).stdout))


def test_the_readme_s_query_finds_what_the_repository_s_licence_would_have_hidden(
    tilth: Run, project: Path, repository: Path
) -> None:
    (query,) = re.findall(r"```sql\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    found = ask(tilth, project, query)
    assert [(row["path"], row["in_force"], row["repository"], row["evidence"]) for row in found] == [
        ("src/seed.py", "GPL-3.0-only", "MIT", "src/seed.py"),
        ("vendor/rye/COPYING", "GPL-2.0-only", "MIT", "vendor/rye/COPYING"),
        ("vendor/rye/rye.c", "GPL-2.0-only", "MIT", "vendor/rye/COPYING"),
    ]


def test_a_blob_under_two_licences_keeps_both_and_pick_says_by_which_rule(tilth: Run, project: Path) -> None:
    wide = ask(
        tilth,
        project,
        "select source, licence, licence_strictness as s, loosest_strictness as l from code where path = 'shared.py'",
    )
    assert {(row["source"], row["licence"], row["s"], row["l"]) for row in wide} == {
        ("code", "MIT", 1, 1), ("fork", "GPL-3.0-or-later", 3, 3),
    }  # fmt: skip
    picked = tilth("pick", "free", "licence_strictness <= 1 and source = 'code'", "--from", "code", cwd=project).stdout
    assert re.search(r"licences: a document by the strictest licence of all its places", picked)
    shown = json.loads(tilth("pick", "loose", "loosest_strictness <= 1", "--from", "code", "--json", cwd=project).stdout)
    assert shown["licences"].startswith("a document by the place with the loosest licence")
    other = json.loads(tilth("pick", "other", "n_bytes > 0 and source = 'fork'", "--from", "code", "--json", cwd=project).stdout)
    assert "licences" not in other


def test_the_notice_names_owners_licences_and_texts(tilth: Run, project: Path) -> None:
    tilth("pick", "noticed", "source = 'code'", "--from", "code", cwd=project)
    said = tilth("notice", "noticed", "-o", "NOTICE", cwd=project).stderr
    assert "1 origins, 3 licences, 2 texts" in said
    text = (project / "NOTICE").read_text()
    assert text == tilth("notice", "noticed", cwd=project).stdout
    assert re.search(r"^farm\n  \(c\) 2021 B. Ox\n  Copyright \(c\) 2020 A. Farmer\n", text, re.MULTILINE)
    assert re.search(r"^  GPL-3.0-only: 1 file \(src/seed.py\)$", text, re.MULTILINE)
    assert "GPL-2.0-only, as in farm (swh:1:cnt:" in text
    assert text.rstrip().endswith(FILES["LICENSE"].rstrip())
    tilth("notice", "nothing", cwd=project, expect=2)
