"""Near-duplicates by RedPajama-V2's own signatures: the published ones are taken as they are, others are computed alike.

Documents that share a band are candidates; whether they are duplicates is decided, as always, by the exact Jaccard
similarity of their texts. So a signature that is wrong marks nothing that is none.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tilth.artifacts.spec import UNICODE
from tilth.dedup.minhash.parameters import Definition, MinHashParameters, Unit
from tilth.errors import RecipeError, SourceError
from tilth.pipeline.graph import Node, Step
from tilth.pipeline.parquet import stream
from tilth.pipeline.steps import Inputs, Params, texts_of

if TYPE_CHECKING:
    from tilth.dedup.minhash.signatures import Signed

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
    unit: Unit = field(default="words", init=False)
    bands: tuple[int, int] | None = field(default=None, init=False)
    definition: Definition = field(default="datasketch-legacy", init=False)

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

    def explain(self) -> str:
        """The bands in words and the recall that they give."""
        return super().explain().replace("(wanted 0)", "(as published)")

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
    """Signatures of one shard, none for documents too short for one. `work` are the parameters and the published files."""
    from tilth.dedup.minhash.signatures import write_signatures

    near, locations = work
    known = _published(near, locations)
    (documents,) = texts_of(inputs)
    counts = Counter[str]()
    batches = (
        _signed(batch, near, known, counts)
        for batch in stream(documents, "documents.parquet", ["doc_id", "text", "meta"])
    )  # fmt: skip
    return {"n_rows": write_signatures(folder, batches, near.n_bands, pa.uuid()), "n_published": counts["published"]}


def sign_texts(ids: pa.Array, texts: pa.Array, near: RedPajamaMinHash) -> Signed:
    """Signatures of `texts` (string or large_string; nulls have none) that bring none of their own."""
    keys, has_none = _computed(near, texts)
    return _signed_with(ids, texts, near, keys, has_none)


def _signed(batch: pa.RecordBatch, near: RedPajamaMinHash, known: Mapping[str, Keys | None], counts: Counter[str]) -> Signed:
    names = [str(dict(meta).get(ID)) for meta in batch.column("meta").to_pylist()]
    bands = [known.get(name) for name in names]
    has_none = np.array([keys is None for keys in bands], np.bool_)
    nothing = np.zeros(near.n_bands, np.uint64)
    keys = np.array([nothing if own is None else own for own in bands], np.uint64).reshape(len(bands), near.n_bands)
    missing = np.array([place for place, name in enumerate(names) if name not in known], np.int64)
    counts["published"] += len(names) - len(missing)
    if len(missing):
        keys[missing], has_none[missing] = _computed(near, batch.column("text").take(pa.array(missing)))
    return _signed_with(batch.column("doc_id"), batch.column("text"), near, keys, has_none)


def _signed_with(ids: pa.Array, texts: pa.Array, near: RedPajamaMinHash, keys: Keys, has_none: npt.NDArray[np.bool_]) -> Signed:
    """Band keys (documents x bands) and the shingles that similarity is measured by; nothing where there is no signature."""
    from tilth.dedup.minhash.shingles import set_keys, shingle
    from tilth.dedup.minhash.signatures import Signed

    shingles = shingle(texts, near.n, near.unit)
    sizes = np.where(has_none, 0, np.diff(shingles.ends)).astype(np.int32)
    return Signed(ids, sizes, set_keys(shingles), keys)


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


def _computed(near: RedPajamaMinHash, texts: pa.Array) -> tuple[Keys, npt.NDArray[np.bool_]]:
    """(band keys of the documents, which of them are too short for a signature)."""
    from tilth.pipeline.interchange.banded_minhash import ngram_minima
    from tilth.quality_signals.fused.text_batch import TextBatch

    minima, has_none = ngram_minima(TextBatch(texts.fill_null("")))
    return _mixed(near, minima[:, : near.n_rows * near.n_bands]), has_none


def _keys(near: RedPajamaMinHash, bands: pa.Array) -> list[Keys | None]:
    """The keys of each document's bands, which are big-endian minima as bytes; None without a signature."""
    found: list[Keys | None] = [None] * len(bands)
    places = np.flatnonzero(np.asarray(bands.is_valid()))
    data = b"".join(band for one in bands.drop_null().to_pylist() for band in one)
    n_bytes = 4 * near.n_rows * near.n_bands
    if len(data) != n_bytes * len(places):
        raise ValueError(f"signatures of {len(data)} bytes, not {len(places)} x {n_bytes}")
    minima = np.frombuffer(data, ">u4").reshape(len(places), near.n_bands * near.n_rows)
    for place, key in zip(places, _mixed(near, minima)):
        found[place] = key
    return found


def _mixed(near: RedPajamaMinHash, minima: npt.NDArray[Any]) -> Keys:
    """A 64-bit key for each band of each document, from its minima."""
    from tilth.dedup.texts.mixing import mixed

    rows = minima.astype(np.uint64).reshape(len(minima), near.n_bands, near.n_rows)
    keys = np.tile(np.arange(1, near.n_bands + 1, dtype=np.uint64), (len(minima), 1))
    for row in range(near.n_rows):
        keys = mixed(keys ^ rows[:, :, row])
    return keys


SIGNATURES = Step("dedup.signatures", 2, (UNICODE, "numba"), sign)
