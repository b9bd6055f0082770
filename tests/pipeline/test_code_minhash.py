"""Files that are alike by their licence notice alone are no near-duplicates of each other; their texts keep it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tilth import Corpus, Folder, MinHashParameters
from tilth.catalog.sql import run_sql
from tilth.pipeline.build import build
from tilth.pipeline.code_minhash import CodeMinHash
from tilth.pipeline.project import Project

WORDS = " ".join(f"word{i}" for i in range(120))
NOTICE = f"/* Copyright 2020 A. Farmer\n * {WORDS} */\n\n"
CODE = "int plough(int field) { return field + 1; }\nint sow(int seed) { return seed * 2; }\n"
FILES = {
    "a.c": f"{NOTICE}{CODE}",
    "b.c": f"{NOTICE}int reap(int rye) {{ return rye / 3; }}\nchar *barn = wide;\n",
    "c.c": f"// Copyright 2021 B. Ox\n\n{CODE}",
    "only.c": NOTICE,
    "text.txt": WORDS,
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "files").mkdir()
    for name, text in FILES.items():
        (tmp_path / "files" / name).write_text(text)
    (tmp_path / "project").mkdir()
    return Project(tmp_path / "project")


def clusters(project: Project, near: MinHashParameters) -> set[frozenset[str]]:
    source = Folder("files", str(project.folder.parent / "files"))
    build(project, "code", Corpus([source], signals=(), near_duplicates=near, tokenizer=None))
    rows = run_sql(project.store, "select list(path) as paths from code group by cluster_id").to_pylist()
    assert run_sql(project.store, "select text from code where path = 'a.c'").to_pylist() == [{"text": FILES["a.c"]}]
    return {frozenset(row["paths"]) for row in rows if len(row["paths"]) > 1}


def test_a_notice_makes_no_copy(project: Project) -> None:
    assert clusters(project, MinHashParameters()) == {frozenset({"a.c", "b.c", "only.c", "text.txt"})}
    # A search of other shingles takes over nothing of the last one.
    assert clusters(project, CodeMinHash()) == {frozenset({"a.c", "c.c"})}
    assert clusters(project, MinHashParameters()) == {frozenset({"a.c", "b.c", "only.c", "text.txt"})}


def test_the_key_says_what_is_not_compared() -> None:
    assert '"without": "licence headers 1"' in CodeMinHash().label()
    assert CodeMinHash(threshold=0.8).n_bands == MinHashParameters(threshold=0.8).n_bands
