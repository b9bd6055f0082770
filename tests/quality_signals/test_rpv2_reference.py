"""Every value of the RedPajama-V2 families equals what RedPajama-V2's own code wrote for the same 518 documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tilth.quality_signals.registry import compute_family, get_family

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def reference(test_data: Path) -> tuple[pa.Table, list[dict[str, Any]]]:
    folder = test_data / "rpv2_reference"
    texts = [json.loads(line)["raw_content"] for line in (folder / "docs.jsonl").read_bytes().splitlines()]
    signals = [json.loads(line)["quality_signals"] for line in (folder / "signals.jsonl").read_bytes().splitlines()]
    assert len(texts) == len(signals) == 518
    assert 0 < sum(text.isascii() for text in texts) < 518  # both kinds are there
    columns = {"shard": ["reference"] * 518, "row": pa.array(range(518), pa.int32()), "text": pa.array(texts, pa.large_string())}
    return pa.table(columns), signals


@pytest.mark.parametrize("family", ["natural_language", "repetition"])
def test_document_signals_are_equal(reference: tuple[pa.Table, list[dict[str, Any]]], family: str) -> None:
    documents, expected = reference
    found = compute_family(get_family(family), documents)
    for column in get_family(family).columns:
        wanted = [signals[column][0][2] for signals in expected]
        assert found.column(column).to_pylist() == wanted, column


def test_line_signals_are_equal(reference: tuple[pa.Table, list[dict[str, Any]]]) -> None:
    documents, expected = reference
    found = compute_family(get_family("lines"), documents)
    for column in get_family("lines").columns:
        # The published code writes one null span for the bullets of a text without lines; a list just has no items.
        wanted = [[score for *_, score in signals[column] if score is not None] for signals in expected]
        assert found.column(column).to_pylist() == wanted, column


def test_nulls_have_their_reason(reference: tuple[pa.Table, list[dict[str, Any]]]) -> None:
    documents, expected = reference
    found = compute_family(get_family("natural_language"), documents)
    for row, signals in zip(found.to_pylist(), expected):
        has_null = any(signals[column][0][2] is None for column in get_family("natural_language").columns)
        assert (row["natural_language_undefined"] is not None) == has_null
