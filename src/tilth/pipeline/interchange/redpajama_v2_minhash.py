"""Near-duplicates by RedPajama-V2's own signatures: the published ones are taken as they are, others are computed alike.

Documents that share a band are candidates; whether they are duplicates is decided, as always, by the exact Jaccard
similarity of their texts. So a signature that is wrong marks nothing that is none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tilth.artifacts import Artifact
from tilth.artifacts.spec import UNICODE
from tilth.contracts import DUPLICATES
from tilth.dedup.parameters import MinHashParameters
from tilth.errors import RecipeError, SourceError
from tilth.pipeline.graph import Node, Step
from tilth.pipeline.parquet import read_columns, rows_of, stream, write_table
from tilth.pipeline.steps import Inputs, Params, texts_of

# Similarity to (bands, rows) of 128 permutations, as published.
BANDS: Mapping[float, tuple[int, int]] = {0.7: (14, 9), 0.8: (9, 13), 0.9: (5, 25), 1.0: (1, 128)}
N_WORDS = 13  # of an n-gram
ID = "rpv2_id"  # in the meta of a document that RedPajamaV2 read
_GROUP = re.compile(r"\d{4}-\d{2}/\d{4}/[a-z]{2}_[a-z]+")
_DOCUMENTS = re.compile(_GROUP.pattern + r"(?=\.json\.gz)")
_ROWS_AT_ONCE = 4096
Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class RedPajamaMinHash(MinHashParameters):
    """RedPajama-V2's MinHash: 13-grams of normalised words, 128 permutations, and the bands of a `threshold` of 0.7 to 1.

    `Corpus(near_duplicates=RedPajamaMinHash(0.8))`. Documents of the source RedPajamaV2 bring their signatures from the
    layout's `minhash/` where it is there; those of other sources, and edited ones, are signed here. Documents of fewer than
    13 words have no signature. Raises RecipeError for another threshold.
    """

    n: int = field(default=N_WORDS, init=False)
    threshold: float = 0.8
    recall: float = field(default=0.0, init=False)  # follows from the bands
    max_permutations: int = field(default=128, init=False)
    seed: int = field(default=42, init=False)

    def __post_init__(self) -> None:
        if self.threshold not in BANDS:
            fix = f"There are {', '.join(f'{threshold:g}' for threshold in BANDS)}."
            where = f"RedPajamaMinHash({self.threshold})"
            raise RecipeError("RedPajama-V2 publishes no signatures for this threshold", where, fix)

    @property
    def n_bands(self) -> int:
        """Bands of this threshold."""
        return BANDS[self.threshold][0]

    @property
    def n_rows(self) -> int:  # type: ignore[override]
        """Permutations in a band."""
        return BANDS[self.threshold][1]

    @property
    def column(self) -> str:
        """Of the published files."""
        return f"signature_sim{self.threshold:.1f}"

    def label(self) -> str:
        """What signatures depend on."""
        return json.dumps({"definition": "redpajama-v2", "n_bands": self.n_bands, "n_rows": self.n_rows}, sort_keys=True)


def signature_nodes(
    near: RedPajamaMinHash, sources: Sequence[Any], nodes: Mapping[str, Node], reads: Sequence[str], digest: Callable[[Path], str]
) -> Iterator[Node]:
    """A node for the signatures of each shard, with the published file that belongs to it where its texts are unchanged."""
    from tilth.corpus.locations import FoundFile, find_files, fingerprint_of

    published: dict[str, dict[str, FoundFile]] = {}
    for source in sources:
        if type(source).__name__ == "RedPajamaV2":
            try:
                files = find_files(f"{source.path.rstrip('/')}/minhash", f"RedPajamaV2 {source.name}")
            except SourceError:  # not fetched, or of tails, which have none
                files = []
            published[source.name] = {match[0]: file for file in files if (match := _GROUP.match(file.name))}
    for read in reads:
        shard = str(nodes[read].shard)
        own = published.get(shard.split("/")[0], {}) if nodes[read].step.name == "read" else {}
        found = [own[name] for name in _DOCUMENTS.findall(json.dumps(dict(nodes[read].params))) if name in own]
        external = {f"minhash {file.name}": fingerprint_of(file, digest) for file in found}
        params = json.loads(near.label())
        yield Node(SIGNATURES, shard, params, external, needs=(read,), work=(near, tuple(file.location for file in found)))


def sign(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """Band keys of one shard: null for documents that have no signature. `work` are the parameters and the published files."""
    near, locations = work
    known = _published(near, locations)
    (documents,) = texts_of(inputs)
    n_rows = n_published = 0
    with pq.ParquetWriter(folder / "signatures.parquet", _schema(near), compression="zstd") as file:
        for batch in stream(documents, "documents.parquet", ["doc_id", "shard", "row", "text", "meta"]):
            names = [str(dict(meta).get(ID)) for meta in batch.column("meta").to_pylist()]
            bands = [known.get(name) for name in names]
            missing = [place for place, name in enumerate(names) if name not in known]
            if missing:
                computed = _computed(near, batch.column("text").take(pa.array(missing)))
                for place, keys in zip(missing, computed, strict=True):
                    bands[place] = keys
            columns = [batch.column(name) for name in ("doc_id", "shard", "row")]
            file.write_table(pa.Table.from_arrays([*columns, pa.array(bands, _bands_type(near))], schema=_schema(near)))
            n_rows, n_published = n_rows + len(names), n_published + len(names) - len(missing)
    return {"n_rows": n_rows, "n_published": n_published}


def mark(inputs: Inputs, folder: Path, params: Params, work: RedPajamaMinHash) -> dict[str, Any]:
    """Mark near-duplicates among all documents: texts are read of those only that share a band with another."""
    from tilth.dedup.minhash import minhash_duplicates
    from tilth.dedup.shingles import Shingler
    from tilth.dedup.signatures import signature_schema

    texts = {str(artifact.spec.shard): artifact for artifact in texts_of(inputs)}
    signed = [artifact for artifact in inputs.values() if artifact.spec.step == SIGNATURES.name]
    candidates = _candidates(signed, work.n_bands)

    def read_text(shard: str, rows: list[int]) -> list[str]:
        return [found["text"] for found in rows_of(texts[shard], "documents.parquet", ["text"], rows)]

    shingler = Shingler(work.n)
    tables = []
    for shard, rows in candidates.items():
        found = read_columns(_of_shard(signed, shard), "signatures.parquet").take(pa.array(rows))
        sizes: list[int] = []
        for first in range(0, len(rows), _ROWS_AT_ONCE // 16):
            part = [row.as_py() for row in found.column("row")[first : first + _ROWS_AT_ONCE // 16]]
            sizes += [len(shingles) for shingles in shingler.shingle_sets(read_text(shard, part))]
        keys = found.column("band_keys").combine_chunks()
        columns = [*(found.column(name).combine_chunks() for name in ("doc_id", "shard", "row")), pa.array(sizes), keys]
        tables.append(pa.Table.from_arrays(columns, schema=signature_schema(work)))
    marks = minhash_duplicates(tables, read_text, work)
    return {"n_marked": write_table(folder / "duplicates.parquet", marks, DUPLICATES)}


def _candidates(signed: Sequence[Artifact], n_bands: int) -> dict[str, list[int]]:
    """Of each shard the places in its signatures of those that share a band with another. Memory: the keys of all bands."""
    n_rows = [artifact.stats["n_rows"] for artifact in signed]
    columns = [read_columns(artifact, "signatures.parquet", ["band_keys"]).column(0).combine_chunks() for artifact in signed]
    places = np.flatnonzero(np.concatenate([np.zeros(0, bool), *(np.asarray(column.is_valid()) for column in columns)]))
    flat = [column.drop_null().flatten().to_numpy() for column in columns]
    keys = np.concatenate([np.zeros(0, np.uint64), *flat]).reshape(-1, n_bands)
    shares = np.zeros(sum(n_rows), bool)
    for band in range(n_bands):
        order = np.argsort(keys[:, band], kind="stable")
        equal = np.flatnonzero(keys[order[1:], band] == keys[order[:-1], band])
        shares[places[order[equal]]] = shares[places[order[equal + 1]]] = True
    ends = np.cumsum(n_rows)
    found = {
        str(artifact.spec.shard): np.flatnonzero(shares[end - n : end]).tolist() for artifact, n, end in zip(signed, n_rows, ends)
    }
    return {shard: rows for shard, rows in found.items() if rows}


def _published(near: RedPajamaMinHash, locations: Sequence[str]) -> dict[str, Keys | None]:
    """Band keys by the published id. Raises SourceError for a file that is damaged or holds something else."""
    from tilth.corpus.locations import open_raw

    known: dict[str, Keys | None] = {}
    for location in locations:
        with open_raw(location) as raw:
            try:
                with pq.ParquetFile(raw, pre_buffer=False) as file:
                    for batch in file.iter_batches(_ROWS_AT_ONCE, columns=["id", near.column]):
                        known.update(zip(batch.column("id").to_pylist(), _keys(near, batch.column(near.column)), strict=True))
            except (pa.ArrowException, OSError, ValueError, KeyError) as error:
                what = f"the published signatures cannot be read: {str(error).splitlines()[0][:200]}"
                fix = "Fetch the file again, or take it away: then its documents are signed from their texts."
                raise SourceError(what, location, fix) from error
    return known


def _computed(near: RedPajamaMinHash, texts: pa.Array) -> list[Keys | None]:
    from tilth.pipeline.interchange.banded_minhash import band_signatures
    from tilth.quality_signals.fused.text_batch import TextBatch

    return _keys(near, band_signatures(TextBatch(texts))[near.column])


def _keys(near: RedPajamaMinHash, bands: pa.Array) -> list[Keys | None]:
    """A 64-bit key for each band of each document, from the big-endian minima; None without a signature."""
    from tilth.dedup.shingles import mix

    found: list[Keys | None] = [None] * len(bands)
    places = np.flatnonzero(np.asarray(bands.is_valid()))
    data = b"".join(band for one in bands.drop_null().to_pylist() for band in one)
    n_bytes = 4 * near.n_rows * near.n_bands
    if len(data) != n_bytes * len(places):
        raise ValueError(f"signatures of {len(data)} bytes, not {len(places)} x {n_bytes}")
    minima = np.frombuffer(data, ">u4").astype(np.uint64).reshape(len(places), near.n_bands, near.n_rows)
    keys = np.tile(np.arange(1, near.n_bands + 1, dtype=np.uint64), (len(places), 1))
    for row in range(near.n_rows):
        keys = mix(keys ^ minima[:, :, row])
    for place, key in zip(places, keys):
        found[place] = key
    return found


def _of_shard(signed: Sequence[Artifact], shard: str) -> Artifact:
    return next(artifact for artifact in signed if artifact.spec.shard == shard)


def _bands_type(near: RedPajamaMinHash) -> pa.DataType:
    return pa.list_(pa.uint64(), near.n_bands)


def _schema(near: RedPajamaMinHash) -> pa.Schema:
    place = [pa.field("doc_id", pa.uuid()), pa.field("shard", pa.string()), pa.field("row", pa.int32())]
    return pa.schema([*place, pa.field("band_keys", _bands_type(near))])


def near_node(near: RedPajamaMinHash, reads: Sequence[str], signed: Sequence[str]) -> Node:
    """The node that marks near-duplicates of the whole corpus."""
    return Node(NEAR, params={"definition": "redpajama-v2", **asdict(near)}, needs=(*reads, *signed), work=near)


SIGNATURES = Step("dedup.signatures", 1, (UNICODE, "numba"), sign)
NEAR = Step("dedup.minhash", 1, (UNICODE,), mark)
