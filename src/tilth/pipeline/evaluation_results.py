"""What samples come to: coverage, votes and best-of-n with intervals, speed, and curves over seconds; plain values for a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tilth.evaluate.budgets import Trial, budget_curve, shared_budgets
from tilth.evaluate.coverage import bootstrap, pass_at_k
from tilth.evaluate.samples import Sample, SampleTable
from tilth.evaluate.votes import Choose, accuracy_at_k, best_of, majority, weighted_majority

N_BUDGETS = 40
N_DRAWS = 100
Result = dict[str, Any]

CHOICES: dict[str, Choose] = {"majority": majority}
"""How an answer is chosen."""
SCORED_CHOICES: dict[str, Choose] = {"best_of": best_of, "weighted": weighted_majority}
"""Those that need a verifier's scores."""


def read_samples(path: Path, with_text: bool = False) -> Iterator[Sample]:
    """The samples of a file (samples/1), a row group at a time; without their texts unless asked, for these are most of it."""
    columns = ["problem", "branch", "answer", "is_correct", "n_tokens", "finish_reason", "started", "finished", "score"]
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=[*columns, *(["text"] if with_text else [])]).to_pylist()
            yield from (Sample(**{"text": "", **row, "is_correct": bool(row["is_correct"])}) for row in rows)


def counts_of(samples: Iterable[Sample]) -> Result:
    """Counts by how samples ended, their tokens, and the second of the last."""
    ends: Counter[str] = Counter()
    n_unparsed = n_tokens = 0
    seconds = 0.0
    for sample in samples:
        ends[sample.finish_reason] += 1
        n_tokens += sample.n_tokens
        n_unparsed += sample.is_complete and sample.answer is None
        seconds = max(seconds, sample.finished)
    ended = {f"n_{reason}": ends[reason] for reason in ("stop", "length", "cancelled", "error", "refused", "duplicate")}
    return {"n_samples": sum(ends.values()), **ended, "n_unparsed": n_unparsed, "n_tokens": n_tokens, "seconds": seconds}


def scores_of(table: SampleTable, n: int, has_verifier: bool, stopped_when_decided: bool) -> Result:
    """By k: coverage (pass@k) and the accuracy of each choice, over problems with k samples.

    All with 95 % intervals over problems.

    Where votes were stopped, only that of the majority is told, of all n: what was cancelled is neither right nor wrong, and
    which samples were drawn depended on what the others said, so shares of right ones would be biased.
    """
    if stopped_when_decided:
        # the rows as they are: what was cancelled has no answer and does not vote, and a tie falls as it would have
        return {"coverage": [], "majority": [_interval(n, _accuracy(table.rows, n, majority))]}
    ks = sorted({*(1 << i for i in range(n.bit_length())), n})
    choices = _choices(has_verifier)
    found: Result = {"coverage": [], **{name: [] for name in choices}}
    for k in (k for k in ks if k <= n):
        enough = table.n_complete_P >= k
        if not enough.any():
            break
        coverage_P = pass_at_k(table.n_complete_P[enough], table.n_correct_P[enough], k)
        found["coverage"].append(_interval(k, coverage_P))
        rows = [row for row, has_k in zip(table.complete_rows(), enough, strict=True) if has_k]
        for name, choose in choices.items():
            found[name].append(_interval(k, _accuracy(rows, k, choose)))
    return found


def _choices(has_verifier: bool) -> dict[str, Choose]:
    return CHOICES | SCORED_CHOICES if has_verifier else CHOICES


def _accuracy(rows: Sequence[Sequence[Sample]], k: int, choose: Choose) -> Any:
    return accuracy_at_k(rows, k, choose, N_DRAWS)


def _interval(k: int, values: Any) -> Result:
    found = bootstrap(values)
    return {"k": k, "mean": found.mean, "low": found.low, "high": found.high, "n_problems": len(values)}


def curves_of(trials: Sequence[Trial], has_verifier: bool, stopped_when_decided: bool) -> dict[str, list[Result]]:
    """Coverage and accuracies by seconds per problem, at each budget by the batch that had completed most samples."""
    if not any(table.n_complete_P.any() for table in (trial.table for trial in trials)):
        return {}
    budgets_T = shared_budgets(trials, N_BUDGETS)
    wanted: dict[str, Choose | None] = {} if stopped_when_decided else {"coverage": None}
    wanted |= _choices(has_verifier and not stopped_when_decided)
    curves = {}
    for name, choose in wanted.items():
        curve = budget_curve(trials, budgets_T, choose)
        columns = (curve.seconds_T, curve.mean_T, curve.low_T, curve.high_T, curve.n_completed_T)
        rows = zip(*(column.tolist() for column in columns), curve.batch_T.tolist(), strict=True)
        curves[name] = [dict(zip(("seconds", "mean", "low", "high", "n_completed", "batch"), row, strict=True)) for row in rows]
    return curves
