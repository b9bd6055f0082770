"""Which answers more: a teacher, its students, or the teacher trained for as many more steps; over training seeds.

    python benchmarks/reasoning_answers.py [--seeds 3] [--steps 1000] [--folder DIR]

Each seed is recipes/distill.py, whole, in a project of its own: a teacher, both students and the control from that seed, and 32
samples of each of the same 60 questions. A row compares a model with the teacher of its seed: the mean over seeds, and of the
differences 95 % of Student's t and the range. `--folder` keeps the projects, and goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from distillation import T_95
from results import append, row

from tilth.pipeline.project import Project

RECIPE = Path(__file__).parents[1] / "recipes" / "distill.py"
MODELS = ("hybrid", "pure", "control")
SHARES = {"pass_at_1": "pass@1", "pass_at_n": "pass@32", "majority": "maj@32"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000, help="of the teacher")
    parser.add_argument("--folder", type=Path, help="where the projects are made; by default they are not kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = [studied((options.folder or Path(temporary)) / str(seed), seed, options.steps) for seed in range(options.seeds)]
    append(rows(found, options.steps))


def studied(folder: Path, seed: int, steps: int) -> dict[str, dict[str, Any]]:
    """What each model of a seed came to."""
    (folder / "recipes").mkdir(parents=True, exist_ok=True)
    shutil.copy(RECIPE, folder / "recipes")
    began = time.perf_counter()
    subprocess.run([sys.executable, "recipes/distill.py", f"steps={steps}", f"seed={2 * seed}"], cwd=folder, check=True)
    print(f"seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
    store = Project(folder).store
    metas = {model: store.get_named("evaluation", f"reason-{model}").meta for model in ("teacher", *MODELS)}
    losses = {model: store.get_named("run", model).meta["validation_loss"] for model in metas}
    # of both curves where the teacher's ends: maj@32 is a mean over many orders of the samples, a curve has the one they came in
    wanted = {curve: metas["teacher"]["curves"][curve][-1]["mean"] for curve in ("coverage", "majority")}
    return {
        model: {**{key: 100 * meta[key] for key in SHARES}, "loss": losses[model],
                **{f"seconds {curve}": _second_of(meta["curves"][curve], share) for curve, share in wanted.items()}}
        for model, meta in metas.items()
    }  # fmt: skip


def _second_of(curve: list[dict[str, Any]], share: float) -> float:
    """Seconds a problem until the curve has come to `share` for the first time; infinity where it never does."""
    return next((point["seconds"] for point in curve if point["mean"] >= share), float("inf"))


def rows(found: list[dict[str, dict[str, Any]]], steps: int) -> list[dict[str, str]]:
    """Of each model a row for each measure, the teacher's as its peer."""
    size, made = f"{len(found)} seeds, {steps} steps, 60 problems of 3 operations", []
    measures = {**{key: (name, "%") for key, name in SHARES.items()}, "loss": ("validation loss", "nats")}
    measures |= {
        "seconds coverage": ("to the teacher's pass@32", "s/problem"),
        "seconds majority": ("to the teacher's maj@32", "s/problem"),
    }
    for model in MODELS:
        for key, (name, unit) in measures.items():
            own, teacher = ([seed[which][key] for seed in found] for which in (model, "teacher"))
            if float("inf") in own:
                print(f"{model} comes {name} in {sum(value < float('inf') for value in own)} of {len(own)} seeds")
                continue
            note = f"peer: the teacher of each seed; {_differences([a - b for a, b in zip(own, teacher, strict=True)])}"
            made.append(row(f"reasoners: {name}, {model}", size, statistics.fmean(own), unit, statistics.fmean(teacher), note))
    return made


def _differences(values: list[float]) -> str:
    said = f"{statistics.fmean(values):+.3g} ({min(values):+.3g} to {max(values):+.3g})"
    if len(values) not in T_95:
        return said
    return f"{said} ± {T_95[len(values)] * statistics.stdev(values) / len(values) ** 0.5:.2g}"


if __name__ == "__main__":
    main()
