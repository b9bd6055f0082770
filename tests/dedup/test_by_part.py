"""What is repeated, told to each part: equal to counting, however runs are merged and however few files may be open."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilth.dedup.passages import by_part, span_files
from tilth.dedup.passages.by_part import interleaved, of_part, read_part, with_parts, write_by_part
from tilth.dedup.passages.span_files import write_merged
from tilth.dedup.passages.spans import ANCHOR_RUN, WINDOW_RUN

# Of each piece its parts, of each part its things (hash, check) with their number of copies.
_PART = st.dictionaries(st.tuples(st.integers(0, 5), st.integers(0, 1)), st.integers(1, 3), max_size=8)
_PIECES = st.lists(st.lists(_PART, min_size=1, max_size=4), min_size=1, max_size=5)


def _number(piece: int, part: int) -> int:
    return piece << 32 | part


def _run(things: dict[tuple[int, int], int], shard: str) -> pa.Table:
    rows = [
        {"hash": hash_, "check": check, "shard": shard, "row": 7 + hash_, "token": check, "n_copies": n}
        for (hash_, check), n in sorted(things.items())
    ]
    return pa.Table.from_pylist(rows, schema=WINDOW_RUN)


@pytest.mark.parametrize(("most_runs", "max_bytes"), [(200, 256 << 20), (2, 256 << 20), (3, 900)])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=_PIECES)
def test_every_part_is_told_what_it_has_in_common_with_any(
    pieces: list[list[dict[tuple[int, int], int]]], most_runs: int, max_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(span_files, "MOST_RUNS", most_runs)
    monkeypatch.setattr(by_part, "MAX_BYTES", max_bytes)
    numbered = {_number(p, q): things for p, parts in enumerate(pieces) for q, things in enumerate(parts)}
    copies: dict[tuple[int, int], int] = defaultdict(int)
    first: dict[tuple[int, int], int] = {}
    for number, things in sorted(numbered.items()):
        for thing, n in things.items():
            copies[thing] += n
            first.setdefault(thing, number)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "told"
        folder.mkdir()
        runs = []
        for p, parts in enumerate(pieces):
            runs.append(Path(place) / f"run-{p}.parquet")
            own = (of_part(_run(things, f"s/{_number(p, q)}").to_batches(), _number(p, q)) for q, things in enumerate(parts))
            write_merged(own, interleaved, with_parts(WINDOW_RUN), runs[-1])
        assert write_by_part(runs, sorted(numbered), folder) == sum(n >= 2 for n in copies.values())
        for number, things in numbered.items():
            told = [row for batch in read_part(folder, number) for row in batch.to_pylist()]
            assert told == [
                {
                    "hash": thing[0], "check": thing[1], "shard": f"s/{first[thing]}", "row": 7 + thing[0], "token": thing[1],
                    "n_copies": copies[thing], "part": number,
                }
                for thing in sorted(things)
                if copies[thing] >= 2
            ]  # fmt: skip
        assert sorted(path.name for path in Path(place).iterdir()) == sorted(["told", *(run.name for run in runs)])


def test_a_part_that_repeats_nothing_has_no_file(tmp_path: Path) -> None:
    run = pa.table({"hash": pa.array([1], pa.uint64()), "n_copies": pa.array([1], pa.int64())}, schema=ANCHOR_RUN)
    span_files.write_run(tmp_path / "run.parquet", with_parts(ANCHOR_RUN), of_part(run.to_batches(), 0))
    (tmp_path / "told").mkdir()
    assert write_by_part([tmp_path / "run.parquet"], [0], tmp_path / "told") == 0
    assert list(read_part(tmp_path / "told", 0)) == []
    assert pq.read_schema(tmp_path / "run.parquet").names == ["hash", "n_copies", "part"]
