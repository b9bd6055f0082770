"""The steps of a corpus build. Each reads the outputs that it needs and writes files into a folder; nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from tilth.artifacts import Artifact
from tilth.contracts import DOCUMENTS, DUPLICATES, LICENCES, OCCURRENCES, REJECTS, family_contract
from tilth.errors import RecipeError
from tilth.pipeline.graph import Step
from tilth.pipeline.parquet import Writer, stream, write_table

Inputs = Mapping[str, Artifact]
Params = Mapping[str, Any]
TEXTS = ("read", "edit")  # the steps whose outputs hold texts

SHARD_FILES = {
    "documents": DOCUMENTS,
    "occurrences": OCCURRENCES,
    "licences": LICENCES,
    "rejects": REJECTS,
}


def read(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """Read one shard of a source: documents, where they were seen, their licences, and what could not be read.

    `work` is the source and the shard, and where something was withdrawn from it what, and the key of its digests.
    """
    from tilth.corpus.reading import read_shard

    n_bytes = 0
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(Writer(folder / f"{name}.parquet", contract)) for name, contract in SHARD_FILES.items()
        }
        for batch in read_shard(*work):
            for name, writer in writers.items():
                writer.write(getattr(batch, name))
            n_bytes += sum(batch.documents.column("n_bytes").to_pylist())
    return {"n_documents": writers["documents"].n_rows, "n_rejected": writers["rejects"].n_rows, "n_bytes": n_bytes}


def score(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """Compute one family of signals for one shard. `work` says where the resources lie that the recipe gives it."""
    from tilth.quality_signals.registry import compute_family, get_family

    family = get_family(params["family"])
    resources = {name: read_resource(name, path) for name, path in (work or {}).items()}
    (documents,) = texts_of(inputs)
    with Writer(folder / "signals.parquet", family_contract(family.name, dict(family.columns))) as writer:
        for batch in stream(documents, "documents.parquet", ["shard", "row", "text", *family.needs]):
            writer.write(compute_family(family, batch, resources=resources))
    return {"n_rows": writer.n_rows}


def score_by_step(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """What a step of datatrove decides of one shard. `work` is the DatatroveStep; `params` hold its description."""
    (documents,) = texts_of(inputs)
    with Writer(folder / "signals.parquet", work.contract) as writer:
        for table in work.signals(stream(documents, "documents.parquet", ["shard", "row", "text", "url", "language", "meta"])):
            writer.write(table)
    return {"n_rows": writer.n_rows}


def read_resource(name: str, path: str) -> bytes:
    """The bytes of a resource of signals: a file as it is, a folder in the layout in which it is published.

    Raises RecipeError where neither is there.
    """
    from tilth.quality_signals.fused.domains import blocked_domains
    from tilth.quality_signals.fused.phrases import word_lists

    place = Path(path).expanduser()
    if place.is_file():
        return place.read_bytes()
    if not place.is_dir():
        raise RecipeError(f"the resource `{name}` is not there", where=path, fix="Give the path of a file or a folder.")
    return blocked_domains(place) if name == "blocked_domains" else word_lists(place)


def count_tokens(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """The signal `n_tokens`: how long each document is for the corpus' tokenizer, the separator included."""
    from tilth.tokenize.bpe import Tokenizer

    tokenizer = Tokenizer.open(inputs["tokenizer"].path)
    (documents,) = texts_of(inputs)
    n_tokens = 0
    with Writer(folder / "signals.parquet", family_contract("tokens", {"n_tokens": pa.int64()})) as writer:
        for batch in stream(documents, "documents.parquet", ["shard", "row", "text"]):
            counts = [len(ids) + 1 for ids in tokenizer.encode_batch(batch.column("text").to_pylist())]
            n_tokens += sum(counts)
            columns = {
                "n_tokens": pa.array(counts, pa.int64()),
                "tokens_undefined": pa.nulls(len(counts), pa.string()),
            }
            writer.write(pa.table({"shard": batch.column("shard"), "row": batch.column("row"), **columns}))
    return {"n_tokens": n_tokens}


def mark_exact(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """Mark documents whose text is the same, byte for byte."""
    from tilth.dedup.exact.duplicates import exact_duplicates

    columns = ["shard", "row", "doc_id", "text_swhid"]

    def documents() -> Iterator[pa.RecordBatch]:
        return chain.from_iterable(stream(shard, "documents.parquet", columns) for shard in inputs.values())

    return {"n_marked": write_table(folder / "duplicates.parquet", exact_duplicates(documents), DUPLICATES)}


def texts_of(inputs: Inputs) -> list[Artifact]:
    """The documents among what a step needs: as they were edited, or as they were read where nothing is edited."""
    return [artifact for artifact in inputs.values() if artifact.spec.step in TEXTS]


def of_source(inputs: Inputs, source: str) -> list[Artifact]:
    """The shards of one source among what a step needs."""
    return [artifact for artifact in texts_of(inputs) if (artifact.spec.shard or "").split("/")[0] == source]


def even_sample(inputs: Inputs, max_bytes: int) -> Iterator[str]:
    """Texts that add up to about `max_bytes`: every shard gives the same share of its bytes."""
    total = sum(artifact.stats["n_bytes"] for artifact in inputs.values())
    keep = min(1.0, max_bytes / max(total, 1))
    for artifact in inputs.values():
        credit = 0.0
        for batch in stream(artifact, "documents.parquet", ["text", "n_bytes"]):
            for text, n_bytes in zip(batch.column("text").to_pylist(), batch.column("n_bytes").to_pylist(), strict=True):
                credit += keep * n_bytes
                if credit >= n_bytes / 2:
                    credit -= n_bytes
                    yield text


def spread(artifacts: Iterable[Artifact], n_wanted: int) -> Iterator[str]:
    """At most `n_wanted` texts at even distances over all rows."""
    artifacts = list(artifacts)
    n_rows = sum(artifact.stats["n_documents"] for artifact in artifacts)
    stride, seen = max(n_rows / max(n_wanted, 1), 1.0), 0
    for artifact in artifacts:
        for batch in stream(artifact, "documents.parquet", ["text"]):
            for text in batch.column("text").to_pylist():
                if int(seen / stride) != int((seen - 1) / stride) or seen == 0:
                    yield text
                seen += 1


READ = Step("read", 1, (), read)  # a source names its own libraries and version
TOKENS = Step("signals.tokens", 1, ("tokenizers",), count_tokens)
EXACT = Step("dedup.exact", 1, (), mark_exact)
