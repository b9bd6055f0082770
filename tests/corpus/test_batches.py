"""Rows in are documents and rejects, whatever the size of the batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.contracts import DOCUMENTS, LICENCES, OCCURRENCES, REJECTS, check, uuid_bytes
from tilth.corpus.batches import batches
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.reading import share, until_full
from tilth.corpus.records import Document, LicenceClaim, Occurrence, Reject, Shard, document_id, screen
from tilth.corpus.registry import source, sources
from tilth.corpus.sources.warc import Warc

SHARD = Shard("s/00000", "s", "0" * 64, {}, "")


def document(text: str, number: int = 0, path: str = "p") -> Document:
    claim = LicenceClaim("o", path, "MIT", "file", path, None, "spdx tag", 1.0, True)
    return Document(
        document_id("t", str(number)), text, content_swhid(b"raw"), "utf-8", "as it is", [Occurrence("file", "o", path)],
        meta={"k": "v"}, licences=[claim],
    )  # fmt: skip


records = st.lists(
    st.one_of(st.text(st.characters(), max_size=40).map(document), st.just(Reject("f@1", "empty", "no text"))), max_size=30
)


@given(records=records, max_bytes=st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_every_record_comes_out_once(records: list[Document | Reject], max_bytes: int) -> None:
    parts = list(batches(records, SHARD, max_bytes))
    assert parts
    for part in parts:
        for batch, contract in zip(part, (DOCUMENTS, OCCURRENCES, LICENCES, REJECTS), strict=True):
            check(batch, contract)
    n_documents = sum(part.documents.num_rows for part in parts)
    assert n_documents + sum(part.rejects.num_rows for part in parts) == len(records)
    numbers = [row for part in parts for row in part.documents["row"].to_pylist()]
    assert numbers == list(range(n_documents))
    kept = [r.text for r in records if isinstance(r, Document) and not any("\ud800" <= ch <= "\udfff" for ch in r.text)]
    assert [text for part in parts for text in part.documents["text"].to_pylist()] == kept


def test_counts_and_ids() -> None:
    (part,) = batches([document("né")], SHARD)
    row = part.documents.to_pylist()[0]
    assert (row["n_bytes"], row["n_chars"]) == (3, 2)
    assert row["text_swhid"] == content_swhid("né".encode())
    assert uuid_bytes(part.documents["doc_id"]) == [document_id("t", "0")] == uuid_bytes(part.licences["doc_id"])


def test_surrogates_are_rejected_and_paths_are_escaped() -> None:
    (part,) = batches([document("\udcff"), document("ok", path="caf\udce9")], SHARD)
    assert part.rejects["reason"].to_pylist() == ["decode"]
    assert part.occurrences["path"].to_pylist() == ["caf\\udce9"] == part.licences["path"].to_pylist()


def test_ids_do_not_run_together() -> None:
    assert document_id("ab", "c") != document_id("a", "bc")
    assert len(document_id("a")) == 16


@given(lengths=st.lists(st.integers(0, 20), max_size=20), cap=st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_caps_end_at_the_first_document_that_exceeds_them(lengths: list[int], cap: int) -> None:
    kept = [len(d.text) for d in until_full([document("x" * n) for n in lengths], cap) if isinstance(d, Document)]
    assert kept == lengths[: len(kept)]
    assert sum(kept) <= cap
    assert len(kept) == len(lengths) or sum(lengths[: len(kept) + 1]) > cap


def test_caps_are_shared_by_size() -> None:
    assert share(100, [1, 3, 0]) == [25, 75, 0]
    assert share(None, [1, 3]) == [None, None]
    assert share(10, [0]) == [0]


def test_screen() -> None:
    assert screen("a") is None
    assert screen(" \n")[0] == screen("")[0] == "empty"  # type: ignore[index]
    assert screen("a\0")[0] == "nul_byte"  # type: ignore[index]


def test_registry_finds_all_and_refuses_what_is_no_source() -> None:
    assert {"Folder", "GitRepository", "PackageSource", "StackExchange", "Warc"} <= sources().keys()
    assert sources()["Warc"] is Warc

    class Loose:
        name = "x"

    with pytest.raises(TypeError, match="frozen dataclass"):
        source(Loose)

    @dataclass(frozen=True)
    class Unready:
        name: str

        def plan(self) -> list[Any]:
            return []

    with pytest.raises(TypeError, match="lacks read, version, libraries"):
        source(Unready)
