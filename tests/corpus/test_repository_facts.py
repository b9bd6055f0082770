"""Tables of stars and the like: found by any spelling of a repository's name, and every mistake is told with its line."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tilth.corpus.repository_facts import read_facts
from tilth.corpus.sources.git_repositories import GitRepositories
from tilth.errors import SourceError


def table(folder: Path, text: str, name: str = "facts.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize(
    "named", ["https://github.com/Ann/Plough.git", "git@github.com:ann/plough", "ann/plough", "github.com/ann/plough/"]
)
def test_any_spelling_of_an_origin_finds_its_row(named: str, tmp_path: Path) -> None:
    facts = read_facts(table(tmp_path, f"repository,stars\n{named},7\n"))
    assert facts.of("https://github.com/ann/plough", "clones/x") == {"stars": "7"}
    assert facts.of("https://github.com/ben/plough", "plough") is None


def test_a_folder_names_a_repository_too(tmp_path: Path) -> None:
    facts = read_facts(table(tmp_path, "repository,stars\nbare/x.git,7\n"))
    assert facts.of("https://github.com/ann/plough", "bare/x.git") == {"stars": "7"}


def test_values_become_text_and_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    rows = [
        {"repository": "a/a", "stars": 5.0, "forks": None, "licence": " MIT ", "archived": True, "created": date(2020, 1, 2)},
        {"repository": "b/b", "stars": float("nan"), "forks": 3, "licence": "", "archived": None, "created": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "facts.parquet")
    facts = read_facts(str(tmp_path / "facts.parquet"))
    assert facts.rows == {
        "a/a": {"stars": "5", "licence": "MIT", "archived": "true", "created": "2020-01-02"}, "b/b": {"forks": "3"},
    }  # fmt: skip
    lines = '{"repository": "a/a", "stars": 5}\n\n{"repository": "b/b", "forks": "3"}\n'
    assert read_facts(table(tmp_path, lines, "facts.jsonl")).rows == {"a/a": {"stars": "5"}, "b/b": {"forks": "3"}}


@pytest.mark.parametrize(
    ("text", "what", "where"),
    [
        ("repository,stars\na/a,5\nA/a.git,6\n", "`A/a.git` has a row already: 2", "line 3"),
        ("repository,stars\na/a,many\n", "`stars` is 'many', not of its type", "line 2"),
        ("repository,stars\na/a,-1\n", "`stars` is '-1'", "line 2"),
        ("repository,forks\na/a,2.5\n", "`forks` is '2.5'", "line 2"),
        ("repository,stars\n,5\n", "`repository` is empty", "line 2"),
        ("repository,stars\na/a,5,6\n", "longer than its head", "line 2"),
        ("repository,snapshot_refs\na/a,5\n", "named `snapshot_refs`", "line 2"),
        ("name,stars\na/a,5\n", "no column `repository`", "line 2"),
        ("repository,stars\n", "has no rows", "facts.csv"),
        ('repository,stars\n"a/a,5\n', "cannot be read", "facts.csv"),
    ],
)
def test_a_mistake_is_told_with_its_line(text: str, what: str, where: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        read_facts(table(tmp_path, text))
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert what in lines[0]
    assert where in lines[1]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"repository": "a/a", "topics": ["x"]}', "`topics` is"),
        ('{"repository": "a/a", "stars": true}', "`stars` is True"),
        ('{"repository": 3}', "`repository` is 3"),
        ("[1]", "no object"),
        ('{"repository": ', "cannot be read"),
    ],
)
def test_a_mistake_in_json_lines(text: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"facts\.jsonl") as caught:
        read_facts(table(tmp_path, text + "\n", "facts.jsonl"))
    assert what in str(caught.value)


@pytest.mark.parametrize("path", ["nowhere.csv", "facts.xml"])
def test_a_table_that_is_none(path: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot be read|no kind of table"):
        read_facts(str(tmp_path / path))


def test_facts_are_in_the_meta_of_every_document_and_in_the_key_of_their_shard_alone(
    repo: Any, rows: Callable[..., Any], tmp_path: Path
) -> None:
    repo.write("a.py", "a = 1\n")
    repo.write("b.py", "b = 1\n")
    repo.commit()
    repo.git("clone", "-q", "--bare", str(repo.path), str(tmp_path / "clones/other.git"))
    (tmp_path / "clones/link").symlink_to(repo.path)

    def source(text: str) -> GitRepositories:
        return GitRepositories("code", str(tmp_path / "clones"), facts=table(tmp_path, text))

    known = source("repository,stars\nlink,7\nother.git,\nsomebody/else,9\n")
    assert [row["origin"] for row in rows(known).occurrences] == ["link"] * 2 + ["other.git"] * 2
    meta = [dict(row["meta"]) for row in rows(known).documents]
    assert [one.get("stars") for one in meta] == ["7"] * 2 + [None] * 2
    before, after = known.plan(), source("repository,stars\nlink,8\nother.git,\n").plan()
    assert [one.params == other.params for one, other in zip(before, after, strict=True)] == [False, True]
    with pytest.raises(SourceError, match=r"1 of the repositories have no row in the table: `other\.git`"):
        source("repository,stars\nlink,7\n").plan()
    repo.git("remote", "add", "origin", "https://github.com/ann/plough")
    with pytest.raises(SourceError, match="two rows are about one repository"):
        source("repository,stars\nlink,7\nann/plough,8\nother.git,\n").plan()
    assert "facts" not in GitRepositories("code", str(tmp_path / "clones")).plan()[0].params
