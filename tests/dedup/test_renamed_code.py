"""Items of code benchmarks are found after their names were changed and their lines indented anew; other code is not."""

from __future__ import annotations

import io
import keyword
import random
import sysconfig
import tokenize
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tilth.dedup.contamination.items import ItemText, read_items
from tilth.dedup.contamination.ngram_index import BenchmarkIndex, build_index
from tilth.dedup.contamination.overlaps import find_contamination
from tilth.dedup.contamination.parameters import OverlapParameters
from tilth.dedup.texts.code_units import KEPT, LOOK_BACK, code_units_of

N_CODE = 20
FILES = {
    "humaneval": "humaneval/data/HumanEval.jsonl.gz",
    "mbpp": "mbpp/data/mbpp.jsonl",
    "gsm8k": "gsm8k_test/grade_school_math/data/test.jsonl",
}
BEFORE, AFTER = "import os\n\nROOT = os.getcwd()\n\n\n", "\n\nprint(ROOT)\n"


@pytest.fixture(scope="module")
def index(test_data: Path) -> BenchmarkIndex:
    items = {name: read_items(test_data / file) for name, file in FILES.items()}
    return BenchmarkIndex(build_index(items, OverlapParameters(n_code=N_CODE), dict.fromkeys(items, "")))


def found_in(texts: list[str], index: BenchmarkIndex) -> list[dict[str, object]]:
    rows = pa.array(range(len(texts)), pa.int32())
    table = pa.table({"shard": ["s"] * len(texts), "row": rows, "text": pa.array(texts, pa.large_string())})
    return pa.concat_tables(find_contamination(table, index)).to_pylist()


def rewritten(code: str, indent: int, seed: int, comments: bool = True) -> str:
    """The same program with other names and indents, tokens apart; `comments=False` leaves out comments and docstrings."""
    random_ = random.Random(seed)
    names: dict[str, str] = {}
    lines, line, depth = [], "", 0
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type in (tokenize.INDENT, tokenize.DEDENT):
            depth += 1 if token.type == tokenize.INDENT else -1
        elif token.type in (tokenize.NEWLINE, tokenize.NL):
            lines.append(line)
            line = ""
        elif comments or not (token.type == tokenize.COMMENT or (token.type == tokenize.STRING and not line)):
            word = token.string
            if token.type == tokenize.NAME and not keyword.iskeyword(word) and word not in KEPT:
                word = names.setdefault(word, f"n{len(names)}_{random_.randrange(10**6)}")
            line += (" " if line else " " * (indent * depth)) + word
    return "\n".join(lines)


def programs(test_data: Path) -> Mapping[str, str]:
    """HumanEval's items whole: prompt and canonical solution."""
    fields: dict[str, dict[str, str]] = {}
    for one in read_items(test_data / FILES["humaneval"]):
        fields.setdefault(one.item, {})[one.field] = one.text
    return {item: own["prompt"] + own["canonical_solution"] for item, own in fields.items()}


def items_found(texts: Mapping[str, str], index: BenchmarkIndex, method: str = "code") -> set[str]:
    items = list(texts)
    rows = found_in([BEFORE + text + AFTER for text in texts.values()], index)
    return {
        items[row["row"]]  # type: ignore[call-overload]
        for row in rows
        if (row["benchmark"], row["item"], row["method"]) == ("humaneval", items[row["row"]], method)  # type: ignore[call-overload]
    }


@pytest.mark.parametrize("indent", [1, 2, 8])
def test_every_item_of_humaneval_is_found_renamed_and_indented_anew(test_data: Path, index: BenchmarkIndex, indent: int) -> None:
    texts = {item: rewritten(code, indent, seed) for seed, (item, code) in enumerate(programs(test_data).items())}
    assert len(texts) == 164
    assert items_found(texts, index) == set(texts)


def test_most_solutions_are_found_without_their_docstrings(test_data: Path, index: BenchmarkIndex) -> None:
    texts = {item: rewritten(code, 2, seed, comments=False) for seed, (item, code) in enumerate(programs(test_data).items())}
    # The others have solutions of fewer than N_CODE units, or of marks alone: a line that a thousand programs hold.
    assert len(items_found(texts, index)) >= 120
    assert len(items_found(texts, index, "ngram")) <= 5  # what words alone would find


def test_other_code_is_seldom_taken_for_a_benchmark(index: BenchmarkIndex) -> None:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    rows = found_in(texts, index)
    assert not [row for row in rows if row["method"] != "code"]
    assert len({row["row"] for row in rows}) <= 0.06 * len(texts)
    # Short runs that any program may hold; of an item's n-grams they are few.
    assert len({row["row"] for row in rows if row["coverage"] >= 0.2}) <= 0.01 * len(texts)  # type: ignore[operator]


def test_benchmark_item_and_place_are_recorded() -> None:
    item = "def total(prices, rate):\n    net = sum(prices)\n    tax = net * rate / 100\n    return round(net + tax, 2)\n"
    index = BenchmarkIndex(build_index({"shop": [ItemText("s/1", "code", item)]}, OverlapParameters(n_code=N_CODE), {}))
    text = f"{BEFORE}é = 1\n" + rewritten(item, 3, 0) + AFTER
    (row,) = (row for row in found_in([text], index) if row["method"] == "code")
    assert (row["benchmark"], row["item"], row["field"]) == ("shop", "s/1", "code")
    span, whole = text[row["start"] : row["end"]], rewritten(item, 3, 0).strip()  # type: ignore[misc]
    assert whole.endswith(span)
    assert len(span) >= 0.9 * len(whole)  # where too little tells, at the name after `def`, no n-gram begins
    assert row["coverage"] == 1
    swapped = text.replace(" + ", " - ")
    assert [one for one in found_in([swapped], index) if one["method"] == "code" and one["coverage"] == 1] == []


def hashes(text: str) -> list[int]:
    return code_units_of(pa.array([text], pa.large_string())).hashes.tolist()


def test_names_count_by_where_they_stood_before() -> None:
    assert hashes("a = a + b") == hashes("x=\n\tx+y")
    assert hashes("a = a + b") != hashes("x = y + x")
    assert hashes("return len(a)") == hashes("return len(b)")
    assert hashes("return len(a)") != hashes("return max(a)")
    assert hashes("a[1]") != hashes("a[2]")
    assert hashes("größe = größe") == hashes("x = x")
    far = " ".join(["+"] * LOOK_BACK)
    assert hashes(f"a {far} a") == hashes(f"a {far} b")
    assert hashes(f"a {far[2:]} a") != hashes(f"a {far[2:]} b")


def test_units_have_their_places_and_stay_within_their_text() -> None:
    texts = ["", "né = x_1(2.50)\n", None, "x_1"]
    units = code_units_of(pa.chunked_array([pa.array(texts[:2], pa.string()), pa.array(texts[2:], pa.string())]))
    assert units.n_units.tolist() == [0, 8, 0, 1]
    words = [texts[1][a:b] for a, b in zip(units.starts[:8], units.ends[:8], strict=True)]  # type: ignore[index]
    assert words == ["né", "=", "x_1", "(", "2", ".", "50", ")"]
    assert units.hashes[8] == units.hashes[0]  # new in its own text
    assert code_units_of(pa.array([], pa.large_string())).hashes.dtype == np.uint64
