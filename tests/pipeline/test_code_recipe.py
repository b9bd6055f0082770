"""recipes/code.py on ten repositories made here: what is read, which copies stay, what The Stack v2's predicate keeps."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
Run = Callable[..., subprocess.CompletedProcess[str]]

RECIPE = Path(__file__).parents[2] / "recipes/code.py"
SMALL = ("repositories=repositories", "facts=stars.csv", "vocab_size=400")
WORDS = (
    "rye",
    "oat",
    "clover",
    "barley",
    "meadow",
    "hedge",
    "brook",
    "furrow",
    "harvest",
    "stone",
    "wind",
    "frost",
    "plough",
    "barn",
)


def body(seed: str, line: str = "{a}_{n} = {b}({n}) + {c}") -> str:
    """Sixty lines of code that no other seed gives."""
    random_ = random.Random(seed)
    words = ({name: random_.choice(WORDS) for name in "abc"} | {"n": random_.randrange(10**4)} for _ in range(60))
    return "".join(line.format(**word) + "\n" for word in words)


GPL = "SPDX-License-Identifier: GPL-2.0-only\n"
JS, C = "let {a}_{n} = {b}({n}) + {c};", "int {a}_{n} = {b}({n}) + {c};"
OF_GPL_AND_MIT, OF_MIT_AND_APACHE, NEARLY = body("shared"), body("twice"), body("nearly", JS)
NOTEBOOK = {
    "cells": [{"cell_type": "code", "outputs": [], "source": ["x = 1\n", "print(x + 2)\n"]}],
    "metadata": {},
    "nbformat": 4,
}
# origin -> stars and files; what is under GPL has `gpl` in its path, what the predicate must keep `kept`
REPOSITORIES: dict[str, tuple[str, dict[str, str]]] = {
    "ann/plough": ("5", {
        "LICENSE": "SPDX-License-Identifier: MIT\n(c) Ann\n", "kept_main.py": body("plough"), "shared.py": OF_GPL_AND_MIT,
        "copy/shared.py": OF_GPL_AND_MIT, "kept_keys.py": "# mail ann.brook@barn-hedgerow.net\n" + body("keys"),
        "lib/gpl/COPYING": GPL, "lib/gpl/rye.c": body("rye", C), "lib/gpl/deep/oat.c": body("oat", C),
        "src/gpl_header.py": f"# {GPL}" + body("header"), "vendor/jar.py": body("jar"),
        "package-lock.json": json.dumps({"lockfileVersion": 3, "packages": {"": {"name": "plough"}}}, indent=1),
    }),
    "ivy/plough": ("50", {}),  # a fork: the same tree
    "bob/seeds": ("10", {
        "package.json": '{"name": "seeds", "license": "MIT"}\n', "kept_index.js": body("index", JS), "kept_near.js": NEARLY,
        "twice.py": OF_MIT_AND_APACHE, "kept.ipynb": json.dumps(NOTEBOOK, indent=1),
    }),
    "cat/harrow": ("70", {
        "LICENSE": "SPDX-License-Identifier: Apache-2.0\n", "kept_main.go": "package main\n" + body("harrow", "var {a}{n} = {b}({n})"),
        "kept_twice.py": OF_MIT_AND_APACHE,
    }),
    "dan/barn": ("", {"LICENSE": "SPDX-License-Identifier: BSD-3-Clause\n", "kept_Barn.java": body("barn", C)}),
    "eve/mill": ("900", {
        "COPYING": GPL, "gpl_mill.c": body("mill", C), "gpl_shared.py": OF_GPL_AND_MIT, "gpl_header.py": f"# {GPL}" + body("header"),
    }),
    "fay/oats": ("", {
        "Cargo.toml": '[package]\nname = "oats"\nlicense = "MIT OR Apache-2.0"\n', "kept_lib.rs": body("lib", "let {a}_{n} = {b}({n});"),
        "near.ts": NEARLY.replace("let", "var", 1),
    }),
    "gus/hen": ("3", {"LICENSE": "SPDX-License-Identifier: LGPL-3.0-only\n", "hen.rb": body("hen")}),
    "hal/cart": ("8", {"cart.php": "<?php\n" + body("cart", "${a}{n} = {b}({n});"), "README.md": "# A cart\n\nUnder no licence.\n" * 3}),
}  # fmt: skip
KEPT_OF_PLOUGH = {("ivy/plough", path) for path in ("kept_main.py", "kept_keys.py", "copy/shared.py")}


def git(folder: Path, *words: str, at: str = "2024-01-02T03:04:05Z") -> str:
    who = {f"GIT_{role}_{what}": "a@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    dates = {f"GIT_{role}_DATE": at for role in ("AUTHOR", "COMMITTER")}
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **who, **dates}).stdout.strip()


def commit(folder: Path, at: str = "2024-01-02T03:04:05Z") -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", "one", at=at)


def write_repositories(folder: Path, named: Callable[[str], str] = lambda origin: origin) -> None:
    """The repositories below `folder`, each in the folder that `named` gives for its origin, with the bad input of life."""
    at = {origin: folder / named(origin) for origin in (*REPOSITORIES, "jon/broken")}
    for origin, (_, files) in REPOSITORIES.items():
        place = at[origin]
        place.mkdir(parents=True)
        git(place, "init", "-q", "-b", "main")
        for path, text in (files or REPOSITORIES["ann/plough"][1]).items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_text(text)
        if files in ({}, REPOSITORIES["ann/plough"][1]):
            (place / "link.py").symlink_to("kept_main.py")
            (place / os.fsdecode(b"caf\xe9.py")).write_text("# not a name in UTF-8\n" + body("name"))
            (place / "blob.py").write_bytes(b"\x7fELF\0\0")
            (place / "module").mkdir()
            git(place, "update-index", "--add", "--cacheinfo", "160000", "1" * 40, "module")
        commit(place, "2023-01-02T03:04:05Z" if not files else "2024-01-02T03:04:05Z")
        git(place, "remote", "add", "origin", f"https://github.com/{origin}.git")
    git(folder, "init", "-q", "--bare", str(at["jon/broken"]))  # no commit


def write_stars(file: Path) -> None:
    file.write_text("repository,stars\n" + "".join(f"{origin},{stars}\n" for origin, (stars, _) in REPOSITORIES.items()))


def new_project(folder: Path) -> Path:
    (folder / "recipes").mkdir(parents=True)
    shutil.copy(RECIPE, folder / "recipes")
    write_stars(folder / "stars.csv")
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tilth: Run) -> Path:
    """A project in which the recipe has built the ten repositories."""
    folder = new_project(tmp_path_factory.mktemp("code"))
    write_repositories(folder / "repositories")
    tilth("build", "code", *SMALL, cwd=folder)
    return folder


def said(*words: str) -> str:
    """What the recipe prints when it is run as a script."""
    return subprocess.run([sys.executable, str(RECIPE), *words], capture_output=True, text=True, check=True).stdout.strip()


def query(tilth: Run, project: Path, sql: str) -> list[dict[str, Any]]:
    return list(json.loads(tilth("sql", sql, "--json", cwd=project).stdout))


def picked(tilth: Run, project: Path, *words: str) -> set[tuple[str, str]]:
    """(repository, path) of what the recipe's predicate keeps."""
    tilth("pick", "kept", said("where", *words), "--from", "code", "--validation", "0", cwd=project)
    sql = "select origin, path from subset_documents as s join code using (shard, row) where subset = 'kept'"
    return {(short(row["origin"]), row["path"]) for row in query(tilth, project, sql)}


