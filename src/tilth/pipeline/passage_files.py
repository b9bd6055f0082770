"""Repeated lines, paragraphs, sentences and substrings of the user's own files, without a project: one row a cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tilth.artifacts import Artifact, Store
from tilth.artifacts.fingerprints import Fingerprints
from tilth.corpus.columns import Fields
from tilth.corpus.locations import fingerprint_of
from tilth.errors import RecipeError
from tilth.pipeline.dedup_files import Search, find_pieces, index_of, stamp, whole_output
from tilth.pipeline.graph import Node
from tilth.pipeline.missing import run_missing
from tilth.pipeline.near_steps import ids_of
from tilth.pipeline.passage_steps import CUT, REPEATED, REPEATED_WINDOWS, RUN, WINDOWS, Passages, ids_of_piece
from tilth.pipeline.plan import Planned, plan

_ROWS_AT_ONCE = 20_000


@dataclass(frozen=True)
class Cuts:
    """How many documents there were, and what would be cut from how many; `rejects` are the first few, in words."""

    n_documents: int
    n_rejected: int
    n_cuts: int
    n_cut_documents: int
    n_cut_chars: int
    rejects: list[str]
    n_made: int


def plan_cuts(search: Search, passages: Passages) -> tuple[Store, list[Planned]]:
    """Where what is made on the way lies, and what would be made. Raises SourceError, RecipeError."""
    if search.output.is_dir():
        raise RecipeError("the output is a folder", str(search.output), "Name a file: `-o cuts.parquet`.")
    store = Store(index_of(search))
    digest = Fingerprints(store.root, stamp)
    found = find_pieces(search)
    fields = Fields(search.text, search.id, found.id_type)
    asked = {**passages.compared, "text": search.text, "id": search.id, "id_type": str(fields.id_type)}
    work = {name: (piece, number, fields, passages) for number, (name, (piece, _)) in enumerate(found.pieces.items())}
    runs = []
    for name, (piece, file) in found.pieces.items():
        place = {"piece": work[name][1], "start": piece.start, "end": piece.end}
        external = {file.described: fingerprint_of(file, digest)}
        runs.append(Node(RUN, name, {**asked, **place}, external, work=work[name]))
    digest.save()
    repeated = [Node(REPEATED, needs=tuple(run.id for run in runs), work=passages)]
    windows = []
    if passages.method == "substring":
        windows = [Node(WINDOWS, run.shard, asked, needs=(run.id, repeated[0].id), work=run.work) for run in runs]
        needs = tuple(run.id for run in windows)
        repeated.append(Node(REPEATED_WINDOWS, params={"of": "windows"}, needs=needs, work=passages))
    params, seen = {**asked, "mode": passages.mode}, [node.id for node in repeated]
    cuts = [Node(CUT, run.shard, params, needs=(run.id, *seen), work=run.work) for run in runs]
    nodes = {node.id: node for node in (*runs, repeated[0], *windows, *repeated[1:], *cuts)}
    return store, plan(store, nodes, None)


def cut_passages(search: Search, passages: Passages, n_workers: int = 1) -> Cuts:
    """Find the passages that the files repeat and write `search.output`, a row for each cut, in the order of files and rows.

    Columns: id, method; start, end in characters of the text, exclusive; text, what is cut; n_copies, first_id and first_unit:
    of the line, paragraph, span of sentences or window of tokens that the cut begins with, how often it is there, and in which
    document first, as what number there, from 0. Raises SourceError also for ids that are not distinct; BuildError if a piece
    failed. Memory: 16 bytes a document, and some times a part of a file (64 MB).
    """
    store, planned = plan_cuts(search, passages)
    store.sweep()
    parts = run_missing(store, planned, n_workers)
    artifacts = [store.artifact(part) for part in parts.values()]
    runs, cuts = ([one for one in artifacts if one.spec.step == step.name] for step in (RUN, CUT))
    ids = [ids_of_piece(run) for run in runs]
    with whole_output(search.output) as partial, pq.ParquetWriter(partial, cut_schema(ids[0].type), compression="zstd") as file:
        for table in _told(passages, cuts, ids):
            file.write_table(table)
    n_made = sum(item.part is None for item in planned)
    store.discard_all()
    return Cuts(
        n_documents=sum(run.stats["n_rows"] for run in runs), n_rejected=sum(run.stats["n_rejected"] for run in runs),
        n_cuts=sum(cut.stats["n_cuts"] for cut in cuts), n_cut_documents=sum(cut.stats["n_documents"] for cut in cuts),
        n_cut_chars=sum(cut.stats["n_chars"] for cut in cuts),
        rejects=[line for run in runs for line in run.stats["rejects"]][:5], n_made=n_made,
    )  # fmt: skip


def cut_schema(id_type: pa.DataType) -> pa.Schema:
    """Of the table that is written."""
    return pa.schema(
        [("id", id_type), ("method", pa.string()), ("start", pa.int64()), ("end", pa.int64()), ("text", pa.string()),
         ("n_copies", pa.int64()), ("first_id", id_type), ("first_unit", pa.int32())]
    )  # fmt: skip


def _told(passages: Passages, cuts: Sequence[Artifact], ids: Sequence[pa.ChunkedArray]) -> Iterator[pa.Table]:
    """The cuts of all pieces by the user's ids."""
    schema = cut_schema(ids[0].type)
    first = np.cumsum([0, *map(len, ids)])
    for number, artifact in enumerate(cuts):
        with pq.ParquetFile(artifact.path / "cuts.parquet") as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                if not batch.num_rows:
                    continue
                known = np.flatnonzero(np.asarray(batch.column("first_shard").is_valid()))
                shards = [int(name.split("/")[0]) for name in batch.column("first_shard").take(pa.array(known)).to_pylist()]
                firsts = first[shards] + batch.column("first_row").take(pa.array(known)).to_numpy()
                place = np.full(batch.num_rows, -1)
                place[known] = np.arange(len(known))
                columns = {
                    **{name: batch.column(name) for name in batch.schema.names},
                    "id": ids_of(first[number] + batch.column("row").to_numpy(), first, ids),
                    "method": pa.array([passages.method] * batch.num_rows, pa.string()),
                    "first_id": ids_of(firsts, first, ids).take(pa.array(place, mask=place < 0)),
                }
                yield pa.table([columns[name] for name in schema.names], schema=schema)
