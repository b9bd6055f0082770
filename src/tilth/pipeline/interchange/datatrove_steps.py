"""datatrove's pipeline steps as steps of a recipe: a decision for each document as signals, changed texts as edits.

A step here maps documents to documents: filters, formatters, extractors, annotators. It sees all documents and may drop,
change or annotate them; what it drops is kept with the step's reason, since a signal never drops.
"""

from __future__ import annotations

import difflib
import enum
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import PurePath
from types import FunctionType
from typing import Any

import pyarrow as pa

from tilth.artifacts.spec import canonical_json, library_versions
from tilth.errors import ContractError, RecipeError
from tilth.quality_signals.edits import edit_table
from tilth.quality_signals.family import BatchScores, SignalFamily

NEEDS = ("url", "language", "meta")  # of documents/1, beyond the text: what a step finds in `metadata`
MOST_LINES = 4_000  # beyond it a change is one span: comparing lines takes the square of their number
NOT_CONFIGURATION = frozenset({"stats", "exclusion_writer"})
MAX_DEPTH = 6


@dataclass(frozen=True)
class Passed:
    """What became of one document: `text` and `annotations` (metadata that the step set) are None where it was dropped."""

    is_kept: bool
    reason: str  # the filter's, `dropped` where it gives none; empty where it was kept
    text: str | None
    annotations: Mapping[str, Any] | None


@dataclass(frozen=True)
class DatatroveStep:
    """A step with the name of its columns: `DatatroveStep("gopher_dt", GopherQualityFilter())`.

    `description` belongs into the key of what is made with it. Raises RecipeError for a step whose configuration cannot
    be described, and for one that is no step.
    """

    name: str
    step: Any
    description: Mapping[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch("[a-z][a-z0-9_]*", self.name):
            raise RecipeError(f"`{self.name}` cannot name columns", "DatatroveStep", "use small letters, digits and _")
        if not callable(getattr(self.step, "run", None)):
            raise RecipeError(f"{type(self.step).__name__} is no step of datatrove", self.name, "give a PipelineStep")
        object.__setattr__(self, "description", describe(self.step))

    @property
    def key(self) -> str:
        """32 hexadecimal digits for the step, its configuration and datatrove's version."""
        versions = library_versions(("datatrove",))
        return hashlib.sha256(canonical_json([self.description, versions])).hexdigest()[:32]

    def family(self) -> SignalFamily:
        """The step as a family of signals, to be computed with `compute_family` and stored as any other.

        Columns: `<name>_keeps`, `<name>_reason` (why it drops the document; empty if it does not), and
        `<name>_annotations` (the metadata that it set, as JSON; `{}` for none).
        """
        columns = {f"{self.name}_keeps": pa.bool_(), f"{self.name}_reason": pa.string(), f"{self.name}_annotations": pa.string()}
        return SignalFamily(self.name, 1, columns, ("datatrove",), self._scores, needs=NEEDS, takes_batch=True)

    def _scores(self, batch: Any) -> BatchScores:
        found = run_step(self.step, batch.texts, batch.fields)
        return BatchScores({
            f"{self.name}_keeps": pa.array([one.is_kept for one in found], pa.bool_()),
            f"{self.name}_reason": pa.array([one.reason for one in found], pa.string()),
            f"{self.name}_annotations": pa.array([_as_json(one.annotations or {}) for one in found], pa.string()),
        })  # fmt: skip

    def edits(self, documents: pa.RecordBatch | pa.Table) -> pa.Table:
        """What the step changes in the texts (column `text`; url, language and meta where there are): `edit_table`'s columns.

        `row` counts within the batch. A text that the step drops is left as it is: dropping is for signals.
        """
        texts = _flat(documents.column("text"))
        fields = {name: _flat(documents.column(name)) for name in NEEDS if name in documents.schema.names}
        found = run_step(self.step, texts, fields)
        return edit_table(
            (row, *span, self.name)
            for row, (text, one) in enumerate(zip(texts.to_pylist(), found))
            if one.text is not None
            for span in text_edits(text, one.text)
        )


def run_step(step: Any, texts: pa.Array, fields: Mapping[str, pa.Array]) -> list[Passed]:
    """Run a step over documents; one result for each, in their order. The step itself stays as it was.

    Raises ContractError if it gives a document that it was not given, or one twice.
    """
    from datatrove.data import Document  # type: ignore[import-not-found, unused-ignore]

    own, dropped = deepcopy(step), _Dropped()
    if hasattr(own, "exclusion_writer"):
        own.exclusion_writer = dropped  # a filter tells its reasons to nobody else
    given = [_metadata({name: column[row].as_py() for name, column in fields.items()}) for row in range(len(texts))]
    documents = [
        Document(text, str(row), metadata=deepcopy(meta)) for row, (text, meta) in enumerate(zip(texts.to_pylist(), given))
    ]
    kept: dict[int, Passed] = {}
    for document in own.run(iter(documents), 0, 1):
        row = _row(document.id, len(documents))
        if row in kept:
            raise ContractError(f"`{type(step).__name__}` gives a document twice", "datatrove", "it is no map of documents")
        kept[row] = Passed(True, "", str(document.text), _changes(given[row], document.metadata))
    reasons = {_row(name, len(documents)): reason for name, reason in dropped.reasons.items()}
    return [kept.get(row) or Passed(False, reasons.get(row) or "dropped", None, None) for row in range(len(documents))]


def text_edits(old: str, new: str) -> Iterator[tuple[int, int, str]]:
    """Spans of `old` (characters, end exclusive) and what stands in their place in `new`: in order, disjoint."""
    if old == new:
        return
    head = old.rfind("\n", 0, _common(old, new)) + 1
    n_tail = min(_common(old[::-1], new[::-1]), len(old) - head, len(new) - head)
    line_end = old.find("\n", len(old) - n_tail)
    n_tail = len(old) - line_end - 1 if line_end >= 0 else 0
    old_lines = old[head : len(old) - n_tail].splitlines(keepends=True)
    new_lines = new[head : len(new) - n_tail].splitlines(keepends=True)
    if max(len(old_lines), len(new_lines)) > MOST_LINES:
        yield head, len(old) - n_tail, new[head : len(new) - n_tail]
        return
    ends = [head, *(head + n for n in accumulate(map(len, old_lines)))]
    for kind, start, end, new_start, new_end in difflib.SequenceMatcher(None, old_lines, new_lines, autojunk=False).get_opcodes():
        if kind != "equal":
            yield _trimmed(old, ends[start], ends[end], "".join(new_lines[new_start:new_end]))


def _trimmed(old: str, start: int, end: int, replacement: str) -> tuple[int, int, str]:
    """The span without what its replacement begins and ends with alike."""
    replaced = old[start:end]
    n_head = _common(replaced, replacement)
    n_tail = min(_common(replaced[::-1], replacement[::-1]), len(replaced) - n_head, len(replacement) - n_head)
    return start + n_head, end - n_tail, replacement[n_head : len(replacement) - n_tail]


def describe(step: Any) -> dict[str, Any]:
    """The class of a step and its configuration as JSON: equal steps give equal descriptions, in any process.

    Functions are told by their code. Raises RecipeError for what cannot be told from another by its content.
    """
    found = _described(step, 0, type(step).__name__)
    assert isinstance(found, dict)
    return found


def _described(value: Any, depth: int, where: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if depth > MAX_DEPTH:
        raise RecipeError("the configuration is nested too deeply to be described", where, "give it plain values")
    if isinstance(value, Mapping):
        return {str(key): _described(entry, depth + 1, f"{where}.{key}") for key, entry in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_described(entry, depth + 1, where) for entry in value), key=canonical_json)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_described(entry, depth + 1, where) for entry in value]
    if isinstance(value, re.Pattern):
        return {"pattern": _described(value.pattern, depth + 1, where), "flags": value.flags}
    if isinstance(value, bytes):
        return {"sha256": hashlib.sha256(value).hexdigest()}
    if isinstance(value, PurePath | enum.Enum | type):
        return str(value)
    if isinstance(value, FunctionType):
        return {"function": value.__qualname__, "code": _code(value, depth, where)}
    if hasattr(value, "__dict__") and not isinstance(value, Iterator):
        own = {key: entry for key, entry in vars(value).items() if key not in NOT_CONFIGURATION}
        described = {key: _described(entry, depth + 1, f"{where}.{key}") for key, entry in sorted(own.items())}
        return {"class": f"{type(value).__module__}.{type(value).__qualname__}", **described}
    raise RecipeError(f"a {type(value).__name__} cannot be described", where, "give the step plain values")


