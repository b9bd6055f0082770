"""A corpus that is searched for benchmarks and whose repeated spans are cut: build, SQL, pick, and what is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tilth.artifacts import Store
from tilth.dedup.passages import span_files
from tilth.dedup.passages.spans import Mode

Run = Callable[..., Any]


@pytest.fixture
def project(overlapping: Path, tmp_path: Path) -> Path:
    """A copy of the project that is built."""
    return Path(shutil.copytree(overlapping, tmp_path / "project", symlinks=True))


def query(tilth: Run, project: Path, sql: str) -> list[dict[str, Any]]:
    return json.loads(tilth("sql", sql, "--json", cwd=project).stdout)  # type: ignore[no-any-return]


def test_a_planted_item_is_found_and_can_be_left_out(project: Path, tilth: Run) -> None:
    rows = query(
        tilth,
        project,
        "select c.*, substring(text, c.start + 1, c.end - c.start) as span from pages.contamination c join pages using (shard, row)",
    )
    (row,) = rows
    assert (row["benchmark"], row["item"], row["field"], row["method"], row["coverage"]) == ("sums", "0", "question", "ngram", 1)
    assert row["span"].startswith("A FARMER’S BARN")
    assert row["span"].endswith("TOGETHER")
    assert row["n_matched"] == len(row["span"].replace(">", "").replace("--", "").split())
    marked = query(
        tilth, project, "select path, n_contaminated, contaminated_by, contamination_coverage from pages where n_contaminated > 0"
    )
    assert marked == [{"path": "leak.txt", "n_contaminated": 1, "contaminated_by": ["sums"], "contamination_coverage": 1}]
    assert query(tilth, project, "select count(*) as n from pages where contaminated_by = [] and contamination_coverage = 0") == [
        {"n": 13}
    ]
    tilth("pick", "clean", "is_keeper and not list_contains(contaminated_by, 'sums')", "--from", "pages", cwd=project)
    kept = query(tilth, project, "select path from subset_documents join pages using (shard, row) where subset = 'clean'")
    assert len(kept) == 13
    assert "leak.txt" not in {row["path"] for row in kept}


def test_a_subset_that_does_not_ask_for_benchmarks_does_not_depend_on_them(project: Path, tilth: Run) -> None:
    store = Store(project / ".tilth")
    for where, depends in (("is_keeper", False), ("is_keeper and n_contaminated = 0", True)):
        tilth("pick", "some", where, "--from", "pages", cwd=project)
        inputs = store.artifact(store.get_named("subset", "some").one("pick")).spec.inputs
        assert any(name.startswith("contamination") for name in inputs) == depends


def test_what_is_found_and_what_is_not_is_said(project: Path, tilth: Run) -> None:
    said = tilth("build", "pages", "field=question", cwd=project).stderr
    assert "1 documents hold parts of 1 of 2 items of `sums`" in said
    assert "no document holds anything of the 1 items of `other`" in said
    fresh = project / "fresh.jsonl"
    fresh.write_text(json.dumps({"question": " ".join(f"unseen{i}" for i in range(20))}) + "\n")
    said = tilth("build", "pages", f"benchmark={fresh}", cwd=project).stderr
    assert "no document holds anything of the 1 items of `sums`" in said
    assert query(tilth, project, "select max(n_contaminated) as n from pages") == [{"n": 0}]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["field=qestion"], "Did you mean `question`?"),
        (["benchmark=none.jsonl"], "the benchmark `sums` is not there"),
        (["mode=some"], "RepeatedSpans has no mode `some`"),
    ],
)
def test_what_cannot_be_is_said(project: Path, tilth: Run, words: list[str], said: str) -> None:
    assert said in tilth("build", "pages", *words, cwd=project, expect=2).stderr


def test_repeated_spans_are_cut_from_the_sources_that_are_named(project: Path, tilth: Run) -> None:
    left = query(tilth, project, "select path from pages where contains(text, 'This notice stands') order by path")
    assert [row["path"] for row in left] == ["0.txt", "00.txt"]
    edits = query(tilth, project, "select path, text, reason from pages.edits join pages using (shard, row) order by path")
    assert [(row["path"], row["reason"]) for row in edits] == [(f"{i:02d}.txt", "repeated_span") for i in (3, 6, 9)]
    assert [row["text"].split()[-1] for row in edits] == ["3", "6", "9"]
    tilth("build", "pages", "mode=remove_all_copies", cwd=project)
    left = query(tilth, project, "select path from pages where contains(text, 'This notice stands')")
    assert [row["path"] for row in left] == ["0.txt"]


def test_neither_workers_nor_the_size_of_shards_change_what_is_cut_and_found(project: Path, tilth: Run) -> None:
    texts = "select path, text, n_contaminated from pages order by path"
    before = query(tilth, project, texts)
    assert query(tilth, project, "select count(distinct shard) as n from pages where source = 'pages'")[0]["n"] > 1
    shutil.rmtree(project / ".tilth")
    tilth("build", "pages", "shard_bytes=700", "--workers", "2", cwd=project)
    assert query(tilth, project, texts) == before


@pytest.mark.parametrize("mode", ["keep_first", "remove_all_copies"])
def test_runs_in_files_merged_in_rounds_give_the_same(mode: Mode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def table(i: int) -> pa.Table:
        texts = [" ".join(f"w{(i * k) % 7}" for k in range(30)), "one two three four five six"]
        return pa.table(
            {"shard": [f"s/{i:02d}"] * 2, "row": pa.array([0, 1], pa.int32()), "text": pa.array(texts, pa.large_string())}
        )

    shards = [lambda i=i: table(i).to_batches() for i in range(9)]
    whole = pa.concat_tables(span_files.repeated_spans(shards, tmp_path, 5, mode))
    monkeypatch.setattr(span_files, "MOST_RUNS", 2)
    assert pa.concat_tables(span_files.repeated_spans(shards, tmp_path, 5, mode, max_bytes=2000)) == whole
    assert whole.num_rows >= 9
    assert not list(tmp_path.iterdir())
