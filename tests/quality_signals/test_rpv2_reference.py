"""Every value that needs no model equals what RedPajama-V2's own code wrote for the same 518 documents, spans included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tilth.quality_signals.fused.phrases import word_lists
from tilth.quality_signals.registry import compute_families, get_family

pytestmark = pytest.mark.data

FAMILIES = ("bad_words", "blocked_domains", "ccnet", "lines", "natural_language", "repetition", "stop_words")
NUMBERS = ("language_score", "length", "nlines", "original_length", "original_nlines", "perplexity", "bucket")
Reference = tuple[pa.Table, list[dict[str, Any]], dict[str, pa.Table]]


@pytest.fixture(scope="module")
def reference(test_data: Path) -> Reference:
    folder = test_data / "rpv2_reference"
    documents = [json.loads(line) for line in (folder / "docs.jsonl").read_bytes().splitlines()]
    signals = [json.loads(line)["quality_signals"] for line in (folder / "signals.jsonl").read_bytes().splitlines()]
    assert len(documents) == len(signals) == 518
    assert 0 < sum(document["raw_content"].isascii() for document in documents) < 518  # both kinds are there
    columns = {
        "shard": ["reference"] * 518,
        "row": pa.array(range(518), pa.int32()),
        "text": pa.array([document["raw_content"] for document in documents], pa.large_string()),
        # The published code looks up the record's source_domain.
        "url": pa.array([f"http://{document['source_domain']}/" for document in documents], pa.string()),
        "language": [document["language"] for document in documents],
        "meta": pa.array(
            [[(name, str(document[name])) for name in NUMBERS] for document in documents], pa.map_(pa.string(), pa.string())
        ),
    }
    resources = {
        "bad_words": word_lists(folder / "artifacts" / "bad_words"),
        "blocked_domains": (folder / "artifacts" / "bad_urls" / "domain_to_category_id.json").read_bytes(),
    }
    table = pa.table(columns)
    return table, signals, compute_families(map(get_family, FAMILIES), table, resources=resources)


def test_nothing_but_models_is_left_out(reference: Reference) -> None:
    ours = {column for family in FAMILIES for column in get_family(family).columns}
    left = set(reference[1][0]) - ours
    assert all("_importance" in name or "_ml_" in name for name in left)
    assert (len(set(reference[1][0]) & ours), len(left)) == (36, 9)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "lines"])
def test_document_signals_are_equal(reference: Reference, family: str) -> None:
    documents, expected, found = reference
    lengths = list(map(len, documents.column("text").to_pylist()))
    for column in get_family(family).columns:
        spans = [[(0, length, value)] for length, value in zip(lengths, found[family].column(column).to_pylist())]
        assert spans == [[tuple(span) for span in signals[column]] for signals in expected], column


def test_line_signals_and_their_spans_are_equal(reference: Reference) -> None:
    _, expected, found = reference
    rows = found["lines"].to_pylist()
    for column in get_family("lines").columns:
        if column.startswith("line_"):
            continue
        for row, signals in zip(rows, expected):
            # The published code writes one null span for the bullets of a text without lines; a list just has no items.
            wanted = [tuple(span) for span in signals[column] if span[2] is not None]
            assert list(zip(row["line_start"], row["line_end"], row[column])) == wanted, column


def test_nulls_have_their_reason(reference: Reference) -> None:
    for family, table in reference[2].items():
        nulls = [table.column(column).is_null().to_pylist() for column in get_family(family).columns]
        reasons = table.column(f"{family}_undefined").to_pylist()
        assert [any(column) for column in zip(*nulls)] == [reason is not None for reason in reasons], family
