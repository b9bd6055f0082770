"""The steps that find repeated passages in a user's own files: runs of each piece, what all of them repeat, cuts of each piece.

A piece is taken in parts of PART_BYTES of text, each a shard to the room `dedup`: memory does not follow the size of a file.
What is repeated is told to each part by itself (`by_part`), so that time follows the size of the files and no more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tilth.artifacts import Artifact
from tilth.artifacts.spec import UNICODE
from tilth.corpus.columns import Fields, Piece, read_columns
from tilth.errors import RecipeError
from tilth.pipeline.distinct_ids import check_ids, id_hashes
from tilth.pipeline.graph import Step
from tilth.pipeline.steps import Inputs, Params

Method = Literal["lines", "paragraphs", "sentences", "substring"]
PART_BYTES = 64 << 20
_RUN = "run.parquet"
_WHERE = "dedup"
# Cuts of a piece. A shard of what came first is `PIECE/PART`, both numbers.
CUTS = pa.schema(
    [("row", pa.int32()), ("start", pa.int64()), ("end", pa.int64()), ("text", pa.string()), ("n_copies", pa.int64()),
     ("first_shard", pa.string()), ("first_row", pa.int32()), ("first_unit", pa.int32())]
)  # fmt: skip


@dataclass(frozen=True)
class Passages:
    """Which passages are compared, and which copies go.

    `mode` is keep_first or remove_all_copies (sentences: keep_first), `n` the sentences of a span, `min_tokens` the least words
    and marks of a substring. Raises RecipeError for values that cannot be.
    """

    method: Method
    mode: str = "keep_first"
    n: int = 3
    min_tokens: int = 50

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise RecipeError(f"there is no method `{self.method}`", "Passages", f"One of {', '.join(get_args(Method))}.")
        modes = ("keep_first",) if self.method == "sentences" else ("keep_first", "remove_all_copies")
        if self.mode not in modes:
            raise RecipeError(f"`{self.method}` has no mode `{self.mode}`", "Passages", f"It has {', '.join(modes)}.")
        if self.n < 1 or not 1 <= self.min_tokens <= 65_535:
            raise RecipeError("`n` must be at least 1 and `min_tokens` 1 to 65,535", str(self), "C4 takes 3, Lee et al. 50.")

    @property
    def compared(self) -> dict[str, Any]:
        """What runs depend on."""
        own = {"sentences": {"n": self.n}, "substring": {"min_tokens": self.min_tokens}}.get(self.method, {})
        return {"method": self.method, **own}


def make_run(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """The ids of a piece, why rows are no documents, and its lines, sentences or anchors as a sorted run."""
    piece, number, fields, passages = work
    counts = {"n_rows": 0, "n_rejected": 0}
    first: list[str] = []
    schema = pa.schema([("id", fields.id_type)])
    with (
        open(folder / "rejects.jsonl", "w") as rejects,
        pa.OSFile(str(folder / "ids.arrow"), "wb") as raw,
        pa.ipc.new_file(raw, schema) as ids,
    ):

        def batches() -> Iterator[pa.RecordBatch]:
            for columns in read_columns(piece, fields, _WHERE):
                ids.write_batch(pa.record_batch([columns.ids], schema=schema))
                counts["n_rejected"] += len(columns.rejects)
                first.extend(f"{one.location}: {one.reason}: {one.detail}" for one in columns.rejects[: 5 - len(first)])
                for one in columns.rejects:
                    told = {"location": one.location, "reason": one.reason, "detail": one.detail}
                    rejects.write(json.dumps(told) + "\n")
                yield _documents(columns.texts, counts["n_rows"])
                counts["n_rows"] += len(columns.ids)

        n_parts, _ = _write_parts(folder, passages, ((part, _run_of(part, passages)) for part in _parts(batches(), number)))
    return {**counts, "rejects": first, "n_parts": n_parts}


def find_repeated(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """What occurs more than once in the runs of all pieces, whose ids must be distinct: this is the first to see all of them."""
    from tilth.dedup.passages.by_part import write_by_part

    ids = [ids_of_piece(artifact) for artifact in inputs.values() if artifact.spec.step == RUN.name]
    check_ids(ids, [id_hashes(of_piece) for of_piece in ids])
    counts = [artifact.stats["n_parts"] for artifact in inputs.values()]  # in the order of the pieces
    parts = [_part_number(piece, part) for piece, n_parts in enumerate(counts) for part in range(n_parts)]
    return {"n_repeated": write_by_part([artifact.path / _RUN for artifact in inputs.values()], parts, folder)}


def make_windows(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """The windows of tokens of a piece whose anchors are repeated, as a sorted run."""
    from tilth.dedup.passages.by_part import read_part
    from tilth.dedup.passages.spans import window_run

    piece, number, fields, passages = work
    anchors = _path_of(inputs, REPEATED)
    parts = (
        (part, window_run(part, read_part(anchors, _number_of(part)), passages.min_tokens))
        for part in _read_parts(piece, number, fields)
    )
    n_parts, n_windows = _write_parts(folder, passages, parts, windows=True)
    return {"n_windows": n_windows, "n_parts": n_parts}


def make_cuts(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """What is to be cut from the documents of a piece (CUTS), in the order of its rows."""
    piece, number, fields, passages = work
    n_cuts = n_documents = n_chars = 0
    with pq.ParquetWriter(folder / "cuts.parquet", CUTS, compression="zstd") as file:
        for part in _read_parts(piece, number, fields):
            cuts = _cuts_of(part, inputs, passages)
            rows, starts, ends = (cuts.column(name).to_numpy() for name in ("row", "start", "end"))
            own = np.searchsorted(part.column("row").to_numpy(), rows)
            texts = pa.array(_slices(part.column("text"), own, starts, ends), pa.string())
            columns = {**{name: cuts.column(name) for name in cuts.column_names}, "text": texts}
            file.write_table(pa.table([columns[name] for name in CUTS.names], schema=CUTS))
            n_cuts, n_chars = n_cuts + len(rows), n_chars + int((ends - starts).sum())
            n_documents += len(np.unique(rows))
    return {"n_cuts": n_cuts, "n_documents": n_documents, "n_chars": n_chars}


def _slices(texts: pa.ChunkedArray, documents: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Iterator[str]:
    at, text = -1, ""
    for document, start, end in zip(documents.tolist(), starts.tolist(), ends.tolist(), strict=True):
        if document != at:
            at, text = document, texts[document].as_py()
        yield text[start:end]


def _documents(texts: pa.Array, first: int) -> pa.RecordBatch:
    """Row and text of those that have one."""
    kept = pa.array(np.flatnonzero(np.asarray(texts.is_valid())))
    rows = pc.add(kept, first).cast(pa.int32())
    return pa.record_batch([rows, texts.take(kept)], names=["row", "text"])


def _parts(batches: Iterable[pa.RecordBatch], number: int) -> Iterator[pa.Table]:
    """Shards of a piece (shard, row, text), in memory one after the other."""
    held: list[pa.RecordBatch] = []
    n_bytes = n_parts = 0
    for batch in batches:
        held.append(batch)
        n_bytes += batch.nbytes
        if n_bytes >= PART_BYTES:
            yield _named(held, number, n_parts)
            held, n_bytes, n_parts = [], 0, n_parts + 1
    if held:
        yield _named(held, number, n_parts)


def _named(batches: list[pa.RecordBatch], number: int, part: int) -> pa.Table:
    table = pa.Table.from_batches(batches)
    return table.add_column(0, "shard", pa.array([f"{number:08}/{part:08}"] * table.num_rows, pa.string()))


def _read_parts(piece: Piece, number: int, fields: Fields) -> Iterator[pa.Table]:
    def batches() -> Iterator[pa.RecordBatch]:
        first = 0
        for columns in read_columns(piece, fields, _WHERE):
            yield _documents(columns.texts, first)
            first += len(columns.ids)

    return _parts(batches(), number)


def _run_of(part: pa.Table, passages: Passages) -> Iterable[pa.RecordBatch]:
    if passages.method == "substring":
        from tilth.dedup.passages.spans import anchor_run

        return anchor_run(part, passages.min_tokens).to_batches()
    if passages.method == "sentences":
        from tilth.dedup.passages.sentences import sentence_run

        return sentence_run(part, passages.n).to_batches()
    from tilth.dedup.passages.lines import line_run

    return line_run(part, "line" if passages.method == "lines" else "paragraph").to_batches()


def _schema_of(passages: Passages, windows: bool) -> pa.Schema:
    """The schema of the run of a part."""
    if passages.method == "substring":
        from tilth.dedup.passages.spans import ANCHOR_RUN, WINDOW_RUN

        return WINDOW_RUN if windows else ANCHOR_RUN
    from tilth.dedup.passages.lines import LINE_RUN

    return LINE_RUN


def _write_parts(
    folder: Path, passages: Passages, parts: Iterable[tuple[pa.Table, Iterable[pa.RecordBatch]]], windows: bool = False
) -> tuple[int, int]:  # fmt: skip
    """Write the runs of a piece's parts as one run; returns the number of parts, and of its rows."""
    from tilth.dedup.passages.by_part import interleaved, of_part, with_parts
    from tilth.dedup.passages.span_files import write_merged

    n_parts = 0

    def runs() -> Iterator[Iterator[pa.RecordBatch]]:
        nonlocal n_parts
        for part, run in parts:
            n_parts += 1
            yield of_part(run, _number_of(part))

    n_rows = write_merged(runs(), interleaved, with_parts(_schema_of(passages, windows)), folder / _RUN)
    return n_parts, n_rows


