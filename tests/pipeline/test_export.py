"""Exported JSON lines are read back as the same texts, by our own source and by datatrove's reader."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.corpus.records import Document, Occurrence, document_id
from tilth.corpus.sources.json_lines import JsonLines
from tilth.errors import RecipeError
from tilth.pipeline.interchange.export import LAYOUTS, export_jsonl

TEXTS = ["One line.\n", "Zwei\r\nZeilen \u2028 und mehr", '{"quoted": "\\n"}', "𝕬 naïve İ"]


def _document(text: str, **more: object) -> Document:
    seen = Occurrence("file", "prose", "a.txt", date="2026-01-01")
    identity = document_id("file", text)
    return Document(identity, text, "swh:1:cnt:" + "0" * 40, "utf-8", "as it is", [seen], **more)  # type: ignore[arg-type]


def _read(path: Path) -> list[Document]:
    source = JsonLines("back", str(path))
    rows = [row for shard in source.plan() for row in source.read(shard)]
    assert all(isinstance(row, Document) for row in rows)
    return rows  # type: ignore[return-value]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_what_is_written_is_read_back(tmp_path: Path, layout: str, suffix: str) -> None:
    documents = [_document(text, url=f"http://a.example/{i}", language="en", meta={"title": "T"}) for i, text in enumerate(TEXTS)]
    path = tmp_path / f"out.jsonl{suffix}"
    assert export_jsonl(iter(documents), path, layout) == len(TEXTS)
    back = _read(path)
    assert [row.text for row in back] == TEXTS
    assert [row.url for row in back] == [document.url for document in documents]
    assert [row.language for row in back] == ["en"] * len(TEXTS)
    assert all(row.meta["title"] == "T" and row.meta["id"] for row in back)
    assert f"({layout})" in back[0].extraction


def test_the_same_documents_give_the_same_bytes_and_leave_nothing_behind(tmp_path: Path) -> None:
    documents = [_document(text) for text in TEXTS]
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        export_jsonl(documents, tmp_path / name)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl.gz", "b.jsonl.gz"]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    export_jsonl([_document("old")], path)
    before = path.read_bytes()

    def breaks():  # type: ignore[no-untyped-def]
        yield _document("new")
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        export_jsonl(breaks(), path)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["out.jsonl"]


def test_rows_of_arrow_are_documents_too(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    export_jsonl([{"text": "a row", "doc_id": bytes(16), "meta": [("id", "mine"), ("k", "v")], "source": "s"}], path, "dolma")
    (row,) = _read(path)
    assert (row.text, row.meta["id"], row.meta["k"], row.meta["source"]) == ("a row", "mine", "v", "s")


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="datatrov"):
        export_jsonl([], tmp_path / "x", "datatrov")


def test_datatrove_reads_it(tmp_path: Path) -> None:
    readers = pytest.importorskip("datatrove.pipeline.readers", reason="datatrove is not installed")
    export_jsonl([_document(text, meta={"title": "T"}) for text in TEXTS], tmp_path / "out.jsonl.gz")
    found = list(readers.JsonlReader(str(tmp_path)).run())
    assert [one.text for one in found] == TEXTS
    assert found[0].metadata["title"] == "T"


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])).filter(str.strip)))
def test_any_texts_come_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("any") / "out.jsonl.zst"
    assert export_jsonl([_document(text) for text in texts], path) == len(texts)
    assert [row.text for row in _read(path)] == texts
