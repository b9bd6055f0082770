"""The policies' predicates over our signals keep exactly the texts that datatrove's filters keep.

Recorded: rule_decisions.json, written by `TILTH_TEST_DATA=... python tests/quality_signals/record_rules.py` (datatrove 0.10.1,
spaCy 3.8.18; its `dolma` by dolma 1.2.1). Where datatrove is installed its filters are asked again, on the real documents too.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from tilth.catalog.policies import POLICIES
from tilth.quality_signals.edits import apply_edits
from tilth.quality_signals.families.c4 import c4, c4_edits
from tilth.quality_signals.families.dolma import dolma
from tilth.quality_signals.families.fineweb import fineweb
from tilth.quality_signals.families.gopher import gopher, gopher_repetition
from tilth.quality_signals.fused.text_batch import TextBatch

FOLDER = Path(__file__).parent
# What each of datatrove's filters corresponds to: the clauses of a policy over these families.
CLAUSES = {
    "gopher_quality": ("gopher", "gopher"),
    "gopher_repetition": ("gopher", "gopher_repetition"),
    "c4": ("c4", "c4"),
    "c4_any_end": ("fineweb", "c4"),
    "fineweb": ("fineweb", "fineweb"),
    "fineweb_after_c4": ("fineweb", "c4 fineweb"),
}
DOLMA_NAMES = {
    "dolma_n_words": "word_count",
    "dolma_median_word_length": "median_word_length",
    "dolma_symbol_word_frac": "symbol_to_word_ratio",
    "dolma_alphabetic_word_frac": "fraction_of_words_with_alpha_character",
    "dolma_n_required_words": "required_word_count",
    "dolma_bullet_line_frac": "fraction_of_lines_starting_with_bullet_point",
    "dolma_ellipsis_line_frac": "fraction_of_lines_ending_with_ellipsis",
    "dolma_dupe_line_frac": "fraction_of_duplicate_lines",
    "dolma_dupe_line_char_frac": "fraction_of_characters_in_duplicate_lines",
    **{f"dolma_top_{n}gram_char_frac": f"fraction_of_characters_in_most_common_{n}grams" for n in (2, 3, 4)},
    **{f"dolma_dupe_{n}gram_char_frac": f"fraction_of_characters_in_duplicate_{n}grams" for n in range(5, 11)},
}


def predicate(name: str) -> str:
    if name == "c4_paragraphs":
        return "c4_third_longest_line >= 200"
    policy, family = CLAUSES[name]
    clauses = [clause.sql for clause in POLICIES[policy].clauses if clause.family in family.split()]
    # The policy compares what C4 leaves, as FineWeb's recipe does; datatrove's filter alone sees the whole text.
    return " and ".join(clauses).replace("_after_c4" if name == "fineweb" else "\0", "")


def scored(texts: list[str]) -> pa.Table:
    batch = TextBatch(pa.array(texts, pa.large_string()))
    columns = {
        name: array for family in (gopher, gopher_repetition, c4, fineweb) for name, array in family(batch).columns.items()
    }
    return pa.table({**columns, "number": range(len(texts))})


def kept(table: pa.Table, where: str) -> list[bool]:
    with duckdb.connect() as connection:
        connection.register("scored", table)
        found = {number for (number,) in connection.execute(f"select number from scored where {where}").fetchall()}
    return [number in found for number in range(table.num_rows)]


@pytest.fixture(scope="module")
def recorder() -> Any:
    spec = importlib.util.spec_from_file_location("record_rules", FOLDER / "record_rules.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def record() -> Any:
    return json.loads((FOLDER / "rule_decisions.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made(recorder: Any) -> list[str]:
    texts: list[str] = recorder.made_texts()
    return texts


@pytest.fixture(scope="module")
def made_scores(made: list[str]) -> pa.Table:
    return scored(made)


@pytest.fixture(scope="module")
def asked(recorder: Any) -> Mapping[str, Callable[[str], tuple[Any, str]]]:
    """datatrove's filters, where they are installed."""
    pytest.importorskip("datatrove", reason="datatrove is not installed")
    pytest.importorskip("spacy", reason="spaCy is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        filters: Mapping[str, Callable[[str], tuple[Any, str]]] = recorder.datatrove_filters()
        filters["gopher_quality"]("The first text loads what spaCy needs. " * 20)
    return filters


@pytest.mark.parametrize("name", [*CLAUSES, "c4_paragraphs"])
def test_decisions_on_made_texts_are_those_recorded(name: str, record: Any, made_scores: pa.Table) -> None:
    expected = [answer is True for answer in record["decisions"][name]]
    assert 0 < sum(expected) < len(expected)
    assert kept(made_scores, predicate(name)) == expected


@pytest.mark.parametrize(("name", "needs_terminal_mark"), [("c4", True), ("c4_any_end", False)])
def test_c4_edits_leave_the_recorded_texts(name: str, needs_terminal_mark: bool, record: Any, made: list[str]) -> None:
    texts = pa.array(made, pa.large_string())
    edited = apply_edits(texts, c4_edits(texts, needs_terminal_mark)).to_pylist()
    expected = record["c4_texts"][name]
    assert len(expected) > 20
    assert {number: edited[int(number)] for number in expected} == expected


def test_dolma_attributes_are_those_recorded(record: Any, made: list[str]) -> None:
    short = [text for text in made if len(text) < 5000]
    columns = dolma(TextBatch(pa.array(short, pa.large_string()))).columns
    names = record["dolma"]["names"]
    assert set(DOLMA_NAMES.values()) | {"character_count"} == set(names)
    for column, name in DOLMA_NAMES.items():
        assert columns[column].to_pylist() == [row[names.index(name)] for row in record["dolma"]["rows"]], column


@pytest.mark.parametrize("name", [*CLAUSES, "c4_paragraphs"])
def test_datatrove_still_says_what_was_recorded(
    name: str, asked: Mapping[str, Callable[[str], tuple[Any, str]]], record: Any, made: list[str]
) -> None:
    short = [(text, answer) for text, answer in zip(made, record["decisions"][name]) if len(text) < 5000]
    assert [asked[name](text)[0] for text, _ in short] == [answer for _, answer in short]


@pytest.fixture(scope="module")
def reference(test_data: Path) -> list[str]:
    lines = (test_data / "rpv2_reference" / "docs.jsonl").read_bytes().splitlines()
    return [json.loads(line)["raw_content"] for line in lines]


@pytest.mark.data
@pytest.mark.parametrize("name", [*CLAUSES, "c4_paragraphs"])
def test_decisions_on_real_documents_are_those_recorded(name: str, record: Any, reference: list[str]) -> None:
    found = "".join(str(int(keeps)) for keeps in kept(scored(reference), predicate(name)))
    assert found == record["reference_kept"][name]


@pytest.mark.data
@pytest.mark.parametrize("source", ["readability_pages", "pg_alice11", "onestop_english"])
def test_decisions_on_further_real_texts_are_datatroves(
    source: str, asked: Mapping[str, Callable[[str], tuple[Any, str]]], test_data: Path
) -> None:
    paths = sorted(path for path in (test_data / source).rglob("*") if path.suffix in (".html", ".txt"))[:30]
    # Markup and all: the rules do not ask where a text comes from, and drop it for other reasons.
    texts = [path.read_text(encoding="utf-8", errors="replace")[:20_000] for path in paths]
    texts += [paragraph for text in texts[:3] for paragraph in text.split("\n\n")[:40]]
    table = scored(texts)
    for name in CLAUSES:
        assert kept(table, predicate(name)) == [asked[name](text)[0] is True for text in texts], name