def short(origin: str) -> str:
    return origin.removeprefix("https://github.com/").removesuffix(".git")


def keepers(tilth: Run, project: Path) -> set[tuple[str, str]]:
    rows = query(tilth, project, "select origin, path from code where is_keeper")
    return {(row["origin"], row["path"]) for row in rows}


def sql_of_docs() -> list[str]:
    return re.findall(r"```sql\n(.*?)```", (RECIPE.parents[1] / "docs/code.md").read_text(), re.DOTALL)


def outputs(project: Path) -> dict[tuple[str, str | None], str]:
    parts = json.loads((project / ".tilth/names/corpus/code.json").read_bytes())["parts"]
    return {(part["step"], part["shard"]): part["digest"] for part in parts}


def test_ten_repositories_are_read_and_what_cannot_be_is_named(tilth: Run, project: Path) -> None:
    (row,) = query(tilth, project, "select count(distinct origin) as n, count(distinct language) as languages from code")
    assert row["n"] == 9
    assert row["languages"] >= 10
    rejects = query(tilth, project, "select reason, location from code.rejects")
    assert sorted((row["reason"], short(row["location"].rpartition(":")[0])) for row in rejects) == sorted(
        [("no_commit", ""), *((reason, origin) for reason in ("binary", "symlink", "submodule") for origin in ("ann/plough", "ivy/plough"))]
    )  # fmt: skip
    assert any(row["location"] == "jon/broken" for row in rejects)
    sql = "select path, text from code where path like 'caf%' and starts_with(text, '# not a name')"
    assert {row["path"] for row in query(tilth, project, sql)} == {"caf\\udce9.py"}


