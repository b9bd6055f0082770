"""`tilth evaluate` as typed: its table and its JSON, and what it refuses; the work itself is elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tilth.cli.evaluate_verbs import evaluate
from tilth.pipeline import evaluate as pipeline_evaluate
from tilth.pipeline.evaluation import Evaluation

SCORES = [{"k": k, "mean": 0.1 * k, "low": 0.05 * k, "high": 0.15 * k, "n_problems": 2} for k in (1, 2, 4)]
RESULT = {
    "batch": 64, "n_samples": 8, "n_unparsed": 1, "n_refused": 0, "n_cancelled": 0, "tokens_per_second": 1234.5, "seconds": 12.34,
    "memory_bytes": 2_000_000, "coverage": SCORES, "majority": SCORES,
}  # fmt: skip
META: dict[str, Any] = {
    "run": "base", "problems": "two", "n_problems": 2, "n": 4, "contamination": "none found", "stops_when_decided": False,
    "results": [RESULT],
}  # fmt: skip


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[Result, Evaluation]]:
    """typed(words, **meta): what came of it, and what was asked, where the evaluation comes to META | meta."""
    (tmp_path / ".tilth").mkdir()
    (tmp_path / "two.jsonl").write_text('{"question": "1 + 1", "answer": "2"}\n{"question": "1 + 2", "answer": "3"}\n')
    monkeypatch.chdir(tmp_path)

    def run(*words: str, was_drawn: bool = False, **meta: Any) -> tuple[Result, Evaluation]:
        seen: list[Evaluation] = []

        def prepare(project: object, asked: Evaluation, tell: Callable[[str], None]) -> object:
            seen.append(asked)
            tell("a sentence")
            return SimpleNamespace(model=SimpleNamespace(label="base"), n_requests=2)

        def draw(project: object, work: object, on_samples: Callable[[str], None]) -> object:
            on_samples("problem 1")
            return SimpleNamespace(label="evaluation/base-two@0", name="base-two", meta=META | meta)

        monkeypatch.setattr(pipeline_evaluate, "prepare", prepare)
        monkeypatch.setattr(pipeline_evaluate, "draw", draw)
        monkeypatch.setattr(pipeline_evaluate, "is_drawn", lambda project, work: was_drawn)
        done = CliRunner().invoke(evaluate, ["base", *words])
        return done, seen[0] if seen else Evaluation(run="", problems="")

    return run


def test_the_table_has_a_row_for_each_batch_with_intervals(typed: Callable[..., tuple[Result, Evaluation]]) -> None:
    done, asked = typed("--problems", "two.jsonl", "--n", "4", "--batch", "8,64", results=[{**RESULT, "batch": 8}, RESULT])
    assert done.exit_code == 0, done.output
    assert asked.batches == (8, 64)
    assert (asked.n, asked.temperature, asked.stops, asked.verifier) == (4, 0.8, (), None)
    head, *rows = done.stdout.splitlines()
    assert all(word in head for word in ("pass@1", "pass@2", "pass@4", "maj@4", "no answer", "tokens/s", "seconds", "memory"))
    assert len(rows) == 2
    assert all("40.0 [20.0, 60.0] %" in row for row in rows)
    assert all("10.0 [5.0, 15.0] %" in row and "12.3 s" in row and "2.0 MB" in row for row in rows)
    assert "a sentence" in done.stderr
    assert "overlap: none found" in done.stderr
    assert "drawn before" not in done.stderr
    again, _ = typed("--problems", "two.jsonl", was_drawn=True)
    assert "all samples were drawn before" in again.stderr


def test_what_was_stopped_tells_the_majority_alone(typed: Callable[..., tuple[Result, Evaluation]]) -> None:
    result = {**RESULT, "coverage": [], "majority": SCORES[2:], "n_cancelled": 5, "n_refused": 3}
    done, asked = typed("--problems", "two.jsonl", "--stop-when-decided", stops_when_decided=True, results=[result])
    assert asked.stops_when_decided
    head, row = done.stdout.splitlines()
    assert "pass@" not in head
    assert "cancelled" in head
    assert "40.0 [20.0, 60.0] %" in row
    assert "3 samples were refused" in done.stderr


def test_json_is_all_that_is_known(typed: Callable[..., tuple[Result, Evaluation]]) -> None:
    done, asked = typed(
        "--problems",
        "two.jsonl",
        "--stop",
        "a\\nb",
        "--verifier",
        "judge:right",
        "--memory",
        "2MB",
        "--dtype",
        "bfloat16",
        "--json",
    )
    assert json.loads(done.stdout) == {"name": "base-two", **META}
    assert (asked.stops, asked.verifier, asked.memory_bytes) == (("a\nb",), "judge:right", 2_000_000)
    assert asked.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Missing option '--problems'"),
        (("--problems", "two.jsonl", "--batch", "4,x"), "is not a number from 1 on"),
        (("--problems", "two.jsonl", "--batch", "0"), "is not a number from 1 on"),
        (("--problems", "two.jsonl", "--n", "0"), "0 is not in the range"),
    ],
)
def test_what_cannot_be_is_refused(typed: Callable[..., tuple[Result, Evaluation]], words: tuple[str, ...], said: str) -> None:
    done, _ = typed(*words)
    assert done.exit_code
    assert said in done.output + str(done.exception)


def test_outside_a_project_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(evaluate, ["base", "--problems", "two.jsonl"])
    assert "not a Tilth project" in str(done.exception)
