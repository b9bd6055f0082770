"""Line-level deduplication: CCNet's hashes, both modes against plain counting, the same result for any split and order."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.contracts import EDITS, check
from tilth.dedup.passages.line_hashes import EMPTY_LINE, hash_lines, line_hash, normalize_line
from tilth.dedup.passages.lines import LINE_RUN, Mode, line_edits, line_run, merge_runs, repeated_lines
from tilth.errors import ContractError, RecipeError

_CHARS = st.sampled_from("ab Z19\n\n\r\t\x1c\x85\u2028\u3000ΣσςİéẞȺ１٣।“”’—…漢😀𝟗\x7f!.\x00") | st.characters(
    exclude_categories=("Cs",)
)
_TEXTS = st.text(_CHARS, max_size=40)
_GROUPS = st.lists(
    st.lists(st.lists(st.sampled_from(["a", "A", "b", "c1", "c2", "", " ", "“"]), max_size=5), max_size=4), max_size=4
)
MODES: tuple[Mode, ...] = ("remove_all_copies", "keep_first")


def _documents(texts: list[str], shard: str) -> pa.Table:
    rows = pa.array(range(len(texts)), pa.int32())
    return pa.table(
        {"shard": pa.array([shard] * len(texts), pa.string()), "row": rows, "text": pa.array(texts, pa.large_string())}
    )


def _plain_hash(line: str) -> int:
    """CCNet's definition written out: strip, lower, digits, punctuation and control characters, SHA-1, eight bytes."""
    line = re.sub(r"\d", "0", line.strip().lower())
    kept = "".join(
        c
        for c in line
        if not (ord(c) < 32 or 127 <= ord(c) < 160 or c in "，。、„”“«»」「《》´∶：？！（）；–—．～’…━〈〉【】％►")
    )
    return int(np.frombuffer(hashlib.sha1(kept.encode()).digest()[:8], np.uint64)[0])


@settings(max_examples=300, deadline=None)
@given(st.lists(_TEXTS, max_size=4))
def test_hashes_follow_the_definition(texts: list[str]) -> None:
    for kind in (pa.string(), pa.large_string()):
        found = hash_lines(pa.array(["x\ny", *texts], kind)[1:])
        lines = [text.split("\n") for text in texts]
        assert found.n_lines.tolist() == list(map(len, lines))
        assert found.n_chars.tolist() == [len(line) for part in lines for line in part]
        assert found.hashes.tolist() == [_plain_hash(line) for part in lines for line in part]


def test_every_code_point_is_mapped_as_python_maps_it() -> None:
    chars = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000 and code != 10]
    texts = ["\n".join(f"x{char}y{char}" for char in chars[i : i + 50_000]) for i in range(0, len(chars), 50_000)]
    lines = [line for text in texts for line in text.split("\n")]
    assert hash_lines(pa.array(texts, pa.large_string())).hashes.tolist() == list(map(line_hash, lines))


