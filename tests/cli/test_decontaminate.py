"""`tilth decontaminate`: files in, spans out; nothing that could be read, found or looked for goes unsaid."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ITEM = "Write a function that returns the sum of all even numbers in a list, or zero where there is none."
Tilth = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tilth(tmp_path: Path) -> Tilth:
    """Run a verb among two files and two benchmarks."""
    pages = [{"id": "a", "body": "Nothing here."}, {"id": "b", "body": f"é… {ITEM.upper()}\nThe end."}, {"id": "c"}]
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps(page) + "\n" for page in pages))
    (tmp_path / "note.txt").write_text(ITEM.replace(" ", "\n"))
    (tmp_path / "evens.jsonl").write_text(json.dumps({"task_id": "Evens/0", "prompt": ITEM, "answer": "sum"}) + "\n")
    (tmp_path / "odds.json").write_text(
        json.dumps([{"q": "Which of the many odd numbers below one hundred is the least of all?"}])
    )
    (tmp_path / "empty.jsonl").write_text("")

    def run(*words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tilth", "decontaminate", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == expect, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def test_spans_have_file_row_id_item_and_places(tilth: Tilth, tmp_path: Path) -> None:
    words = ["pages.jsonl", "note.txt", "--text", "body", "--benchmark", "evens=evens.jsonl", "--benchmark", "odds=odds.json"]
    done = tilth(*words, "--field", "odds=q", "-o", "out.parquet")
    assert "no document holds anything of the 1 items of `odds`" in done.stderr
    assert "2 of 3 documents read, 1 rows rejected; 2 spans" in done.stderr
    table = pq.read_table(tmp_path / "out.parquet")
    first, second = table.to_pylist()
    assert (first["file"], first["row"], first["id"], first["item"]) == ("note.txt", 0, None, "Evens/0")
    assert (second["file"], second["row"], second["id"], second["field"]) == ("pages.jsonl", 1, "b", "prompt")
    assert (second["start"], second["end"], second["coverage"]) == (3, 3 + len(ITEM) - 1, 1)
    assert set(json.loads(table.schema.metadata[b"tilth.benchmarks"])) == {"evens", "odds"}
    counts = json.loads(tilth(*words, "--field", "odds=q", "-o", "out.parquet", "--json").stdout)
    assert [one["n_found"] for one in counts["benchmarks"]] == [1, 0]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".", "out"))) == ["out.parquet"]


def test_substrings_find_what_is_hyphenated(tilth: Tilth, tmp_path: Path) -> None:
    (tmp_path / "broken.txt").write_text(ITEM.replace("ti", "t-\ni").replace("st", "s-\nt").replace("ze", "z-\ne"))
    words = ["broken.txt", "--benchmark", "evens=evens.jsonl", "-o", "out.parquet"]
    tilth(*words)
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0
    tilth(*words, "--substring", "50")
    assert pq.read_table(tmp_path / "out.parquet").column("method").to_pylist() == ["substring"]


REFUSED = {
    "no items": (["note.txt", "--benchmark", "x=empty.jsonl"], "the benchmark has no items"),
    "no known field": (["note.txt", "--benchmark", "x=odds.json"], "no field of the benchmark is known to hold texts"),
    "a wrong field": (["note.txt", "--benchmark", "x=evens.jsonl", "--field", "x=promt"], "Did you mean `prompt`?"),
    "fields of another": (["note.txt", "--benchmark", "x=evens.jsonl", "--field", "y=prompt"], "no benchmark"),
    "short items alone": (["note.txt", "--benchmark", "x=evens.jsonl", "--field", "x=answer"], "nothing of the benchmark `x`"),
    "no such benchmark": (["note.txt", "--benchmark", "x=none.jsonl"], "no such benchmark file"),
    "no name": (["note.txt", "--benchmark", "evens.jsonl"], "is not NAME=PATH"),
    "a name twice": (["note.txt", *["--benchmark", "x=evens.jsonl"] * 2], "given twice"),
    "no texts": (["pages.jsonl", "--benchmark", "x=evens.jsonl"], "no document could be read"),
    "no files": (["none*.txt", "--benchmark", "x=evens.jsonl"], "none*.txt"),
    "n below the shortest": (["note.txt", "--benchmark", "x=evens.jsonl", "--n", "5"], "min_words"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_said_and_nothing_is_written(name: str, tilth: Tilth, tmp_path: Path) -> None:
    words, answer = REFUSED[name]
    lines = tilth(*words, "-o", "out.parquet", expect=2).stderr.splitlines()
    assert [line[:6] for line in lines if line[:6] in ("error:", "   at:", "  fix:")] == ["error:", "   at:", "  fix:"]
    assert answer in "\n".join(lines)
    assert not (tmp_path / "out.parquet").exists()
