"""Runs one family over documents piece by piece, and holds it to its word: types, names, a reason for every null."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tilth.contracts import check, family_contract
from tilth.errors import ContractError, RecipeError
from tilth.quality_signals.family import BatchScores, SignalFamily, Undefined
from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.text_view import TextView

# Of texts that are worked on at a time: memory stays a small multiple of it, or of one long text.
PIECE_BYTES, PIECE_ROWS = 2 << 20, 10_000


def pieces(documents: pa.Table | pa.RecordBatch, needs: Sequence[str]) -> Iterator[tuple[pa.Array, dict[str, pa.Array]]]:
    """The texts and the columns `needs`, in pieces of at most PIECE_BYTES of text and PIECE_ROWS, or of one document.

    Raises ContractError if a column is missing or the texts are not strings.
    """
    missing = sorted({"text", *needs} - set(documents.schema.names))
    if missing:
        raise ContractError(f"the documents have no column {', '.join(missing)}", where="signals", fix="pass documents/1")
    chosen = documents.select(["text", *needs])
    for batch in [chosen] if isinstance(chosen, pa.RecordBatch) else chosen.to_batches():
        texts = batch.column("text")
        if not (pa.types.is_large_string(texts.type) or pa.types.is_string(texts.type)):
            raise ContractError(f"texts are {texts.type}, not strings", where="text", fix="cast the column to large_string")
        for start, end in _cuts(texts):
            yield texts.slice(start, end - start), {name: batch.column(name).slice(start, end - start) for name in needs}


def view_of(batch: TextBatch, index: int) -> TextView:
    """One document of a batch."""
    return TextView(batch.texts[index].as_py(), {name: column[index].as_py() for name, column in batch.fields.items()})


class Scorer:
    """The growing columns of one family."""

    def __init__(self, family: SignalFamily, model: bytes | None, resources: Mapping[str, bytes]) -> None:
        self.family = family
        self.values: dict[str, list[Any]] = {column: [] for column in family.columns}  # values, or arrays of batches
        self.reasons: list[str | None] = []
        self.arguments: tuple[Any, ...] = ()
        if family.load_model is not None:
            if model is None:
                fix = f"train one and pass it as the model of `{family.name}`"
                raise RecipeError(f"the signals `{family.name}` need a trained model", where=family.name, fix=fix)
            self.arguments = (family.load_model(model),)
        self.resources = {name: _loaded(family, name, resources) for name in family.resources}

    def add(self, view: TextView) -> None:
        """Score one document."""
        found = self.family.compute(view, *self.arguments, **self.resources)
        self._refuse_other_columns(found)
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

    def add_batch(self, batch: TextBatch) -> None:
        """Score a batch of documents."""
        found: BatchScores = self.family.compute(batch, *self.arguments, **self.resources)
        self._refuse_other_columns(found.columns)
        reasons = _joined(found, len(batch))
        explained = np.array([reason is not None for reason in reasons], dtype=bool)
        for column, kind in self.family.columns.items():
            array = found.columns[column]
            if array.type != kind:
                raise ContractError(f"`{column}` is {array.type}, not {kind}", where=self.family.name)
            if len(array) != len(batch):
                raise ContractError(f"`{column}` has {len(array)} rows for {len(batch)} documents", where=self.family.name)
            if array.null_count and not explained[array.is_null().to_numpy(zero_copy_only=False)].all():
                raise ContractError(f"`{column}` is null without a reason: say so in `undefined`", where=self.family.name)
            self.values[column].append(array)
        self.reasons += reasons

    def add_undefined(self, reason: str) -> None:
        """Note that one document has no values."""
        for column, kind in self.family.columns.items():
            self.values[column].append(pa.nulls(1, kind) if self.family.takes_batch else None)
        self.reasons.append(reason)

    def finish(self, documents: pa.Table | pa.RecordBatch) -> pa.Table:
        """All rows as signals/1."""
        contract = family_contract(self.family.name, dict(self.family.columns))
        columns = [_flat(documents.column("shard")), _flat(documents.column("row"))]
        columns += [self._array(name, kind) for name, kind in self.family.columns.items()]
        columns.append(pa.array(self.reasons, pa.string()))
        table = pa.Table.from_arrays(columns, schema=contract.schema)
        check(table, contract)
        return table

    def _array(self, name: str, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
        if self.family.takes_batch:
            return pa.chunked_array(self.values[name], kind)
        try:
            return pa.array(self.values[name], kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise ContractError(f"`{name}` has a value that is not {kind}: {error}", where=self.family.name) from error

    def _refuse_other_columns(self, found: Mapping[str, Any]) -> None:
        if found.keys() != self.values.keys():
            odd = sorted(found.keys() ^ self.values.keys())
            raise ContractError(f"the signals `{self.family.name}` must give exactly their columns; at odds: {odd}")


def _loaded(family: SignalFamily, name: str, given: Mapping[str, bytes]) -> Any:
    resource = family.resources[name]
    if name in given:
        return resource.load(given[name])
    if resource.default is None:
        fix = f"pass the bytes as the resource `{name}`"
        raise RecipeError(f"the signals `{family.name}` need the resource `{name}`", where=family.name, fix=fix)
    return resource.load(resource.default())


def _joined(scores: BatchScores, n_documents: int) -> list[str | None]:
    """The reasons of each document, joined; None where all is defined."""
    reasons: list[str | None] = [None] * n_documents
    for reason, holds in scores.undefined.items():
        for index in np.flatnonzero(holds):
            before = reasons[index]
            reasons[index] = reason if before is None else f"{before}; {reason}"
    return reasons


def _cuts(texts: pa.Array) -> list[tuple[int, int]]:
    """Ranges of rows with at most PIECE_BYTES of text and PIECE_ROWS each, or one row."""
    lengths: list[int] = []
    if len(texts):
        kind = np.int64 if pa.types.is_large_string(texts.type) else np.int32
        offsets = np.frombuffer(texts.buffers()[1], kind)[texts.offset : texts.offset + len(texts) + 1]
        lengths = np.diff(offsets.astype(np.int64)).tolist()
    cuts, start, n_bytes = [], 0, 0
    for row, length in enumerate(lengths):
        if row > start and (n_bytes + length > PIECE_BYTES or row - start == PIECE_ROWS):
            cuts.append((start, row))
            start, n_bytes = row, 0
        n_bytes += length
    return [*cuts, (start, len(texts))] if len(texts) else []


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