@pytest.mark.parametrize("size", [*range(50, 70), 118, 119, 120, 127, 128, 1000])
def test_lengths_around_the_blocks_of_sha1(size: int) -> None:
    line = "abcdefghij" * (size // 10) + "k" * (size % 10)
    wanted = int.from_bytes(hashlib.sha1(line.encode()).digest()[:8], "little")
    assert hash_lines(pa.array([line])).hashes.tolist() == [wanted]


@pytest.mark.parametrize(
    ("line", "normal"),
    [
        ("  Hello, World 2024!\t", "hello, world 0000!"),
        ("“Quoted” — and…", "quoted  and"),
        ("ΟΔΟΣ ΣΑΣ", "οδος σας"),
        ("İ", "i\u0307"),
        ("٣ and １", "0 and 0"),
        (" \x1c\u3000", ""),
        ("a\x00b\x9fc", "abc"),
        ("a ”", "a "),  # white space goes before punctuation does
    ],
)
def test_normal_form(line: str, normal: str) -> None:
    assert normalize_line(line) == normal
    wanted = int.from_bytes(hashlib.sha1(normal.encode()).digest()[:8], "little")
    assert line_hash(line) == wanted == int(hash_lines(pa.array([line])).hashes[0])


def test_nulls_and_empty_arrays() -> None:
    assert hash_lines(pa.array([None, "a"], pa.string())).hashes.tolist() == [EMPTY_LINE, line_hash("a")]
    assert [len(part) for part in hash_lines(pa.array([], pa.string()))] == [0, 0, 0]
    assert [len(part) for part in hash_lines(pa.chunked_array([], pa.string()))] == [0, 0, 0]
    assert line_run(_documents([], "s")).num_rows == line_edits(_documents([], "s"), []).num_rows == 0


def _plain(shards: dict[str, list[str]], mode: Mode, keep_empty: bool) -> dict[str, list[str]]:
    """The texts that stay, by counting all lines in a dictionary."""
    counts = Counter(normalize_line(line) for name in shards for text in shards[name] for line in text.split("\n"))
    seen: set[str] = set()
    out: dict[str, list[str]] = {}
    for name in sorted(shards):
        out[name] = []
        for text in shards[name]:
            kept = []
            for line in text.split("\n"):
                normal = normalize_line(line)
                is_first = normal not in seen
                seen.add(normal)
                if normal == "":
                    stays = keep_empty
                else:
                    stays = counts[normal] == 1 or (mode == "keep_first" and is_first)
                if stays:
                    kept.append(line)
            out[name].append("\n".join(kept))
    return out


def _cut(documents: pa.Table, edits: pa.Table) -> list[str]:
    check(edits, EDITS)
    assert set(edits.column("replacement").to_pylist()) <= {""}
    spans: dict[int, list[tuple[int, int]]] = {}
    for edit in edits.to_pylist():
        spans.setdefault(edit["row"], []).append((edit["start"], edit["end"]))
    for found in spans.values():
        flat = [place for span in found for place in span]
        assert flat == sorted(flat)
        assert all(start < end for start, end in found)
    out = []
    for row, text in enumerate(documents.column("text").to_pylist()):
        for start, end in reversed(spans.get(row, [])):
            assert end <= len(text)
            text = text[:start] + text[end:]
        out.append(text)
    return out


@settings(max_examples=150, deadline=None)
@given(
    groups=_GROUPS,
    mode=st.sampled_from(MODES),
    keep_empty=st.booleans(),
    rng=st.randoms(),
    max_bytes=st.sampled_from([1, 700, 1 << 20]),
)
def test_both_modes_equal_plain_counting(
    groups: list[list[list[str]]], mode: Mode, keep_empty: bool, rng: Any, max_bytes: int
) -> None:
    shards = {f"s/{i}": ["\n".join(lines) for lines in group] for i, group in enumerate(groups)}
    tables = {name: _documents(texts, name) for name, texts in shards.items()}
    runs: list[Any] = []
    for table in tables.values():  # a shard may come in pieces, too
        middle = rng.randrange(table.num_rows + 1)
        runs += [line_run(table.slice(0, middle)), line_run(table.slice(middle))]
    rng.shuffle(runs)
    cut = rng.randrange(len(runs) + 1)  # some are merged before the rest
    halves = [list(merge_runs(runs[:cut], max_bytes)), *runs[cut:]]
    repeated = list(repeated_lines(halves, max_bytes))
    for batch in repeated:
        assert batch.schema == LINE_RUN
    wanted = _plain(shards, mode, keep_empty)
    for name, table in tables.items():
        at = rng.randrange(table.num_rows + 1)
        pieces = pa.concat_tables([table.slice(0, at), table.slice(at)])
        assert _cut(table, line_edits(pieces, repeated, mode, keep_empty)) == wanted[name]


def test_spans_are_joined_and_have_their_reason() -> None:
    texts = ["one\ntwo\nsame\nsame\n\nthree\n\nsame", "same\nSAME\n"]
    documents = _documents(texts, "s")
    edits = line_edits(documents, list(repeated_lines([line_run(documents)])))
    found = [(e["row"], e["start"], e["end"], e["reason"]) for e in edits.to_pylist()]
    assert found == [
        (0, 8, 18, "repeated_line"),
        (0, 18, 19, "empty_line"),
        (0, 24, 25, "empty_line"),  # from here on nothing stays, so each takes the newline before it
        (0, 25, 30, "repeated_line"),
        (1, 0, 9, "repeated_line"),
        (1, 9, 10, "empty_line"),
    ]
    assert _cut(documents, edits) == ["one\ntwo\nthree", ""]


def test_first_means_first_by_row_and_then_by_line() -> None:
    documents = _documents(["x\nsame", "same\ny"], "s")
    pieces = [line_run(documents.slice(1)), line_run(documents.slice(0, 1))]
    (found,) = pa.Table.from_batches(list(repeated_lines(pieces))).to_pylist()
    assert (found["row"], found["line"], found["n_copies"]) == (0, 1, 2)
    assert _cut(documents, line_edits(documents, list(repeated_lines(pieces)), "keep_first")) == ["x\nsame", "y"]


def test_offsets_are_characters() -> None:
    documents = _documents(["é漢😀\nsame\nΣş", "same"], "s")
    assert _cut(documents, line_edits(documents, list(repeated_lines([line_run(documents)])))) == ["é漢😀\nΣş", ""]


def test_runs_stream_from_files_in_bounded_pieces(tmp_path: Path) -> None:
    rng = random.Random(3)
    runs, sizes = [], []
    for shard in range(6):
        table = line_run(
            _documents([f"line {word}" for word in ("".join(rng.choices("abcdefgh", k=4)) for _ in range(4000))], f"s{shard}")
        )
        pq.write_table(table, tmp_path / f"{shard}.parquet")
        runs.append(table)

    def stream(shard: int) -> Iterator[pa.RecordBatch]:
        for batch in pq.ParquetFile(tmp_path / f"{shard}.parquet").iter_batches(500):
            sizes.append(batch.num_rows)
            yield batch.cast(LINE_RUN)

    found = list(merge_runs([stream(shard) for shard in range(6)], max_bytes=6 * 160 * 500))
    assert max(batch.num_rows for batch in found) <= 6 * 500
    assert len(sizes) > 6 * 4
    merged = pa.Table.from_batches(found).to_pylist()
    counts: Counter[int] = Counter()
    firsts: dict[int, tuple[str, int, int]] = {}
    for run in runs:
        for row in run.to_pylist():
            counts[row["hash"]] += row["n_copies"]
            place = (row["shard"], row["row"], row["line"])
            firsts[row["hash"]] = min(firsts.get(row["hash"], place), place)
    assert [row["hash"] for row in merged] == sorted(counts)
    assert {row["hash"]: row["n_copies"] for row in merged} == dict(counts)
    assert {row["hash"]: (row["shard"], row["row"], row["line"]) for row in merged} == firsts


def test_bad_input_is_refused() -> None:
    documents = _documents(["b\na", "a"], "s")
    run = line_run(documents)
    with pytest.raises(ContractError, match="shard by shard"):
        line_run(pa.concat_tables([documents, _documents(["a"], "t")]))
    with pytest.raises(ContractError, match="ascend"):
        line_run(documents.take([1, 0]))
    with pytest.raises(ContractError, match="ascend"):
        list(merge_runs([pa.concat_tables([run, run])]))
    with pytest.raises(ContractError, match="ascend"):
        line_edits(documents, run.take([1, 0]))
    with pytest.raises(ContractError, match="first copy"):
        line_edits(_documents(["a\nb", "c"], "s"), list(repeated_lines([run])), "keep_first")
    with pytest.raises(RecipeError, match="keep_last"):
        line_edits(documents, run, "keep_last")  # type: ignore[arg-type]


@pytest.mark.data
def test_real_pages_equal_plain_counting(test_data: Path) -> None:
    texts = [json.loads(line)["raw_content"] for line in (test_data / "rpv2_reference" / "docs.jsonl").read_bytes().splitlines()]
    shards = {f"s/{i}": texts[i::4] for i in range(4)}
    tables = {name: _documents(part, name) for name, part in shards.items()}
    repeated = list(repeated_lines([line_run(table) for table in tables.values()]))
    for mode in MODES:
        wanted = _plain(shards, mode, keep_empty=False)
        assert {name: _cut(table, line_edits(table, repeated, mode)) for name, table in tables.items()} == wanted
        assert sum(map(len, wanted["s/0"])) < sum(map(len, shards["s/0"]))
