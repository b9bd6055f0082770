"""Finds near-duplicates in the user's own files, without a project: signed piece by piece, searched, told in one table.

What is made on the way lies in a store, the index: a kill loses nothing that was finished, and with an index that is kept
new files are searched against the old ones without signing or comparing these again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tilth.artifacts import Artifact, Named, Store
from tilth.artifacts.atomic import disk_errors
from tilth.artifacts.fingerprints import Fingerprints
from tilth.artifacts.spec import UNICODE
from tilth.artifacts.store import discarded
from tilth.corpus.columns import SUFFIXES, Columns, Fields, Offsets, Piece, id_type_of, pieces, read_columns, read_texts
from tilth.corpus.locations import FoundFile, find_files, fingerprint_of
from tilth.corpus.records import fingerprint
from tilth.dedup.minhash.parameters import MinHashParameters
from tilth.errors import RecipeError, SourceError, StoreError
from tilth.pipeline import near_steps
from tilth.pipeline.distinct_ids import check_ids, id_hashes
from tilth.pipeline.file_keepers import check_rule, keep_by_rule
from tilth.pipeline.graph import Node, Step
from tilth.pipeline.missing import run_missing
from tilth.pipeline.plan import Planned, plan
from tilth.pipeline.signing import signer_of
from tilth.pipeline.steps import Inputs, Params

WHERE = "dedup"
NAME = "files"  # of the last search in an index


@dataclass(frozen=True)
class Search:
    """What was asked for. `gone` are ids of documents that are to be passed over (an opt-out), `keep` says which one stays."""

    files: Sequence[str]
    output: Path
    parameters: MinHashParameters
    text: str = "text"
    id: str | None = None
    index: Path | None = None
    gone: Sequence[str] = ()
    keep: Sequence[str] = ()  # as `parse_keeper_rule` has it, over the fields of the files


@dataclass(frozen=True)
class Deduplicated:
    """How many documents there were, how many of them are in clusters, how many would go; and why rows were none."""

    n_documents: int
    n_rejected: int
    n_clusters: int
    n_members: int
    n_without_text: int
    stats: dict[str, int]
    rejects: list[str]  # the first few, in words
    n_made: int

    @property
    def n_duplicates(self) -> int:
        """Members that are not their cluster's keeper."""
        return self.n_members - self.n_clusters


class Found(NamedTuple):
    """Pieces of the user's files by name, each with its file, in the order of their names; and the type of ids."""

    pieces: dict[str, tuple[Piece, FoundFile]]
    id_type: pa.DataType


def find_pieces(search: Search) -> Found:
    """What is to be searched, which is never what a search wrote. Raises SourceError: nothing there, two of one name, no such
    field of ids."""
    given = [file for pattern in search.files for file in find_files(pattern, WHERE, SUFFIXES)]
    files = [file for file in given if not _is_own(file, search)]
    if not files:
        raise SourceError("nothing is there but what a search wrote", ", ".join(search.files[:3]), "Give the files to search.")
    found = [(piece, file) for file in files for piece in pieces(file)]
    own = {piece.name: (piece, file) for piece, file in sorted(found, key=lambda one: one[0].name)}
    if len(own) < len(found):
        raise SourceError("two files have one name", WHERE, "Give their common folder instead.")
    kind = pa.string() if search.id is None else id_type_of(next(iter(own.values()))[0], search.id, WHERE)
    return Found(own, kind)


def index_of(search: Search) -> Path:
    """Where what is made on the way lies."""
    return search.index or search.output.with_name(search.output.name + ".index")


def _is_own(file: FoundFile, search: Search) -> bool:
    path = Path(os.path.abspath(file.location)) if file.is_local else None
    index = index_of(search)
    own = [Path(os.path.abspath(one)) for one in (search.output, index, discarded(index))]
    return path is not None and any(one == path or one in path.parents for one in own)


