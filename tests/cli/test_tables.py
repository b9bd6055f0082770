"""What verbs print: nothing lost in JSON and CSV, nothing wider than the terminal in a table."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tilth.cli import tables
from tilth.errors import UserError


def test_json_is_json() -> None:
    value = {"nan": float("nan"), "inf": [float("-inf")], "map": [("a", 1), ("b", [("c", 2.0)])], "bytes": b"ab\xff", 3: None}
    assert json.loads(tables.as_json(value), parse_constant=pytest.fail) == {
        "nan": None,
        "inf": [None],
        "map": {"a": 1, "b": {"c": 2.0}},
        "bytes": "ab\\xff",
        "3": None,
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        ("a b", "a b"),
        (True, "true"),
        (1234567, "1234567"),
        ([1, None], "[1, null]"),
        ({"a": "ü"}, '{"a": "ü"}'),
        (b"ab", "ab"),
    ],
)
def test_a_cell_of_csv_is_the_whole_value(value: object, text: str | None) -> None:
    assert tables.as_text(value) == text


def test_numbers_stand_to_the_right_and_long_cells_are_cut_only_where_they_may_be() -> None:
    rows = [("a", 1, "x" * 100), ("bb", 1000, "y")]
    lines = tables.table(["name", "n", "text"], rows).splitlines()
    assert [line[:15] for line in lines] == ["  name      n  ", "  a         1  ", "  bb    1,000  "]
    assert lines[1].endswith("x…")
    assert "x" * 100 in tables.table(["name", "n", "text"], rows, cut=False)


def test_a_table_shows_as_many_columns_as_fit_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    columns, rows = [f"column_{i}" for i in range(20)], [list(range(20))]
    assert tables.fitting_table(columns, rows)[1] == 20  # into a pipe, all
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(tables.shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((50, 24)))
    text, n_shown = tables.fitting_table(columns, rows)
    assert n_shown == 5
    assert max(map(len, text.splitlines())) <= 50


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    tables.check_output(tmp_path / "out.parquet")
    for path in (tmp_path, tmp_path / "no" / "out.parquet"):
        with pytest.raises(UserError, match=str(path)):
            tables.check_output(path)
