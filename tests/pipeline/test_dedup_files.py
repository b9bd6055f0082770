"""`tilth dedup` on a user's own files: clusters by their ids, whatever the cut; what is finished is kept; mistakes in words."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tilth.dedup.minhash.parameters import MinHashParameters
from tilth.errors import RecipeError, SourceError, StoreError
from tilth.pipeline.dedup_files import Search, deduplicate, plan_search

Run = Callable[..., subprocess.CompletedProcess[str]]
PARAMETERS = MinHashParameters()


def documents(n: int, seed: int = 0) -> list[dict[str, str]]:
    """A third of them copies of an earlier one with a word or two changed."""
    rng = random.Random(seed)
    found: list[dict[str, str]] = []
    for i in range(n):
        words = [f"w{rng.randrange(3000)}" for _ in range(120)]
        if i > 5 and rng.random() < 0.33:
            words = rng.choice(found)["text"].split()
            for _ in range(rng.randrange(3)):
                words[rng.randrange(len(words))] = f"x{rng.randrange(100)}"
        found.append({"id": f"{seed}-{i}", "text": " ".join(words), "url": f"http://example.org/{i}"})
    return found


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def clusters(path: Path) -> set[frozenset[str]]:
    found: dict[str, set[str]] = {}
    for row in pq.read_table(path).to_pylist():
        found.setdefault(row["cluster_id"], set()).add(row["id"])
    return {frozenset(members) for members in found.values()}


def run(files: Path | list[Path], output: Path, **options: object) -> dict[str, int]:
    names = [str(file) for file in (files if isinstance(files, list) else [files])]
    return deduplicate(Search(names, output, **{"parameters": PARAMETERS, "id": "id", **options})).stats  # type: ignore[arg-type]


def test_members_are_told_by_the_users_ids(tmp_path: Path) -> None:
    rows = documents(300)
    write(tmp_path / "a.jsonl", rows)
    run(tmp_path / "a.jsonl", tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    texts = {row["id"]: set(zip(*[row["text"].split()[i:] for i in range(5)])) for row in rows}
    assert len(found) > 130
    for row in found:
        a, b = texts[row["id"]], texts[row["matched_id"]]
        assert row["id"] != row["matched_id"]
        assert row["similarity"] == pytest.approx(len(a & b) / len(a | b), abs=1e-6)
        assert row["is_keeper"] == (row["id"] == row["cluster_id"])
        assert (row["method"], row["threshold"]) == ("minhash", pytest.approx(0.7))
    assert not list(tmp_path.glob("*.index"))  # nothing is left


def test_any_cut_gives_the_same_clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = documents(400)
    write(tmp_path / "one/a.jsonl", rows)
    for part in range(4):
        write(tmp_path / f"four/{part}.jsonl", rows[part * 100 : part * 100 + 100])
    run(tmp_path / "one", tmp_path / "one.parquet")
    run(tmp_path / "four", tmp_path / "four.parquet")
    monkeypatch.setattr("tilth.corpus.columns.PIECE_BYTES", 10_000)
    run(tmp_path / "one", tmp_path / "pieces.parquet")
    whole = pq.read_table(tmp_path / "one.parquet")
    assert pq.read_table(tmp_path / "four.parquet") == whole
    assert pq.read_table(tmp_path / "pieces.parquet") == whole


def test_new_files_are_searched_against_an_index(tmp_path: Path) -> None:
    old, new = documents(300, seed=1), documents(30, seed=2)
    new += [{"id": f"copy-{i}", "text": row["text"] + " more"} for i, row in enumerate(old[:20])]
    write(tmp_path / "in/2024.jsonl", old)
    index = tmp_path / "index"
    first = deduplicate(Search([str(tmp_path / "in")], tmp_path / "first.parquet", PARAMETERS, id="id", index=index))
    write(tmp_path / "in/2025.jsonl", new)
    grown = deduplicate(Search([str(tmp_path / "in")], tmp_path / "grown.parquet", PARAMETERS, id="id", index=index))
    run(tmp_path / "in", tmp_path / "whole.parquet")
    assert (tmp_path / "grown.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert (first.n_made, grown.n_made) == (11, 11)  # one piece each, and the search, eight groups of bands among it
    matched = {row["id"]: row["matched_id"] for row in pq.read_table(tmp_path / "grown.parquet").to_pylist()}
    assert all(matched[f"copy-{i}"].startswith(("1-", "copy-")) for i in range(20))
    again = deduplicate(Search([str(tmp_path / "in")], tmp_path / "again.parquet", PARAMETERS, id="id", index=index))
    assert again.n_made == 0


def test_removed_documents_are_passed_over(tmp_path: Path) -> None:
    rows = documents(200)
    write(tmp_path / "a.jsonl", rows)
    index = tmp_path / "index"
    run(tmp_path / "a.jsonl", tmp_path / "all.parquet", index=index)
    gone = {min(cluster) for cluster in clusters(tmp_path / "all.parquet")}
    run(tmp_path / "a.jsonl", tmp_path / "less.parquet", index=index, gone=tuple(gone))
    write(tmp_path / "b.jsonl", [row for row in rows if row["id"] not in gone])
    run(tmp_path / "b.jsonl", tmp_path / "without.parquet")
    assert clusters(tmp_path / "less.parquet") == clusters(tmp_path / "without.parquet")
    assert gone


def test_an_index_of_other_parameters_is_refused_with_the_difference(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", documents(20))
    index = tmp_path / "index"
    run(tmp_path / "a.jsonl", tmp_path / "out.parquet", index=index)
    with pytest.raises(StoreError, match="n was 5, is 8"):
        run(tmp_path / "a.jsonl", tmp_path / "out.parquet", index=index, parameters=MinHashParameters(n=8))
    with pytest.raises(StoreError, match="id was id, is None"):
        run(tmp_path / "a.jsonl", tmp_path / "out.parquet", index=index, id=None)


def test_mistakes(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [*documents(20), documents(1)[0]])
    with pytest.raises(SourceError, match="1 ids stand for more than one document, for example `0-0`"):
        run(tmp_path / "a.jsonl", tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()
    run(tmp_path / "a.jsonl", tmp_path / "out.parquet", id=None)
    assert frozenset({"a.jsonl:0", "a.jsonl:20"}) <= next(c for c in clusters(tmp_path / "out.parquet") if "a.jsonl:0" in c)
    with pytest.raises(SourceError, match="no field `body`"):
        run(tmp_path / "a.jsonl", tmp_path / "out.parquet", text="body")
    with pytest.raises(SourceError, match="no field `body`") as refused:
        run(tmp_path / "a.jsonl", tmp_path / "out.parquet", id="body")
    assert str(refused.value.fix).startswith("--id names it")
    with pytest.raises(SourceError, match="no such file"):
        run(tmp_path / "nothing.jsonl", tmp_path / "out.parquet")
    with pytest.raises(RecipeError, match="folder"):
        run(tmp_path / "a.jsonl", tmp_path)


def test_a_search_passes_over_what_a_search_wrote(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", documents(60))
    for index in (None, tmp_path / "kept"):
        for _ in range(2):
            found = deduplicate(Search([str(tmp_path)], tmp_path / "out.parquet", PARAMETERS, id="id", index=index))
            assert found.n_documents == 60
    with pytest.raises(SourceError, match="nothing is there but what a search wrote"):
        run(tmp_path / "out.parquet", tmp_path / "out.parquet")


def test_the_verb(tmp_path: Path, tilth: Run) -> None:
    write(tmp_path / "a.jsonl", documents(100))
    done = tilth("dedup", "a.jsonl", "--id", "id", "-o", "out.parquet", "--json", cwd=tmp_path)
    counts = json.loads(done.stdout)
    assert counts["n_documents"] == 100
    assert counts["n_members"] == pq.read_metadata(tmp_path / "out.parquet").num_rows > 0
    assert "32 bands of 6 rows" in done.stderr
    planned = tilth("dedup", "a.jsonl", "-o", "other.parquet", "--explain", "--preset", "fineweb", cwd=tmp_path)
    assert "dedup.signatures a.jsonl" in planned.stdout
    assert "1 billion alike" in planned.stdout
    assert "14 bands of 8 rows" in planned.stderr
    assert not (tmp_path / "other.parquet").exists()
    write(tmp_path / "in/a.jsonl", documents(10))
    (tmp_path / "in/notes.txt").write_text("not for us")
    assert "a.jsonl" in tilth("dedup", "in", "-o", "other.parquet", "--explain", cwd=tmp_path).stdout


def test_nothing_found_is_said_loudly(tmp_path: Path, tilth: Run) -> None:
    write(tmp_path / "a.jsonl", [{"id": "a", "text": "one"}, {"id": "b", "text": "two"}])
    done = tilth("dedup", "a.jsonl", "--id", "id", "-o", "out.parquet", cwd=tmp_path)
    assert "warning: none of 2 documents has a duplicate" in done.stderr
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("exact", {frozenset("ab")}),
        ("normal_text", {frozenset("abc")}),
        ("url", {frozenset("ad")}),
        ("simhash", {frozenset("abc")}),
    ],
)
def test_other_methods(method: str, wanted: set[frozenset[str]], tmp_path: Path, tilth: Run) -> None:
    text = documents(1)[0]["text"]
    rows = [
        {"id": "a", "text": text, "url": "http://example.org/x?utm_source=q"},
        {"id": "b", "text": text, "url": "http://example.org/y"},
        {"id": "c", "text": text.upper() + ".", "url": "http://example.org/z"},
        {"id": "d", "text": documents(1, seed=4)[0]["text"], "url": "HTTP://EXAMPLE.org:80/x"},
        {"id": "e", "text": None, "url": None},
    ]
    write(tmp_path / "in/a.jsonl", rows[:2])
    write(tmp_path / "in/b.jsonl", rows[2:])
    (tmp_path / "in/notes.txt").write_text("not for us")
    done = tilth("dedup", "in", "--id", "id", "--method", method, "-o", "out.parquet", "--json", cwd=tmp_path)
    assert clusters(tmp_path / "out.parquet") == wanted
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert all((row["method"], row["is_keeper"]) == (method, row["id"] == row["cluster_id"]) for row in found)
    assert all(row["matched_id"] != row["id"] for row in found)
    assert json.loads(done.stdout)["n_documents"] == 5


@pytest.mark.slow
def test_killed_at_random_moments_the_search_ends_with_the_same_bytes(
    tmp_path: Path, killed_and_repeated: Callable[..., tuple[bytes, bytes]]
) -> None:
    for part in range(4):
        write(tmp_path / f"in/{part}.jsonl", documents(1500, seed=part))
    words = [sys.executable, "-m", "tilth", "dedup", "in", "--id", "id", "-o", "out.parquet"]
    whole, found = killed_and_repeated(words, tmp_path, "out.parquet", 8, seed=5)
    assert found == whole


def test_a_plan_says_what_would_run(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", documents(20))
    _, planned = plan_search(Search([str(tmp_path / "a.jsonl")], tmp_path / "out.parquet", PARAMETERS, id="id"))
    assert [(item.node.step.name, item.why) for item in planned] == [
        ("dedup.signatures", "new"),
        ("dedup.standing", "new"),
        ("dedup.candidates", "new"),
        ("dedup.minhash", "new"),
    ]
