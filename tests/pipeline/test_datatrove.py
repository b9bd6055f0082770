"""datatrove's pipelines on Dask: the same bytes as with its own executor, resume, nothing half-counted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datatrove", reason="datatrove is not installed: pip install tilth[interchange]")

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

from tilth.errors import BuildError, RecipeError
from tilth.pipeline.interchange import DaskExecutor

TASKS = 4
Tree = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """Six files of twenty records."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(6):
        records = [{"text": f"Record {row} of file {number}.", "id": f"{number}/{row}", "row": row} for row in range(20)]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def _pipeline(lines: Path, out: Path) -> list[Any]:
    return [
        JsonlReader(str(lines)),
        LambdaFilter(lambda document: document.metadata["row"] % 3 != 0),
        JsonlWriter(str(out), compression=None),  # its gzip files hold the second of their making
    ]


def _counts(logs: Path) -> list[dict[str, Any]]:
    """What the merged statistics count, without their seconds."""
    return [{"name": one["name"], **one["stats"]} for one in json.loads((logs / "stats.json").read_bytes())]


@pytest.fixture
def expected(lines: Path, tmp_path: Path, tree: Tree) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """What datatrove's own executor writes and counts."""
    LocalPipelineExecutor(
        _pipeline(lines, tmp_path / "local"), tasks=TASKS, workers=1, logging_dir=str(tmp_path / "local-logs")
    ).run()
    return tree(tmp_path / "local"), _counts(tmp_path / "local-logs")


def test_the_same_bytes_and_counts_in_this_process(lines: Path, tmp_path: Path, expected: Any, tree: Tree) -> None:
    logs = tmp_path / "logs"
    stats = DaskExecutor(_pipeline(lines, tmp_path / "out"), tasks=TASKS, logging_dir=str(logs)).run()
    assert tree(tmp_path / "out") == expected[0]
    assert _counts(logs) == expected[1]
    assert stats.stats[1].stats["dropped"].total == 6 * 7
    assert sorted(tree(logs)) == sorted(tree(tmp_path / "local-logs"))  # logs, stats, completions, executor.json


@pytest.mark.cluster
def test_the_same_bytes_and_counts_on_workers_and_on_a_client(lines: Path, tmp_path: Path, expected: Any, tree: Tree) -> None:
    from tilth.pipeline.execute import local_cluster

    DaskExecutor(_pipeline(lines, tmp_path / "workers"), tasks=TASKS, workers=2, logging_dir=str(tmp_path / "logs")).run()
    assert tree(tmp_path / "workers") == expected[0]
    assert _counts(tmp_path / "logs") == expected[1]
    with local_cluster(2) as client:
        address = client.scheduler.address
        for name, given_client in (("client", client), ("address", address)):
            pipeline = _pipeline(lines, tmp_path / name)
            DaskExecutor(pipeline, tasks=TASKS, client=given_client, logging_dir=str(tmp_path / f"{name}-logs")).run()
            assert tree(tmp_path / name) == expected[0]
            assert _counts(tmp_path / f"{name}-logs") == expected[1]


def test_a_rerun_runs_what_is_not_completed_and_sums_all(lines: Path, tmp_path: Path, expected: Any, tree: Tree) -> None:
    out, logs = tmp_path / "out", tmp_path / "logs"
    DaskExecutor(_pipeline(lines, out), tasks=TASKS, logging_dir=str(logs)).run()
    (logs / "completions" / "00002").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    DaskExecutor(_pipeline(lines, out), tasks=TASKS, logging_dir=str(logs)).run()
    changed = {path.name for path in out.iterdir() if path.stat().st_mtime_ns != before[path.name]}
    assert changed == {"00002.jsonl"}
    assert tree(out) == expected[0]
    totals = [one["total"]["total"] if isinstance(one.get("total"), dict) else one.get("total") for one in _counts(logs)]
    assert totals == [None, 120, 78]


