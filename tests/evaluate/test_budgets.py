"""Curves over seconds against brute force over what had been completed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.errors import SourceError, UserError
from tilth.evaluate.budgets import (
    Trial,
    budget_curve,
    budget_difference,
    common_memory,
    completed_by,
    seconds_of,
    shared_budgets,
)
from tilth.evaluate.coverage import bootstrap
from tilth.evaluate.problems import Problem, read_problems, without_reference
from tilth.evaluate.samples import Sample, SampleTable, arranged
from tilth.evaluate.votes import majority
from tilth.tokenize.question_form import prompt_of


def sample(problem: str, branch: int, answer: str | None, finished: float, **changes: object) -> Sample:
    values = {"text": "", "n_tokens": 3, "finish_reason": "stop", "started": 0.0, "score": None, "is_correct": answer == "1"}
    return Sample(problem=problem, branch=branch, answer=answer, finished=finished, **(values | changes))  # type: ignore[arg-type]


def random_samples(seed: int, n_problems: int = 7, n: int = 6, scale: float = 1.0) -> list[Sample]:
    """All problems at once, ends drawn at random, some cancelled."""
    rng = np.random.default_rng(seed)
    return [
        sample(
            f"p{p}",
            i,
            str(rng.choice(["1", "2", "3"])) if rng.random() < 0.8 else None,
            float(scale * rng.integers(1, 40)),
            finish_reason=str(rng.choice(["stop", "length", "cancelled"], p=[0.7, 0.2, 0.1])),
        )
        for p in range(n_problems)
        for i in range(n)
    ]


def solved(samples: list[Sample], t: float, by_vote: bool) -> dict[str, bool]:
    """Which problems are solved with what was completed by second t of the run, by the words of the definition."""
    found = {}
    for problem in sorted({sample.problem for sample in samples}):
        done = [one for one in samples if one.problem == problem and one.finish_reason != "cancelled" and one.finished <= t]
        done.sort(key=lambda one: (one.finished, one.branch))
        found[problem] = majority(done) == "1" if by_vote else any(one.answer == "1" for one in done)
    return found


@pytest.mark.parametrize("by_vote", [False, True])
@given(seed=st.integers(0, 10_000))
def test_a_curve_is_what_was_completed_by_then(by_vote: bool, seed: int) -> None:
    samples = random_samples(seed)
    seconds_T = np.arange(0, 45) / 7
    curve = budget_curve([Trial("r", 4, arranged(samples))], seconds_T, majority if by_vote else None, n_draws=50)
    wanted_PT = np.array([list(solved(samples, 7 * t, by_vote).values()) for t in seconds_T], dtype=float).T
    np.testing.assert_allclose(curve.mean_T, wanted_PT.mean(axis=0))
    n_done = [sum(one.finished <= 7 * t and one.finish_reason != "cancelled" for one in samples) / 7 for t in seconds_T]
    np.testing.assert_allclose(curve.n_completed_T, n_done)
    if not by_vote:
        assert (np.diff(curve.mean_T) >= 0).all()
    assert (curve.low_T <= curve.mean_T + 1e-12).all()
    assert (curve.mean_T <= curve.high_T + 1e-12).all()
    at = seed % 45
    one = bootstrap(wanted_PT[:, at], 50)
    np.testing.assert_allclose([curve.low_T[at], curve.high_T[at]], [one.low, one.high])


def test_a_sample_counts_from_its_last_second_on_and_not_by_shares() -> None:
    table = arranged([sample("p", 0, "1", 10.0), sample("p", 1, "1", 10.0)])
    curve = budget_curve([Trial("r", 2, table)], [0.0, 5.0, 9.999, 10.0, 11.0])
    # two samples in ten seconds are a rate of one in five; by second five there is none
    assert curve.mean_T.tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]
    assert curve.n_completed_T.tolist() == [0.0, 0.0, 0.0, 2.0, 2.0]
    assert not completed_by([[np.inf]], np.inf).any()


def test_what_was_cancelled_or_never_sampled_is_not_there() -> None:
    samples = [
        sample("p", 0, "1", 1.0, finish_reason="cancelled"),
        sample("p", 1, "2", 2.0, finish_reason="length"),
        sample("q", 0, "1", 3.0),
    ]
    table = arranged(samples, ["r", "p", "q"])
    assert table.problems == ("r", "p", "q")
    assert table.n_complete_P.tolist() == [0, 1, 1]
    assert table.n_correct_P.tolist() == [0, 0, 1]
    assert [len(row) for row in table.complete_rows()] == [0, 1, 1]
    curve = budget_curve([Trial("x", 1, table)], [10.0], majority)
    assert curve.mean_T.tolist() == [pytest.approx(1 / 3)]
    assert budget_curve([Trial("x", 1, table)], [10.0]).mean_T.tolist() == [pytest.approx(1 / 3)]


def one_by_one(seconds: list[list[float]], answers: list[list[str]]) -> SampleTable:
    """Problems sampled one after the other; seconds since each began."""
    start, samples = 2.0, []
    for p, (row, row_answers) in enumerate(zip(seconds, answers)):
        samples += [sample(f"p{p}", i, a, start + s, started=start) for i, (s, a) in enumerate(zip(row, row_answers))]
        start += max(row)
    return arranged(samples)


def test_seconds_of_a_problem_count_from_its_own_start() -> None:
    table = one_by_one([[1.0, 4.0], [2.0, 3.0]], [["2", "1"], ["1", "1"]])
    np.testing.assert_allclose(seconds_of(table, "problem"), [[1.0, 4.0], [2.0, 3.0]])
    np.testing.assert_allclose(seconds_of(table, "run"), [[1.5, 3.0], [4.0, 4.5]])
    curve = budget_curve([Trial("r", 2, table)], [1.0, 2.0, 3.0, 4.0], clock="problem")
    assert curve.mean_T.tolist() == [0.0, 0.5, 0.5, 1.0]


def test_problems_sampled_at_once_have_no_seconds_of_their_own() -> None:
    table = arranged([sample("p", 0, "1", 2.0), sample("q", 0, "1", 3.0, started=1.5)])
    with pytest.raises(UserError, match="at the same time"):
        seconds_of(table, "problem")
    assert seconds_of(table).tolist() == [[1.0], [1.5]]


def test_the_batch_is_the_one_that_has_completed_most_not_the_luckiest() -> None:
    answers = [["2", "2", "1"], ["2", "2", "1"]]
    small = one_by_one([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], answers)
    # slower to the first sample, quicker to the third
    large = one_by_one([[2.5, 2.5, 2.5], [2.5, 2.5, 2.5]], answers)
    trials = [Trial("r", 3, large, 300), Trial("r", 1, small, 100)]
    curve = budget_curve(trials, [0.5, 1.0, 2.0, 2.5, 3.0], clock="problem")
    assert curve.batch_T.tolist() == [1, 1, 1, 3, 1]
    assert curve.n_completed_T.tolist() == [0.0, 1.0, 2.0, 3.0, 3.0]
    assert curve.mean_T.tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]
    # a batch that completed fewer is not taken, though it happens to be right
    lucky = one_by_one([[1.0, 9.0, 9.0], [1.0, 9.0, 9.0]], [["1", "1", "1"]] * 2)
    curve = budget_curve([Trial("r", 1, small), Trial("r", 2, lucky)], [1.0, 2.0], clock="problem")
    assert curve.batch_T.tolist() == [1, 1]
    assert curve.mean_T.tolist() == [0.0, 0.0]


def test_equal_memory_keeps_the_batches_that_fit() -> None:
    table = one_by_one([[1.0, 2.0]], [["1", "1"]])
    trials = [
        Trial("student", 8, table, 80),
        Trial("student", 64, table, 640),
        Trial("teacher", 8, table, 400),
        Trial("teacher", 4, table, 200),
    ]
    assert common_memory([trials[:2], trials[2:]]) == 400
    assert common_memory([trials[:2], trials[1:2]]) == common_memory([trials[:2]]) == 640  # against itself
    assert budget_curve(trials[:2], [3.0], memory_bytes=400).batch_T.tolist() == [8]
    assert budget_curve(trials[2:], [3.0], memory_bytes=400).batch_T.tolist() == [4]
    # what needs exactly as much fits
    assert budget_curve(trials[2:3], [3.0], memory_bytes=400).batch_T.tolist() == [8]
    with pytest.raises(UserError, match="at most 199 bytes"):
        budget_curve(trials[2:], [3.0], memory_bytes=199)
    with pytest.raises(UserError, match="not measured"):
        common_memory([trials, [Trial("other", 1, table)]])
    for none in ([], [trials, []]):
        with pytest.raises(UserError, match="no run to compare"):
            common_memory(none)
    with pytest.raises(UserError, match="no batch"):
        budget_curve([Trial("other", 1, table)], [3.0], memory_bytes=400)


def test_a_difference_is_taken_problem_by_problem() -> None:
    rng = np.random.default_rng(0)
    hard_P = rng.random(80) < 0.5
    # the second is as good, and solves one problem less
    first = [sample(f"p{p:02}", 0, "2" if hard else "1", 1.0) for p, hard in enumerate(hard_P)]
    second = [sample(f"p{p:02}", 0, "2" if hard or p == int(np.argmin(hard_P)) else "1", 1.0) for p, hard in enumerate(hard_P)]
    trials = [[Trial(name, 1, arranged(samples))] for name, samples in (("a", first), ("b", second))]
    mean_T, low_T, high_T = budget_difference(trials[0], trials[1], [1.0], n_draws=500)
    assert mean_T[0] == pytest.approx(1 / 80)
    width = high_T[0] - low_T[0]
    alone = budget_curve(trials[0], [1.0], n_draws=500)
    assert width < 0.25 * (alone.high_T[0] - alone.low_T[0])
    with pytest.raises(UserError, match="other problems"):
        budget_difference(trials[0], [Trial("b", 1, arranged(second[::-1]))], [1.0])


def test_trials_that_cannot_be_one_curve_are_refused() -> None:
    table, other = one_by_one([[1.0]], [["1"]]), arranged([sample("q", 0, "1", 1.0)])
    for trials in ([], [Trial("a", 1, table), Trial("b", 1, table)], [Trial("a", 1, table), Trial("a", 2, other)]):
        with pytest.raises(UserError):
            budget_curve(trials, [1.0])


def test_budgets_of_a_chart_span_all_that_was_completed() -> None:
    trials = [Trial("a", 1, arranged(random_samples(1))), Trial("b", 1, arranged(random_samples(2, scale=10.0)))]
    seconds_T = shared_budgets(trials, 30)
    assert len(seconds_T) == 30
    assert (np.diff(seconds_T) > 0).all()
    first = budget_curve(trials[:1], seconds_T)
    assert first.n_completed_T[0] > 0
    assert budget_curve(trials[1:], seconds_T).n_completed_T[-1] == trials[1].table.n_complete_P.mean()
    with pytest.raises(UserError, match="no sample was completed"):
        shared_budgets([Trial("a", 1, arranged([], ["p"]))])


@pytest.mark.parametrize(
    ("samples", "problems", "match"),
    [
        ([], None, "no problem"),
        ([sample("p", 0, "1", 1.0), sample("p", 0, "1", 2.0)], None, "twice"),
        ([sample("p", 0, "1", 1.0)], ["q"], "not named"),
        ([sample("p", 0, "1", 1.0, started=2.0)], None, "ran from second"),
        ([sample("p", 0, "1", float("nan"))], None, "ran from second"),
        ([sample("p", 0, "1", float("inf"))], None, "ran from second"),
    ],
)
def test_samples_that_cannot_be_are_refused(samples: list[Sample], problems: list[str] | None, match: str) -> None:
    with pytest.raises(UserError, match=match):
        arranged(samples, problems)


def test_samples_are_ordered_by_branch_whatever_order_they_ended_in() -> None:
    samples = [sample("p", 2, "1", 1.0), sample("q", 0, "2", 2.0), sample("p", 0, "2", 3.0)]
    table = arranged(samples)
    assert [[one.branch for one in row] for row in table.rows] == [[0, 2], [0]]
    assert table.is_correct_PN.tolist() == [[False, True], [False, False]]
    assert table.finished_PN.tolist() == [[3.0, 1.0], [2.0, np.inf]]


def test_problems_are_read_in_the_formats_of_gsm8k_and_math(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(
        '{"question": " What is 1+1? ", "answer": "1+1=2\\n#### 2"}\n\n'
        '{"id": "m", "problem": "Half?", "solution": "It is $\\\\boxed{\\\\frac12}$."}\n'
        '{"question": "Who?", "answer": "the > one"}\n'
    )
    first, second, third = read_problems(path)
    assert first == Problem("1", " What is 1+1? ", "2")
    assert second == Problem("m", "Half?", "\\frac12")
    assert prompt_of(first.question) == "Question: What is 1+1?\nAnswer:"
    assert without_reference([first, second, third]) == [third]


def test_a_line_ends_where_json_lines_do(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    question = "one\u2028two\x85three"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"question": question, "answer": 7}, ensure_ascii=False).encode() + b"\r\n")
    assert read_problems(path) == [Problem("1", question, "7")]


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[1]",
        '{"question": null, "answer": "1"}',
        '{"question": "a"}',
        '{"answer": "a"}',
        '{"id": "1", "question": "a", "answer": "1"}',
        '{"question": {"a": 1}, "answer": "1"}',
        '{"question": "a", "answer": ["1"]}',
        pytest.param("[" * 100_000 + "]" * 100_000, id="brackets"),
    ],
)
def test_a_file_that_is_none_of_problems_is_refused_by_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(f'{{"question": "a", "answer": "1"}}\n{line}\n')
    with pytest.raises(SourceError) as caught:
        read_problems(path)
    assert "problems.jsonl:2" in (caught.value.where or "")
    with pytest.raises(SourceError, match="there is no file"):
        read_problems(tmp_path / "other.jsonl")
    path.write_bytes(b'{"question": "\xff", "answer": "1"}')
    with pytest.raises(SourceError, match="no JSON"):
        read_problems(path)
    path.write_text("\n")
    with pytest.raises(SourceError, match="no line"):
        read_problems(path)


@pytest.mark.data
def test_gsm8k_is_read_whole(test_data: Path) -> None:
    problems = read_problems(test_data / "gsm8k_test/grade_school_math/data/test.jsonl")
    assert len(problems) == 1319
    assert problems[0].answer == "18"
    assert not without_reference(problems)
