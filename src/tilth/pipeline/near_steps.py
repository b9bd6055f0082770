"""The steps that find near-duplicates: sign each shard, merge the bands of all, compare what they propose."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tilth.artifacts import Named, Store
from tilth.artifacts.spec import UNICODE
from tilth.contracts import DUPLICATES
from tilth.pipeline.code_minhash import WITHOUT, CodeMinHash, compared_texts
from tilth.pipeline.execute import give_back_memory
from tilth.pipeline.graph import Node, Step
from tilth.pipeline.parquet import Writer, stream
from tilth.pipeline.signing import signer_of
from tilth.pipeline.steps import TEXTS, Inputs, Params

if TYPE_CHECKING:
    from tilth.dedup.minhash.candidates import Candidates, Known
    from tilth.dedup.minhash.comparison import Pairs, ReadTexts
    from tilth.dedup.minhash.duplicates import Found, Marks
    from tilth.dedup.minhash.parameters import MinHashParameters
    from tilth.dedup.minhash.signatures import SignedShard
    from tilth.dedup.texts.mixing import Hashes
    from tilth.dedup.texts.tokens import Ints

FEW_SHARDS, N_GROUPS = 8, 8
ROWS_AT_ONCE = 200_000


def near_nodes(near: MinHashParameters, signed: Sequence[Node], reads: Sequence[str], grows: bool) -> Iterator[Node]:
    """The nodes that follow signing: bands of many shards are merged in groups, which can run side by side.

    What `grows` is searched again with more shards: it keeps for that what the old ones have in common.
    """
    n_groups = min(N_GROUPS, near.n_bands) if grows or len(signed) > FEW_SHARDS else 1
    ids = tuple(node.id for node in signed)
    yield Node(STANDING, needs=ids, work=Before())
    found = []
    for group in np.array_split(np.arange(near.n_bands), n_groups):
        bands = [int(group[0]), int(group[-1]) + 1]
        params = {"bands": bands, "max_bucket": near.max_bucket, "grows": grows}
        found.append(Node(CANDIDATES, f"bands/{bands[0]:03}", params, needs=(*ids, STANDING.name), work=Before()))
    yield from found
    params = {**json.loads(near.label()), "threshold": near.threshold, "n_representatives": near.n_representatives}
    needs = (*reads, *ids, STANDING.name, *(node.id for node in found))
    yield Node(NEAR, params=params, needs=needs, work=(near, Before()))


class Before(NamedTuple):
    """What a step may know besides its inputs: ids of documents that are to be passed over (an opt-out), which are an external
    input then; and the folder of what the last search made of the same, which saves work and changes no result.
    """

    gone: pa.Array | None = None
    last: Path | None = None


def with_last_search(nodes: Mapping[str, Node], store: Store, previous: Named | None) -> dict[str, Node]:
    """The nodes, with the last search handed to the next."""
    if previous is None:
        return dict(nodes)
    last = {part.step + (f" {part.shard}" if part.shard else ""): part for part in previous.parts}

    def knowing(node: Node) -> Node:
        part = last.get(node.id) if node.step.name in (CANDIDATES.name, NEAR.name) else None
        if part is None:
            return node
        folder = store.root / "artifacts" / part.step / part.key
        if isinstance(node.work, Before):
            return dataclasses.replace(node, work=node.work._replace(last=folder))
        return dataclasses.replace(node, work=(node.work[0], node.work[1]._replace(last=folder), *node.work[2:]))

    return {name: knowing(node) for name, node in nodes.items()}


def sign(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """Signatures of one shard. `work` holds the parameters; only what decides the keys is in `params`."""
    from tilth.dedup.minhash.signatures import write_signatures

    (documents,) = inputs.values()
    signed = signer_of(work)
    batches = (
        signed(batch.column("doc_id"), compared_texts(work, batch.column("text")))
        for batch in stream(documents, "documents.parquet", ["doc_id", "text"])
    )
    return {"n_rows": write_signatures(folder, batches, work.n_bands, pa.uuid())}


def stand(inputs: Inputs, folder: Path, params: Params, work: Before) -> dict[str, Any]:
    """Which document stands for each: the first one with equal shingles."""
    from tilth.dedup.minhash.candidates import representatives

    shards = signed_shards(inputs)
    standing = representatives(shards, removed(shards, work.gone))
    np.save(folder / "standing.npy", standing)
    return {"n_documents": len(standing)}


def find(inputs: Inputs, folder: Path, params: Params, work: Before) -> dict[str, Any]:
    """The pairs and crowds that a group of bands proposes."""
    from tilth.dedup.minhash.candidates import find_candidates

    shards = signed_shards(inputs)
    searched = {"bands": params["bands"], "gone": _digest(work.gone), "shards": _described(inputs)}
    known = _known_company(work.last, searched)
    bands, most = range(*params["bands"]), params["max_bucket"]
    found, company = find_candidates(shards, bands, _standing(inputs), most, known, keeps_company=params["grows"])
    for name, column in found._asdict().items():
        np.save(folder / f"{name}.npy", column)
    if company is not None:
        (folder / "searched.json").write_text(json.dumps(searched, sort_keys=True))
        np.save(folder / "company.npy", company.entries)
        np.save(folder / "company_ends.npy", company.ends)
    return {"n_pairs": len(found.pairs), "n_crowds": len(found.ends) - 1}


def _known_company(last: Path | None, searched: Mapping[str, Any]) -> Known | None:
    """Who had company in the last search, if that was of some of today's shards, of the same bands, and passed over the same."""
    from tilth.dedup.minhash.candidates import Company

    if last is None or not (last / "searched.json").is_file():
        return None
    before = json.loads((last / "searched.json").read_text())
    old = {tuple(shard): number for number, shard in enumerate(before["shards"])}
    today = [tuple(shard) for shard in searched["shards"]]
    if (before["bands"], before["gone"]) != (searched["bands"], searched["gone"]) or not old.keys() <= set(today):
        return None
    company = Company(np.load(last / "company.npy", mmap_mode="r"), np.load(last / "company_ends.npy"))

    def known(band: int, shard: int) -> Hashes | None:
        number = old.get(today[shard])
        return None if number is None else company.of(band, number, len(old))

    return known


