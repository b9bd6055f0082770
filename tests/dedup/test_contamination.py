"""Decontamination: planted items are found however they are wrapped, by plain search as well; what is common is not."""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.contracts import CONTAMINATION, check
from tilth.dedup.contamination.items import ItemText, read_items
from tilth.dedup.contamination.ngram_index import BenchmarkIndex, build_index
from tilth.dedup.contamination.overlaps import find_contamination
from tilth.dedup.contamination.parameters import OverlapParameters
from tilth.errors import ContractError, RecipeError, SourceError

BENCHMARKS = {
    "humaneval": "humaneval/data/HumanEval.jsonl.gz",
    "mbpp": "mbpp/data/mbpp.jsonl",
    "gsm8k": "gsm8k_test/grade_school_math/data/test.jsonl",
}
_WORDS = ("soil", "seed", "root", "leaf", "rain", "field", "plough", "harvest", "barn", "furrow", "clover", "rye", "meadow")


def _documents(texts: list[str]) -> pa.Table:
    rows = pa.array(range(len(texts)), pa.int32())
    return pa.table({"shard": pa.array(["s"] * len(texts)), "row": rows, "text": pa.array(texts, pa.large_string())})


def _index(texts: dict[str, str], parameters: OverlapParameters | None = None, name: str = "bench") -> BenchmarkIndex:
    items = [ItemText(item, "text", text) for item, text in texts.items()]
    return BenchmarkIndex(build_index({name: items}, parameters or OverlapParameters(), {name: "digest"}))


def _found(texts: list[str], index: BenchmarkIndex) -> list[dict[str, Any]]:
    tables = list(find_contamination(_documents(texts), index))
    for table in tables:
        check(table, CONTAMINATION)
    return [row for table in tables for row in table.to_pylist()]


