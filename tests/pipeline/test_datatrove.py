"""datatrove's steps as signals and edits, and its pipelines on Dask: same bytes, resume, nothing half-counted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("datatrove", reason="datatrove is not installed: pip install tilth[interchange]")

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.filters import GopherQualityFilter, LambdaFilter, RegexFilter
from datatrove.pipeline.formatters import PIIFormatter, SymbolLinesFormatter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

from tilth.errors import BuildError, ContractError, RecipeError
from tilth.pipeline.interchange.datatrove_executor import DaskExecutor
from tilth.pipeline.interchange.datatrove_steps import DatatroveStep, describe, run_step, text_edits
from tilth.quality_signals.edits import apply_edits
from tilth.quality_signals.registry import compute_family

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

pipeline = [JsonlReader(sys.argv[1]), LambdaFilter(keep), JsonlWriter(sys.argv[2], compression=None)]
DaskExecutor(pipeline, tasks=4, logging_dir=sys.argv[3]).run()
"""


def test_after_kill_9_only_whole_tasks_count(lines: Path, tmp_path: Path, expected: Any, tree: Tree) -> None:
    out, logs = tmp_path / "out", tmp_path / "logs"
    command = [sys.executable, "-c", KILLED, str(lines), str(out), str(logs)]
    with subprocess.Popen([*command, "0.02"], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not (logs / "completions" / "00000").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)  # in the midst of the second task
        process.send_signal(signal.SIGKILL)
    completed = {path.name for path in (logs / "completions").iterdir()}
    assert completed
    assert len(completed) < TASKS
    assert all(tree(out)[f"{name}.jsonl"] == expected[0][f"{name}.jsonl"] for name in completed)
    subprocess.run([*command, "0"], check=True, stderr=subprocess.DEVNULL)
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


# Steps


def _documents(texts: list[str]) -> pa.Table:
    n = len(texts)
    return pa.table({
        "shard": ["s"] * n,
        "row": pa.array(range(n), pa.int32()),
        "text": pa.array(texts, pa.large_string()),
        "url": pa.array([f"http://a.example/{i}" for i in range(n)], pa.string()),
        "language": pa.array(["en"] * n, pa.string()),
        "meta": pa.array([[("title", "T")]] * n, pa.map_(pa.string(), pa.string())),
    })  # fmt: skip


TEXTS = [
    "the quick brown fox jumps over the lazy dog and that was that " * 10,
    "# # # # # #",
    "",
    "Ünïcödé wörds that have to be with the of " * 8,
]


def test_a_filter_is_a_family_of_signals() -> None:
    step = GopherQualityFilter(min_doc_words=20)
    found = compute_family(DatatroveStep("gopher_dt", step).family(), _documents(TEXTS))
    assert found.column("gopher_dt_keeps").to_pylist() == [bool(_kept(step, text)) for text in TEXTS]
    assert found.column("gopher_dt_reason").to_pylist() == [_reason(step, text) for text in TEXTS]
    assert any(found.column("gopher_dt_reason").to_pylist())
    assert found.column("gopher_dt_undefined").null_count == len(TEXTS)


def _outcome(step: Any, text: str) -> Any:
    from datatrove.data import Document

    return step.filter(Document(text, "0"))


def _kept(step: Any, text: str) -> bool:
    found = _outcome(step, text)
    return found[0] if isinstance(found, tuple) else found


def _reason(step: Any, text: str) -> str:
    found = _outcome(step, text)
    return found[1] if isinstance(found, tuple) else "" if found else "dropped"


def test_a_step_sees_urls_languages_and_meta() -> None:
    step = LambdaFilter(lambda d: d.metadata == {"title": "T", "url": "http://a.example/1", "language": "en"})
    found = compute_family(DatatroveStep("sees", step).family(), _documents(["a", "b"]))
    assert found.column("sees_keeps").to_pylist() == [False, True]


def test_metadata_that_a_step_sets_is_kept() -> None:
    def annotates(document: Any) -> bool:
        document.metadata["n_chars"] = len(document.text)
        return True

    found = compute_family(DatatroveStep("counts", LambdaFilter(annotates)).family(), _documents(["abc"]))
    assert found.column("counts_annotations").to_pylist() == ['{"n_chars":3}']


