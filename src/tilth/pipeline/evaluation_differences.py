"""Two evaluations of the same problems against each other: which solves more of them by each second, problem by problem."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from tilth.artifacts import Artifact, Named, Store
from tilth.errors import UserError
from tilth.evaluate.budgets import Trial, budget_difference, common_memory, shared_budgets
from tilth.evaluate.samples import arranged
from tilth.evaluate.votes import majority
from tilth.pipeline.evaluation_results import N_BUDGETS, read_samples
from tilth.pipeline.evaluation_samples import MEASURED_FILE, SAMPLES_FILE


def trial_of(artifact: Artifact, run: str, problems: Sequence[str]) -> Trial:
    """The samples of one batch as arrays, with the bytes that they took."""
    table = arranged(read_samples(artifact.path / SAMPLES_FILE), problems)
    measured = json.loads((artifact.path / MEASURED_FILE).read_text())
    return Trial(run, artifact.spec.params["batch"], table, measured["memory_bytes"])


def check_comparable(store: Store, name: str, problems_digest: str) -> Named:
    """The evaluation of that name. Raises NotFoundError, and UserError where it is of other problems."""
    named = store.get_named("evaluation", name)
    if named.meta["problems_digest"] != problems_digest:
        what = f"evaluation `{name}` is of other problems than these, or of the same in another order"
        raise UserError(what, "--against", "Evaluate both on the same file, with the same `--limit`.")
    return named


def differences(store: Store, own: Sequence[Trial], other: Named) -> dict[str, Any]:
    """Coverage and accuracy less those of `other` by seconds per problem, with 95 % intervals of the differences.

    `equal_memory` is the same with the batches of each that needed no more than the larger of the other's: it is empty where
    one has no such batch. Coverage is left out where either was stopped when votes were decided.
    """
    theirs = [trial_of(store.artifact(part), other.meta["run"], own[0].table.problems) for part in other.of("samples")]
    has_coverage = not any(_was_stopped(trial) for trial in (*own, *theirs))
    memory = common_memory([own, theirs])
    found = {"against": other.name, **_curves(own, theirs, has_coverage, None), "memory_bytes": memory}
    try:
        found["equal_memory"] = _curves(own, theirs, has_coverage, memory)
    except UserError:
        found["equal_memory"] = {}
    return found


def _was_stopped(trial: Trial) -> bool:
    return any(sample.finish_reason == "cancelled" for row in trial.table.rows for sample in row)


def _curves(own: Sequence[Trial], theirs: Sequence[Trial], has_coverage: bool, memory: int | None) -> dict[str, Any]:
    budgets_T = shared_budgets([*own, *theirs], N_BUDGETS)
    curves = {}
    for name, choose in {**({"coverage": None} if has_coverage else {}), "majority": majority}.items():
        columns = budget_difference(own, theirs, budgets_T, choose, memory_bytes=memory)
        rows = zip(budgets_T.tolist(), *(column.tolist() for column in columns), strict=True)
        curves[name] = [dict(zip(("seconds", "mean", "low", "high"), row, strict=True)) for row in rows]
    return curves


def in_words(found: Mapping[str, Any]) -> list[str]:
    """From where to where a curve is above or below the other, as the interval of each budget by itself says."""
    said = []
    for curve in ("coverage", "majority"):
        for word, run in groupby(found.get(curve, ()), key=_side):
            if word and (points := list(run)):
                ends = f"{points[0]['seconds']:.3g} s to {points[-1]['seconds']:.3g} s a problem"
                most = max(points, key=lambda one: abs(one["mean"]))
                points_of = f"{100 * abs(most['mean']):.1f} points at most"
                said.append(f"{curve} is {word} that of `{found['against']}` within {ends}, by {points_of}")
        if found.get(curve) and not any(map(_side, found[curve])):
            said.append(f"{curve} is not surely another than that of `{found['against']}`, at any second")
    return said


def _side(point: Mapping[str, Any]) -> str:
    """On which side of none the interval lies; empty where it holds it."""
    return "above" if point["low"] > 0 else "below" if point["high"] < 0 else ""
