"""From a place in a corpus back to its document and source, and from a subset to its texts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tilth.artifacts import Named, Store
from tilth.catalog.complaints import complain
from tilth.catalog.connect import open_in_memory
from tilth.catalog.corpus_views import CorpusViews, create_corpus_views, restrict, table, text_parts
from tilth.catalog.quoting import identifier
from tilth.catalog.sql import plain_table
from tilth.contracts import uuid_bytes
from tilth.errors import NotFoundError, QueryError, StoreError, did_you_mean

_PROVENANCE = (
    "source",
    "url",
    "text_swhid",
    "raw_swhid",
    "origin",
    "revision",
    "path",
    "n_occurrences",
    "licence",
    "language",
    "n_bytes",
)
_MARKS = ("is_keeper", "cluster_id", "duplicate_similarity")
_RELATION = "corpus"
_ROWS_PER_BATCH = 64
_BUFFER_BYTES = 1 << 20  # a column chunk is read in pieces, not whole


Selected = tuple[str, list[bytes], np.ndarray, list[str], list[int]]


class SubsetDocument(NamedTuple):
    """One document of a subset; `doc_id` is its 16 bytes, `n_copies` how often a pass over the subset sees it."""

    doc_id: bytes
    shard: str
    row: int
    text: str
    split: str
    n_copies: int = 1


def documents_at(
    store: Store, corpus: str | Named, places: Sequence[tuple[str, int]], signals: Collection[str] = (), with_text: bool = False
) -> pa.Table:
    """Provenance of the documents at `places` (shard, row), a row each, in the order asked.

    `corpus` is a name, or a Named with the parts of a corpus (a subset carries those that it was picked
    from). Columns: shard, row, doc_id, source, url, text_swhid, raw_swhid, origin, revision, path (of the
    first occurrence), n_occurrences, licence (effective), language, n_bytes, is_keeper, cluster_id,
    duplicate_similarity, evidence (list of effective claims: spdx, scope, evidence_path, evidence_swhid,
    tool, of that occurrence), then `signals`, then text if asked. Only the files of these shards are read.
    Raises NotFoundError for a place that holds no document, QueryError for an unknown signal.
    """
    named = store.get_named("corpus", corpus) if isinstance(corpus, str) else corpus
    wanted = [*_PROVENANCE, *_MARKS, *signals, *(("text",) if with_text else ())]
    with open_in_memory(store.root / "catalog") as connection:
        views = create_corpus_views(connection, store, restrict(named, {shard for shard, _ in places}), _RELATION)
        refuse_unknown(signals, views, named)
        asked = pa.table(
            {
                "place": range(len(places)),
                "shard": pa.array([shard for shard, _ in places], pa.string()),
                "row": pa.array([row for _, row in places], pa.int32()),
            }
        )
        connection.register("asked", asked)
        try:
            found = connection.sql(
                _provenance_query(views.select({name.lower() for name in wanted}), wanted, places)
            ).to_arrow_table()
        except duckdb.Error as error:
            raise complain(error, store_root=store.root) from error
    missing = [place for place, doc_id in zip(places, found.column("doc_id").to_pylist(), strict=True) if doc_id is None]
    if missing:
        raise NotFoundError(
            "no document lies there",
            where=f"{named.label} {missing[0][0]}:{missing[0][1]}",
            fix=_shards_known(named, missing[0][0]),
        )
    return plain_table(found)


def refuse_unknown(signals: Collection[str], views: CorpusViews, named: Named) -> None:
    """Raise QueryError for a signal that the corpus does not have."""
    unknown = [name for name in signals if name not in views.columns]
    if unknown:
        raise QueryError(f"there is no signal `{unknown[0]}`", where=named.label, fix=did_you_mean(unknown[0], views.columns))


def subset_documents(store: Store, subset: str | Named) -> Iterator[SubsetDocument]:
    """The documents of a subset with their texts, in the order of (shard, row), a few at a time.

    Raises NotFoundError (no such subset) and StoreError when the corpus files are gone or hold other documents.
    """
    named = store.get_named("subset", subset) if isinstance(subset, str) else subset
    file = store.artifact(named.one("pick")).path / "subset.parquet"
    for shard, doc_ids, rows, splits, copies in _selected_by_shard(pq.ParquetFile(file)):
        part = next((part for part in text_parts(named) if part.shard == shard), None)
        if part is None:
            raise StoreError(
                f"subset `{named.name}` names a shard that it was not picked from", where=shard, fix="Pick it again."
            )
        path = store.artifact(part).path / "documents.parquet"
        at = 0
        for doc_id, row, text in _texts_at(pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False), rows):
            if doc_id != doc_ids[at]:
                raise StoreError(
                    "the shard holds another document than was picked", where=f"{path} row {row}", fix="Pick the subset again."
                )
            yield SubsetDocument(doc_id, shard, row, text, splits[at], copies[at])
            at += 1
        if at != len(rows):
            raise StoreError(
                f"the shard lacks {len(rows) - at} of the documents that were picked",
                where=str(path),
                fix="Build and pick again.",
            )


def provenance_query(wide: str, relation: str, columns: Sequence[str], where: str = "true") -> str:
    """SQL of `columns` of the wide view `wide` with the effective claims of the licence of each document's first occurrence."""
    shown = ", ".join(f"here.{identifier(name)}" for name in columns)
    evidence = (
        "select shard, row, origin, path, list({'spdx': spdx, 'scope': scope, 'evidence_path': evidence_path, "
        "'evidence_swhid': evidence_swhid, 'tool': tool} order by spdx, evidence_path) as evidence "
        f"from {table(relation, 'licences')} where effective and {where} group by all"
    )
    return (
        f"with here as (select w.* from ({wide}) as w where {where}), proof as ({evidence}) "
        f"select here.shard, here.row, {shown}, coalesce(proof.evidence, []) as evidence from here left join proof "
        "on proof.shard = here.shard and proof.row = here.row and proof.origin = here.origin and proof.path = here.path"
    )


