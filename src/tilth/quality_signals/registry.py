"""Finds the families of signals and runs them; what comes out has a row for every document and a reason for every null."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa

from tilth.errors import NotFoundError, did_you_mean
from tilth.quality_signals.family import BatchScores, Resource, SignalFamily, Undefined
from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.scoring import Scorer, pieces, view_of

__all__ = [
    "BatchScores",
    "Resource",
    "SignalFamily",
    "Undefined",
    "batch_signal",
    "compute_families",
    "compute_family",
    "families",
    "get_family",
    "signal",
]

_FAMILIES: dict[str, SignalFamily] = {}


def signal(
    name: str, version: int, columns: Mapping[str, pa.DataType], libraries: tuple[str, ...] = (), **more: Any
) -> Callable[[Callable[..., Mapping[str, Any]]], Callable[..., Mapping[str, Any]]]:
    """Decorator: register a function of one document (a TextView) as the family `name`; `more` are fields of SignalFamily.

    Raise `version` whenever a value changes. Raises TypeError for a name or a column that another family has.
    """

    def register(compute: Callable[..., Mapping[str, Any]]) -> Callable[..., Mapping[str, Any]]:
        _register(SignalFamily(name, version, dict(columns), libraries, compute, **more))
        return compute

    return register


def batch_signal(
    name: str, version: int, columns: Mapping[str, pa.DataType], libraries: tuple[str, ...] = (), **more: Any
) -> Callable[[Callable[..., BatchScores]], Callable[..., BatchScores]]:
    """Decorator: like `signal`, for a function of many documents at once (a TextBatch) that returns BatchScores."""

    def register(compute: Callable[..., BatchScores]) -> Callable[..., BatchScores]:
        _register(SignalFamily(name, version, dict(columns), libraries, compute, takes_batch=True, **more))
        return compute

    return register


def families() -> dict[str, SignalFamily]:
    """All families by name, after importing every module of `tilth.quality_signals.families`."""
    package = importlib.import_module("tilth.quality_signals.families")
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
    return dict(sorted(_FAMILIES.items()))


def get_family(name: str) -> SignalFamily:
    """The family `name`; raises NotFoundError with the nearest known name."""
    known = families()
    if name not in known:
        raise NotFoundError(f"no family of signals is called `{name}`", fix=did_you_mean(name, known))
    return known[name]


def compute_family(
    family: SignalFamily,
    documents: pa.Table | pa.RecordBatch,
    model: bytes | None = None,
    resources: Mapping[str, bytes] | None = None,
) -> pa.Table:
    """Score `documents` (columns shard, row, text and `family.needs`; documents/1 will do): signals/1, row-aligned.

    Raises RecipeError if the family needs a model or a resource that is not given, ContractError if it breaks its own
    columns or if a text is null or not UTF-8.
    """
    models = {} if model is None else {family.name: model}
    return compute_families([family], documents, models, resources)[family.name]


def compute_families(
    chosen: Iterable[SignalFamily],
    documents: pa.Table | pa.RecordBatch,
    models: Mapping[str, bytes] | None = None,
    resources: Mapping[str, bytes] | None = None,
) -> dict[str, pa.Table]:
    """Like `compute_family` for several families, which then share the cutting of each text into words and lines.

    `models` go by the family's name, `resources` by their own: families that name the same resource share it.
    """
    scorers = [Scorer(family, (models or {}).get(family.name), resources or {}) for family in chosen]
    needs = sorted({column for scorer in scorers for column in scorer.family.needs})
    for texts, fields in pieces(documents, needs):
        batch = TextBatch(texts, fields)
        # A piece holds one text if that text is long.
        fit = [scorer for scorer in scorers if len(batch) > 1 or batch.n_bytes <= scorer.family.max_bytes]
        for scorer in scorers:
            if scorer not in fit:
                scorer.add_undefined(f"text of more than {scorer.family.max_bytes} bytes")
            elif scorer.family.takes_batch:
                scorer.add_batch(batch)
        one_by_one = [scorer for scorer in fit if not scorer.family.takes_batch]
        for index in range(len(batch)) if one_by_one else ():
            view = view_of(batch, index)
            for scorer in one_by_one:
                scorer.add(view)
    return {scorer.family.name: scorer.finish(documents) for scorer in scorers}


def _register(family: SignalFamily) -> None:
    _refuse_collisions(family)
    _FAMILIES[family.name] = family


def _refuse_collisions(family: SignalFamily) -> None:
    where = inspect.getmodule(family.compute)
    for other in _FAMILIES.values():
        if other.name == family.name:
            # The same module imported again registers the same family again.
            if inspect.getmodule(other.compute) is not where:
                raise TypeError(f"two families of signals are named `{family.name}`")
            continue
        shared = sorted(other.columns.keys() & family.columns.keys())
        if shared:
            raise TypeError(f"columns {shared} belong to `{other.name}` already; column names are unique over all families")
    clash = {"shard", "row", f"{family.name}_undefined"} & family.columns.keys()
    if clash:
        raise TypeError(f"columns {sorted(clash)} of `{family.name}` are reserved")
