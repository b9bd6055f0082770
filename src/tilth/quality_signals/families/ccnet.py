"""What CCNet has said about a document, where the input's records carry it: lengths, language score, perplexity, bucket.

Definitions: Wenzek et al., arXiv:1911.00359; names as in RedPajama-V2 (arXiv:2411.12372).
"""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tilth.quality_signals.family import ANY_SIZE
from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.registry import BatchScores, batch_signal

# The column, and the names under which cc_net's records and RedPajama-V2's have it.
_NUMBERS = {
    "ccnet_language_score": "language_score",
    "ccnet_length": "length",
    "ccnet_nlines": "nlines",
    "ccnet_original_length": "original_length",
    "ccnet_original_nlines": "original_nlines",
    "ccnet_perplexity": "perplexity",
}
_BUCKETS = {"head": 0.0, "middle": 1.0, "tail": 2.0}


@batch_signal(
    "ccnet", version=2, columns={name: pa.float64() for name in ("ccnet_bucket", *_NUMBERS)}, needs=("meta",), max_bytes=ANY_SIZE
)
def ccnet(batch: TextBatch) -> BatchScores:
    """The numbers in the document's `meta`, under the column's name or cc_net's (`ccnet_length` or `length`).

    Buckets are 0 (head), 1 (middle) and 2 (tail); any other one is undefined, as is a number that is absent or unreadable.
    """
    meta = batch.fields["meta"]
    arrays = {
        "ccnet_bucket": pa.array([_bucket(value) for value in _values(meta, "ccnet_bucket", "bucket").to_pylist()], pa.float64())
    }
    for column, name in _NUMBERS.items():
        arrays[column] = _numbers(_values(meta, column, name))
    nulls = [array.is_null().to_numpy(zero_copy_only=False) for array in arrays.values()]
    reasons = {f"no {name.removeprefix('ccnet_')}": null for name, null in zip(arrays, nulls)}
    everything = np.logical_and.reduce(nulls)
    return BatchScores(arrays, {"not from CCNet": everything, **{name: null & ~everything for name, null in reasons.items()}})


def _values(meta: pa.Array, name: str, otherwise: str) -> pa.Array:
    return pc.coalesce(pc.map_lookup(meta, name, "first"), pc.map_lookup(meta, otherwise, "first"))


def _bucket(value: str | None) -> float | None:
    return _BUCKETS.get(value or "", _number(value) if value in ("0", "1", "2", "0.0", "1.0", "2.0") else None)


def _numbers(values: pa.Array) -> pa.Array:
    try:
        found = pc.cast(values, pa.float64())
    except pa.ArrowInvalid:  # one is unreadable: one by one
        return pa.array([_number(value) for value in values.to_pylist()], pa.float64())
    return pc.if_else(pc.is_finite(found), found, pa.scalar(None, pa.float64()))


def _number(value: str | None) -> float | None:
    try:
        number = float((value or "").encode("ascii").replace(b"_", b"?"))  # Python reads 1_000 and other digits too
    except ValueError:
        return None
    return number if math.isfinite(number) else None