def test_a_formatter_is_edits() -> None:
    texts = ["write to me@mail.com or 8.8.8.8 now", "nothing here", "a@gmail.com\nline two\nb@gmail.com"]
    formatter = PIIFormatter()
    edits = DatatroveStep("pii_dt", formatter).edits(_documents(texts))
    assert apply_edits(pa.array(texts, pa.large_string()), edits).to_pylist() == [formatter.format(text) for text in texts]
    assert set(edits.column("row").to_pylist()) == {0, 2}
    assert set(edits.column("reason").to_pylist()) == {"pii_dt"}


def test_lines_that_a_formatter_takes_away_are_edits_of_lines() -> None:
    texts = ["keep\n| | |\nkeep this too\n| | |\nend"]
    formatter = SymbolLinesFormatter(symbols_to_remove=["|"])
    edits = DatatroveStep("symbols", formatter).edits(_documents(texts))
    (after,) = apply_edits(pa.array(texts, pa.large_string()), edits).to_pylist()
    assert after == SymbolLinesFormatter(symbols_to_remove=["|"]).format(texts[0])
    assert edits.num_rows >= 2


def test_what_a_step_drops_is_not_edited() -> None:
    edits = DatatroveStep("drops", RegexFilter("x")).edits(_documents(["x", "y"]))
    assert edits.num_rows == 0


class Doubles:
    """Gives every document twice."""

    def run(self, data: Iterator[Any], rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        for document in data:
            yield document
            yield document


def test_a_step_that_is_no_map_of_documents_is_refused() -> None:
    with pytest.raises(ContractError, match="twice"):
        run_step(Doubles(), pa.array(["a"], pa.large_string()), {})


def test_equal_steps_are_described_alike_and_others_are_not() -> None:
    assert describe(GopherQualityFilter()) == describe(GopherQualityFilter())
    assert describe(GopherQualityFilter()) != describe(GopherQualityFilter(min_doc_words=3))
    one, other = (DatatroveStep("a", LambdaFilter(keep)) for keep in (lambda d: len(d.text) > 3, lambda d: len(d.text) > 4))
    assert one.key != other.key
    limits = [DatatroveStep("a", LambdaFilter(lambda d, n=n: len(d.text) > n)).key for n in (1, 2, 1)]
    assert limits[0] == limits[2] != limits[1]


def test_descriptions_are_the_same_in_another_process() -> None:
    code = (
        "from datatrove.pipeline.filters import *\n"
        "from tilth.pipeline.interchange.datatrove_steps import DatatroveStep\n"
        "print(DatatroveStep('a', GopherQualityFilter(stop_words=['x', 'y', 'z'])).key)"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert keys == {DatatroveStep("a", GopherQualityFilter(stop_words=["x", "y", "z"])).key + "\n"}


def test_what_cannot_be_described_is_refused() -> None:
    with pytest.raises(RecipeError, match="generator"):
        DatatroveStep("odd", LambdaFilter(row for row in [1]))  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="no step"):
        DatatroveStep("odd", object())
    with pytest.raises(RecipeError, match="columns"):
        DatatroveStep("Not a name", RegexFilter("x"))


TEXT = st.text(alphabet=st.sampled_from("ab\n\r\u2028é𝕬 "), max_size=60)


@settings(max_examples=300, deadline=None)
@given(old=TEXT, new=TEXT)
def test_edits_turn_the_old_text_into_the_new(old: str, new: str) -> None:
    at, parts = 0, []
    for start, end, replacement in text_edits(old, new):
        assert at <= start <= end <= len(old)
        parts += [old[at:start], replacement]
        at = end
    assert "".join([*parts, old[at:]]) == new


@pytest.mark.data
def test_gopher_decides_alike_on_real_documents(test_data: Path) -> None:
    texts = [json.loads(line)["raw_content"] for line in (test_data / "rpv2_reference" / "docs.jsonl").read_bytes().splitlines()][
        :80
    ]
    step = GopherQualityFilter()
    found = compute_family(DatatroveStep("gopher_dt", step).family(), _documents(texts))
    assert found.column("gopher_dt_keeps").to_pylist() == [bool(_kept(step, text)) for text in texts]
    assert found.column("gopher_dt_reason").to_pylist() == [_reason(step, text) for text in texts]
    assert 0 < sum(found.column("gopher_dt_keeps").to_pylist()) < 80
