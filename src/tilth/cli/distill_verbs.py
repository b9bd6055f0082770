"""distill: a student of a run, in stages."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import click

from tilth.cli.model_verbs import say_costs
from tilth.cli.tables import record, say

if TYPE_CHECKING:
    from tilth.pipeline.distill import Stage


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def distill(recipe: str, overrides: tuple[str, ...], debug: bool) -> None:
    """Distil the student that RECIPE describes from its teacher.

    Each stage becomes a run, the last under the recipe's name. NAME=VALUE sets a parameter of the recipe. Under `torchrun`
    it trains on all processes.
    """
    from tilth.pipeline.distill import distill as take_stages
    from tilth.pipeline.progress import progress
    from tilth.pipeline.project import Project
    from tilth.pipeline.recipe import Distill
    from tilth.pipeline.recipes import load_recipe

    started = time.monotonic()
    project = Project.find()
    loaded = load_recipe(recipe, overrides, Distill, project.folder)
    stages = take_stages(project, loaded.name, loaded.description, progress, say_costs, _print_stage)
    if os.environ.get("RANK", "0") == "0" and all(stage.launched.was_there for stage in stages):
        say(f"{len(stages)} stages are up to date ({time.monotonic() - started:.1f} s)")


def _print_stage(stage: Stage) -> None:
    if os.environ.get("RANK", "0") != "0":
        return  # one process of a `torchrun` reports for all
    meta, label = stage.launched.named.meta, stage.launched.named.label
    if stage.launched.was_there:
        say(f"{label} is up to date")
        return
    is_validated = meta.get("validation_loss") is not None
    fields = {
        "run": label,
        "stage": f"{meta['stage']}, {stage.objective}",
        "teacher": stage.teacher,
        "layers": meta["layers"],
        "parameters": meta["n_parameters"],
        "loss": f"{meta['start_loss']:.3f} -> {meta['end_loss']:.3f} in {meta['steps']} steps",
        "validation loss": f"{meta['start_validation_loss']:.3f} -> {meta['validation_loss']:.3f}" if is_validated else None,
        "teacher's loss": None if stage.teacher_loss is None else f"{stage.teacher_loss:.3f}",
        "gap": None if stage.gap is None else f"{stage.gap:+.1%}",
        "tokens": _tokens(stage),
        "resumed": f"after step {meta['resumed_from']}" if meta.get("resumed_from") else None,
        "tokens/s": meta.get("tokens_per_second"),
    }
    print(record({name: value for name, value in fields.items() if value is not None}))


def _tokens(stage: Stage) -> str | None:
    if stage.n_tokens is None:
        return None
    if not stage.n_teacher_tokens:
        return f"{stage.n_tokens:,}; the teacher's are not known"
    return f"{stage.n_tokens:,}, {stage.n_tokens / stage.n_teacher_tokens:.1%} of the teacher's {stage.n_teacher_tokens:,}"
