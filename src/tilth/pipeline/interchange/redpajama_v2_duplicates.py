"""The parts of RedPajama-V2's layout that look at all its documents: exact duplicates by digest, and the listings.

The published code asks a Bloom filter, which takes some documents for duplicates that are none. Here every digest is
compared: a document is a duplicate if an earlier one has its digest, and earlier means a newer snapshot (as published),
then a smaller shard, then the name of the file, then the line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tilth.artifacts.atomic import write_atomically
from tilth.pipeline.interchange import redpajama_v2 as layout
from tilth.pipeline.interchange.redpajama_v2_files import digests_path

DUPLICATES_SCHEMA = pa.schema([("shard_id", pa.string()), ("doc_id", pa.string()), ("digest", pa.string())])
KEYS_AT_ONCE = 4 << 20  # of 24 bytes, sorted in memory together


def in_order(shard_ids: Sequence[str]) -> list[str]:
    """Files in the order in which the first document with a digest is kept: newest snapshot first."""
    newest_first = sorted({shard.partition("/")[0] for shard in shard_ids}, reverse=True)
    rank = {snapshot: place for place, snapshot in enumerate(newest_first)}
    return sorted(shard_ids, key=lambda shard: (rank[shard.partition("/")[0]], shard))


def write_duplicates(folder: Path, shard_ids: Sequence[str], keys_at_once: int = KEYS_AT_ONCE) -> int:
    """Write `duplicates/` for the files of a layout; returns how many documents are duplicates.

    Memory: a byte for each document, and 24 for each of `keys_at_once`.
    """
    ordered = in_order(shard_ids)
    n_rows = [pq.read_metadata(digests_path(folder, shard)).num_rows for shard in ordered]
    marks = _marks(folder, ordered, sum(n_rows), keys_at_once)
    firsts = np.concatenate(([0], np.cumsum(n_rows))).astype(np.int64)
    for shard, first in zip(ordered, firsts):
        _write_marked(folder, shard, marks[first:])
    return int(marks.sum())


def write_listings(folder: Path, shard_ids: Sequence[str]) -> list[str]:
    """Write `listings/`: the files of each language and part without their suffixes. Returns the listings' names."""
    listed: dict[str, list[str]] = {}
    for shard in sorted(shard_ids):
        name = shard.removesuffix(".json.gz")
        snapshot, _, group = name.split("/")
        listed.setdefault(layout.listing_name(snapshot, group), []).append(name)
    home = folder / "listings"
    home.mkdir(parents=True, exist_ok=True)
    for name, lines in listed.items():
        write_atomically(home / name, "".join(f"{line}\n" for line in lines).encode())
    for old in home.glob("*.txt"):
        if old.name not in listed:
            old.unlink()
    return sorted(listed)


def _marks(folder: Path, ordered: Sequence[str], n_rows: int, keys_at_once: int) -> npt.NDArray[np.bool_]:
    marks = np.zeros(n_rows, bool)
    n_parts = max(1, -(-n_rows // keys_at_once))
    for part in range(n_parts):
        keys, places = [np.empty((0, 2), np.uint64)], [np.empty(0, np.int64)]
        at = 0
        for digests in _digests(folder, ordered):
            found = np.frombuffer(b"".join(map(_key, digests)), np.uint64).reshape(-1, 2)
            here = np.flatnonzero(found[:, 0] % np.uint64(n_parts) == part)
            keys.append(found[here])
            places.append(here + at)
            at += len(digests)
        key, place = np.concatenate(keys), np.concatenate(places)
        order = np.lexsort((place, key[:, 1], key[:, 0]))
        repeated = (key[order[1:]] == key[order[:-1]]).all(axis=1)
        marks[place[order[1:][repeated]]] = True
    return marks


def _key(digest: str) -> bytes:
    return hashlib.blake2b(digest.encode(), digest_size=16).digest()


def _digests(folder: Path, shard_ids: Sequence[str]) -> Iterator[list[str]]:
    for shard in shard_ids:
        with pq.ParquetFile(digests_path(folder, shard)) as file:
            for batch in file.iter_batches(1 << 16):
                yield batch.column("digest").to_pylist()


def _write_marked(folder: Path, shard: str, marks: npt.NDArray[np.bool_]) -> None:
    snapshot, number, group = shard.removesuffix(".json.gz").split("/")
    path = folder / layout.component_path("duplicates", snapshot, number, group)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    at = 0
    with pq.ParquetWriter(partial, DUPLICATES_SCHEMA, compression="zstd") as file:
        for digests in _digests(folder, [shard]):
            here = np.flatnonzero(marks[at : at + len(digests)])
            rows = {
                "shard_id": [shard] * len(here),
                "doc_id": [f"{shard}/{at + row}" for row in here],
                "digest": [digests[row] for row in here],
            }
            file.write_table(pa.table(rows, schema=DUPLICATES_SCHEMA))
            at += len(digests)
    partial.replace(path)
