"""The training form of a corpus as an output of its build, so that a subset holds on to the one it was picked with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilth.artifacts import Named, Store
from tilth.pipeline.graph import Node, Step
from tilth.pipeline.steps import Inputs, Params

if TYPE_CHECKING:
    from tilth.tokenize.code_form import CodeForm

_FILE = "form.json"


def write_form(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """The settings of the form, and its version."""
    (folder / _FILE).write_text(json.dumps(dict(params), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return {}


def form_node(form: CodeForm) -> Node:
    """The node of a corpus' form."""
    from tilth.tokenize.code_form import VERSION

    return Node(TRAINING_FORM, params={"kind": type(form).__name__, "version": VERSION, **dataclasses.asdict(form)})


def form_of(store: Store, subset: Named) -> CodeForm:
    """The form of the corpus that a subset was picked from."""
    from tilth.tokenize.code_form import CodeForm

    settings = json.loads((store.artifact(subset.one(TRAINING_FORM.name)).path / _FILE).read_text(encoding="utf-8"))
    return CodeForm(**{field.name: settings[field.name] for field in dataclasses.fields(CodeForm)})


TRAINING_FORM = Step("training_form", 1, (), write_form)