def _provenance_query(wide: str, wanted: Sequence[str], places: Sequence[tuple[str, int]]) -> str:
    # The constants let DuckDB skip row groups; the join alone would read every row.
    rows = ", ".join(sorted({str(int(row)) for _, row in places})) or "null"
    columns = ["doc_id", *(name for name in wanted if name != "text")]
    text = ["text"] if "text" in wanted else []
    found = provenance_query(wide, _RELATION, [*columns, *text], f'"row" in ({rows})')
    shown, last = (", ".join(f"found.{identifier(name)}" for name in names) for names in (columns, text))
    return (
        f"with found as ({found}) select asked.shard, asked.row, {shown}, coalesce(found.evidence, []) as evidence"
        f"{', ' + last if last else ''} from asked left join found using (shard, row) order by place"
    )


def _selected_by_shard(file: pq.ParquetFile) -> Iterator[Selected]:
    """(shard, doc_ids, rows, splits, copies) for each shard in turn; the file is sorted by (shard, row)."""
    held: dict[str, list[pa.Table]] = {}
    for batch in file.iter_batches(columns=["doc_id", "shard", "row", "split", "weight"]):
        shards = np.asarray(batch.column("shard").to_pylist(), dtype=object)
        starts = np.flatnonzero(np.r_[True, shards[1:] != shards[:-1]])
        for start, end in zip(starts, [*starts[1:], len(shards)], strict=True):
            held.setdefault(shards[start], []).append(pa.Table.from_batches([batch.slice(start, end - start)]))
        # A shard is complete once another has begun.
        while len(held) > 1:
            shard = next(iter(held))
            yield _unpacked(shard, held.pop(shard))
    for shard, pieces in held.items():
        yield _unpacked(shard, pieces)


def _unpacked(shard: str, pieces: list[pa.Table]) -> Selected:
    rows = pa.concat_tables(pieces)
    copies = rows.column("weight").to_numpy().astype(np.int64).tolist()
    return shard, uuid_bytes(rows.column("doc_id")), rows.column("row").to_numpy(), rows.column("split").to_pylist(), copies


def _texts_at(file: pq.ParquetFile, rows: np.ndarray) -> Iterator[tuple[bytes, int, str]]:
    """(doc_id, row, text) of the sorted `rows`; row groups without any are not read."""
    first = 0
    for group in range(file.num_row_groups):
        n_rows = file.metadata.row_group(group).num_rows
        if np.searchsorted(rows, first) < np.searchsorted(rows, first + n_rows):
            here = first
            for batch in file.iter_batches(_ROWS_PER_BATCH, row_groups=[group], columns=["doc_id", "text"]):
                inside = rows[np.searchsorted(rows, here) : np.searchsorted(rows, here + batch.num_rows)]
                chosen = batch.take(pa.array(inside - here))
                yield from zip(
                    uuid_bytes(chosen.column("doc_id")), inside.tolist(), chosen.column("text").to_pylist(), strict=True
                )
                here += batch.num_rows
        first += n_rows


def _shards_known(named: Named, shard: str) -> str:
    known = [part.shard for part in named.of("read") if part.shard]
    return "That shard has fewer rows." if shard in known else did_you_mean(shard, known)