def _prose(n: int, seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(f"{rng.choice(_WORDS)}{rng.choice(_WORDS)}" for _ in range(n))


def _rewritten(text: str, rng: random.Random) -> str:
    """Other line breaks, case and punctuation; the letters and digits are the same."""
    text = "".join(rng.choice((char.lower(), char.upper())) if char.isascii() else char for char in text)
    text = re.sub(r"[.,;:!?\"“”()\[\]]", lambda _: rng.choice(" ,;.—"), text)
    text = re.sub(r"['’]", lambda _: rng.choice(("'", "’", "")), text)
    return re.sub(r"\s+", lambda _: rng.choice((" ", "\n", "  \t", "\r\n    ", ",\n> ")), text)


@pytest.mark.data
@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_a_planted_item_is_found_however_it_is_wrapped(data: st.DataObject, seed: int, real: tuple[Any, BenchmarkIndex]) -> None:
    items, index = real
    name = data.draw(st.sampled_from(sorted(items)))
    rng = random.Random(seed)
    planted = rng.choice([one for one in items[name] if len(re.findall(r"[A-Za-z]{2,}", one.text)) >= 10])
    before, after = _prose(rng.randrange(30), seed), _prose(rng.randrange(30), seed + 1)
    middle = _rewritten(planted.text, rng)
    text = f"{before}\n{middle}\n{after}"
    own = [row for row in _found([before, text], index) if (row["item"], row["field"]) == (planted.item, planted.field)]
    assert {row["row"] for row in own} == {1}
    assert own[0]["coverage"] == 1
    assert own[0]["benchmark"] == name
    start, end = min(row["start"] for row in own), max(row["end"] for row in own)
    assert len(before) < start
    assert end <= len(before) + len(middle) + 1


@pytest.fixture(scope="module")
def real(test_data: Path) -> tuple[Any, BenchmarkIndex]:
    """Three benchmarks as they are published."""
    items = {name: read_items(test_data / path) for name, path in BENCHMARKS.items()}
    return items, BenchmarkIndex(build_index(items, OverlapParameters(), dict.fromkeys(items, "")))


@pytest.mark.data
def test_no_book_and_no_encyclopedia_holds_a_benchmark(real: tuple[Any, BenchmarkIndex], test_data: Path) -> None:
    folders = ["pg_alice11", "pg_mobydick2701", "pg_pride1342", "pg_quijote2000", "gensim_wiki", "rpv2_reference", "udhr_xml"]
    paths = [
        path for name in folders for path in sorted((test_data / name).rglob("*")) if path.suffix in (".txt", ".xml", ".jsonl")
    ]
    assert len(paths) > 100
    assert _found([path.read_text(errors="ignore") for path in paths], real[1]) == []


@settings(max_examples=200, deadline=None)
@given(
    items=st.lists(st.text("abcd ", min_size=8, max_size=40), min_size=1, max_size=5),
    texts=st.lists(st.text("abcd .", max_size=60), max_size=4),
    unit=st.sampled_from(["words", "characters"]),
)
def test_every_n_gram_is_found_and_nothing_else(items: list[str], texts: list[str], unit: str) -> None:
    def pad(text: str) -> str:  # words of two letters
        return re.sub(r"([abcd])", r"\1x ", text) if unit == "words" else text

    named = {str(i): pad(text) for i, text in enumerate(items)} | {"long": "yy zz yy zz yy zz"}
    texts = [pad(text) for text in texts]
    parameters = OverlapParameters(3, 3, 0 if unit == "words" else 3, max_items=100)
    found = [row for row in _found(texts, _index(named, parameters)) if (row["method"] == "substring") == (unit == "characters")]

    def grams(text: str) -> list[tuple[str, ...]]:
        units = text.replace(".", " ").split() if unit == "words" else list(re.sub(r"[ .]", "", text))
        return [tuple(units[i : i + 3]) for i in range(len(units) - 2)]

    wanted = {}
    for row, text in enumerate(texts):
        for item, item_text in named.items():
            own, seen = set(grams(item_text)), set(grams(text))
            if own & seen:
                wanted[row, item] = len(own & seen) / len(own)
    assert {(row["row"], row["item"]): pytest.approx(row["coverage"]) for row in found} == wanted
    for row, item in wanted:
        own, seen = set(grams(named[item])), grams(texts[row])
        covered = {place + i for place, gram in enumerate(seen) if gram in own for i in range(3)}
        spans = [one for one in found if (one["row"], one["item"]) == (row, item)]
        assert sum(one["n_matched"] for one in spans) == len(covered)
        assert {gram for one in spans for gram in grams(texts[row][one["start"] : one["end"]])} >= own & set(seen)


def test_windows_that_touch_make_one_span_and_places_are_code_points() -> None:
    item = _prose(40, 1)
    words = item.split()
    text = f"漢😀 é {' '.join(words[:20])} other {' '.join(words[20:])} end"
    first, second = _found([text], _index({"7": item}))
    assert text[first["start"] : first["end"]] == " ".join(words[:20])
    assert text[second["start"] : second["end"]] == " ".join(words[20:])
    assert (first["n_matched"], second["n_matched"]) == (20, 20)
    assert first["coverage"] == second["coverage"] == pytest.approx((8 + 8) / 28)


def test_short_items_are_found_whole_or_not_at_all() -> None:
    short = "Write a function to sort a list of tuples."
    index = _index({"1": short, "2": "Sort it.", "3": _prose(20, 3)})
    assert index.searched["bench"]._asdict() == {"n_items": 3, "n_searched": 2, "n_short": 1, "n_left_out": 0}
    (row,) = _found([f"Task: WRITE a function\nto sort a list; of tuples! {short[:-8]}", "Sort it."], index)
    assert (row["item"], row["method"], row["n_matched"], row["coverage"]) == ("1", "whole", 9, 1)


def test_short_items_that_begin_alike_are_told_apart() -> None:
    items = {str(i): f"Write a function to find the sum of all {word}." for i, word in enumerate(["odds", *"abcdefghijklmnop"])}
    assert [row["item"] for row in _found([items["0"]], _index(items))] == ["0"]
    same = {str(i): "Write a function to find the sum of all odds." for i in range(11)} | {"long": _prose(20, 6)}
    assert _found([same["0"]], _index(same)) == []


def test_what_many_items_hold_or_what_says_nothing_is_not_looked_for() -> None:
    licence = _prose(30, 9)
    items = {str(i): f"{licence} {_prose(20, 100 + i)}" for i in range(12)}
    few = {key: text for key, text in items.items() if int(key) < 10}
    counting = " ".join(map(str, range(40)))
    assert _found([licence], _index(items)) == []
    assert len(_found([licence], _index(few))) == 10
    (row,) = [one for one in _found([items["3"]], _index(items)) if one["item"] == "3"]
    assert row["coverage"] == 1
    index = _index({"0": f"{counting} {_prose(20, 5)}"})
    assert _found([counting], index) == []
    assert index.searched["bench"].n_left_out > 20


def test_the_same_text_in_two_benchmarks_is_found_in_both() -> None:
    text = _prose(20, 4)
    items = {name: [ItemText("1", "question", text)] for name in ("a", "b")}
    index = BenchmarkIndex(build_index(items, OverlapParameters(max_items=1), {}))
    assert [row["benchmark"] for row in _found([text], index)] == ["a", "b"]


def test_an_index_is_the_same_after_a_file(tmp_path: Path) -> None:
    index = _index({"1": _prose(30, 2)}, OverlapParameters(n_characters=50))
    pq.write_table(index.table, tmp_path / "index.parquet")
    again = BenchmarkIndex(pq.read_table(tmp_path / "index.parquet"))
    assert (again.parameters, again.digests) == (index.parameters, {"bench": "digest"})
    text = "x " + _prose(30, 2)
    assert _found([text], again) == _found([text], index)
    assert {row["method"] for row in _found([text], again)} == {"ngram", "substring"}
    with pytest.raises(ContractError, match="no index"):
        BenchmarkIndex(pa.table({"item": ["1"]}))


def test_hyphenation_is_found_by_substrings_alone() -> None:
    item = "The quick brown fox jumps over the lazy dog and then the dog sleeps all day long in the sun"
    broken = re.sub(r"([a-z]{2})([a-z]{2})", "\\1-\n\\2", item)
    assert {row["method"] for row in _found([broken], _index({"1": item}, OverlapParameters(n_characters=50)))} == {"substring"}


MMLU = [
    {"question": _prose(20, i), "choices": [f"{_prose(10, 50 + i)} {k}" for k in "abcd"], "answer": 2, "subject": "soil"}
    for i in (1, 2)
]


@pytest.mark.parametrize("form", ["jsonl", "json", "jsonl.gz", "parquet", "csv"])
def test_fields_and_ids_are_told_by_their_names(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"mmlu.{form}"
    lines = "".join(json.dumps(item) + "\n" for item in MMLU)
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(MMLU), path)
    elif form == "csv":
        path.write_text("question,answer\n" + "".join(f'"{item["question"]}",2\n' for item in MMLU))
    else:
        path.write_bytes({"json": json.dumps(MMLU).encode(), "jsonl": lines.encode()}.get(form) or gzip.compress(lines.encode()))
    items = read_items(path)
    assert [one.text for one in items if one.field == "question"] == [item["question"] for item in MMLU]
    assert [one.item for one in items if one.field == "question"] == ["0", "1"]
    if form != "csv":
        assert [one.field for one in items if one.item == "0"] == ["question", *(f"choices[{k}]" for k in range(4))]


def test_arc_and_ids(tmp_path: Path) -> None:
    path = tmp_path / "arc.jsonl"
    path.write_text(json.dumps({"id": "Q1", "question": "Why?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}}) + "\n\n")
    assert [(one.item, one.field, one.text) for one in read_items(path)] == [
        ("Q1", "question", "Why?"),
        ("Q1", "choices[0]", "a"),
        ("Q1", "choices[1]", "b"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "fields", "said"),
    [
        ("b.jsonl", "", (), "no items"),
        ("b.jsonl", '{"prompt": "x"}\n', ("promt",), "Did you mean `prompt`"),
        ("b.jsonl", '{"foo": "x", "bar": "y"}\n', (), "foo, bar"),
        ("b.jsonl", '{"prompt": 3}\n', (), "hold no text"),
        ("b.jsonl", "[1, 2]\n", (), "no object"),
        ("b.jsonl", "{broken\n", (), "cannot be read"),
        ("b.jsonl.gz", "not packed", (), "cannot be read"),
        ("b.docx", "x", (), "no kind of benchmark"),
        ("none.jsonl", None, (), "no such benchmark"),
    ],
)
def test_a_benchmark_that_says_nothing_is_refused(
    name: str, content: str | None, fields: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=re.escape(said)):
        read_items(tmp_path / name, fields)


def test_a_benchmark_of_which_nothing_can_be_found_is_refused() -> None:
    with pytest.raises(SourceError, match="nothing of the benchmark `bench`"):
        _index({"1": "Too short.", "2": "This, too."})
    with pytest.raises(RecipeError, match="min_words"):
        OverlapParameters(n_words=5)
