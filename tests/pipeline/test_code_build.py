"""The pieces of benchmarks/code_build.py on tiny repositories: two builds compared, parts of a folder, samples for the peer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def bench(repository: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository / "benchmarks"))
        import code_build

    return code_build


def test_equal_builds_do_not_differ_and_others_do(bench: Any, tmp_path: Path) -> None:
    one, other = (bench.tiny_repository(tmp_path / name, f"print('{name}')\n") for name in ("rye", "oats"))
    first, again = (bench.built(tmp_path / f"build{number}", [one]) for number in range(2))
    assert bench.differing(first, again) == []
    both = bench.built(tmp_path / "both", [one, other])
    assert bench.differing(first, both)[0] == "dedup.candidates bands/000"
    assert sum(name.startswith("read ") for name in bench.differing(first, both)) == 1  # of the other repository
    assert both.sizes() == [(13, 1), (14, 1)]
    assert [(row["path"], row["language"], row["text"]) for row in bench.records(both)] == [
        ("seed.py", "Python", "print('rye')\n"),
        ("seed.py", "Python", "print('oats')\n"),
    ]
    assert first.cost.cpu_seconds > 0
    spent = re.findall(r"([\w.]+) (\d+) %", bench.time_by_step(first))
    assert len(spent) == 7
    shares = [int(share) for _, share in spent]
    assert shares == sorted(shares, reverse=True)
    assert 50 < sum(shares) <= 104  # of the seven longest steps, each rounded


def test_parts_of_a_folder_are_like_the_whole(bench: Any) -> None:
    sizes = [(1000 * number, 10 * (number % 5 + 1)) for number in range(1, 25)]
    parts = bench.nested(sizes)
    assert parts[2] == list(range(24))
    assert set(parts[0]) < set(parts[1])
    for share, part in zip((0.25, 0.5), parts):
        for column in range(2):
            whole = sum(size[column] for size in sizes)
            assert sum(sizes[number][column] for number in part) == pytest.approx(share * whole, rel=0.1)


def test_the_peer_sees_small_and_large_files_alike(bench: Any, repository: Path) -> None:
    documents = [{"path": str(size), "n_bytes": size} for size in range(1, 101)]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository / "benchmarks"))
        from code_peers import sample
    assert [document["n_bytes"] for document in sample(documents, 505)] == list(range(6, 101, 10))
    assert sample(documents, 10_000) == documents
