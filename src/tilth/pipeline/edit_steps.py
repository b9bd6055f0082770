"""The steps that edit texts between reading and scoring: which lines are repeated, then one pass that applies every edit.

What was read stays as it is; the edited documents have the same rows, and `edits.parquet` says what was replaced and why.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tilth.artifacts import Artifact
from tilth.artifacts.spec import UNICODE
from tilth.contracts import DOCUMENTS, EDITS
from tilth.pipeline.composed_edits import Change, compose
from tilth.pipeline.graph import Step
from tilth.pipeline.parquet import Writer, stream
from tilth.pipeline.span_steps import span_edits_of
from tilth.pipeline.steps import READ, Inputs, Params

DATATROVE = "DatatroveStep"
NOTEBOOKS, MARKDOWN = "Notebooks", "MarkdownProse"


def hash_lines(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """The distinct lines of one shard, sorted by hash."""
    from tilth.dedup.passages.lines import line_run

    return _write_run(line_run(_texts(inputs)), folder)


def hash_paragraphs(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """The distinct paragraphs of one shard, sorted by hash."""
    from tilth.dedup.passages.lines import line_run

    return _write_run(line_run(_texts(inputs), "paragraph"), folder)


def hash_sentences(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """The distinct spans of sentences of one shard, sorted by hash."""
    from tilth.dedup.passages.sentences import sentence_run

    return _write_run(sentence_run(_texts(inputs), params["n"], params["unit"] == "line"), folder)


def _texts(inputs: Inputs) -> Iterator[pa.RecordBatch]:
    (documents,) = inputs.values()
    return stream(documents, "documents.parquet", ["shard", "row", "text"])


def _write_run(run: pa.Table, folder: Path) -> dict[str, Any]:
    pq.write_table(run, folder / "lines.parquet", compression="zstd")
    return {"n_lines": run.num_rows}


def find_repeated_lines(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """The lines, paragraphs or spans of sentences that occur more than once in a group of shards."""
    from tilth.dedup.passages.lines import LINE_RUN, repeated_lines

    n_lines = 0
    with pq.ParquetWriter(folder / "repeated.parquet", LINE_RUN, compression="zstd") as file:
        for batch in repeated_lines([stream(run, "lines.parquet") for run in inputs.values()]):
            file.write_batch(batch)
            n_lines += batch.num_rows
    return {"n_lines": n_lines}


def edit(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """Apply every edit of the corpus to one shard. `params["edits"]` are the recipe's, in their order, with their kinds.

    Edits of Tilth's own that follow on each other look at the same texts. A step of datatrove or what rewrites notebooks,
    and what comes after it, looks at the texts as all before have left them. `work` are the recipe's objects for the same edits.
    """
    from tilth.corpus.edits import apply_edits, merge_edits

    (documents,) = (artifact for artifact in inputs.values() if artifact.spec.step == READ.name)
    made = EDITS.schema.empty_table()
    for stage in _stages(params["edits"], work):
        found = [_edits_of(description, step, documents, inputs, made) for description, step in stage]
        made = _composed(documents, made, merge_edits([*found, EDITS.schema.empty_table()]))
    n_bytes = n_documents = 0
    with Writer(folder / "documents.parquet", DOCUMENTS) as texts, Writer(folder / "edits.parquet", EDITS) as edits:
        edits.write(made)
        for batch in stream(documents, "documents.parquet"):
            changed = apply_edits(batch, _of_batch(made, batch))
            texts.write(changed)
            n_bytes += sum(changed.column("n_bytes").to_pylist())
            n_documents += changed.num_rows
    return {"n_documents": n_documents, "n_bytes": n_bytes, "n_edits": made.num_rows}


def _stages(descriptions: Sequence[Params], work: Any) -> list[list[tuple[Params, Any]]]:
    """Runs of edits that look at the same texts."""
    stages: list[list[tuple[Params, Any]]] = []
    for description, step in zip(descriptions, work or [None] * len(descriptions), strict=True):
        is_alone = description["kind"] in (DATATROVE, NOTEBOOKS)
        if not stages or is_alone or stages[-1][-1][0]["kind"] in (DATATROVE, NOTEBOOKS):
            stages.append([])
        stages[-1].append((description, step))
    return stages


def _edits_of(description: Params, step: Any, documents: Artifact, inputs: Inputs, made: pa.Table) -> pa.Table:
    if description["kind"] in ("RepeatedLines", "RepeatedSentences"):
        return _cut_repeated(description, documents, inputs)
    if description["kind"] == "RepeatedSpans":
        return span_edits_of(documents, inputs, description)
    if description["kind"] == DATATROVE:
        found: pa.Table = step.edits(_as_edited(documents, made))
        return found
    if description["kind"] == NOTEBOOKS:
        return _notebook_edits(documents, _as_edited(documents, made), description["form"])
    if description["kind"] == MARKDOWN:
        return _markdown_edits(_as_edited(documents, made), description["front_matter"], description["comments"])
    find = _text_edits(description)
    batches = _as_edited(documents, made)
    return pa.concat_tables([EDITS.schema.empty_table(), *(_placed(batch, find(batch.column("text"))) for batch in batches)])


def _cut_repeated(description: Params, documents: Artifact, inputs: Inputs) -> pa.Table:
    from tilth.dedup.passages.lines import line_edits
    from tilth.dedup.passages.sentences import Limits, sentence_edits

    unit = description["unit"]
    is_lines = description["kind"] == "RepeatedLines"
    step = REPEATED_LINES[unit] if is_lines else REPEATED_SENTENCES[unit]
    (found,) = (artifact for artifact in inputs.values() if artifact.spec.step == step.name)
    texts, repeated = stream(documents, "documents.parquet", ["shard", "row", "text"]), stream(found, "repeated.parquet")
    if is_lines:
        return line_edits(texts, repeated, description["mode"], description["keep_empty"], unit)
    limits = Limits(description["min_span_words"], description["min_words"], description["min_sentences"])
    return sentence_edits(texts, repeated, description["n"], unit == "line", limits)


def _notebook_edits(documents: Artifact, batches: Iterator[pa.RecordBatch], form: str) -> pa.Table:
    """Edits of the documents that were seen at a path of a notebook; what is none stays as it is."""
    from tilth.corpus.extract.notebook import SUFFIX, NotebookError, notebook_edits

    places = stream(documents, "occurrences.parquet", ["row", "path"])
    rows = {
        row
        for batch in places
        for row, path in zip(batch.column("row").to_pylist(), batch.column("path").to_pylist(), strict=True)
        if path.lower().endswith(SUFFIX)
    }
    found: list[tuple[str, int, int, int, str, str]] = []
    for batch in batches:
        for shard, row, text in zip(*(batch.column(name).to_pylist() for name in ("shard", "row", "text")), strict=True):
            if row in rows:
                with contextlib.suppress(NotebookError):
                    found += [(shard, row, *change) for change in notebook_edits(text, form)]
    return _edit_table(found)


def _markdown_edits(batches: Iterator[pa.RecordBatch], front_matter: bool, comments: bool) -> pa.Table:
    """Edits of the documents that are Markdown by their language."""
    from tilth.corpus.extract.markdown import LANGUAGES, markdown_edits

    found: list[tuple[str, int, int, int, str, str]] = []
    for batch in batches:
        columns = (batch.column(name).to_pylist() for name in ("shard", "row", "text", "language"))
        for shard, row, text, language in zip(*columns, strict=True):
            if language in LANGUAGES:
                found += [(shard, row, *change) for change in markdown_edits(text, front_matter, comments)]
    return _edit_table(found)


def _edit_table(rows: Sequence[tuple[str, int, int, int, str, str]]) -> pa.Table:
    """edits/1 from its rows."""
    columns = list(zip(*rows, strict=True)) or [()] * len(EDITS.schema)
    arrays = [pa.array(column, kind.type) for column, kind in zip(columns, EDITS.schema, strict=True)]
    return pa.table(arrays, schema=EDITS.schema)


def _as_edited(documents: Artifact, made: pa.Table) -> Iterator[pa.RecordBatch]:
    """Documents with the edits that were made so far."""
    from tilth.corpus.edits import edited

    for batch in stream(documents, "documents.parquet", ["shard", "row", "text", "url", "language", "meta"]):
        here = _changes(_of_batch(made, batch))
        if here:
            rows, texts = batch.column("row").to_pylist(), batch.column("text").to_pylist()
            changed = [edited(text, [one[:3] for one in here.get(row, ())]) for row, text in zip(rows, texts, strict=True)]
            place = batch.schema.get_field_index("text")
            batch = batch.set_column(place, "text", pa.array(changed, batch.schema.field(place).type))
        yield batch


def _composed(documents: Artifact, first: pa.Table, second: pa.Table) -> pa.Table:
    """Edits of the texts as they were read that do what `first` does and then, to the edited texts, `second`."""
    if not first.num_rows or not second.num_rows:
        return first if first.num_rows else second
    rows = []
    for batch in stream(documents, "documents.parquet", ["shard", "row", "text"]):
        before, after = _changes(_of_batch(first, batch)), _changes(_of_batch(second, batch))
        for shard, row, text in zip(*(batch.column(name).to_pylist() for name in ("shard", "row", "text")), strict=True):
            if row in before or row in after:
                rows += [(shard, row, *change) for change in compose(text, before.get(row, []), after.get(row, []))]
    return _edit_table(rows)


def _of_batch(edits: pa.Table, batch: pa.RecordBatch) -> pa.Table:
    """The edits of a batch's rows, which follow on each other."""
    if not batch.num_rows or not edits.num_rows:
        return edits.slice(0, 0)
    rows = edits.column("row").to_numpy()
    first, last = (batch.column("row")[place].as_py() for place in (0, batch.num_rows - 1))
    start, end = np.searchsorted(rows, [first, last + 1])
    return edits.slice(start, end - start)