def test_the_predicate_keeps_what_is_permissive_unique_and_written_by_hand(tilth: Run, project: Path) -> None:
    kept = picked(tilth, project)
    assert not [path for path in kept if "gpl" in path[1]]
    assert {pair for pair in kept if pair[0].endswith("plough")} == {*KEPT_OF_PLOUGH, ("ivy/plough", "caf\\udce9.py")}
    by_name = {(origin, path) for origin, (_, files) in REPOSITORIES.items() for path in files if "kept" in path}
    assert {pair for pair in kept if "kept" in pair[1]} == {
        (origin.replace("ann", "ivy"), path) for origin, path in by_name
    }  # the fork has more stars
    assert not {origin for origin, _ in kept} & {"eve/mill", "gus/hen", "hal/cart", "ann/plough"}
    dropped = {"vendor/jar.py", "package-lock.json", "twice.py", "near.ts"}
    assert not dropped & {path for _, path in kept}
    (edits,) = query(tilth, project, "select count(*) as n from code.edits where replacement = '<EMAIL>'")
    assert edits["n"] == 2  # of the file and its copy in the fork


def test_the_commands_of_the_docstring_are_understood(tilth: Run, project: Path, test_data: Path) -> None:
    lines = RECIPE.read_text().split('"""')[1].splitlines()
    builds = [line.split()[1:] for line in lines if line.startswith("tilth build")]
    assert len(builds) == 2
    for words in builds:
        given = [word.replace("path/to/benchmarks", str(test_data)).replace("path/to/", "") for word in words]
        assert "Nothing was run." in tilth(*given, "--explain", cwd=project).stdout
    scanned = tilth("build", "code", *SMALL, "clamd=unix:/run/clamav/clamd.ctl", "--explain", cwd=project).stdout
    assert re.search(r"^  signals.malware +10 +10 ", scanned, re.MULTILINE)
    assert '$(python recipes/code.py where)" --from code' in "".join(line for line in lines if line.startswith("tilth pick"))
    picked(tilth, project)
    assert "tilth notice permissive -o NOTICE" in lines
    tilth("notice", "kept", "-o", "NOTICE", cwd=project)
    assert "(c) Ann" in (project / "NOTICE").read_text()


def test_other_licences_on_demand(tilth: Run, project: Path) -> None:
    usual = picked(tilth, project)
    assert picked(tilth, project, "licences=or-none") - usual == {("hal/cart", "cart.php"), ("hal/cart", "README.md")}
    # eve/mill holds the same file under GPL
    assert usual - picked(tilth, project, "licences=everywhere") == {("ivy/plough", "copy/shared.py")}
    wrong = subprocess.run([sys.executable, str(RECIPE), "where", "licences=free"], capture_output=True, text=True, check=False)
    assert "`free` is none of permissive, everywhere, or-none" in wrong.stderr


def test_a_file_in_several_repositories_keeps_all_its_places_and_licences(tilth: Run, project: Path) -> None:
    shared = "(select doc_id from code where path = 'gpl_shared.py')"
    places = query(tilth, project, f"select origin, path from code.occurrences where doc_id = {shared}")
    own = [("ann/plough", "shared.py"), ("ann/plough", "copy/shared.py")]
    expected = {*own, *((origin.replace("ann", "ivy"), path) for origin, path in own), ("eve/mill", "gpl_shared.py")}
    assert {(short(row["origin"]), row["path"]) for row in places} == expected
    rows = query(tilth, project, f"select origin, licence, strictest_anywhere as s, is_keeper from code where doc_id = {shared}")
    assert {(short(row["origin"]), row["licence"], row["s"], row["is_keeper"]) for row in rows} == {
        ("ann/plough", "MIT", 3, False), ("ivy/plough", "MIT", 3, True), ("eve/mill", "GPL-2.0-only", 3, False),
    }  # fmt: skip
    two = query(tilth, project, "select origin, is_keeper, n_occurrences from code where path like '%twice.py'")
    assert {(short(row["origin"]), row["is_keeper"]) for row in two} == {("cat/harrow", True), ("bob/seeds", False)}


