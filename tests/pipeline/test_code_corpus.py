"""A folder of source files: notebooks become text by edits, and one policy picks what The Stack v2 keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tilth import Corpus, Folder
from tilth.catalog.pick import pick
from tilth.catalog.sql import run_sql
from tilth.corpus.edits import edited
from tilth.errors import RecipeError
from tilth.pipeline.build import build
from tilth.pipeline.linguist import Linguist
from tilth.pipeline.project import Project
from tilth.pipeline.recipe import Notebooks, RedactPersonalData, RepeatedLines

CELLS = [
    {"cell_type": "markdown", "source": ["Write to ann@farm.org\n", "today"]},
    {"cell_type": "code", "outputs": [{"output_type": "stream", "text": ["3\n"]}], "source": ["x = 1\n", "print(x + 2)"]},
]
FILES = {
    "a.py": "def add(first, second):\n    # the sum of both\n    return first + second\n",
    "long.py": "x = '" + "two words " * 120 + "'\n",
    "vendor/a.js": "var first = 1;\n",
    "Cargo.lock": "version = 3\n",
    "made.py": "# This file was automatically generated\nx = 1\n",
    "notes.txt": "some words about it\n",
    "other.txt": "some words about it, too\n",
    "Broken.ipynb": '{"cells": [',
    "one.ipynb": json.dumps({"cells": CELLS, "metadata": {}, "nbformat": 4}, indent=1),
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "files").mkdir()
    for name, text in FILES.items():
        (tmp_path / "files" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "files" / name).write_text(text)
    (tmp_path / "project").mkdir()
    return Project(tmp_path / "project")


def make(project: Project, name: str, edits: list[object]) -> dict[str, str]:
    source = Folder("files", str(project.folder.parent / "files"))
    signals = ("code_shape", "code_head", "code_html", "code_comments", Linguist())
    build(project, name, Corpus([source], signals=signals, edits=edits, tokenizer=None))
    return {row["path"]: row["text"] for row in run_sql(project.store, f"select path, text from {name}").to_pylist()}


def test_one_policy_picks_what_the_stack_v2_keeps(project: Project) -> None:
    make(project, "code", [])
    picked = pick(project.store, "code", "kept", "@stack-v2")
    assert picked.n_documents == 4
    paths = run_sql(project.store, "select path from code where @stack-v2 order by path").to_pylist()
    assert [row["path"] for row in paths] == ["Broken.ipynb", "a.py", "notes.txt", "one.ipynb"]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("script", "# Write to email@example.com\n# today\n\nx = 1\nprint(x + 2)\n"),
        (
            "structured",
            "<jupyter_start><jupyter_text>Write to email@example.com\ntoday<jupyter_code>x = 1\nprint(x + 2)<jupyter_output>3",
        ),
    ],
)
def test_notebooks_become_text_and_later_edits_see_it(project: Project, form: str, text: str) -> None:
    texts = make(project, "code", [Notebooks(form), RedactPersonalData()])  # type: ignore[arg-type]
    assert texts["one.ipynb"] == text
    assert {name: texts[name] for name in texts if name != "one.ipynb"} == {
        name: FILES[name] for name in FILES if name != "one.ipynb"
    }
    edits = run_sql(project.store, 'select start, "end", replacement, reason from code.edits order by start').to_pylist()
    assert edited(FILES["one.ipynb"], [(row["start"], row["end"], row["replacement"]) for row in edits]) == text
    assert any("pii_email" in row["reason"] for row in edits)
    whole = "select count(*) as n from code where path ilike '%.ipynb' and not ends_with(extraction, '+edits')"
    assert run_sql(project.store, whole).to_pylist() == [{"n": 1}]  # damaged ones stay, and are counted so


def test_texts_are_compared_before_notebooks_change_them() -> None:
    source = Folder("files", "files")
    with pytest.raises(RecipeError, match="compares the texts as they were read"):
        Corpus([source], edits=[Notebooks(), RepeatedLines()])
    with pytest.raises(RecipeError, match="has no form"):
        Notebooks("cells")  # type: ignore[arg-type]