def plan_search(search: Search) -> tuple[Store, list[Planned]]:
    """The index and what a search would do in it. Raises SourceError, RecipeError; StoreError for an index made otherwise."""
    if search.output.is_dir():
        raise RecipeError("the output is a folder", str(search.output), "Name a file: `-o duplicates.parquet`.")
    store = Store(index_of(search))
    previous = store.find_named("dedup", NAME)
    _check_index(store, previous, search)
    # Without an index nothing outlives the search but what a kill leaves, for which a file that was not written to is the same.
    digest = Fingerprints(store.root, fingerprint if search.index else stamp)
    found = find_pieces(search)
    fields = Fields(search.text, search.id, found.id_type)
    if search.keep:
        check_rule(search.keep, [piece for piece, _ in found.pieces.values()], search.text, search.text, WHERE)
    label = {**json.loads(search.parameters.label()), "text": search.text, "id": search.id, "id_type": str(fields.id_type)}
    signed = []
    for name, (piece, file) in found.pieces.items():
        external = {file.described: fingerprint_of(file, digest)}
        span = {"start": piece.start, "end": piece.end}
        signed.append(Node(SIGNATURES, name, {**label, **span}, external, work=(piece, fields, search.parameters)))
    digest.save()
    nodes = {node.id: node for node in (*signed, *_searching(search, fields, signed))}
    return store, plan(store, near_steps.with_last_search(nodes, store, previous), previous)


@contextmanager
def whole_output(output: Path) -> Iterator[Path]:
    """Where to write what becomes `output` in the end; after an error nothing of it is left."""
    partial = output.with_name(output.name + ".partial")
    with disk_errors(output):
        try:
            yield partial
            partial.replace(output)
        finally:
            partial.unlink(missing_ok=True)


def stamp(path: Path) -> str:
    """What changes when a file is written to."""
    stat = path.stat()
    return f"{stat.st_size} bytes of {stat.st_mtime_ns}, {stat.st_ino}"


def deduplicate(search: Search, n_workers: int = 1) -> Deduplicated:
    """Search the files and write `search.output`: id, method, threshold, cluster_id, matched_id, is_keeper, similarity.

    A row for each member of a cluster of two and more; `cluster_id` is the id of its first member, which is the keeper unless
    `search.keep` chooses another. Raises SourceError also for ids that are not distinct; BuildError if a piece failed.
    """
    from tilth.dedup.minhash.signatures import SignedShard

    store, planned = plan_search(search)
    store.sweep()
    parts = run_missing(store, planned, n_workers)
    found = store.artifact(parts[NEAR.name])
    signed = [store.artifact(part) for part in parts.values() if part.step == SIGNATURES.name]
    store.save_named("dedup", NAME, parts.values(), _told(search))
    with whole_output(search.output) as partial:
        shutil.copyfile(found.path / "duplicates.parquet", partial)
        if search.keep:
            work = [item.node.work for item in planned if item.node.step is SIGNATURES]
            ids = [SignedShard(artifact.path, str(artifact.spec.shard)).ids() for artifact in signed]
            keep_by_rule(partial, search.keep, [piece for piece, *_ in work], ids, search.text, WHERE)
    if search.index is None:
        store.discard_all()
    return _result(found, signed, sum(item.part is None for item in planned))


def _result(found: Artifact, signed: Sequence[Artifact], n_made: int) -> Deduplicated:
    stats = dict(found.stats)
    return Deduplicated(
        n_documents=sum(artifact.stats["n_rows"] for artifact in signed),
        n_rejected=sum(artifact.stats["n_rejected"] for artifact in signed),
        n_clusters=stats.pop("n_clusters"), n_members=stats.pop("n_marked"), n_without_text=stats["n_without_shingles"],
        stats=stats, rejects=[line for artifact in signed for line in artifact.stats["rejects"]][:5], n_made=n_made,
    )  # fmt: skip


def _told(search: Search) -> dict[str, Any]:
    return {"parameters": json.loads(search.parameters.label()), "text": search.text, "id": search.id}


def _check_index(store: Store, previous: Named | None, search: Search) -> None:
    """Raises StoreError where the index was made with other parameters: it would be signed anew from beginning to end."""
    if previous is None:
        return
    before, now = previous.meta, _told(search)
    old, new = ({**told["parameters"], "text": told["text"], "id": told["id"]} for told in (before, now))
    differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if differing:
        said = ", ".join(f"{name} was {old.get(name)}, is {new.get(name)}" for name in differing)
        fix = "Say the same again, or give another `--index`."
        raise StoreError(f"the index was made with other parameters: {said}", str(store.root), fix)


