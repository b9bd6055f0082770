"""CSV and TSV: quoting, cells over several lines, encodings, damage."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilth.corpus.records import Document, Reject
from tilth.corpus.sources.csv_files import CsvFiles
from tilth.errors import SourceError


def rows(path: Path | str, **options: object) -> list[Document | Reject]:
    source = CsvFiles("csv", str(path), **options)  # type: ignore[arg-type]
    return [row for shard in source.plan() for row in source.read(shard)]


def texts(found: list[Document | Reject]) -> list[object]:
    return [row.text if isinstance(row, Document) else (row.location, row.reason) for row in found]


def test_quoted_cells_hold_separators_quotes_and_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text,url\n1,"a, ""b""\nc",http://x.y\n2,plain,\n')
    first, second = rows(tmp_path)
    assert isinstance(first, Document)
    assert isinstance(second, Document)
    assert (first.text, first.url, first.meta) == ('a, "b"\nc', "http://x.y", {"id": "1"})
    assert (first.occurrences[0].record_id, second.occurrences[0].record_id) == ("2", "4")
    assert second.url is None


def test_tabs_headers_and_packed_files(tmp_path: Path) -> None:
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(b"one\t1\ntwo\t2\n", mtime=0))
    found = rows(tmp_path, header=("body", "n"), text="body")
    assert texts(found) == ["one", "two"]
    (tmp_path / "b.csv").write_text("text;n\nx;1\n")
    assert texts(rows(tmp_path / "b.csv", separator=";")) == ["x"]


@pytest.mark.parametrize(
    ("encoding", "declared"), [("utf-8", "utf-8"), ("utf-8-sig", "utf-8"), ("utf-16", "utf-8"), ("cp1252", "cp1252")]
)
def test_encodings(tmp_path: Path, encoding: str, declared: str) -> None:
    (tmp_path / "a.csv").write_bytes("text,n\r\nGrüße,1\r\n".encode(encoding))
    assert texts(rows(tmp_path, encoding=declared)) == ["Grüße"]


def test_damaged_rows_are_rejects_and_the_others_are_read(tmp_path: Path) -> None:
    data = b'text,n\ngood,1\ntoo,many,cells\nfew\n\xff,2\n,3\na\0b,4\n"x"y,5\n' + b"w" * 3000 + b",6\nlast,7\n"
    (tmp_path / "a.csv").write_bytes(data)
    found = rows(tmp_path, max_row_bytes=2000)
    assert sorted(map(str, texts(found))) == sorted(map(str, [
        "good", ("a.csv:3", "wrong_width"), ("a.csv:4", "wrong_width"), ("a.csv:5", "decode"), ("a.csv:6", "empty"), ("a.csv:7", "nul_byte"),
        ("a.csv:8", "invalid_csv"), ("a.csv:9", "too_large"), "last",
    ]))  # fmt: skip


def test_a_quote_that_is_never_closed_is_a_reject(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,n\ngood,1\n"open,2\nlost,3\n')
    assert texts(rows(tmp_path)) == ["good", ("a.csv:3", "invalid_csv")]


def test_a_truncated_file_gives_its_whole_rows(tmp_path: Path) -> None:
    packed = gzip.compress(b"text\n" + b"".join(b"%d\n" % (i * 7919) for i in range(20_000)))
    (tmp_path / "a.csv.gz").write_bytes(packed[: len(packed) // 2])
    *found, last = rows(tmp_path)
    assert texts(found) == [str(i * 7919) for i in range(len(found))]
    assert isinstance(last, Reject)
    assert last.reason == "truncated"


@pytest.mark.parametrize(
    ("options", "words"), [({"encoding": "utf-9"}, "no such encoding"), ({"text": "body"}, "no column `body`")]
)
def test_a_users_mistake_is_an_error(tmp_path: Path, options: dict[str, str], words: str) -> None:
    (tmp_path / "a.csv").write_text("text\nx\n")
    with pytest.raises(SourceError, match=words):
        rows(tmp_path, **options)


cells = st.text(alphabet=st.characters(exclude_characters="\0\r", exclude_categories=("Cs",)), min_size=1, max_size=20).filter(
    str.strip
)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_comes_back(tmp_path: Path, table: list[tuple[str, str]]) -> None:
    target = io.StringIO()
    csv.writer(target, lineterminator="\n").writerows([("text", "other"), *table])
    (tmp_path / "a.csv").write_text(target.getvalue(), newline="")
    found = rows(tmp_path)
    assert [(row.text, row.meta["other"]) for row in found if isinstance(row, Document)] == table
