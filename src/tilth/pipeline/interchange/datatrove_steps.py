"""datatrove's pipeline steps as steps of a recipe: what they decide becomes signals, what they change in texts edits.

A step here maps documents to documents: filters, formatters, extractors, annotators, the user's own. It sees the documents
of one shard in their order, as in datatrove. It may drop, change or annotate them; what it drops is kept with the step's
reason, since a signal never drops.
"""

from __future__ import annotations

import importlib.util
import json
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from tilth.artifacts.spec import UNICODE
from tilth.contracts import EDITS, Contract, family_contract
from tilth.errors import BuildError, ContractError, RecipeError, TilthError
from tilth.pipeline.interchange.step_description import describe, libraries_of
from tilth.pipeline.interchange.text_difference import text_edits

NEEDS = ("url", "language", "meta")  # of documents/1, beyond the text: what a step finds in `metadata`
COLUMNS = ("shard", "row", "text", *NEEDS)
INSTALL = "pip install 'tilth[interchange]'"
ROWS_AT_ONCE = 10_000
_NAME = re.compile("[a-z][a-z0-9_]*")
Batches = Iterable[pa.RecordBatch]


@dataclass(frozen=True)
class Passed:
    """What became of one document: `text` and `annotations` (metadata that the step set) are None where it was dropped."""

    row: int  # among the documents that the step was given, from 0
    is_kept: bool
    reason: str  # the filter's, `dropped` where it gives none; empty where it was kept
    text: str | None
    annotations: Mapping[str, Any] | None


@dataclass(frozen=True)
class DatatroveStep:
    """A step, or several that follow on each other, with the name of its columns and edits.

    `Corpus(signals=[DatatroveStep("gopher_dt", GopherQualityFilter())])` gives `gopher_dt_keeps`, `gopher_dt_reason` (why it
    drops the document; empty if it does not) and `gopher_dt_annotations` (the metadata that it set, as JSON).
    `Corpus(edits=[DatatroveStep("ftfy", FTFYFormatter())])` changes texts: documents that it drops stay as they are.
    Each shard is run by a fresh copy of the step. `document.id` is a number within the shard; the source's own id is in
    `metadata` as `id` where it has one.

    `description` and `libraries` decide the key of what is made with it: classes, settings, the code of classes that
    no library holds, and the versions of those that do. A file is known by its path alone. Raises RecipeError for a step
    whose settings cannot be described, for one that is no step, and where datatrove is not installed.
    """

    name: str
    step: Any
    description: Mapping[str, Any] = field(init=False, compare=False, default_factory=dict)
    libraries: tuple[str, ...] = field(init=False, compare=False, default=())

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise RecipeError(f"`{self.name}` cannot name columns", "DatatroveStep", "Use small letters, digits and _.")
        if importlib.util.find_spec("datatrove") is None:
            raise RecipeError("datatrove is not installed", f"DatatroveStep `{self.name}`", INSTALL)
        for step in self.steps:
            if isinstance(step, type) or not callable(getattr(step, "run", None)):
                what = f"the class {step.__name__} itself" if isinstance(step, type) else f"a {type(step).__name__}"
                fix = "Give a PipelineStep that was made: `GopherQualityFilter()`."
                raise RecipeError(f"{what} is no step of datatrove", f"DatatroveStep `{self.name}`", fix)
        told = {f"{place} {type(step).__name__}": describe(step) for place, step in enumerate(self.steps, 1)}
        object.__setattr__(self, "description", told)
        libraries = {UNICODE, "datatrove"}.union(*(libraries_of(step) for step in self.steps))
        object.__setattr__(self, "libraries", tuple(sorted(libraries)))

    @property
    def steps(self) -> tuple[Any, ...]:
        """The steps in their order."""
        return tuple(self.step) if isinstance(self.step, Sequence) and not isinstance(self.step, str) else (self.step,)

    @property
    def contract(self) -> Contract:
        """signals/1 with the columns of this step."""
        kinds = {"keeps": pa.bool_(), "reason": pa.string(), "annotations": pa.string()}
        return family_contract(self.name, {f"{self.name}_{column}": kind for column, kind in kinds.items()})

    def signals(self, documents: Batches) -> Iterator[pa.Table]:
        """What the step decides of the documents of one shard (COLUMNS), as tables of `contract` in the order of the rows."""
        places: list[tuple[str, int]] = []
        found: dict[int, tuple[bool, str, str]] = {}
        for one in self._passed(_noted(documents, places)):
            found[one.row] = (one.is_kept, one.reason, _as_json(one.annotations or {}))
        for first in range(0, len(places), ROWS_AT_ONCE):
            part = range(first, min(first + ROWS_AT_ONCE, len(places)))
            shards, rows = zip(*places[first : first + ROWS_AT_ONCE])
            columns = [shards, rows, *zip(*(found[row] for row in part)), [None] * len(part)]
            schema = self.contract.schema
            yield pa.table([pa.array(column, kind.type) for column, kind in zip(columns, schema)], schema=schema)

    def edits(self, documents: Batches) -> pa.Table:
        """What the step changes in the texts of one shard (COLUMNS): edits/1, in the order of the rows."""
        places: list[tuple[str, int]] = []
        given: dict[int, str] = {}
        spans: dict[int, list[tuple[int, int, str]]] = {}
        for one in self._passed(_noted(documents, places, given)):
            old = given.pop(one.row)
            if one.text is not None and one.text != old:
                spans[one.row] = list(text_edits(old, one.text))
        rows = [(*places[row], *span, self.name) for row in sorted(spans) for span in spans[row]]
        columns = list(zip(*rows)) or [()] * len(EDITS.schema)
        return pa.table([pa.array(column, kind.type) for column, kind in zip(columns, EDITS.schema)], schema=EDITS.schema)

    def _passed(self, documents: Batches) -> Iterator[Passed]:
        at: list[str] = [""]
        try:
            yield from run_steps(self.steps, documents, at)
        except TilthError:
            raise
        except Exception as error:
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
            place = f"; {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
            what = f"the step `{self.name}` failed: {type(error).__name__}: {error}"
            fix = "Mend the step, or take it out of the recipe; the same command goes on."
            raise BuildError(what, f"document {at[0]}{place}", fix) from error


