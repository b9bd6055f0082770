"""A build keeps everything that it reads, makes only what is missing, and says why."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tilth.artifacts import Store
from tilth.errors import BuildError, SourceError, StoreError
from tilth.pipeline.execute import Outcome
from tilth.pipeline.missing import raise_errors

Run = Callable[..., subprocess.CompletedProcess[str]]
Tree = Callable[[Path], dict[str, bytes]]


def ask(tilth: Run, project: Path, query: str) -> list[dict[str, object]]:
    return list(json.loads(tilth("sql", query, "--json", cwd=project).stdout))


def test_rows_in_are_rows_out_and_rejects(built: Path, inputs: Path, tilth: Run) -> None:
    counts = {row["source"]: row for row in ask(tilth, built, "select source, count(*) as n from small group by all")}
    rejects = {row["source"]: row for row in ask(tilth, built, "select source, count(*) as n from small.rejects group by all")}
    n_files = {folder: len(list((inputs / folder).iterdir())) for folder in ("prose", "noise")}
    assert counts["prose"]["n"] == n_files["prose"]
    assert counts["noise"]["n"] + rejects["noise"]["n"] == n_files["noise"]
    reasons = ask(tilth, built, "select reason from small.rejects where source = 'noise' order by reason")
    assert [row["reason"] for row in reasons] == ["binary", "empty"]
    assert counts["code"]["n"] == 21


def test_planted_copies_are_marked_and_kept(built: Path, tilth: Run) -> None:
    (row,) = ask(
        tilth,
        built,
        "select count(*) as n, count(*) filter (is_keeper) as kept, count(*) filter (is_exact_keeper) as exact from small where source = 'prose'",
    )
    assert row["n"] - row["exact"] == 5
    assert row["n"] - row["kept"] == 10


def test_every_document_has_every_signal_or_a_reason(built: Path, tilth: Run) -> None:
    (row,) = ask(
        tilth,
        built,
        "select count(*) as n, count(*) filter (rps_doc_mean_word_length is null and natural_language_undefined is null) as silent from small",
    )
    assert row["n"] > 100
    assert row["silent"] == 0


def test_provenance_reaches_the_file_and_its_licence(built: Path, inputs: Path, tilth: Run) -> None:
    (row,) = ask(
        tilth, built, "select path, licence, raw_swhid, revision from small where source = 'code' and path = 'module_3.py'"
    )
    blob = subprocess.run(
        ["git", "-C", str(inputs / "repository"), "rev-parse", "HEAD:module_3.py"], capture_output=True, text=True, check=True
    )
    head = subprocess.run(
        ["git", "-C", str(inputs / "repository"), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert row["raw_swhid"] == f"swh:1:cnt:{blob.stdout.strip()}"
    assert row["revision"] == f"swh:1:rev:{head.stdout.strip()}"
    assert "MIT" in str(row["licence"])


def seconds_of_children() -> float:
    """CPU time of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_second_build_is_up_to_date_and_changes_no_file(built: Path, tilth: Run, tree: Tree) -> None:
    folders = [built / ".tilth" / name for name in ("artifacts", "names", "catalog")]
    before = [tree(folder) for folder in folders]
    started = seconds_of_children()
    done = tilth("build", "small", cwd=built)
    assert "is up to date" in done.stderr
    assert seconds_of_children() - started < 3  # of CPU; a machine may be busy. The bar itself is measured in benchmarks/
    assert [tree(folder) for folder in folders] == before


def test_explain_names_the_parameter_that_changed_and_runs_nothing(built: Path, tilth: Run, tree: Tree) -> None:
    before = tree(built / ".tilth" / "artifacts")
    said = tilth("build", "small", "threshold=0.8", "--explain", cwd=built).stdout
    assert "threshold 0.7 -> 0.8" in said
    lines = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    assert "up to date" in lines["read"]
    assert "up to date" in lines["dedup.exact"]
    assert tree(built / ".tilth" / "artifacts") == before


def test_a_change_rebuilds_only_what_depends_on_it(built: Path, tmp_path: Path, tilth: Run) -> None:
    project = Path(shutil.copytree(built, tmp_path / "copy", symlinks=True))
    before = {part.step: part.key for part in Store(project / ".tilth").get_named("corpus", "small").parts}
    said = tilth("build", "small", "vocab_size=300", cwd=project).stderr
    after = {part.step: part.key for part in Store(project / ".tilth").get_named("corpus", "small").parts}
    assert {step for step in after if after[step] != before[step]} == {"tokenizer", "signals.tokens"}
    assert "4 outputs made" in said


