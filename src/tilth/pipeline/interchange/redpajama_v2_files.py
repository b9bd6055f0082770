"""Writes one shard of RedPajama-V2's layout: documents, signals and MinHash signatures, a file of each for every group."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from tilth.corpus.records import Document
from tilth.errors import SourceError
from tilth.pipeline.interchange import redpajama_v2 as layout

DIGESTS = pa.schema([("digest", pa.string())])
MOST_GROUPS = 200  # languages x buckets of one shard: each has four open files
GZIP_LEVEL = 4
ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@dataclass
class ShardWriter:
    """Writes documents into the files of the groups that they belong to.

    `group` fixes the group for all of them (of a file that came in this layout); else language and bucket decide.
    """

    folder: Path
    snapshot: str
    shard: str
    group: str | None = None
    files: dict[str, GroupFiles] = field(default_factory=dict)

    def close(self) -> None:
        """Finish all files."""
        for files in self.files.values():
            files.close()

    def write(self, documents: Sequence[Document], texts: pa.Array, signals: Mapping[str, pa.Table]) -> None:
        """Append documents with their families' signals, row by row. Raises SourceError for more groups than can be."""
        from tilth.pipeline.interchange.banded_minhash import band_signatures
        from tilth.quality_signals.fused.text_batch import TextBatch

        records = [layout.document_record(document) for document in documents]
        fields = layout.signal_fields(texts, signals)
        signatures = band_signatures(TextBatch(texts))
        rows: dict[str, list[int]] = {}
        for row, record in enumerate(records):
            rows.setdefault(self.group or layout.group_of(record), []).append(row)
        for group in sorted(rows):
            chosen = rows[group]
            bands = {name: column.take(pa.array(chosen)) for name, column in signatures.items()}
            self._files(group).write([records[row] for row in chosen], [fields[row] for row in chosen], bands)

    def _files(self, group: str) -> GroupFiles:
        if group not in self.files:
            if len(self.files) == MOST_GROUPS:
                fix = "split the file by language, or declare one with `--language`"
                raise SourceError(f"more than {MOST_GROUPS} languages and buckets in one file", self.shard, fix)
            self.files[group] = GroupFiles(self.folder, self.snapshot, self.shard, group)
        return self.files[group]


class GroupFiles:
    """The open files of one group of a shard."""

    def __init__(self, folder: Path, snapshot: str, shard: str, group: str) -> None:
        self.shard_id = layout.shard_id(snapshot, shard, group)
        self.n_rows = 0

        def path(component: str) -> Path:
            found = folder / layout.component_path(component, snapshot, shard, group)
            found.parent.mkdir(parents=True, exist_ok=True)
            return found

        self._documents, self._signals = PackedLines(path("documents")), PackedLines(path("quality_signals"))
        from tilth.pipeline.interchange.banded_minhash import MINHASH_SCHEMA

        self._minhash = pq.ParquetWriter(path("minhash"), MINHASH_SCHEMA, compression="zstd")
        self._digests = pq.ParquetWriter(digests_path(folder, self.shard_id), DIGESTS, compression="zstd")

    def write(
        self, records: Sequence[Mapping[str, Any]], fields: Sequence[Mapping[str, Any]], bands: Mapping[str, pa.Array]
    ) -> None:
        """Append documents' records, their signals and signatures."""
        ids = [f"{self.shard_id}/{self.n_rows + i}" for i in range(len(records))]
        self._documents.write(records)
        self._signals.write([layout.signal_record(*parts) for parts in zip(ids, records, fields)])
        names = {
            "shard_id": pa.repeat(pa.scalar(self.shard_id), len(ids)),
            "id": pa.array(ids, pa.string()),
            "id_int": pa.array([layout.id_int(name) for name in ids], pa.uint64()),
        }
        self._minhash.write_table(pa.table({**names, **bands}, schema=self._minhash.schema))
        self._digests.write_table(pa.table({"digest": [record["digest"] for record in records]}, schema=DIGESTS))
        self.n_rows += len(ids)

    def close(self) -> None:
        """Finish all files."""
        for file in (self._documents, self._signals, self._minhash, self._digests):
            file.close()


class PackedLines:
    """JSON lines in a gzip file that holds no time and no name: the same records give the same bytes."""

    def __init__(self, path: Path) -> None:
        self._raw: BinaryIO = open(path, "wb")  # noqa: SIM115 - closed by `close`
        packed = gzip.GzipFile("", "wb", GZIP_LEVEL, self._raw, mtime=0)
        self._file = io.BufferedWriter(packed, 1 << 18)  # type: ignore[arg-type]

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append records, a line each."""
        for record in records:
            self._file.write(ENCODER.encode(record).encode() + b"\n")

    def close(self) -> None:
        """Finish the file."""
        self._file.close()
        self._raw.close()


def digests_path(folder: Path, shard_id: str) -> Path:
    """Where the digests of a file's documents lie, from which duplicates are told; makes the folder."""
    path = folder / "manifests" / "digests" / f"{shard_id.removesuffix('.json.gz')}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
