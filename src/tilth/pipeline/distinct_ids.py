"""Holds the ids of a user's files to be distinct: else the answer would not say which of two documents is a duplicate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tilth.errors import SourceError

Hashes = npt.NDArray[np.uint64]


def id_hashes(ids: pa.ChunkedArray) -> Hashes:
    """A number for each id that is not null, ascending; equal ids have equal ones. Memory: 16 bytes a document."""
    from tilth.dedup.bucket_sort import ascending

    return ascending(np.concatenate([np.zeros(0, np.uint64), *map(_numbers, ids.chunks)]))


def check_ids(ids: Sequence[pa.ChunkedArray], hashes: Sequence[Hashes]) -> None:
    """Raises SourceError where two documents have one id; `hashes` are those of the ids, parts that each ascend."""
    ordered = np.sort(np.concatenate([np.zeros(0, np.uint64), *hashes]), kind="stable")  # which merges what is sorted
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(repeated):
        return
    # Two different ids may have one hash, so those that share one are compared themselves.
    present = [chunk.drop_null() for column in ids for chunk in column.chunks]
    shared = [chunk.filter(pa.array(np.isin(_numbers(chunk), repeated))) for chunk in present]
    counts = pc.value_counts(pa.concat_arrays(shared))
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        what = f"{len(twice):,} ids stand for more than one document, for example `{twice[0]['values'].as_py()}`"
        raise SourceError(what, "dedup", "Give another `--id`; without it a document is called by its file and row.")


def _numbers(ids: pa.Array) -> Hashes:
    from tilth.dedup.texts.buffers import utf8
    from tilth.dedup.texts.hashing import hashes128

    present = ids.drop_null()
    if pa.types.is_integer(present.type):
        return np.asarray(present.to_numpy()).astype(np.uint64)
    return hashes128(utf8(present))[:, 0]
