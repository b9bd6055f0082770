"""Finds the families of signals and runs them; what comes out has a row for every document and a reason for every null."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tilth.contracts import check, family_contract
from tilth.errors import ContractError, NotFoundError, RecipeError, did_you_mean
from tilth.quality_signals.text_view import TextView


@dataclass(frozen=True)
class Undefined:
    """A signal's value where it has none; `reason` is a few words such as `no words`."""

    reason: str


@dataclass(frozen=True)
class SignalFamily:
    """Signals that are computed and stored together.

    `compute(view)` or, for a family with a model, `compute(view, model)` maps one document to a value for
    every column. `load_model` turns the model's bytes into what `compute` takes.
    """

    name: str
    version: int
    columns: Mapping[str, pa.DataType]
    libraries: tuple[str, ...]
    compute: Callable[..., Mapping[str, Any]]
    load_model: Callable[[bytes], Any] | None = None

    @property
    def needs_model(self) -> bool:
        """True where `compute_family` must be given a trained model."""
        return self.load_model is not None


_FAMILIES: dict[str, SignalFamily] = {}


def signal(
    name: str,
    version: int,
    columns: Mapping[str, pa.DataType],
    libraries: tuple[str, ...] = (),
    load_model: Callable[[bytes], Any] | None = None,
) -> Callable[[Callable[..., Mapping[str, Any]]], Callable[..., Mapping[str, Any]]]:
    """Decorator: register a function of one document (a TextView) as the family `name`.

    Raise `version` whenever a value changes. `libraries` names the distributions that values depend on.
    Raises TypeError for a name or a column that another family has.
    """

    def register(compute: Callable[..., Mapping[str, Any]]) -> Callable[..., Mapping[str, Any]]:
        family = SignalFamily(name, version, dict(columns), libraries, compute, load_model)
        _refuse_collisions(family)
        _FAMILIES[name] = family
        return compute

    return register


def families() -> dict[str, SignalFamily]:
    """All families by name, after importing every module of this package."""
    package = importlib.import_module("tilth.quality_signals")
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
    return dict(sorted(_FAMILIES.items()))


def get_family(name: str) -> SignalFamily:
    """The family `name`; raises NotFoundError with the nearest known name."""
    known = families()
    if name not in known:
        raise NotFoundError(f"no family of signals is called `{name}`", fix=did_you_mean(name, known))
    return known[name]


def compute_family(family: SignalFamily, documents: pa.Table | pa.RecordBatch, model: bytes | None = None) -> pa.Table:
    """Score `documents` (columns shard, row, text; documents/1 will do) with one family: signals/1, row-aligned.

    Raises RecipeError if the family needs a model that is not given, ContractError if it breaks its own columns.
    """
    models = {} if model is None else {family.name: model}
    return compute_families([family], documents, models)[family.name]


def compute_families(
    chosen: Iterable[SignalFamily], documents: pa.Table | pa.RecordBatch, models: Mapping[str, bytes] | None = None
) -> dict[str, pa.Table]:
    """Like `compute_family` for several families, which then share the cutting of each text into words and lines."""
    scorers = [_Scorer(family, (models or {}).get(family.name)) for family in chosen]
    for text in _texts(documents):
        view = TextView(text)
        for scorer in scorers:
            scorer.add(view)
    return {scorer.family.name: scorer.finish(documents) for scorer in scorers}


class _Scorer:
    """The growing columns of one family."""

    def __init__(self, family: SignalFamily, model: bytes | None) -> None:
        self.family = family
        self.values: dict[str, list[Any]] = {column: [] for column in family.columns}
        self.reasons: list[str | None] = []
        self.arguments: tuple[Any, ...] = ()
        if family.load_model is not None:
            if model is None:
                fix = f"train one and pass it as the model of `{family.name}`"
                raise RecipeError(f"the signals `{family.name}` need a trained model", where=family.name, fix=fix)
            self.arguments = (family.load_model(model),)

    def add(self, view: TextView) -> None:
        found = self.family.compute(view, *self.arguments)
        if found.keys() != self.values.keys():
            odd = sorted(found.keys() ^ self.values.keys())
            raise ContractError(f"the signals `{self.family.name}` must give exactly their columns; at odds: {odd}")
        reasons: dict[str, None] = {}
        for column, values in self.values.items():
            value = found[column]
            if isinstance(value, Undefined):
                reasons[value.reason] = None
                value = None
            elif value is None:
                raise ContractError(f"`{column}` is None without a reason: give Undefined(reason)", where=self.family.name)
            values.append(value)
        self.reasons.append("; ".join(reasons) or None)

    def finish(self, documents: pa.Table | pa.RecordBatch) -> pa.Table:
        contract = family_contract(self.family.name, dict(self.family.columns))
        columns = [_flat(documents.column("shard")), _flat(documents.column("row"))]
        columns += [self._array(name, kind) for name, kind in self.family.columns.items()]
        columns.append(pa.array(self.reasons, pa.string()))
        table = pa.Table.from_arrays(columns, schema=contract.schema)
        check(table, contract)
        return table

    def _array(self, name: str, kind: pa.DataType) -> pa.Array:
        try:
            return pa.array(self.values[name], kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise ContractError(f"`{name}` has a value that is not {kind}: {error}", where=self.family.name) from error


def _texts(documents: pa.Table | pa.RecordBatch) -> Iterable[str]:
    column = documents.column("text")
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    # One Python string at a time: a batch's texts never live twice as a whole.
    return (value.as_py() for chunk in chunks for value in chunk)


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


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