def _code(function: FunctionType, depth: int, where: str) -> Any:
    code = function.__code__
    plain = [constant for constant in code.co_consts if not hasattr(constant, "co_code")]
    inner = [constant.co_code.hex() for constant in code.co_consts if hasattr(constant, "co_code")]
    closed = [_described(cell.cell_contents, depth + 1, where) for cell in function.__closure__ or ()]
    parts = [code.co_code.hex(), inner, code.co_names, _described(plain, depth + 1, where), closed]
    defaults = _described([*(function.__defaults__ or ()), function.__kwdefaults__], depth + 1, where)
    return hashlib.sha256(canonical_json([parts, defaults])).hexdigest()


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
        self.reasons[document.id] = str(document.metadata.get("filter_reason") or "")


def _metadata(fields: Mapping[str, Any]) -> dict[str, Any]:
    meta = dict(fields.get("meta") or ())
    return {**meta, **{name: fields[name] for name in ("url", "language") if fields.get(name) is not None}}


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in new.items() if name not in old or old[name] != value}


def _row(name: str, n_documents: int) -> int:
    if not str(name).isdigit() or int(name) >= n_documents:
        raise ContractError(f"a step gives a document `{name}` that it was not given", "datatrove", "it is no map of documents")
    return int(name)


def _common(left: str, right: str) -> int:
    """Length of the common beginning."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _as_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
