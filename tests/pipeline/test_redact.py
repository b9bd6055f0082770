"""Redaction in a corpus: placeholders in the texts, edits that lead back to the file as it was read, signals to filter by."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tilth.errors import RecipeError
from tilth.pipeline.recipe import Redact

RECIPE = """
from tilth import Bpe, Corpus, Folder
from tilth.pipeline.recipe import Redact


def corpus(mail: str = "<EMAIL>", only: str = "code", redact: bool = True) -> Corpus:
    return Corpus(
        sources=[Folder("code", {folder!r} + "/code"), Folder("notes", {folder!r} + "/notes")],
        signals=("secrets",),
        edits=[Redact(email=mail or None, sources=(only,))] if redact else [],
        tokenizer=Bpe(300),
    )
"""
Run = Callable[..., object]
PASSWORD = "Tr0ub" + "4dor&3"
CODE = f"# é Jane Doe <jane.doe@tilth-farm.com>\nPASSWORD = '{PASSWORD}'\nprint(x.shape)\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("code", "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "login.py").write_text(CODE)
    (tmp_path / "project" / "recipes").mkdir(parents=True)
    (tmp_path / "project" / "recipes" / "files.py").write_text(RECIPE.format(folder=str(tmp_path)))
    return tmp_path / "project"


def query(tilth: Run, project: Path, sql: str) -> list[dict]:
    return json.loads(tilth("sql", sql, "--json", cwd=project).stdout)


def test_texts_are_redacted_and_their_edits_lead_back(project: Path, tilth: Run) -> None:
    tilth("build", "files", cwd=project)
    rows = query(tilth, project, "select shard, row, text, n_secrets, n_emails from files order by shard")
    assert [row["text"] for row in rows] == [
        CODE.replace("jane.doe@tilth-farm.com", "<EMAIL>").replace(PASSWORD, "<PASSWORD>"),
        CODE,
    ]
    assert [(row["n_secrets"], row["n_emails"]) for row in rows] == [(0, 0), (1, 1)]
    edits = query(tilth, project, "select * from files.edits order by start")
    assert [(CODE[edit["start"] : edit["end"]], edit["replacement"], edit["reason"]) for edit in edits] == [
        ("jane.doe@tilth-farm.com", "<EMAIL>", "email"),
        (PASSWORD, "<PASSWORD>", "secret_assignment"),
    ]


def test_placeholders_are_the_recipes_and_a_kind_can_stay(project: Path, tilth: Run) -> None:
    tilth("build", "files", "mail=", cwd=project)
    (row,) = query(tilth, project, "select text from files where shard like 'code%'")
    assert row["text"] == CODE.replace(PASSWORD, "<PASSWORD>")


def test_signals_tell_what_would_be_redacted(project: Path, tilth: Run) -> None:
    tilth("build", "files", "redact=false", cwd=project)
    assert query(
        tilth, project, "select count(*) as n from files where n_secrets > 0 and n_emails > 0 and n_ip_addresses = 0"
    ) == [{"n": 2}]


def test_a_source_that_is_not_there_is_said(project: Path, tilth: Run) -> None:
    assert "wants a source `coda`" in tilth("build", "files", "only=coda", cwd=project, expect=2).stderr


def test_a_redaction_of_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match="replaces nothing"):
        Redact(email=None, key=None, password=None, ip_address=None)
