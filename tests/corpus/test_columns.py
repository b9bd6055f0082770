"""Ids and texts of files as columns: the same rows whatever is damaged, however files are cut, and whichever parser reads them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.corpus import columns
from tilth.corpus.columns import Columns, Fields, Piece, id_type_of, pieces, read_columns, read_texts
from tilth.corpus.locations import find_files
from tilth.errors import SourceError

FIELDS = Fields("text", "id")


def joined(parts: list[Columns]) -> tuple[list, list, list[str]]:
    ids = [value for part in parts for value in part.ids.to_pylist()]
    texts = [value for part in parts for value in part.texts.to_pylist()]
    return ids, texts, [f"{reject.location} {reject.reason}" for part in parts for reject in part.rejects]


def read(path: Path, fields: Fields = FIELDS) -> tuple[list, list, list[str]]:
    found = [
        part for file in find_files(str(path), "test") for piece in pieces(file) for part in read_columns(piece, fields, "test")
    ]
    return joined(found)


def test_rows_keep_their_places_whatever_is_wrong_with_them(tmp_path: Path) -> None:
    lines = [
        '{"id": "a", "text": "one", "more": [1, {"x": 2}]}',
        "",
        '{"id": "b", "text": null}',
        '{"id": "c"}',
        "not json",
        "[1, 2]",
        '{"id": "d", "text": 5}',
        '{"id": "e", "text": "half \\ud800"}',
        '{"id": 7, "text": "number"}',
        '   {"text": "no id"}',
        '{"id": "z", "text": "zw\u00f6lf \\u0000 \\ud83d\\ude00"}',
    ]
    (tmp_path / "a.jsonl").write_text("\ufeff" + "\n".join(lines))
    ids, texts, rejects = read(tmp_path / "a.jsonl")
    assert ids == ["a", "b", "c", None, None, "d", "e", "7", None, "z"]
    assert texts == ["one", None, None, None, None, None, None, "number", None, "zwölf \0 😀"]
    assert rejects == [
        "a.jsonl:1 missing_text",
        "a.jsonl:2 missing_text",
        "a.jsonl:3 invalid_json",
        "a.jsonl:4 not_an_object",
        "a.jsonl:5 missing_text",
        "a.jsonl:6 lone_surrogate",
        "a.jsonl:8 missing_id",
    ]


TEXTS = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.text("abc", max_size=3), TEXTS), min_size=1, max_size=12),
    junk=st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["", "  ", "{", "null", "3", '{"text": 1}'])), max_size=3),
    piece_bytes=st.integers(1, 200),
    block_bytes=st.integers(1, 64),
    end=st.sampled_from(["", "\n", "\n\n"]),
)
def test_pieces_and_blocks_do_not_matter(
    rows: list, junk: list, piece_bytes: int, block_bytes: int, end: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = [json.dumps({"id": name, "text": text}) for name, text in rows] + [json.dumps({"id": "last", "text": "there"})]
    for place, line in junk:
        lines.insert(place, line)
    path = tmp_path_factory.mktemp("pieces") / "a.jsonl"
    path.write_text("\n".join(lines) + end)
    whole = read(path)
    assert len(whole[0]) == sum(bool(line.strip()) for line in lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "PIECE_BYTES", piece_bytes)
        patch.setattr(columns, "BLOCK_BYTES", block_bytes)
        (file,) = find_files(str(path), "test")
        found = []
        for piece in pieces(file):
            parts = list(read_columns(piece, FIELDS, "test"))
            found += parts
            texts = [text for part in parts for text in part.texts.to_pylist()]
            some = np.arange(0, len(texts), 2)
            offsets = np.concatenate([np.zeros(0, np.int64), *(part.offsets for part in parts)])
            for known in (None, offsets):
                again = [text for part in read_texts(piece, FIELDS, some, "test", known) for text in part.to_pylist()]
                assert again == texts[::2]
        assert joined(found)[:2] == whole[:2]


def test_numbers_as_ids(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 3, "text": "x"}\n{"id": "4", "text": "y"}\n{"id": "five", "text": "z"}\n')
    piece = Piece("a.jsonl", str(tmp_path / "a.jsonl"))
    kind = id_type_of(piece, "id", "test")
    assert kind == pa.int64()
    ids, texts, rejects = joined(list(read_columns(piece, Fields("text", "id", kind), "test")))
    assert (ids, texts) == ([3, 4, None], ["x", "y", None])
    assert rejects == ["a.jsonl:2 missing_id"]


def test_without_ids_rows_are_called_by_their_place(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write('{"text": "x"}\n\n{"text": "y"}\n')
    assert read(tmp_path / "a.jsonl.gz", Fields())[:2] == (["a.jsonl.gz:0", "a.jsonl.gz:1"], ["x", "y"])


def test_a_truncated_file_gives_what_is_whole(tmp_path: Path) -> None:
    data = gzip.compress(b"".join(b'{"id": "%d", "text": "row %d"}\n' % (i, i) for i in range(5000)), mtime=0)
    (tmp_path / "a.jsonl.gz").write_bytes(data[: len(data) // 2])
    ids, _, rejects = read(tmp_path / "a.jsonl.gz")
    assert 0 < len(ids) < 5000
    assert ids[:3] == ["0", "1", "2"]
    assert rejects[-1].endswith("truncated")


def test_parquet(tmp_path: Path) -> None:
    table = pa.table({"key": [1, 2, 3], "body": ["x", None, "z"], "other": [0.5, 1.5, 2.5]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    piece = Piece("a.parquet", str(tmp_path / "a.parquet"))
    fields = Fields("body", "key", id_type_of(piece, "key", "test"))
    assert read(tmp_path / "a.parquet", fields) == ([1, 2, 3], ["x", None, "z"], ["a.parquet:1 missing_text"])
    assert [part.to_pylist() for part in read_texts(piece, fields, np.array([0, 2]), "test")] == [["x", "z"]]
    damaged = bytearray((tmp_path / "a.parquet").read_bytes())
    damaged[4:40] = b"\xff" * 36
    (tmp_path / "b.parquet").write_bytes(damaged)
    with pytest.raises(SourceError, match="damaged"):
        read(tmp_path / "b.parquet", fields)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_field_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    if name.endswith("jsonl"):
        (tmp_path / name).write_text('{"id": "a", "txet": "one"}\n' * 3)
    else:
        pq.write_table(pa.table({"id": ["a"], "txet": ["one"]}), tmp_path / name)
    with pytest.raises(SourceError, match="there is no field `text`") as caught:
        read(tmp_path / name)
    assert "txet" in str(caught.value)
    with pytest.raises(SourceError, match="there is no field `key`"):
        id_type_of(Piece(name, str(tmp_path / name)), "key", "test")


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(SourceError, match="neither JSON lines nor Parquet"):
        read(tmp_path / "a.txt")


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(columns, "BLOCK_BYTES", 100)
    (tmp_path / "a.jsonl").write_text('{"id": "a", "text": "' + "x" * 5000)
    with pytest.raises(SourceError, match="a line of more than 1000 bytes"):
        read(tmp_path / "a.jsonl")