def _searching(search: Search, fields: Fields, signed: Sequence[Node]) -> Iterator[Node]:
    """The nodes behind signing; ids that are to be passed over are an input of each."""
    gone, external = None, {}
    if search.gone:
        gone = pa.array(sorted(set(search.gone)), pa.string()).cast(fields.id_type)
        external = {"removed": hashlib.sha256("\n".join(sorted(set(search.gone))).encode()).hexdigest()}
    before = near_steps.Before(gone)
    for node in near_steps.near_nodes(search.parameters, signed, (), grows=search.index is not None):
        is_last = node.step.name == NEAR.name
        work = (search.parameters, before, fields, [own.work[0] for own in signed]) if is_last else before
        yield Node(NEAR if is_last else node.step, node.shard, node.params, external, node.needs, work)


def sign_piece(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """Signatures of one piece of a file. Rows that are no documents keep their place, and are told in `rejects.jsonl`."""
    from tilth.dedup.minhash.signatures import Signed, SignedShard, write_signatures

    piece, fields, parameters = work
    sign = signer_of(parameters)
    n_rejected = 0
    first: list[str] = []
    offsets: list[Offsets | None] = []
    with open(folder / "rejects.jsonl", "w") as rejects:

        def signed(columns: Columns) -> Signed:
            nonlocal n_rejected
            n_rejected += len(columns.rejects)
            offsets.append(columns.offsets)
            first.extend(f"{one.location}: {one.reason}: {one.detail}" for one in columns.rejects[: 5 - len(first)])
            for one in columns.rejects:
                rejects.write(json.dumps({"location": one.location, "reason": one.reason, "detail": one.detail}) + "\n")
            return sign(columns.ids, columns.texts)

        batches = (signed(columns) for columns in read_columns(piece, fields, WHERE))
        n_rows = write_signatures(folder, batches, parameters.n_bands, fields.id_type)
    known = [part for part in offsets if part is not None]
    if len(known) == len(offsets):
        np.save(folder / "offsets.npy", np.concatenate([np.zeros(0, np.int64), *known]))
    np.save(folder / "id_hashes.npy", id_hashes(SignedShard(folder, "").ids()))
    return {"n_rows": n_rows, "n_rejected": n_rejected, "rejects": first}


def mark_files(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """Compare what the bands of all pieces propose, and tell the members of clusters by the user's ids."""
    from tilth.dedup.minhash.candidates import first_documents

    near, before, fields, own = work
    shards = near_steps.signed_shards(inputs)
    by_name: dict[str, Piece] = {piece.name: piece for piece in own}
    ids = [shard.ids() for shard in shards]
    check_ids(ids, [np.load(shard.folder / "id_hashes.npy") for shard in shards])

    def texts_of(shard: int, rows: np.ndarray) -> Iterator[pa.Array]:
        kept = shards[shard].folder / "offsets.npy"
        return read_texts(by_name[shards[shard].name], fields, rows, WHERE, np.load(kept) if kept.is_file() else None)

    digests = {artifact.spec.shard: artifact.digest for artifact in inputs.values()}
    described = [(shard.name, digests[shard.name], shard.n_rows()) for shard in shards]
    found = near_steps.compare(inputs, folder, near, texts_of, described, before.last)
    first, marks = first_documents(shards), found.marks
    schema = near_steps.duplicates_schema(fields.id_type)
    with pq.ParquetWriter(folder / "duplicates.parquet", schema, compression="zstd") as writer:
        for start in range(0, len(marks.documents), near_steps.ROWS_AT_ONCE):
            here = slice(start, start + near_steps.ROWS_AT_ONCE)
            documents, roots = marks.documents[here], marks.roots[here]
            columns = [
                near_steps.ids_of(documents, first, ids),
                pa.array(["minhash"] * len(documents), pa.string()),
                pa.array(np.full(len(documents), near.threshold, np.float32)),
                near_steps.ids_of(roots, first, ids),
                near_steps.ids_of(marks.matched[here], first, ids),
                pa.array(roots == documents),
                pa.array(marks.similarities[here]),
            ]
            writer.write_table(pa.table(columns, schema=schema))
    n_clusters = int((marks.roots == marks.documents).sum())
    return {"n_marked": len(marks.documents), "n_clusters": n_clusters, **near_steps.counts(found)}


SIGNATURES = Step(near_steps.SIGNATURES.name, 4, (UNICODE, "numba"), sign_piece)
NEAR = Step(near_steps.NEAR.name, near_steps.NEAR.version, (UNICODE, "numba"), mark_files)
