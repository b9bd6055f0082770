"""Substring deduplication against comparing every pair of places; both modes, any split into shards, any memory."""

from __future__ import annotations

import random
import re
import tempfile
import time
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.contracts import EDITS, check
from tilth.dedup.passages import span_kernels as kernels
from tilth.dedup.passages.span_files import repeated_spans
from tilth.dedup.passages.spans import (
    Mode,
    anchor_run,
    repeated_anchors,
    repeated_windows,
    span_edits,
    window_run,
)
from tilth.dedup.sorted_runs import merged_runs
from tilth.dedup.texts.units import units_of
from tilth.errors import ContractError, RecipeError

MODES: tuple[Mode, ...] = ("keep_first", "remove_all_copies")
_TOKEN = re.compile(r"[^\W_\u4e00-\u9fff]+|[^\s]")
_TEXT = st.lists(st.sampled_from(["a", "b", "a b", "c,", " \n", "漢", "é-"]), max_size=14).map(" ".join)
_GROUPS = st.lists(st.lists(_TEXT, max_size=5), min_size=1, max_size=3)


def _documents(texts: list[str], shard: str) -> pa.Table:
    rows = pa.array(range(len(texts)), pa.int32())
    return pa.table(
        {"shard": pa.array([shard] * len(texts), pa.string()), "row": rows, "text": pa.array(texts, pa.large_string())}
    )


def _edits(shards: dict[str, pa.Table], n: int, mode: Mode, max_bytes: int = 1 << 20) -> dict[str, pa.Table]:
    """All stages, one after the other, with their runs as files."""
    with tempfile.TemporaryDirectory() as spill:
        found = repeated_spans([table.to_batches for table in shards.values()], Path(spill), n, mode, max_bytes)
        return dict(zip(shards, found, strict=True))


def _cut_tokens(text: str, spans: list[tuple[int, int]]) -> list[int]:
    """The numbers of the tokens that begin in a span."""
    return [i for i, found in enumerate(_TOKEN.finditer(text)) if any(start <= found.start() < end for start, end in spans)]


def _spans(edits: pa.Table) -> dict[int, list[tuple[int, int]]]:
    check(edits, EDITS)
    found: dict[int, list[tuple[int, int]]] = {}
    for edit in edits.to_pylist():
        assert edit["replacement"] == ""
        assert edit["reason"] == "repeated_span"
        found.setdefault(edit["row"], []).append((edit["start"], edit["end"]))
    for spans in found.values():
        flat = [place for span in spans for place in span]
        assert flat == sorted(flat)
        assert all(start < end for start, end in spans)
    assert edits.column("row").to_pylist() == sorted(edits.column("row").to_pylist())
    return found


def _all_repeated(texts: list[list[str]], n: int) -> list[set[int]]:
    """Tokens of maximal repeated spans: every pair of places is extended as far as it goes."""
    places = [(d, i) for d, tokens in enumerate(texts) for i in range(len(tokens))]
    found: list[set[int]] = [set() for _ in texts]
    for d, i in places:
        for e, j in places:
            length = 0
            while i + length < len(texts[d]) and j + length < len(texts[e]) and texts[d][i + length] == texts[e][j + length]:
                length += 1
            if (d, i) != (e, j) and length >= n:
                found[d].update(range(i, i + length))
    return found


def _not_first(texts: list[list[str]], n: int) -> list[set[int]]:
    """Tokens of windows that an earlier window equals, without those that the first one holds itself."""
    first: dict[tuple[str, ...], tuple[int, int]] = {}
    found: list[set[int]] = [set() for _ in texts]
    for d, tokens in enumerate(texts):
        for i in range(len(tokens) - n + 1):
            e, j = first.setdefault(tuple(tokens[i : i + n]), (d, i))
            if (e, j) != (d, i):
                found[d].update(range(max(i, j + n) if e == d else i, i + n))
    return found