def run_steps(steps: Sequence[Any], documents: Batches, at: list[str]) -> Iterator[Passed]:
    """Run copies of `steps`, one after the other, over documents (COLUMNS); one result for each, in any order.

    `at[0]` becomes the place of the document that was read last. Raises ContractError for a document that was not given, or
    one that comes twice.
    """
    dropped = _Dropped()
    owns = [deepcopy(step) for step in steps]
    metadata: dict[int, dict[str, Any]] = {}
    passing: Iterator[Any] = _documents(documents, metadata, at)
    for own in owns:
        if hasattr(own, "exclusion_writer"):
            own.exclusion_writer = dropped  # a filter tells its reasons to nobody else
        passing = own.run(passing, 0, 1)
    seen: set[int] = set()
    for document in passing or ():
        yield from dropped.passed(metadata, seen)
        row = _row(document.id, metadata, seen)
        yield Passed(row, True, "", str(document.text), _changes(metadata.pop(row), document.metadata))
    yield from dropped.passed(metadata, seen)
    for row in sorted(metadata):  # dropped without a word
        yield Passed(row, False, "dropped", None, None)


def _documents(batches: Batches, metadata: dict[int, dict[str, Any]], at: list[str]) -> Iterator[Any]:
    from datatrove.data import Document  # type: ignore[import-not-found, unused-ignore]

    row = 0
    for batch in batches:
        fields = [name for name in NEEDS if name in batch.schema.names]
        columns = [batch.column(name).to_pylist() for name in ("shard", "row", "text", *fields)]
        for shard, number, text, *values in zip(*columns):
            own = _metadata(dict(zip(fields, values)))
            metadata[row], at[0] = own, f"{shard}:{number}"
            yield Document(text, str(row), metadata=deepcopy(own))
            row += 1


class _Dropped:
    """In the place of a filter's exclusion writer: takes note of the reasons."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def __enter__(self) -> _Dropped:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def write(self, document: Any, rank: int = 0, **_: Any) -> None:
        """Note one document."""
        self.reasons[document.id] = str(document.metadata.get("filter_reason") or "dropped")

    def passed(self, metadata: dict[int, dict[str, Any]], seen: set[int]) -> Iterator[Passed]:
        """What was noted since the last call."""
        for name, reason in self.reasons.items():
            row = _row(name, metadata, seen)
            del metadata[row]
            yield Passed(row, False, reason, None, None)
        self.reasons = {}


def _row(name: str, metadata: Mapping[int, Any], seen: set[int]) -> int:
    row = int(name) if str(name).isdigit() else -1
    if row in seen or row not in metadata:
        what = f"gives document `{name}` twice" if row in seen else f"gives a document `{name}` that it was not given"
        raise ContractError(f"a step {what}", "datatrove", "Only steps that map documents to documents can be part of a recipe.")
    seen.add(row)
    return row


def _noted(batches: Batches, places: list[tuple[str, int]], texts: dict[int, str] | None = None) -> Batches:
    for batch in batches:
        if texts is not None:
            texts.update(enumerate(batch.column("text").to_pylist(), len(places)))
        places += zip(batch.column("shard").to_pylist(), batch.column("row").to_pylist())
        yield batch


def _metadata(fields: Mapping[str, Any]) -> dict[str, Any]:
    meta = dict(fields.get("meta") or ())
    return {**meta, **{name: fields[name] for name in ("url", "language") if fields.get(name) is not None}}


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in new.items() if name not in old or old[name] != value}


def _as_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)
