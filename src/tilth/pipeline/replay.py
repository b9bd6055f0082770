"""What a replay asks of a project: the sizes of a run's model, and a place among its names for what came of it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tilth.artifacts import Named, Spec
from tilth.errors import NotFoundError, UserError, did_you_mean
from tilth.inference.replay.geometries import GEOMETRIES, Geometry
from tilth.inference.replay.request import TraceRequest
from tilth.inference.replay.sweep import Cell
from tilth.models.config import ModelConfig
from tilth.pipeline.project import Project

VERSION = 1  # of what a replay counts
_FILE = "cells.json"


def geometry_of(model: str) -> Geometry:
    """The geometry of that name, of a model's folder or config.json, or of a run of the project, in that order.

    Raises UserError where `model` is none of these, and RecipeError for a config that describes no model.
    """
    if model in GEOMETRIES:
        return GEOMETRIES[model]
    path = Path(model)
    if path.exists():
        return Geometry.of(model, _config(path / "config.json" if path.is_dir() else path))
    try:
        project = Project.find()
        run = project.store.get_named("run", model)
    except NotFoundError:
        fix = f"A folder of a model, a config.json, a run, or a geometry. {did_you_mean(model, GEOMETRIES)}"
        raise UserError(f"there is no model `{model}`", "--model", fix) from None
    return Geometry.of(model, _config(project.store.artifact(run.one("train")).path / "config.json"))


def facts_of(requests: Sequence[TraceRequest], geometry: Geometry, is_instant: bool, flops_per_second: float) -> dict[str, Any]:
    """What was replayed on what: counts, the last arrival in seconds, bytes of a token and of a checkpoint."""
    return {
        "model": geometry.name,
        "is_instant": is_instant,
        "flops_per_second": flops_per_second,
        "n_requests": len(requests),
        "n_input_tokens": sum(len(request.input_N) for request in requests),
        "n_output_tokens": sum(len(request.output_M) for request in requests),
        "seconds": requests[-1].arrival,
        "kv_bytes": geometry.costs.kv_bytes,
        "checkpoint_bytes": geometry.costs.checkpoint_bytes,
        "int8_checkpoint_bytes": geometry.int8_checkpoint_bytes,
    }


def keep(trace: str, facts: Mapping[str, Any], cells: Sequence[Cell]) -> Named | None:
    """Save the replay in the project that the current folder is in; None where it is in none."""
    try:
        project = Project.find()
    except NotFoundError:
        return None
    return save_replay(project, trace, facts, cells)


def save_replay(project: Project, trace: str, facts: Mapping[str, Any], cells: Sequence[Cell]) -> Named:
    """Keep the cells under a name made from the trace's, with what they were made from; `tilth report` shows them."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", trace).strip("_-")[:64]
    name = name if name[:1].isalpha() else f"trace_{name}"[:64]
    rows = [dataclasses.asdict(cell) for cell in cells]
    spec = Spec("replay", VERSION, {"trace": trace, **facts, "cells": rows})
    made = project.store.make(spec, lambda folder: _write(folder, rows))
    return project.store.save_named("replay", name, [made.part()], {"trace": trace, **facts, "cells": rows})


def _write(folder: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    (folder / _FILE).write_text(json.dumps(rows, indent=1) + "\n")
    return {"n_rows": len(rows)}


def _config(path: Path) -> ModelConfig:
    try:
        values = json.loads(path.read_bytes())
    except OSError:
        raise UserError("there is no config of a model", str(path), "Name a folder with a config.json.") from None
    except ValueError:
        raise UserError("the config of the model is not JSON", str(path)) from None
    if not isinstance(values, dict):
        raise UserError("the config of the model is not a mapping of settings", str(path))
    return ModelConfig.from_dict(values)