def _part_number(piece: int, part: int) -> int:
    """Parts by number, in the order of pieces and parts."""
    return piece << 32 | part


def _number_of(part: pa.Table) -> int:
    piece, number = part.column("shard")[0].as_py().split("/")
    return _part_number(int(piece), int(number))


def _cuts_of(part: pa.Table, inputs: Inputs, passages: Passages) -> pa.Table:
    from tilth.dedup.passages.by_part import read_part

    number = _number_of(part)
    repeated = partial(read_part, _path_of(inputs, REPEATED), number)
    if passages.method == "substring":
        from tilth.dedup.passages.spans import span_cuts

        windows = partial(read_part, _path_of(inputs, REPEATED_WINDOWS), number)
        return span_cuts(part, repeated, windows, passages.min_tokens, passages.mode)  # type: ignore[arg-type]
    if passages.method == "sentences":
        from tilth.dedup.passages.sentences import sentence_cuts

        return sentence_cuts(part, repeated, passages.n)
    from tilth.dedup.passages.lines import line_cuts

    return line_cuts(part, repeated, passages.mode, "line" if passages.method == "lines" else "paragraph")  # type: ignore[arg-type]


def _path_of(inputs: Inputs, step: Step) -> Path:
    (found,) = (artifact for artifact in inputs.values() if artifact.spec.step == step.name)
    return found.path


def ids_of_piece(run: Artifact) -> pa.ChunkedArray:
    """The ids of all rows of a piece; a map."""
    with pa.memory_map(str(run.path / "ids.arrow")) as raw:
        return pa.ipc.open_file(raw).read_all().column("id")


RUN = Step("passages.run", 2, (UNICODE,), make_run)
REPEATED = Step("passages.repeated", 2, (), find_repeated)
WINDOWS = Step("passages.windows", 2, (UNICODE,), make_windows)
REPEATED_WINDOWS = Step("passages.repeated_windows", 2, (), find_repeated)
CUT = Step("passages.cuts", 1, (UNICODE,), make_cuts)
