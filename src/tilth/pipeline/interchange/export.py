"""Writes documents as JSON lines that datatrove, dolma and RedPajama-V1 read, and that JsonLines reads back."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from tilth.artifacts.atomic import disk_errors
from tilth.corpus.records import Document
from tilth.errors import RecipeError, did_you_mean

GZIP_LEVEL = 6
Row = Mapping[str, Any]


def export_jsonl(documents: Iterable[Document | Row], path: str | Path, layout: str = "datatrove") -> int:
    """Write documents to `path`, a line each, in the order given; returns their number.

    `documents` are Documents, or rows of documents/1 (`text`, and of `doc_id`, `url`, `language`, `meta`, `source` those
    that there are). The suffix packs: `.gz`, `.zst`, or neither. The file appears when it is whole; the same documents
    give the same bytes. Raises RecipeError for an unknown layout, StoreError if the disk is full.
    """
    if layout not in LAYOUTS:
        raise RecipeError(f"there is no layout `{layout}`", "export_jsonl", did_you_mean(layout, LAYOUTS))
    path, record_of = Path(path), LAYOUTS[layout]
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    n_documents = 0
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with _packed(partial, path.suffix) as file:
                for document in documents:
                    record = record_of(_row(document))
                    file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
                    n_documents += 1
            with open(partial, "rb") as written:
                os.fsync(written.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return n_documents


def as_datatrove(row: Row) -> dict[str, Any]:
    """A record as datatrove's JsonlWriter writes it: text, id, metadata."""
    return {"text": row["text"], "id": row["id"], "metadata": {**row["meta"], **_named(row, "url", "language")}}


def as_dolma(row: Row) -> dict[str, Any]:
    """A record of dolma's documents: id, text, source; `created` and `added` are the document's own, where it has them."""
    meta = dict(row["meta"])
    times = {name: meta.pop(name) for name in ("added", "created") if name in meta}
    if "created" not in times and row["date"]:
        times["created"] = row["date"]
    metadata = {**meta, **_named(row, "url", "language")}
    return {"id": row["id"], "text": row["text"], "source": row["source"], **times, "metadata": metadata}


def as_redpajama_v1(row: Row) -> dict[str, Any]:
    """A record of RedPajama-V1: text and `meta`, where the id is a field as any other."""
    own = {**row["meta"], **_named(row, "url", "language", "source")}
    own.setdefault("id", row["id"])
    if row["date"]:
        own.setdefault("timestamp", row["date"])
    return {"text": row["text"], "meta": own}


LAYOUTS: Mapping[str, Callable[[Row], dict[str, Any]]] = {
    "datatrove": as_datatrove,
    "dolma": as_dolma,
    "redpajama-v1": as_redpajama_v1,
}


def _row(document: Document | Row) -> Row:
    if isinstance(document, Document):
        seen = document.occurrences[0] if document.occurrences else None
        found: dict[str, Any] = {**vars(document), "source": seen.origin if seen else "", "date": seen.date if seen else None}
    else:
        found = {"url": None, "language": None, "source": "", "date": None, **document}
    meta = dict(found.get("meta") or ())
    given = meta.pop("id", None)
    own = given or _id(found.get("doc_id"))
    return {**found, "meta": meta, "id": own, "source": found["source"] or ""}


def _id(doc_id: Any) -> str:
    return str(uuid.UUID(bytes=doc_id)) if isinstance(doc_id, bytes) else str(doc_id or "")


def _named(row: Row, *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names if row[name]}


@contextlib.contextmanager
def _packed(path: Path, suffix: str) -> Iterator[BinaryIO]:
    with open(path, "wb") as raw:
        if suffix == ".gz":
            with gzip.GzipFile("", "wb", GZIP_LEVEL, raw, mtime=0) as file:  # no time and no name in it
                yield cast(BinaryIO, file)
        elif suffix == ".zst":
            with pa.CompressedOutputStream(raw, "zstd") as stream:
                yield cast(BinaryIO, stream)
        else:
            yield raw