def test_near_copies_are_a_marked_cluster_across_languages(tilth: Run, project: Path) -> None:
    rows = query(
        tilth, project, "select path, language, is_keeper, cluster_id from code where path in ('kept_near.js', 'near.ts')"
    )
    assert {(row["path"], row["language"], row["is_keeper"]) for row in rows} == {
        ("kept_near.js", "JavaScript", True), ("near.ts", "TypeScript", False),
    }  # fmt: skip
    assert len({row["cluster_id"] for row in rows}) == 1
    (sql,) = [block for block in sql_of_docs() if "as copies" in block]
    (copies,) = [row for row in query(tilth, project, sql) if row["cluster_id"] == rows[0]["cluster_id"]]
    assert [place.rpartition(":")[2] for place in copies["copies"]] == ["kept_near.js", "near.ts"]
    assert sorted(copies["languages"]) == ["JavaScript", "TypeScript"]


def test_repositories_with_the_same_root_tree_are_found_by_their_swhid(tilth: Run, project: Path) -> None:
    (sql,) = [block for block in sql_of_docs() if "as same_tree" in block]
    (row,) = query(tilth, project, sql)
    assert row["directory"] == "swh:1:dir:" + git(project / "repositories/ann/plough", "rev-parse", "HEAD^{tree}")
    assert [short(origin) for origin in row["same_tree"]] == ["ivy/plough", "ann/plough"]
    kept = {short(origin) for origin, _ in keepers(tilth, project)}
    assert "ann/plough" not in kept, "all files of a tree stay in the same repository"


def test_the_bytes_do_not_depend_on_the_number_of_workers(tilth: Run, project: Path, tmp_path: Path) -> None:
    other = new_project(tmp_path / "project")
    (other / "repositories").symlink_to(project / "repositories")
    tilth("build", "code", *SMALL, "--workers", "4", cwd=other)
    assert outputs(other) == outputs(project)


def test_the_keepers_do_not_depend_on_the_order_of_reading(tilth: Run, project: Path, tmp_path: Path) -> None:
    other = new_project(tmp_path / "project")
    write_repositories(other / "repositories", lambda origin: origin[::-1])
    assert [name[::-1] for name in sorted(name[::-1] for name in REPOSITORIES)] != sorted(REPOSITORIES)
    tilth("build", "code", *SMALL, cwd=other)
    assert keepers(tilth, other) == keepers(tilth, project)


def test_other_stars_read_one_repository_again_and_choose_other_keepers(tilth: Run, project: Path, tmp_path: Path) -> None:
    other = new_project(tmp_path / "project")
    (other / "repositories").symlink_to(project / "repositories")
    shutil.copytree(project / ".tilth", other / ".tilth", symlinks=True)
    text = (other / "stars.csv").read_text()
    (other / "stars.csv").write_text(text.replace("ann/plough,5\n", "ann/plough,51\n"))
    (line,) = re.findall(r"^  read .*", tilth("build", "code", *SMALL, "--explain", cwd=other).stdout, re.MULTILINE)
    assert line.split()[:3] == ["read", "10", "1"]
    tilth("build", "code", *SMALL, cwd=other)
    assert "ivy/plough" not in {short(origin) for origin, _ in keepers(tilth, other)}
    assert "is up to date" in tilth("build", "code", *SMALL, cwd=other).stderr


def test_items_of_benchmarks_are_found_and_left_out(tilth: Run, tmp_path: Path, test_data: Path) -> None:
    import gzip

    with gzip.open(test_data / "humaneval/data/HumanEval.jsonl.gz", "rt") as file:
        items = [json.loads(line) for line in file]
    project = new_project(tmp_path / "project")
    leaked = items[10]["prompt"] + items[10]["canonical_solution"]
    renamed = re.sub(r"\bstring\b", "text", leaked).replace("    ", "\t")
    place = project / "repositories/leak"
    place.mkdir(parents=True)
    git(place, "init", "-q", "-b", "main")
    for path, text in {
        "LICENSE": "SPDX-License-Identifier: MIT\n", "leak.py": leaked, "renamed.py": renamed, "kept.py": body("clean"),
    }.items():  # fmt: skip
        (place / path).write_text(text)
    commit(place)
    words = ("repositories=repositories", f"benchmarks={test_data}", "vocab_size=400")
    told = tilth("build", "code", *words, cwd=project).stderr
    assert "2 documents hold parts of 1 of 164 items of `humaneval`" in told
    assert {path for _, path in picked(tilth, project, "decontaminated=true")} == {"kept.py"}
    wrong = tilth("build", "code", "repositories=repositories", "benchmarks=recipes", cwd=project, expect=2).stderr
    assert "0 files of the benchmark `humaneval`" in wrong
