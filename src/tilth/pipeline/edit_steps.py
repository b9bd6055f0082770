"""The steps that edit texts between reading and scoring: which lines are repeated, then one pass that applies every edit.

What was read stays as it is; the edited documents have the same rows, and `edits.parquet` says what was replaced and why.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tilth.artifacts import Artifact
from tilth.artifacts.spec import UNICODE
from tilth.contracts import DOCUMENTS, EDITS
from tilth.pipeline.graph import Step
from tilth.pipeline.parquet import Writer, stream
from tilth.pipeline.steps import READ, Inputs, Params


def hash_lines(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """The distinct lines of one shard, sorted by hash."""
    from tilth.dedup.lines import line_run

    (documents,) = inputs.values()
    run = line_run(stream(documents, "documents.parquet", ["shard", "row", "text"]))
    pq.write_table(run, folder / "lines.parquet", compression="zstd")
    return {"n_lines": run.num_rows}


def find_repeated_lines(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """The lines that occur more than once in a group of shards."""
    from tilth.dedup.lines import LINE_RUN, repeated_lines

    n_lines = 0
    with pq.ParquetWriter(folder / "repeated.parquet", LINE_RUN, compression="zstd") as file:
        for batch in repeated_lines([stream(run, "lines.parquet") for run in inputs.values()]):
            file.write_batch(batch)
            n_lines += batch.num_rows
    return {"n_lines": n_lines}


def edit(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """Apply every edit of the corpus to one shard. `params["edits"]` are the recipe's, in their order, with their kinds."""
    from tilth.corpus.edits import apply_edits, merge_edits

    (documents,) = (artifact for artifact in inputs.values() if artifact.spec.step == READ.name)
    found = [_edits_of(description, documents, inputs) for description in params["edits"]]
    merged = merge_edits([*found, EDITS.schema.empty_table()])
    n_bytes = n_documents = 0
    with Writer(folder / "documents.parquet", DOCUMENTS) as texts, Writer(folder / "edits.parquet", EDITS) as edits:
        edits.write(merged)
        for batch in stream(documents, "documents.parquet"):
            changed = apply_edits(batch, merged)
            texts.write(changed)
            n_bytes += sum(changed.column("n_bytes").to_pylist())
            n_documents += changed.num_rows
    return {"n_documents": n_documents, "n_bytes": n_bytes, "n_edits": merged.num_rows}


def _edits_of(description: Params, documents: Artifact, inputs: Inputs) -> pa.Table:
    if description["kind"] == "RepeatedLines":
        from tilth.dedup.lines import line_edits

        (repeated,) = (artifact for artifact in inputs.values() if artifact.spec.step == REPEATED_LINES.name)
        texts = stream(documents, "documents.parquet", ["shard", "row", "text"])
        return line_edits(texts, stream(repeated, "repeated.parquet"), description["mode"], description["keep_empty"])
    find = _text_edits(description["kind"])
    batches = stream(documents, "documents.parquet", ["shard", "row", "text"])
    return pa.concat_tables([EDITS.schema.empty_table(), *(_placed(batch, find(batch.column("text"))) for batch in batches)])


def _text_edits(kind: str) -> Callable[[pa.Array], pa.Table]:
    """What finds edits of this kind in texts, each for itself."""
    if kind == "C4Lines":
        from tilth.quality_signals.families.c4 import c4_edits

        return c4_edits
    from tilth.quality_signals.families.pii import pii_edits

    return pii_edits


def _placed(batch: pa.RecordBatch, edits: pa.Table) -> pa.Table:
    """Edits that count rows within a batch, as edits of the shard's rows."""
    rows = batch.column("row").take(edits.column("row").combine_chunks())
    shards = batch.column("shard").take(edits.column("row").combine_chunks())
    columns = {**{name: edits.column(name) for name in edits.column_names}, "row": rows, "shard": shards}
    return pa.table({name: columns[name] for name in EDITS.schema.names}).cast(EDITS.schema)


LINES = Step("edits.lines", 1, (UNICODE,), hash_lines)
REPEATED_LINES = Step("edits.repeated_lines", 1, (), find_repeated_lines)
EDIT = Step("edit", 2, (UNICODE,), edit)
