"""A corpus whose texts are edited between reading and scoring: what was read stays, rows stay, the rest follows the edits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

RECIPE = """
from tilth import Bpe, Corpus, Folder, RedactPersonalData, RepeatedLines
from tilth.pipeline.recipe import C4Lines


def corpus(mode: str = "remove_all_copies", edits: bool = True, more: bool = False) -> Corpus:
    return Corpus(
        sources=[Folder("pages", {folder!r}, shard_bytes=600)],
        edits=[*([RepeatedLines(mode=mode)] if edits else []), *([RedactPersonalData(), C4Lines()] if more else [])],
        tokenizer=Bpe(300),
    )
"""
BANNER, FOOTER = "Skip to the content", "All rights reserved 2024"
Run = Callable[..., object]


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    folder = tmp_path / "pages"
    folder.mkdir()
    for i in range(12):
        own = f"Furrow {'abcdefghijkl'[i]} is ploughed in spring and sown with rye."
        (folder / f"{i:02d}.txt").write_text(f"{BANNER}\n{own}\n{FOOTER.replace('2024', str(2000 + i))}\n")
    (folder / "boilerplate.txt").write_text(f"{BANNER}\n{FOOTER}\n")
    project = tmp_path / "project"
    (project / "recipes").mkdir(parents=True)
    (project / "recipes" / "pages.py").write_text(RECIPE.format(folder=str(folder)))
    return project


def query(tilth: Run, project: Path, sql: str) -> list[dict]:
    return json.loads(tilth("sql", sql, "--json", cwd=project).stdout)


def test_repeated_lines_go_from_every_shard_and_nothing_else(pages: Path, tilth: Run) -> None:
    tilth("build", "pages", cwd=pages)
    rows = query(tilth, pages, "select d.path, d.text, d.n_chars, d.n_tokens, d.extraction from pages as d order by path")
    assert len(rows) == 13
    own = [row for row in rows if row["path"] != "boilerplate.txt"]
    assert all(row["text"].strip().startswith("Furrow") and row["text"].strip().endswith("rye.") for row in own)
    assert all(row["extraction"].endswith("+edits") for row in rows)
    (empty,) = [row for row in rows if row["path"] == "boilerplate.txt"]
    assert (empty["text"].strip(), empty["n_tokens"]) == ("", 1)  # the row stays; only the separator is left
    edits = query(tilth, pages, "select reason, count(distinct (shard, row)) as n from pages.edits group by all")
    assert {(row["reason"], row["n"]) for row in edits} >= {("repeated_line", 13)}


def test_the_first_copy_can_stay_and_a_rebuild_reads_nothing_again(pages: Path, tilth: Run) -> None:
    tilth("build", "pages", "edits=false", cwd=pages)
    assert query(tilth, pages, "select count(*) as n from pages where contains(text, 'Skip')")[0]["n"] == 13
    read = {path.name for path in (pages / ".tilth" / "artifacts" / "read").iterdir()}
    tilth("build", "pages", "mode=keep_first", cwd=pages)
    assert {path.name for path in (pages / ".tilth" / "artifacts" / "read").iterdir()} == read
    assert query(tilth, pages, "select path from pages where contains(text, 'Skip')") == [{"path": "00.txt"}]


def test_training_texts_are_the_edited_ones(pages: Path, tilth: Run) -> None:
    from tilth.artifacts import Store
    from tilth.catalog.trace import subset_documents

    tilth("build", "pages", cwd=pages)
    tilth("pick", "clean", "is_keeper and n_chars > 20", cwd=pages)
    store = Store(pages / ".tilth")
    texts = [document.text for document in subset_documents(store, "clean")]
    assert len(texts) == 12
    assert not [text for text in texts if BANNER in text]


def test_personal_data_and_lines_of_c4_are_replaced_in_the_same_pass(pages: Path, tilth: Run) -> None:
    folder = pages.parent / "pages"
    (folder / "contact.txt").write_text(
        "Please write to Jane Doe at jane.doe@tilth-farm.com for seeds of rye.\nA line that ends without a mark\n"
    )
    tilth("build", "pages", "more=true", cwd=pages)
    (row,) = query(tilth, pages, "select text from pages where path = 'contact.txt'")
    assert "jane.doe" not in row["text"]
    assert row["text"].startswith("Please write to Jane Doe at ")
    assert row["text"].rstrip().endswith("for seeds of rye.")
    reasons = query(
        tilth,
        pages,
        "select distinct e.reason from pages.edits as e join pages as p using (shard, row) where path = 'contact.txt'",
    )
    assert {row["reason"] for row in reasons} >= {"pii_email", "c4_no_terminal_mark"}


def test_an_unknown_mode_is_said(pages: Path, tilth: Run) -> None:
    assert "has no mode `all`" in tilth("build", "pages", "mode=all", cwd=pages, expect=2).stderr
