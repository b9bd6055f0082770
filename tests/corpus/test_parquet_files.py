"""Parquet files: columns, row groups, what is damaged."""

from __future__ import annotations

import contextlib
import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilth.corpus.batches import batches
from tilth.corpus.records import Document, Reject
from tilth.corpus.sources.parquet_files import ParquetFiles
from tilth.errors import SourceError


def rows(path: Path | str, **options: object) -> list[Document | Reject]:
    source = ParquetFiles("parquet", str(path), **options)  # type: ignore[arg-type]
    return [row for shard in source.plan() for row in source.read(shard)]


def write(path: Path, columns: dict[str, object], rows_a_group: int = 100) -> None:
    pq.write_table(pa.table(columns), path, row_group_size=rows_a_group)


def test_columns_become_fields(tmp_path: Path) -> None:
    columns = {
        "text": ["a", "b"], "url": ["http://a.b", None], "language": ["en", None], "score": [0.5, 1.0], "when": [datetime.datetime(2026, 1, 2)] * 2,
        "nested": [{"x": [1, 2]}, None], "raw": [b"\xff", b"ok"],
    }  # fmt: skip
    write(tmp_path / "a.parquet", columns)
    first, second = rows(tmp_path)
    assert isinstance(first, Document)
    assert isinstance(second, Document)
    assert (first.text, first.url, first.language) == ("a", "http://a.b", "en")
    assert first.meta == {"score": "0.5", "when": "2026-01-02T00:00:00", "nested": '{"x":[1,2]}', "raw": "\\xff"}
    assert second.meta == {"score": "1.0", "when": "2026-01-02T00:00:00", "raw": "ok"}
    (chosen, _) = rows(tmp_path, columns=("score",))
    assert isinstance(chosen, Document)
    assert chosen.meta == {"score": "0.5"}


def test_rows_of_all_groups_come_in_order(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"body": [str(i) if i % 10 else None for i in range(1050)]})
    found = rows(tmp_path, text="body")
    assert [row.text if isinstance(row, Document) else row.location for row in found] == [
        str(i) if i % 10 else f"a.parquet:{i}" for i in range(1050)
    ]
    assert {row.reason for row in found if isinstance(row, Reject)} == {"missing_text"}


def test_text_that_is_not_utf8_is_a_reject(tmp_path: Path) -> None:
    values = pa.Array.from_buffers(pa.string(), 3, pa.array([b"one", b"\xff\xfe", b"two"], pa.binary()).buffers())
    write(tmp_path / "a.parquet", {"text": values})
    assert [row.text if isinstance(row, Document) else (row.location, row.reason) for row in rows(tmp_path)] == [
        "one",
        ("a.parquet:1", "decode"),
        "two",
    ]


def test_a_column_that_is_not_there_suggests_one(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"texts": ["a"]})
    with pytest.raises(SourceError, match="Did you mean `texts`"):
        rows(tmp_path)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"no parquet at all" * 10, b"PAR1" + b"\xff" * 100 + b"PAR1"])
def test_what_is_no_parquet_is_a_reject(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(data)
    assert [row.reason for row in rows(tmp_path) if isinstance(row, Reject)] == ["damaged"]


def test_a_damaged_group_costs_itself_only(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, {"text": [f"row {i}" for i in range(300)]})
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 20] = b"\xff" * 20
    path.write_bytes(data)
    found = rows(tmp_path)
    assert [row.text for row in found if isinstance(row, Document)] == [f"row {i}" for i in range(300) if not 100 <= i < 200]
    (reject,) = [row for row in found if isinstance(row, Reject)]
    assert (reject.location, reject.reason) == ("a.parquet:100", "damaged")
    assert reject.detail.startswith("100 rows of row group 1")


@given(st.integers(0, 10_000), st.integers(1, 255))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_byte_ends_in_rows(tmp_path: Path, at: int, change: int) -> None:
    path = tmp_path / "a.parquet"
    write(path, {"text": [f"row {i}" for i in range(30)]}, 10)
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= change
    path.write_bytes(data)
    with contextlib.suppress(SourceError):  # the change was in a column's name
        assert all(isinstance(row, Document | Reject) for row in rows(tmp_path))


def test_rows_fit_the_contract_and_are_the_same_twice(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"text": ["a", "", "c"], "n": [1, 2, 3]})
    source = ParquetFiles("parquet", str(tmp_path), licence="mit")
    (shard,) = source.plan()
    assert list(source.read(shard)) == list(source.read(shard))
    (batch,) = batches(source.read(shard), shard)
    assert (batch.documents.num_rows, batch.rejects.num_rows) == (2, 1)
    assert batch.licences.column("spdx").to_pylist() == ["MIT", "MIT"]