def test_a_task_that_fails_is_not_completed_and_the_others_are(lines: Path, tmp_path: Path) -> None:
    def fails(document: Any) -> bool:
        if document.id == "1/7":
            raise ValueError("no such thing")
        return True

    logs = tmp_path / "logs"
    executor = DaskExecutor([JsonlReader(str(lines)), LambdaFilter(fails)], tasks=TASKS, logging_dir=str(logs))
    with pytest.raises(BuildError, match=r"1 of 4 tasks failed.*no such thing"):
        executor.run()
    assert sorted(path.name for path in (logs / "completions").iterdir()) == ["00000", "00002", "00003"]
    assert not (logs / "stats.json").exists()


KILLED = """
import sys, time
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from tilth.pipeline.interchange.datatrove_executor import DaskExecutor

def keep(document):
    time.sleep(float(sys.argv[4]))
    return document.metadata["row"] % 3 != 0

if __name__ == "__main__":
    pipeline = [JsonlReader(sys.argv[1]), LambdaFilter(keep), JsonlWriter(sys.argv[2], compression=None)]
    DaskExecutor(pipeline, tasks=4, workers=int(sys.argv[5]), logging_dir=sys.argv[3]).run()
"""


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.cluster)])
def test_after_kill_9_only_whole_tasks_count(workers: int, lines: Path, tmp_path: Path, expected: Any, tree: Tree) -> None:
    """The process that runs the tasks, or that of the cluster; its workers, left alone, may end the task that they are at."""
    out, logs = tmp_path / "out", tmp_path / "logs"
    (tmp_path / "killed.py").write_text(KILLED)
    command = [sys.executable, str(tmp_path / "killed.py"), str(lines), str(out), str(logs)]
    with subprocess.Popen([*command, "0.02", str(workers)], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not (logs / "completions").exists() or not list((logs / "completions").iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)  # in the midst of the next task
        process.send_signal(signal.SIGKILL)
    completed = {path.name for path in (logs / "completions").iterdir()}
    assert completed
    assert len(completed) < TASKS
    assert all(tree(out)[f"{name}.jsonl"] == expected[0][f"{name}.jsonl"] for name in completed)
    subprocess.run([*command, "0", "1"], check=True, stderr=subprocess.DEVNULL)
    assert tree(out) == expected[0]


@pytest.mark.cluster
def test_extractors_may_start_their_processes_on_workers(tmp_path: Path) -> None:
    pytest.importorskip("trafilatura", reason="trafilatura is not installed")
    from datatrove.pipeline.extractors import Trafilatura

    source = tmp_path / "in"
    source.mkdir()
    page = f"<html><body><article><p>{'Soil and seed. ' * 30}</p></article></body></html>"
    for name in "ab":
        (source / f"{name}.jsonl").write_text(json.dumps({"text": page, "id": name}) + "\n")
    pipeline = [JsonlReader(str(source)), Trafilatura(timeout=60), JsonlWriter(str(tmp_path / "out"), compression=None)]
    stats = DaskExecutor(pipeline, tasks=2, workers=2, logging_dir=str(tmp_path / "logs")).run()
    assert stats.stats[1].stats["extracted"].total == 2
    for name in ("00000", "00001"):
        assert json.loads((tmp_path / "out" / f"{name}.jsonl").read_text())["text"].startswith("Soil and seed.")


def test_an_executor_runs_after_what_it_depends_on(lines: Path, tmp_path: Path) -> None:
    first = DaskExecutor([JsonlReader(str(lines)), JsonlWriter(str(tmp_path / "one"))], tasks=2, logging_dir=str(tmp_path / "l1"))
    second = DaskExecutor(
        [JsonlReader(str(tmp_path / "one")), JsonlWriter(str(tmp_path / "two"))], logging_dir=str(tmp_path / "l2"), depends=first
    )
    assert second.run().stats[0].stats["documents"].total == 120


def test_numbers_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="at least 1"):
        DaskExecutor([], tasks=0)