def _changes(edits: pa.Table) -> dict[int, list[Change]]:
    """The edits of each row, in their order."""
    found: dict[int, list[Change]] = {}
    columns = [edits.column(name).to_pylist() for name in ("row", "start", "end", "replacement", "reason")]
    for row, *change in zip(*columns, strict=True):
        found.setdefault(row, []).append(Change(*change))
    return found


def _text_edits(description: Params) -> Callable[[pa.Array], pa.Table]:
    """What finds edits of this kind in texts, each for itself."""
    if description["kind"] == "C4Lines":
        from tilth.quality_signals.families.c4 import c4_edits

        return c4_edits
    if description["kind"] == "Redact":
        from tilth.quality_signals.families.secrets import PLACEHOLDERS, redactions

        placeholders = {kind: description[kind] for kind in PLACEHOLDERS if description[kind] is not None}
        return partial(redactions, placeholders=placeholders)
    from tilth.quality_signals.families.pii import pii_edits

    return pii_edits


def _placed(batch: pa.RecordBatch, edits: pa.Table) -> pa.Table:
    """Edits that count rows within a batch, as edits of the shard's rows."""
    rows = batch.column("row").take(edits.column("row").combine_chunks())
    shards = batch.column("shard").take(edits.column("row").combine_chunks())
    columns = {**{name: edits.column(name) for name in edits.column_names}, "row": rows, "shard": shards}
    return pa.table({name: columns[name] for name in EDITS.schema.names}).cast(EDITS.schema)


# By unit. Runs of lines bear no unit in their names, as they did before there were others.
LINES = {
    "line": Step("edits.lines", 1, (UNICODE,), hash_lines),
    "paragraph": Step("edits.paragraphs", 1, (UNICODE,), hash_paragraphs),
}
REPEATED_LINES = {
    "line": Step("edits.repeated_lines", 1, (), find_repeated_lines),
    "paragraph": Step("edits.repeated_paragraphs", 1, (), find_repeated_lines),
}
SENTENCES = {
    "sentence": Step("edits.sentences", 1, (UNICODE,), hash_sentences),
    "line": Step("edits.line_spans", 1, (UNICODE,), hash_sentences),
}
REPEATED_SENTENCES = {
    "sentence": Step("edits.repeated_sentences", 1, (), find_repeated_lines),
    "line": Step("edits.repeated_line_spans", 1, (), find_repeated_lines),
}
EDIT = Step("edit", 2, (UNICODE,), edit)
