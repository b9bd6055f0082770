"""From a corpus of sums to answers against seconds: the recipe of distilled reasoners as a user runs it, at a small size."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MODELS = ("teacher", "hybrid", "pure", "control")
N_PROBLEMS, N_SAMPLES = 6, 4


@pytest.fixture(scope="module")
def project(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe, in which it has run."""
    folder = tmp_path_factory.mktemp("distilled")
    (folder / "recipes").mkdir()
    shutil.copy(repository / "recipes" / "distill.py", folder / "recipes")
    settings = ["steps=40", f"n_problems={N_PROBLEMS}", f"samples={N_SAMPLES}", "n=1500", "megabytes=0.1"]
    done = run(folder, "recipes/distill.py", *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=800, env=environment)


def rows(folder: Path, query: str) -> list[dict[str, Any]]:
    done = run(folder, "-m", "tilth", "sql", "--json", query)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_every_sample_of_all_three_is_a_row_with_its_answer_and_times(project: Path) -> None:
    found = rows(
        project,
        "select evaluation, count(*) as n, count(distinct problem) as problems, min(started) >= 0 and min(finished - started) >= 0"
        " as in_order, sum(n_tokens) as tokens from samples group by 1 order by 1",
    )
    assert [row["evaluation"] for row in found] == sorted(f"reason-{model}" for model in MODELS)
    for row in found:
        assert (row["n"], row["problems"]) == (N_PROBLEMS * N_SAMPLES, N_PROBLEMS)
        assert row["in_order"]
        assert row["tokens"] > 0


def test_students_are_runs_of_a_third_of_the_teachers_tokens_with_their_stages(project: Path) -> None:
    found = {row["name"]: row for row in rows(project, "select name, base, steps, layers from runs")}
    for student, layers in (("hybrid", "DDAD"), ("pure", "DDDD")):
        stages = [found[name] for name in (f"{student}-orientation", f"{student}-alignment", student)]
        assert {stage["base"] for stage in stages} == {"teacher"}
        assert stages[-1]["layers"] == layers
        assert sum(stage["steps"] for stage in stages) == found["control"]["steps"] <= 0.35 * found["teacher"]["steps"]


def test_no_problem_was_in_a_lesson_and_one_that_was_is_refused_by_name(project: Path) -> None:
    lesson = rows(project, "select text from distill where source = 'sums' and is_keeper order by row limit 1")[0]["text"]
    question, solution = re.fullmatch(r"Question: (.*)\nAnswer:\s?((?s:.*))", lesson).groups()  # type: ignore[union-attr]
    (project / "leak.jsonl").write_text(json.dumps({"question": question, "answer": solution}) + "\n")
    done = run(project, "-m", "tilth", "evaluate", "hybrid", "--problems", "leak.jsonl", "--n", "2", "--max-tokens", "8")
    assert done.returncode == 2
    assert "trained on" in done.stderr
    assert "sums/00000" in done.stderr


def test_the_report_draws_the_curves_and_nothing_is_made_twice(project: Path) -> None:
    page = (project / ".tilth" / "report.html").read_text(encoding="utf-8")
    for model in MODELS:
        assert f"reason-{model}" in page
    again = run(project, "-m", "tilth", "distill", "distill:hybrid", "steps=40")
    assert "up to date" in again.stdout + again.stderr
