"""Repeated passages of a user's own files: the cuts of the library whatever the cut into files and parts, and their first copies."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tilth.dedup.minhash.parameters import MinHashParameters
from tilth.dedup.passages.line_hashes import normalize_line
from tilth.dedup.passages.lines import line_edits, line_run, repeated_lines
from tilth.dedup.passages.sentences import sentence_edits, sentence_run
from tilth.dedup.passages.span_files import repeated_spans
from tilth.errors import RecipeError, SourceError
from tilth.pipeline import passage_steps
from tilth.pipeline.dedup_files import Search
from tilth.pipeline.passage_files import cut_passages
from tilth.pipeline.passage_steps import Passages

Run = Callable[..., subprocess.CompletedProcess[str]]
MODES = ("keep_first", "remove_all_copies")
CASES = [*((method, mode) for method in ("lines", "paragraphs", "substring") for mode in MODES), ("sentences", "keep_first")]


def texts(n: int = 60) -> list[str | None]:
    """Paragraphs of lines of sentences, drawn from few, with accents and marks; a null and an empty text among them."""
    rng = random.Random(9)
    sentences = [f"Señor {i} walked {rng.randrange(9)} miles, and “sat” down." for i in range(400)]
    lines = [" ".join(rng.sample(sentences, rng.randrange(1, 5))) for _ in range(60)]
    whole = ["\n".join(rng.sample(lines, 2)) for _ in range(20)]
    found: list[str | None] = []
    for _ in range(n):
        fresh = [" ".join(rng.choices("abcdefg", k=12)) + "." for _ in range(3)]
        paragraphs = ["\n".join(rng.choices([*lines, *fresh], k=rng.randrange(1, 4))) for _ in range(rng.randrange(1, 4))]
        found.append("\n\n".join([*paragraphs, rng.choice(whole)]))
    found[7], found[11] = None, ""
    return found


def write(folder: Path, found: list[str | None]) -> list[str]:
    """Three files, one packed and one a table; the ids are the numbers of the texts."""
    rows: list[dict[str, Any]] = [{"id": i, "text": text} for i, text in enumerate(found)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:20]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows[20:40]).encode()))
    pq.write_table(pa.Table.from_pylist(rows[40:]), folder / "c.parquet")
    return [str(folder / name) for name in ("a.jsonl", "b.jsonl.gz", "c.parquet")]


def library(found: list[str | None], method: str, mode: str, folder: Path) -> list[tuple[int, int, int]]:
    """(text, start, end) of the cuts, all texts as one shard."""
    kept = [i for i, text in enumerate(found) if text is not None]
    columns = {"shard": pa.array(["s"] * len(kept)), "row": pa.array(kept, pa.int32())}
    table = pa.table({**columns, "text": pa.array([found[i] for i in kept], pa.large_string())})
    if method == "substring":
        (edits,) = repeated_spans([table.to_batches], folder, 12, mode)  # type: ignore[arg-type]
    elif method == "sentences":
        edits = sentence_edits(table, list(repeated_lines([sentence_run(table, 2)])), 2)
    else:
        unit = method.removesuffix("s")
        repeated = list(repeated_lines([line_run(table, unit)]))  # type: ignore[arg-type]
        edits = line_edits(table, repeated, mode, keep_empty=True, unit=unit)  # type: ignore[arg-type]
    return list(zip(*(edits.column(name).to_pylist() for name in ("row", "start", "end")), strict=True))


@pytest.mark.parametrize("part_bytes", [1_000, 64 << 20])
@pytest.mark.parametrize(("method", "mode"), CASES)
def test_cuts_are_the_librarys_however_files_are_cut(
    method: Any, mode: str, part_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passage_steps, "PART_BYTES", part_bytes)
    monkeypatch.setattr("tilth.corpus.columns.BLOCK_BYTES", 2_000)
    monkeypatch.setattr("tilth.corpus.columns.PARQUET_ROWS", 5)
    monkeypatch.setattr("tilth.dedup.passages.span_files.MOST_RUNS", 3)
    found = texts()
    search = Search(write(tmp_path, found), tmp_path / "cuts.parquet", MinHashParameters(), id="id")
    counts = cut_passages(search, Passages(method, mode, n=2, min_tokens=12))
    rows = pq.read_table(tmp_path / "cuts.parquet").to_pylist()
    assert [(row["id"], row["start"], row["end"]) for row in rows] == library(found, method, mode, tmp_path)
    assert len(rows) > 10
    assert all(row["text"] == (found[row["id"]] or "")[row["start"] : row["end"]] for row in rows)
    assert {row["method"] for row in rows} == {method}
    assert (counts.n_documents, counts.n_rejected, counts.n_cuts) == (60, 1, len(rows))
    assert counts.n_cut_documents == len({row["id"] for row in rows})
    assert counts.n_cut_chars == sum(row["end"] - row["start"] for row in rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl.gz", "c.parquet", "cuts.parquet"]


@pytest.mark.parametrize("mode", MODES)
def test_each_cut_names_the_first_copy_of_the_line_that_it_begins_with(mode: str, tmp_path: Path) -> None:
    found = texts()
    search = Search(write(tmp_path, found), tmp_path / "cuts.parquet", MinHashParameters(), id="id")
    cut_passages(search, Passages("lines", mode))
    places: dict[str, list[tuple[int, int]]] = {}
    for number, text in enumerate(found):
        for line, words in enumerate((text or "").split("\n")):
            places.setdefault(normalize_line(words), []).append((number, line))
    rows = pq.read_table(tmp_path / "cuts.parquet").to_pylist()
    for row in rows:
        copies = places[normalize_line(row["text"].strip("\n").split("\n")[0])]
        assert (row["first_id"], row["first_unit"], row["n_copies"]) == (*copies[0], len(copies))
    is_first = [row["first_id"] == row["id"] for row in rows]
    assert any(is_first) or mode == "keep_first"


def test_the_first_copy_of_a_substring_is_named_by_its_token(tmp_path: Path) -> None:
    shared = " ".join(f"t{i}" for i in range(30))
    rows = [{"id": "x", "text": f"one two {shared} end"}, {"id": "y", "text": f"three {shared}"}, {"id": "z", "text": shared}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    search = Search([str(tmp_path / "a.jsonl")], tmp_path / "cuts.parquet", MinHashParameters(), id="id")
    cut_passages(search, Passages("substring", min_tokens=20))
    found = pq.read_table(tmp_path / "cuts.parquet").to_pylist()
    assert [(row["id"], row["text"], row["n_copies"], row["first_id"], row["first_unit"]) for row in found] == [
        ("y", shared, 3, "x", 2),
        ("z", shared, 3, "x", 2),
    ]
    # In a run of one token what goes begins behind the first window, and so within one.
    # Where no whole window is left there, nothing is known of it.
    for n_tokens, known in ((100, (81, "run", 0)), (30, (None, None, None))):
        (tmp_path / "a.jsonl").write_text(json.dumps({"id": "run", "text": "la " * n_tokens}) + "\n")
        cut_passages(search, Passages("substring", min_tokens=20))
        (row,) = pq.read_table(tmp_path / "cuts.parquet").to_pylist()
        assert (row["start"], row["end"]) == (60, 3 * n_tokens)
        assert (row["n_copies"], row["first_id"], row["first_unit"]) == known


def test_mistakes(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n')
    search = Search([str(tmp_path / "a.jsonl")], tmp_path / "cuts.parquet", MinHashParameters(), id="id")
    with pytest.raises(SourceError, match="1 ids stand for more than one document"):
        cut_passages(search, Passages("lines"))
    assert not (tmp_path / "cuts.parquet").exists()
    for wrong in ({"method": "words"}, {"mode": "some"}, {"method": "sentences", "mode": "remove_all_copies"}, {"min_tokens": 0}):
        with pytest.raises(RecipeError):
            Passages(**{"method": "lines", **wrong})


def test_the_verb(tmp_path: Path, tilth: Run) -> None:
    write(tmp_path, texts())
    words = ["dedup", "a.jsonl", "c.parquet", "--id", "id", "-o", "cuts.parquet", "--method"]
    one = tilth(*words, "substring", "--min-tokens", "12", "--mode", "remove_all_copies", cwd=tmp_path)
    assert "characters cut" in one.stdout
    table = pq.read_table(tmp_path / "cuts.parquet")
    tilth(*words, "substring", "--min-tokens", "12", "--mode", "remove_all_copies", "--workers", "2", cwd=tmp_path)
    assert pq.read_table(tmp_path / "cuts.parquet") == table
    nothing = tilth(*words, "sentences", "--n", "50", "--json", cwd=tmp_path)
    assert json.loads(nothing.stdout)["n_cuts"] == 0
    assert "warning: no passage of 40 documents is repeated: cuts.parquet has no rows" in nothing.stderr
    assert pq.read_table(tmp_path / "cuts.parquet").num_rows == 0


@pytest.mark.slow
def test_killed_at_random_moments_it_goes_on_to_the_same_table(
    tmp_path: Path, killed_and_repeated: Callable[..., tuple[bytes, bytes]]
) -> None:
    for part in range(4):
        rows = [{"id": f"{part}-{i}", "text": text} for i, text in enumerate(texts(600))]
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [sys.executable, "-m", "tilth", "dedup", ".", "--id", "id", "--method", "lines", "-o", "out.parquet"]
    whole, found = killed_and_repeated(words, tmp_path, "out.parquet", 4, seed=1)
    assert found == whole
