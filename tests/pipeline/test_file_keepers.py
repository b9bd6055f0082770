"""`tilth dedup --keep`: the rule asks for any field of the user's files, and exactly one of each cluster stays."""

from __future__ import annotations

import gzip
import json
import random
import re
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tilth.dedup.minhash.parameters import MinHashParameters
from tilth.errors import QueryError
from tilth.pipeline.dedup_files import Search, deduplicate
from tilth.pipeline.dedup_keys import deduplicate_by_keys

Run = Callable[..., subprocess.CompletedProcess[str]]
BODY = " ".join(f"word{i}" for i in range(200))


def rows() -> list[dict[str, Any]]:
    """Twenty pages, each four times with another tail, host, stars, date and score."""
    rng = random.Random(3)
    found = []
    for page in range(20):
        text = " ".join(rng.sample(BODY.split(), 150))
        for copy in range(4):
            found.append(
                {
                    "id": f"{page}-{copy}",
                    "text": text + " tail" * rng.randrange(4),
                    "url": f"http://example.org/{page}",
                    "stars": rng.choice([0, 1, 5, None]),
                    "date": f"20{rng.randrange(10, 25)}-01-{rng.randrange(10, 28)}",
                    "meta": {"host": rng.choice(["a.org", "b.org"]), "score": rng.random()},
                }
            )
    rng.shuffle(found)
    return found


def write(folder: Path, found: list[dict[str, Any]]) -> list[str]:
    """A third as JSON lines, with damage and a blank line; a third packed; a third as Parquet."""
    lines = [json.dumps(row, ensure_ascii=False) for row in found]
    (folder / "a.jsonl").write_text("\n".join(["{damaged", "", *lines[:26], '{"id": "z"}']) + "\n")
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(lines[26:53]).encode()))
    pq.write_table(pa.Table.from_pylist(found[53:]), folder / "c.parquet")
    return [str(folder / name) for name in ("a.jsonl", "b.jsonl.gz", "c.parquet")]


def keepers(path: Path) -> dict[str, set[str]]:
    """The keeper of each cluster with all its members."""
    members: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in pq.read_table(path).to_pylist():
        members[row["cluster_id"]].append(row)
    for cluster in members.values():
        assert sum(row["is_keeper"] for row in cluster) == 1
    return {
        next(row["id"] for row in cluster if row["is_keeper"]): {row["id"] for row in cluster} for cluster in members.values()
    }


RULES: dict[str, Callable[[dict[str, Any]], Any]] = {  # the smallest is kept, of equals the first
    "longest": lambda row: -len(row["text"]),
    "latest date": lambda row: [-ord(char) for char in row["date"]],
    "earliest date": lambda row: row["date"],
    "stars desc": lambda row: -row["stars"] if row["stars"] is not None else 1,
    "meta.host = 'b.org' desc, meta.score": lambda row: (row["meta"]["host"] != "b.org", row["meta"]["score"]),
}


@pytest.mark.parametrize("method", ["minhash", "url"])
@pytest.mark.parametrize("rule", RULES)
def test_the_best_by_the_rule_stays(rule: str, method: str, tmp_path: Path) -> None:
    found = rows()
    search = Search(write(tmp_path, found), tmp_path / "out.parquet", MinHashParameters(), id="id", keep=(rule,))
    deduplicate(search) if method == "minhash" else deduplicate_by_keys(search, method, method)
    order = {row["id"]: (RULES[rule](row), place) for place, row in enumerate(found)}
    kept = keepers(tmp_path / "out.parquet")
    assert len(kept) == 20
    for keeper, members in kept.items():
        assert len(members) == 4
        assert keeper == min(members, key=order.__getitem__)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl.gz", "c.parquet", "out.parquet"]


def test_without_an_id_rows_are_found_again(tmp_path: Path) -> None:
    found = rows()
    files = write(tmp_path, found)
    deduplicate(Search(files, tmp_path / "out.parquet", MinHashParameters(), keep=("longest", "stars")))
    numbered = [
        *(f"a.jsonl:{i}" for i in range(1, 27)),
        *(f"b.jsonl.gz:{i}" for i in range(27)),
        *(f"c.parquet:{i}" for i in range(27)),
    ]
    own = dict(zip(numbered, found, strict=True))
    for keeper, members in keepers(tmp_path / "out.parquet").items():
        assert len(own[keeper]["text"]) == max(len(own[member]["text"]) for member in members)


def test_all_but_the_keeper_is_as_without_a_rule(tmp_path: Path) -> None:
    files = write(tmp_path, rows())
    for name, keep in (("plain", ()), ("ruled", ("stars desc",))):
        deduplicate(Search(files, tmp_path / f"{name}.parquet", MinHashParameters(), id="id", keep=keep))
    plain, ruled = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("plain", "ruled"))
    assert plain.schema == ruled.schema
    assert plain.drop_columns("is_keeper") == ruled.drop_columns("is_keeper")
    assert plain != ruled


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("startz desc", "Did you mean `stars`?.*columns id, text, url, stars, date, meta"),
        ("crawled", "columns id, text"),
        ("stars desc; drop table x", "without `;`|more than a keeper rule"),
        ("count(*)", "speaks of many documents"),
        ("date + meta", "columns id"),
    ],
)
def test_mistakes_are_said_before_the_search_with_the_columns_there_are(rule: str, words: str, tmp_path: Path) -> None:
    search = Search(write(tmp_path, rows()), tmp_path / "out.parquet", MinHashParameters(), id="id", keep=(rule,))
    for run in (lambda: deduplicate(search), lambda: deduplicate_by_keys(search, "url", "url")):
        with pytest.raises(QueryError) as raised:
            run()
        assert re.search(words, str(raised.value).replace("\n", " "))
    assert not (tmp_path / "out.parquet").exists()


def test_a_rule_that_fails_on_a_document_loses_nothing_that_was_found(tmp_path: Path) -> None:
    found = rows()
    found[-1]["url"] = "three"
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows()[:4] * 60, *found][-300:]))
    search = Search([str(tmp_path / "a.jsonl")], tmp_path / "out.parquet", MinHashParameters(), keep=("cast(url[20:] as int)",))
    with pytest.raises(QueryError, match=r"(?s)three|Could not convert.*columns"):
        deduplicate(search)
    assert not (tmp_path / "out.parquet").exists()
    again = deduplicate(Search(search.files, search.output, search.parameters, keep=("stars",)))
    assert again.n_made == 0


def test_the_verb(tmp_path: Path, tilth: Run) -> None:
    write(tmp_path, rows())
    done = tilth("dedup", "a.jsonl", "--id", "id", "--keep", "longest", "--keep", "stars desc", "-o", "out.parquet", cwd=tmp_path)
    assert "longest, then stars desc, then the first" in done.stderr
    assert "Did you mean `stars`" in tilth("dedup", "a.jsonl", "--keep", "star", "-o", "x.parquet", cwd=tmp_path, expect=2).stderr
