"""Edits with what they are copies of: where the first copy of what each cut begins with is, and how many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tilth.contracts import EDITS

Hashes = npt.NDArray[np.uint64]
Repeated: TypeAlias = Callable[[], Iterable[pa.RecordBatch]]  # a run of what is repeated, read anew at each call

# Of the unit (line, paragraph, span of sentences, window of tokens) that a cut begins with; null where that is not in the run.
FIRST_COPIES = pa.schema(
    [("first_shard", pa.string()), ("first_row", pa.int32()), ("first_unit", pa.int32()), ("n_copies", pa.int64())]
)


def with_first_copies(edits: pa.Table, hashes: Hashes, known: npt.NDArray[np.bool_], repeated: Repeated, unit: str) -> pa.Table:
    """`edits` (edits/1) with the columns of FIRST_COPIES.

    `hashes` are those of the units that the edits begin with, where `known`; `unit` is the column of the run (ascending by
    `hash`, which it has once) with a unit's number in its document. Memory: 60 bytes an edit.
    """
    order = np.flatnonzero(known)[np.argsort(hashes[known], kind="stable")]
    ascending = hashes[order]
    found = [FIRST_COPIES.empty_table()]
    places = [np.zeros(0, np.int64)]
    for batch in repeated():
        of_run = batch.column("hash").to_numpy()
        low, high = np.searchsorted(ascending, of_run), np.searchsorted(ascending, of_run, side="right")
        counts = high - low
        rows = np.repeat(np.arange(len(of_run)), counts)
        inside = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        places.append(order[np.repeat(low, counts) + inside])
        columns = [batch.column(name).take(pa.array(rows)) for name in ("shard", "row", unit, "n_copies")]
        found.append(pa.table(columns, schema=FIRST_COPIES))
    at = np.full(len(hashes), -1, np.int64)
    all_places = np.concatenate(places)
    at[all_places] = np.arange(len(all_places))
    copies = pa.concat_tables(found).take(pa.array(at, mask=at < 0))
    return pa.table([*edits.columns, *copies.columns], schema=pa.schema([*EDITS.schema, *FIRST_COPIES]))