def test_an_input_that_changes_is_read_again_and_the_others_are_not(
    inputs: Path, tmp_path: Path, make_project: Callable[[Path, Path], Path], tilth: Run
) -> None:
    own = Path(shutil.copytree(inputs, tmp_path / "inputs"))
    project = make_project(tmp_path / "project", own)
    tilth("build", "small", cwd=project)
    (own / "noise" / "999.txt").write_text("one more document of numbers 1 2 3")
    said = tilth("build", "small", "--explain", cwd=project).stdout
    (line,) = [line for line in said.splitlines() if line.strip().startswith("read")]
    assert "input changed: noise/00000" in line
    assert line.split()[1:3] == ["3", "1"]


def test_two_builds_at_once_neither_corrupt_nor_lose(project: Path, tilth: Run, tree: Tree, built: Path) -> None:
    command = [sys.executable, "-m", "tilth", "build", "small"]
    processes = [
        subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    assert tree(project / ".tilth" / "artifacts") == tree(built / ".tilth" / "artifacts")
    assert "up to date" in tilth("build", "small", cwd=project).stderr
    tilth("check", cwd=project)


@pytest.mark.cluster
@pytest.mark.slow
def test_workers_make_the_same_bytes(project: Path, tilth: Run, tree: Tree, built: Path) -> None:
    tilth("build", "small", "--workers", "2", cwd=project)
    assert tree(project / ".tilth" / "artifacts") == tree(built / ".tilth" / "artifacts")


@pytest.mark.cluster
@pytest.mark.slow
def test_an_existing_scheduler_is_used_and_a_missing_one_is_said(project: Path, tilth: Run, tree: Tree, built: Path) -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", silence_logs=50
    ) as cluster:
        tilth("build", "small", "--scheduler", cluster.scheduler_address, cwd=project)
    assert tree(project / ".tilth" / "artifacts") == tree(built / ".tilth" / "artifacts")
    said = tilth("build", "small", "vocab_size=300", "--scheduler", "tcp://127.0.0.1:9", cwd=project, expect=2).stderr
    assert "no Dask scheduler answers" in said


def test_new_makes_a_project_with_the_demo_recipe(tmp_path: Path, tilth: Run) -> None:
    tilth("new", "fresh", cwd=tmp_path)
    assert (tmp_path / "fresh" / "recipes" / "demo.py").is_file()
    assert "there is a project already" in tilth("new", "fresh", cwd=tmp_path, expect=2).stderr
    assert (tmp_path / "fresh" / "recipes" / "demo.py").is_file()
    # shipped recipes are added to it, all that are named or none
    assert "hybrid.py" in tilth("new", "fresh", "--recipe", "hybrid", "--recipe", "web", cwd=tmp_path).stderr
    assert sorted(path.stem for path in (tmp_path / "fresh" / "recipes").glob("*.py")) == ["demo", "hybrid", "web"]
    assert "such a recipe already" in tilth("new", "fresh", "--recipe", "dna", "--recipe", "web", cwd=tmp_path, expect=2).stderr
    assert "Did you mean `distill`" in tilth("new", "fresh", "--recipe", "distil", cwd=tmp_path, expect=2).stderr
    assert "no recipe `../x`" in tilth("new", "fresh", "--recipe", "../x", cwd=tmp_path, expect=2).stderr
    assert len(list((tmp_path / "fresh" / "recipes").glob("*.py"))) == 3
    tilth("new", "other", "--recipe", "dna", cwd=tmp_path)
    assert [path.name for path in (tmp_path / "other" / "recipes").glob("*.py")] == ["dna.py"]


def test_many_failures_of_one_cause_name_its_cure() -> None:
    full = StoreError("the disk is full", "/here", "Free some space.")
    outcomes = {name: Outcome(name, None, {}, full) for name in ("read a/0", "read b/0")}
    skipped = {"tokenizer": Outcome("tokenizer", None, {}, skipped=True)}
    with pytest.raises(BuildError, match="2 steps failed, 1 more") as caught:
        raise_errors({**outcomes, **skipped})
    assert caught.value.fix == "Free some space."
    other = {"read c/0": Outcome("read c/0", None, {}, SourceError("no such file", "/there", "Give another."))}
    with pytest.raises(BuildError) as caught:
        raise_errors({**outcomes, **other})
    assert str(caught.value.fix).startswith("Mend the cause")