def _described(inputs: Inputs) -> list[list[str]]:
    """The name and the digest of each signed shard, in the order of their names."""
    signed = (artifact for artifact in inputs.values() if artifact.spec.step == SIGNATURES.name)
    return sorted([str(artifact.spec.shard), artifact.digest] for artifact in signed)


def _digest(gone: pa.Array | None) -> str:
    return hashlib.sha256(json.dumps([] if gone is None else gone.to_pylist()).encode()).hexdigest()


def _standing(inputs: Inputs) -> Ints:
    (artifact,) = (artifact for artifact in inputs.values() if artifact.spec.step == STANDING.name)
    standing: Ints = np.load(artifact.path / "standing.npy")
    return standing


def mark_near(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """Mark near-duplicates: candidates verified by exact Jaccard similarity, joined into clusters."""
    near, before = work
    texts = {artifact.spec.shard: artifact for artifact in inputs.values() if artifact.spec.step in TEXTS}
    shards = signed_shards(inputs)

    def read_texts(shard: int, rows: Ints) -> Iterator[pa.Array]:
        batches = stream(texts[shards[shard].name], "documents.parquet", ["text"])
        return (compared_texts(near, found) for found in rows_among((batch.column("text") for batch in batches), rows))

    described = [(shard.name, texts[shard.name].digest, shard.n_rows()) for shard in shards]
    found = compare(inputs, folder, near, read_texts, described, before.last)
    with Writer(folder / "duplicates.parquet", DUPLICATES) as writer:
        for table in duplicates(found.marks, shards, near.threshold):
            writer.write(table)
    return {"n_marked": writer.n_rows, **counts(found)}


def compare(
    inputs: Inputs,
    folder: Path,
    near: MinHashParameters,
    read_texts: ReadTexts,
    described: Sequence[tuple[str, str, int]],
    previous: Path | None,
) -> Found:
    """Compare what bands proposed, and leave the pairs in `folder`, for the next search.

    `described` are the name, the digest and the rows of each shard, `previous` the folder of the last search.
    """
    from tilth.dedup.minhash.duplicates import near_duplicates

    shards = signed_shards(inputs)
    known = _known_pairs(previous, near, described)
    with tempfile.TemporaryDirectory(dir=folder, prefix="scratch") as scratch:
        found = near_duplicates(shards, _proposed(inputs), read_texts, near, _standing(inputs), Path(scratch), known)
    give_back_memory()  # of texts and their shingles, before the answer is put together
    np.save(folder / "pairs.npy", found.pairs)
    compared = {**_shingles_of(near), "shards": described}
    (folder / "compared.json").write_text(json.dumps(compared, sort_keys=True))
    return found


def counts(found: Found) -> dict[str, int]:
    """What the work was, less what depends on an earlier search."""
    return {name: found.stats[name] for name in ("n_documents", "n_without_shingles", "n_equal", "n_candidates", "n_crowds",
                                                 "n_unresolved", "n_matched")}  # fmt: skip


def rows_among(columns: Iterable[pa.Array], rows: Ints) -> Iterator[pa.Array]:
    """The given rows (ascending) of a column that comes in parts."""
    first = 0
    for column in columns:
        begin, end = np.searchsorted(rows, (first, first + len(column)))
        if begin < end:
            yield column.take(pa.array(rows[begin:end] - first))
        first += len(column)


def removed(shards: Sequence[SignedShard], gone: pa.Array | None) -> npt.NDArray[np.bool_] | None:
    """Which documents have an id among `gone`."""
    if gone is None:
        return None
    parts = [np.asarray(pc.is_in(shard.ids(), value_set=gone)) for shard in shards]
    return np.concatenate([np.zeros(0, np.bool_), *parts])


def signed_shards(inputs: Inputs) -> list[SignedShard]:
    """The signed shards among what a step needs, in the order of their names."""
    from tilth.dedup.minhash.signatures import SignedShard

    found = [
        SignedShard(artifact.path, str(artifact.spec.shard))
        for artifact in inputs.values()
        if artifact.spec.step == SIGNATURES.name
    ]
    return sorted(found, key=lambda shard: shard.name)


def _proposed(inputs: Inputs) -> Candidates:
    from tilth.dedup.minhash.candidates import Candidates, all_candidates

    groups = [artifact.path for artifact in inputs.values() if artifact.spec.step == CANDIDATES.name]
    return all_candidates([Candidates(*(np.load(path / f"{name}.npy") for name in Candidates._fields)) for path in groups])


def _known_pairs(previous: Path | None, near: MinHashParameters, described: Sequence[tuple[str, str, int]]) -> Pairs | None:
    """The pairs of an earlier search of equal shingles by today's numbers, less those of shards that changed."""
    from tilth.dedup.minhash.duplicates import renumbered

    if previous is None or not (previous / "compared.json").is_file():
        return None
    before = json.loads((previous / "compared.json").read_text())
    if {name: value for name, value in before.items() if name != "shards"} != _shingles_of(near):
        return None
    first, here = 0, {}
    for name, digest, n_rows in described:
        here[name, digest] = first
        first += n_rows
    numbers = [
        np.arange(n_rows) + here[name, digest] if (name, digest) in here else np.full(n_rows, -1)
        for name, digest, n_rows in before["shards"]
    ]
    return renumbered(np.load(previous / "pairs.npy"), np.concatenate([np.zeros(0, np.int64), *numbers]))


def _shingles_of(near: MinHashParameters) -> dict[str, Any]:
    """What decides which shingles a text has."""
    return {"n": near.n, "unit": near.unit, **({"without": WITHOUT} if isinstance(near, CodeMinHash) else {})}


def duplicates(marks: Marks, shards: Sequence[SignedShard], threshold: float) -> Iterator[pa.Table]:
    """duplicates/1 for the members of clusters, in the order of (shard, row)."""
    from tilth.dedup.minhash.candidates import first_documents

    first = first_documents(shards)
    names, ids = pa.array([shard.name for shard in shards], pa.string()), [shard.ids() for shard in shards]
    for start in range(0, len(marks.documents), ROWS_AT_ONCE):
        here = slice(start, start + ROWS_AT_ONCE)
        documents, roots = marks.documents[here], marks.roots[here]
        shard = np.searchsorted(first, documents, side="right") - 1
        yield pa.table(
            {
                "doc_id": ids_of(documents, first, ids),
                "shard": names.take(pa.array(shard)),
                "row": pa.array((documents - first[shard]).astype(np.int32)),
                "method": pa.array(["minhash"] * len(documents), pa.string()),
                "threshold": pa.array(np.full(len(documents), threshold, np.float32)),
                "cluster_id": ids_of(roots, first, ids),
                "matched_id": ids_of(marks.matched[here], first, ids),
                "is_keeper": pa.array(roots == documents),
                "similarity": pa.array(marks.similarities[here]),
            },
            schema=DUPLICATES.schema,
        )


def duplicates_schema(id_type: pa.DataType) -> pa.Schema:
    """Of the table that is written for a user's own files, by their ids."""
    return pa.schema(
        [("id", id_type), ("method", pa.string()), ("threshold", pa.float32()), ("cluster_id", id_type),
         ("matched_id", id_type), ("is_keeper", pa.bool_()), ("similarity", pa.float32())]
    )  # fmt: skip


def ids_of(documents: Ints, first: Ints, ids: Sequence[pa.ChunkedArray]) -> pa.Array:
    """The ids of documents by number, in any order. Shard by shard: to take from all at once Arrow would copy all ids first."""
    order = np.argsort(documents, kind="stable")
    ends = np.searchsorted(documents[order], first)
    parts = [
        of_shard.take(pa.array(documents[order[begin:end]] - shard_first)).combine_chunks()
        for of_shard, shard_first, begin, end in zip(ids, first, ends, ends[1:], strict=False)
        if begin < end
    ]
    inverse = np.empty(len(order), np.int64)
    inverse[order] = np.arange(len(order))
    return pa.concat_arrays(parts).take(pa.array(inverse)) if parts else pa.array([], ids[0].type)


SIGNATURES = Step("dedup.signatures", 3, (UNICODE, "numba"), sign)
STANDING = Step("dedup.standing", 1, (), stand)
CANDIDATES = Step("dedup.candidates", 3, (), find)
NEAR = Step("dedup.minhash", 4, (UNICODE, "numba"), mark_near)
