"""The steps of semantic deduplication: embeddings of each shard, where a function makes them, and the marks over all shards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tilth.artifacts.spec import UNICODE
from tilth.contracts import DUPLICATES
from tilth.errors import ContractError, RecipeError
from tilth.pipeline.graph import Node, Step
from tilth.pipeline.parquet import read_columns, stream, write_table
from tilth.pipeline.steps import Inputs, Params, texts_of

_TEXTS_AT_ONCE = 256
_KEYS = ["doc_id", "shard", "row"]


def embed(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """The embeddings of one shard, float32 [n, d], by the function that `work`, a Semantic, names."""
    (documents,) = texts_of(inputs)
    n_rows, stored = 0, None
    for batch in stream(documents, "documents.parquet", ["text"]):
        texts = batch.column("text").to_pylist()
        for first in range(0, len(texts), _TEXTS_AT_ONCE):
            portion = texts[first : first + _TEXTS_AT_ONCE]
            vectors = np.asarray(work.embeddings(portion), np.float32)
            if vectors.ndim != 2 or len(vectors) != len(portion) or (stored is not None and vectors.shape[1] != stored.shape[1]):
                what = f"{len(portion)} texts gave embeddings of the shape {vectors.shape}"
                raise ContractError(
                    what, where=str(documents.spec.shard), fix="The function returns float32 [n, d], always of one d."
                )
            if stored is None:
                shape = (documents.stats["n_documents"], vectors.shape[1])
                stored = np.lib.format.open_memmap(folder / "embeddings.npy", "w+", np.float32, shape)
            stored[n_rows : n_rows + len(vectors)] = vectors
            n_rows += len(vectors)
    if stored is None:
        np.save(folder / "embeddings.npy", np.zeros((0, 1), np.float32))
    else:
        stored.flush()
    return {"n_rows": n_rows}


def mark_semantic(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """Mark documents whose embeddings, made here or in the file that `work` names, point into the same direction."""
    from tilth.dedup.semantic.duplicates import STATS_KEY, semantic_duplicates
    from tilth.dedup.semantic.embedding_files import open_embeddings

    shards = texts_of(inputs)
    keys = pa.concat_tables([read_columns(shard, "documents.parquet", _KEYS) for shard in shards])
    made = {artifact.spec.shard: artifact.path for artifact in inputs.values() if artifact.spec.step == EMBEDDINGS}
    scratch = folder / "scratch"
    scratch.mkdir()
    if made:
        ends = np.cumsum([0, *(shard.stats["n_documents"] for shard in shards)])
        arrays = [np.load(made[shard.spec.shard] / "embeddings.npy", mmap_mode="r") for shard in shards]
        widths = {array.shape[1] for array in arrays if len(array)}
        if len(widths) > 1:
            raise ContractError(
                f"the embeddings of the shards differ in width: {sorted(widths)}", where="Semantic(embeddings=...)"
            )
        read: Callable[[npt.NDArray[np.int64]], Any] = partial(_rows_of_shards, arrays, ends)
    else:
        read = open_embeddings(Path(work.embeddings).expanduser(), keys, scratch)
    marks = semantic_duplicates(keys, read, work, scratch)
    stats = json.loads(marks.schema.metadata[STATS_KEY])
    for file in scratch.iterdir():
        file.unlink()
    scratch.rmdir()
    return {"n_marked": write_table(folder / "duplicates.parquet", marks, DUPLICATES), **stats}


def semantic_nodes(
    duplicates: Sequence[Any], nodes: Mapping[str, Node], reads: Sequence[str], digest: Callable[[Path], str]
) -> Iterator[Node]:
    """The nodes of each Semantic among a recipe's `duplicates`; nodes that others need come first."""
    from tilth.dedup.semantic.duplicates import Semantic

    for semantic in duplicates:
        if isinstance(semantic, Semantic):
            params = {"threshold": semantic.threshold}  # how vectors are grouped changes no result
            step = Step("dedup.semantic", 1, ("numpy",), mark_semantic)
            if isinstance(semantic.embeddings, str):
                path = Path(semantic.embeddings).expanduser()
                if not path.is_file():
                    fix = "Give the path of a .npy or .parquet file."
                    raise RecipeError("the file of embeddings is not there", where=semantic.embeddings, fix=fix)
                yield Node(step, params=params, external={"embeddings": digest(path)}, needs=tuple(reads), work=semantic)
                continue
            described = _described(semantic.embeddings)
            embedding = Step(EMBEDDINGS, 1, (UNICODE, "numpy"), embed)
            made = [Node(embedding, nodes[read].shard, {"by": described}, needs=(read,), work=semantic) for read in reads]
            yield from made
            yield Node(step, params=params, needs=(*reads, *(node.id for node in made)), work=semantic)


def _described(function: Any) -> Any:
    from tilth.pipeline.interchange.step_description import describe

    return describe(partial(function))


def _rows_of_shards(arrays: Sequence[Any], ends: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Rows of arrays that lie one after the other."""
    width = max(array.shape[1] for array in arrays)
    found = np.empty((len(rows), width), np.float32)
    number = np.searchsorted(ends, rows, side="right") - 1
    for place in np.unique(number):
        here = number == place
        found[here] = arrays[place][rows[here] - ends[place]]
    return found


EMBEDDINGS = "embeddings"