@settings(max_examples=300, deadline=None)
@given(
    groups=_GROUPS, n=st.integers(1, 6), mode=st.sampled_from(MODES), max_bytes=st.sampled_from([200, 2000, 1 << 20])
)  # fmt: skip
def test_every_maximal_repeated_span_is_found_and_nothing_else(
    groups: list[list[str]], n: int, mode: Mode, max_bytes: int
) -> None:
    shards = {f"s/{i}": _documents(texts, f"s/{i}") for i, texts in enumerate(groups)}
    found = _edits(shards, n, mode, max_bytes)
    texts = [text for group in groups for text in group]
    tokens = [_TOKEN.findall(text) for text in texts]
    wanted = iter((_all_repeated if mode == "remove_all_copies" else _not_first)(tokens, n))
    for name, group in zip(shards, groups, strict=True):
        spans = _spans(found[name])
        for row, text in enumerate(group):
            assert set(_cut_tokens(text, spans.get(row, []))) == next(wanted)


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(_TEXT, max_size=8), n=st.integers(1, 5), mode=st.sampled_from(MODES), rng=st.randoms())
def test_the_result_depends_on_no_cut_into_shards_or_batches(texts: list[str], n: int, mode: Mode, rng: Any) -> None:
    whole = _spans(_edits({"s/0": _documents(texts, "s/0")}, n, mode)["s/0"])
    at = sorted(rng.randrange(len(texts) + 1) for _ in range(2))
    parts = [texts[: at[0]], texts[at[0] : at[1]], texts[at[1] :]]
    shards = {}
    for i, part in enumerate(parts):
        table, middle = _documents(part, f"s/{i}"), rng.randrange(len(part) + 1)
        shards[f"s/{i}"] = pa.concat_tables([table.slice(0, middle), table.slice(middle)])
    found, first = {}, 0
    for name, part in zip(shards, parts, strict=True):
        found |= {first + row: spans for row, spans in _spans(_edits(shards, n, mode)[name]).items()}
        first += len(part)
    assert found == whole


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=4), n=st.integers(1, 12), n_words=st.integers(1, 4), rng=st.randoms(),
)  # fmt: skip
def test_anchors_are_the_leftmost_least_grams_however_much_is_repeated(
    lengths: list[int], n: int, n_words: int, rng: Any
) -> None:
    words = np.array([rng.getrandbits(64) for _ in range(n_words)], np.uint64)
    tokens = words[[rng.randrange(n_words) for _ in range(sum(lengths))]]
    bounds, k = np.cumsum([0, *lengths]), max(1, n // 2)
    keys, firsts, counts = kernels.segments(tokens, bounds, n, k)
    anchors: dict[int, tuple[bytes, int]] = {}
    for first, stop in pairwise(bounds.tolist()):
        for window in range(first, stop - n + 1):
            own = alone_keys(tokens, window, n, k)
            at = min(range(len(own)), key=lambda i: (own[i], i))
            anchors[window] = (own[at], window + at)
    told = {w: key for key, first, count in zip(keys, firsts, counts, strict=True) for w in range(first, first + count)}
    assert told == {window: key for window, (key, _) in anchors.items()}
    assert len(keys) == len({place for _, place in anchors.values()})
    # Windows of some of the segments, whatever lies between, are those of all.
    lowest, highest = np.uint64(0), np.uint64(2**64 - 1)
    every = kernels.windows(tokens, firsts, counts, n, lowest, highest)
    some = np.array([rng.random() < 0.5 for _ in firsts], bool)
    found = kernels.windows(tokens, firsts[some], counts[some], n, lowest, highest)
    inside = np.isin(every[2], found[2])
    assert all((one[inside] == other).all() for one, other in zip(every, found, strict=True))
    distinct = {(tuple(tokens[w : w + n].tolist()), key) for key, w in zip(every[0], every[2], strict=True)}
    assert len(distinct) == len({key for _, key in distinct}) == len({words for words, _ in distinct})


def alone_keys(tokens: np.ndarray, window: int, n: int, k: int) -> list[int]:
    """The keys of the k-grams of one window, each hashed by itself."""
    grams = [tokens[at : at + k] for at in range(window, window + n - k + 1)]
    return [int(kernels.segments(gram, np.array([0, k]), k, k)[0][0]) for gram in grams]


def test_time_is_linear_in_tokens_that_repeat() -> None:
    """A run of one token, and few tokens in turn, take no longer than tokens that are all different."""
    rng = np.random.default_rng(0)
    n_tokens, n = 300_000, 5_000
    texts = {
        "different": rng.integers(0, 1 << 63, n_tokens, dtype=np.uint64),
        "one": np.full(n_tokens, 7, np.uint64),
        "ten": np.tile(rng.integers(0, 1 << 63, 10, dtype=np.uint64), n_tokens // 10),
    }
    seconds = {}
    for name, tokens in texts.items():
        kernels.segments(tokens[:10], np.array([0, 10]), 2, 1)
        started = time.process_time()
        _, firsts, counts = kernels.segments(tokens, np.array([0, n_tokens]), n, n // 2)
        kernels.windows(tokens, firsts[::2], counts[::2], n, np.uint64(0), np.uint64(2**64 - 1))
        seconds[name] = time.process_time() - started
    assert max(seconds["one"], seconds["ten"]) < 20 * seconds["different"] + 0.05


def test_one_copy_stays_and_white_space_goes_with_the_span() -> None:
    texts = ["one two\n three four five.", "Six one two three  four five. seven", " \none two three four five."]
    (edits,) = _edits({"s": _documents(texts, "s")}, 5, "keep_first").values()
    assert _spans(edits) == {1: [(4, 30)], 2: [(0, 26)]}
    assert [texts[1][:4] + texts[1][30:], texts[2][26:]] == ["Six seven", ""]
    glued = ["a. one two three four five", "seed. one two three four five\nmore", "(one two three four five)b"]
    (edits,) = _edits({"s": _documents(glued, "s")}, 5, "keep_first").values()
    assert _spans(edits) == {1: [(4, 29)], 2: [(1, 24)]}  # "seed\nmore": the line break stays
    (edits,) = _edits({"s": _documents(texts, "s")}, 5, "remove_all_copies").values()
    assert _spans(edits)[0] == [(0, len(texts[0]))]


def test_a_long_run_of_one_token_keeps_one_window() -> None:
    text = "a " * 200_000
    started = time.process_time()
    (edits,) = _edits({"s": _documents([text, "b " * 10], "s")}, 50, "keep_first").values()
    assert time.process_time() - started < 5
    assert _spans(edits) == {0: [(100, 400_000)]}


def test_copies_of_one_page_take_time_that_is_linear() -> None:
    page = " ".join(f"word{i % 97}x{i}" for i in range(120))

    def seconds(n_copies: int) -> float:
        table = _documents([page] * n_copies, "s")
        started = time.process_time()
        (edits,) = _edits({"s": table}, 50, "keep_first", 256 << 20).values()
        assert edits.num_rows == n_copies - 1
        return time.process_time() - started

    seconds(10)
    few, many = min(seconds(2_000) for _ in range(3)), seconds(40_000)
    assert many < 3 * 20 * few  # a method that compares pairs would take 400 times as long


def test_case_marks_and_accents_count_but_not_line_breaks() -> None:
    base = "Alpha beta, gamma delta epsilon"
    others = [base.replace(" ", "\n"), base.lower(), base.replace(",", ""), base.replace("gamma", "gammá"), base]
    (edits,) = _edits({"s": _documents([base, *others], "s")}, 6, "keep_first").values()
    assert sorted(_spans(edits)) == [1, 5]


def test_runs_stream_in_bounded_pieces_and_keep_a_hash_whole() -> None:
    rng = random.Random(5)
    runs = [sorted(rng.choices(range(40), k=300)) for _ in range(4)]
    sizes: list[int] = []

    def stream(hashes: list[int]) -> Iterator[pa.RecordBatch]:
        for at in range(0, len(hashes), 7):
            sizes.append(at)
            yield pa.record_batch({"hash": pa.array(hashes[at : at + 7], pa.uint64())})

    found = [table.column("hash").to_pylist() for table in merged_runs([stream(run) for run in runs], 8, 4 * 8 * 5)]
    assert len(found) > 20
    assert all(max(before) < min(after) for before, after in pairwise(found))
    assert sorted(chain(*runs)) == list(chain(*found))
    with pytest.raises(ContractError, match="ascend"):
        list(merged_runs([stream([3, 2])], 8, 800))


def test_bad_input_is_refused() -> None:
    documents = _documents(["a b c d", "a b c d"], "s")
    anchors = list(repeated_anchors([anchor_run(documents, 3)]))
    repeated = list(repeated_windows([list(window_run(documents, anchors, 3))]))
    with pytest.raises(ContractError, match="shard by shard"):
        anchor_run(pa.concat_tables([documents, _documents(["a"], "t")]), 3)
    with pytest.raises(ContractError, match="ascend"):
        anchor_run(documents.take([1, 0]), 3)
    with pytest.raises(RecipeError, match="not 0"):
        anchor_run(documents, 0)
    with pytest.raises(RecipeError, match="keep_last"):
        span_edits(documents, anchors, repeated, 3, "keep_last")  # type: ignore[arg-type]
    with pytest.raises(ContractError, match="first copy"):
        span_edits(_documents(["x", "a b c d"], "s"), anchors, repeated, 3)
    nothing = _documents([], "s")
    assert anchor_run(nothing, 3).num_rows == span_edits(nothing, anchors, repeated, 3).num_rows == 0


@pytest.mark.data
def test_books_with_a_planted_passage(test_data: Path) -> None:
    book = next((test_data / "pg_mobydick2701").rglob("*.txt")).read_text()
    passage = book[200_000:203_000]
    texts = [book, "Before. " + passage + " After.", "Nothing of it."]
    shards = {f"s/{i}": _documents([text], f"s/{i}") for i, text in enumerate(texts)}
    found = {name: _spans(edits) for name, edits in _edits(shards, 50, "keep_first").items()}
    ((start, end),) = found["s/1"][0]
    units = units_of(pa.array([passage]), "tokens")
    assert (start, end) == (8 + int(units.starts[0]), 8 + len(passage) + 1)
    assert "s/2" not in {name for name, spans in found.items() if spans}
    assert np.all([end - start > 100 for start, end in found["s/0"].get(0, [(0, 200)])])
