"""Rules for keepers in a build: changing one makes one small output, and everything that names a corpus names its rule."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tilth.artifacts import Store
from tilth.catalog.sql import run_sql

Run = Callable[..., subprocess.CompletedProcess[str]]
FIRST = "the first by shard and row"


@pytest.fixture(scope="module")
def project(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the built project, its own to change."""
    return Path(shutil.copytree(built, tmp_path_factory.mktemp("keepers") / "copy", symlinks=True))


def kept(project: Path) -> list[str]:
    rows = run_sql(
        Store(project / ".tilth"), "select path from small where is_keeper and source = 'prose' order by path"
    ).to_pylist()
    return [row["path"] for row in rows]


def test_another_rule_makes_one_output_and_keeps_other_documents(project: Path, tilth: Run) -> None:
    assert f"keepers: {FIRST}" in tilth("build", "small", "--explain", cwd=project).stdout
    before = kept(project)
    said = tilth("build", "small", "keep=n_words desc", "--explain", cwd=project, expect=2).stderr
    assert "n_words" in said
    said = tilth("build", "small", "keep=longest", "--explain", cwd=project).stdout
    assert f"keepers: longest, then {FIRST}" in said
    assert "1 of " in said.splitlines()[-1]
    assert "rule" in next(line for line in said.splitlines() if line.strip().startswith("dedup.keepers"))
    assert "1 outputs made" in tilth("build", "small", "keep=longest", cwd=project).stderr
    after = kept(project)
    # The near copies end in one more word than what they repeat.
    assert {f"near-{i:03d}.txt" for i in range(5)} <= set(after)
    assert not {f"near-{i:03d}.txt" for i in range(5)} & set(before)
    assert len(after) == len(before)


def test_show_and_pick_name_the_rule(project: Path, tilth: Run) -> None:
    tilth("build", "small", "keep=quality_score desc", cwd=project)
    rule = f"quality_score desc, then {FIRST}"
    assert rule in tilth("show", "corpus/small", cwd=project).stdout
    said = tilth("pick", "clean", "is_keeper and n_tokens > 3", cwd=project).stdout
    assert f"keepers: {rule}" in said
    assert rule in tilth("show", "subset/clean", cwd=project).stdout
    assert "keepers:" not in tilth("pick", "all", "source = 'noise'", cwd=project).stdout


@pytest.mark.parametrize("rule", ["most_permissive", "earliest", "best_quality", "source:noise,prose"])
def test_every_named_rule_builds(rule: str, project: Path, tilth: Run) -> None:
    tilth("build", "small", f"keep={rule}", cwd=project)
    (row,) = run_sql(
        Store(project / ".tilth"),
        "select count(distinct cluster_id) = count(*) filter (is_keeper) as one_each, count(*) filter (not is_keeper) as n from small",
    ).to_pylist()
    assert row["one_each"]
    assert row["n"] >= 10
