"""The steps before the edit `RepeatedSpans`: which anchors, and of these which windows of tokens, occur more than once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tilth.artifacts import Artifact
from tilth.artifacts.spec import UNICODE
from tilth.contracts import EDITS
from tilth.pipeline.graph import Node, Step
from tilth.pipeline.parquet import stream
from tilth.pipeline.steps import READ, Inputs, Params

if TYPE_CHECKING:
    from tilth.pipeline.recipe import RepeatedSpans

_TEXTS = ["shard", "row", "text"]
_RUN, _REPEATED = "run.parquet", "repeated.parquet"


def hash_anchors(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """The anchors of one shard, ascending."""
    from tilth.dedup.passages.spans import anchor_run

    (documents,) = inputs.values()
    run = anchor_run(stream(documents, "documents.parquet", _TEXTS), params["min_tokens"])
    pq.write_table(run, folder / _RUN, compression="zstd")
    return {"n_anchors": run.num_rows}


def find_repeated_anchors(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """The anchors that occur more than once in all shards."""
    from tilth.dedup.passages.span_files import write_repeated
    from tilth.dedup.passages.spans import ANCHOR_RUN, repeated_anchors

    runs = [artifact.path / _RUN for artifact in inputs.values()]
    return {"n_anchors": write_repeated(runs, repeated_anchors, ANCHOR_RUN, folder / _REPEATED)}


def hash_windows(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """The windows of one shard whose anchor is repeated, ascending."""
    from tilth.dedup.passages.span_files import write_run
    from tilth.dedup.passages.spans import WINDOW_RUN, window_run

    documents, anchors = (_of_step(inputs, step) for step in (READ, REPEATED_ANCHORS))
    texts = stream(documents, "documents.parquet", _TEXTS)
    run = window_run(texts, stream(anchors, _REPEATED), params["min_tokens"])
    return {"n_windows": write_run(folder / _RUN, WINDOW_RUN, run)}


def find_repeated_windows(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """The windows that occur more than once in all shards."""
    from tilth.dedup.passages.span_files import write_repeated
    from tilth.dedup.passages.spans import WINDOW_RUN, repeated_windows

    runs = [artifact.path / _RUN for artifact in inputs.values()]
    return {"n_windows": write_repeated(runs, repeated_windows, WINDOW_RUN, folder / _REPEATED)}


def span_edits_of(documents: Artifact, inputs: Inputs, params: Params) -> pa.Table:
    """What the edit `RepeatedSpans` cuts from one shard (edits/1)."""
    from tilth.dedup.passages.spans import span_edits

    anchors, windows = (_of_step(inputs, step) for step in (REPEATED_ANCHORS, REPEATED_WINDOWS))
    found = span_edits(
        lambda: stream(documents, "documents.parquet", _TEXTS),
        stream(anchors, _REPEATED),
        stream(windows, _REPEATED),
        params["min_tokens"],
        params["mode"],
    )
    return found.cast(EDITS.schema)


def span_nodes(
    edit: RepeatedSpans, reads: Sequence[str], nodes: Mapping[str, Node], add: Callable[[Node], str]
) -> tuple[str, ...]:  # fmt: skip
    """Add the nodes before the edit for the shards `reads`; the ids of those whose outputs it needs."""
    params = {"min_tokens": edit.min_tokens}
    runs = tuple(add(Node(ANCHORS, nodes[read].shard, params, needs=(read,))) for read in reads)
    anchors = add(Node(REPEATED_ANCHORS, needs=runs))
    runs = tuple(add(Node(WINDOWS, nodes[read].shard, params, needs=(read, anchors))) for read in reads)
    return anchors, add(Node(REPEATED_WINDOWS, needs=runs))


def _of_step(inputs: Inputs, step: Step) -> Artifact:
    (found,) = (artifact for artifact in inputs.values() if artifact.spec.step == step.name)
    return found


ANCHORS = Step("edits.anchors", 1, (UNICODE,), hash_anchors)
REPEATED_ANCHORS = Step("edits.repeated_anchors", 1, (), find_repeated_anchors)
WINDOWS = Step("edits.windows", 1, (UNICODE,), hash_windows)
REPEATED_WINDOWS = Step("edits.repeated_windows", 1, (), find_repeated_windows)
