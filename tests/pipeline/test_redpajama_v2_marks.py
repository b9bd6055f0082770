"""RedPajama-V2's duplicates and signatures read back into a corpus: marks of what is listed, no signature made twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tilth import Corpus, Folder
from tilth.catalog.sql import run_sql
from tilth.corpus import RedPajamaV2
from tilth.errors import RecipeError, SourceError
from tilth.pipeline.build import build
from tilth.pipeline.interchange import RedPajamaMinHash
from tilth.pipeline.project import Project
from tilth.pipeline.recipe import C4Lines
from tilth.pipeline.score import score
from tilth.pipeline.score_signals import choose

WORDS = [
    "soil",
    "seed",
    "root",
    "leaf",
    "rain",
    "field",
    "plough",
    "harvest",
    "barn",
    "furrow",
    "clover",
    "rye",
    "oat",
    "meadow",
    "hedge",
    "stone",
    "brook",
    "sun",
    "frost",
    "wind",
]


def _text(number: int, n_words: int = 120) -> str:
    return " ".join(
        WORDS[(i * i * (number + 3) + i * number + i // 7) % len(WORDS)] + str((i * number) % 11) for i in range(n_words)
    )


RECORDS = [
    {"text": _text(1), "url": "http://a.example/1", "language": "en", "bucket": "head"},
    {"text": _text(1) + " Amen.", "url": "http://a.example/2", "language": "en", "bucket": "head"},
    {"text": _text(2), "url": "http://b.example/1", "language": "en", "bucket": "head"},
    {"text": _text(1), "url": "http://c.example/1", "language": "en", "bucket": "head"},
    {"text": "Too short for a signature.", "url": "http://c.example/2", "language": "en", "bucket": "head"},
    {"text": _text(3), "url": "http://d.example/", "language": "en", "bucket": "tail"},
]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project on a layout that `tilth score` wrote, of two files: the second repeats a text of the first."""
    (tmp_path / "in").mkdir()
    for name, records in (("a.jsonl", RECORDS), ("b.jsonl", RECORDS[2:3])):
        (tmp_path / "in" / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    score([str(tmp_path / "in")], tmp_path / "layout", choose("rpv2", {}, {}), "rpv2", snapshot="2023-06")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "one.txt").write_text(_text(2) + " Amen.")
    (tmp_path / "project").mkdir()
    return Project(tmp_path / "project")


def make(project: Project, own: bool = False, **settings: Any) -> None:
    """Build the corpus `rp` of the layout, with `own` documents beside it."""
    folder = project.folder.parent
    sources = [RedPajamaV2("rp", str(folder / "layout")), *([Folder("mine", str(folder / "mine"))] if own else [])]
    given = {"near_duplicates": RedPajamaMinHash(0.8), "signals": (), "tokenizer": None, **settings}
    build(project, "rp", Corpus(sources, **given))


def query(project: Project, sql: str) -> list[dict[str, Any]]:
    return run_sql(project.store, sql).to_pylist()


def signed(project: Project) -> dict[str, int]:
    store = project.store
    stats = [store.artifact(part).stats for part in store.get_named("corpus", "rp").of("dedup.signatures")]
    return {name: sum(one[name] for one in stats) for name in ("n_rows", "n_published")}


def test_the_published_list_is_marks_in_the_catalog(project: Project) -> None:
    make(project, near_duplicates=None)
    rows = query(project, "select url, is_keeper, meta['rpv2_duplicate'] as listed, cluster_id from rp order by shard, row")
    by_url: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_url.setdefault(row["url"], []).append(row)
    assert [row["is_keeper"] for row in by_url["http://a.example/1"]] == [True]
    assert [row["is_keeper"] for row in by_url["http://c.example/1"]] == [False]
    assert [(row["is_keeper"], row["listed"]) for row in by_url["http://b.example/1"]] == [(True, None), (False, "true")]
    marks = query(project, "select method, is_keeper, similarity from rp.duplicates where method = 'digest'")
    assert len(marks) == 4
    assert sum(mark["is_keeper"] for mark in marks) == 2
    assert len({row["cluster_id"] for row in by_url["http://b.example/1"]}) == 1


def test_where_the_kept_copy_is_not_here_the_first_is_kept(project: Project) -> None:
    layout = project.folder.parent / "layout"
    for part in ("documents", "quality_signals", "minhash", "duplicates"):
        for path in (layout / part / "2023-06" / "0000").iterdir():
            path.unlink()
    make(project, near_duplicates=None)
    (row,) = query(project, "select is_keeper, meta['rpv2_duplicate'] as listed from rp")
    assert row == {"is_keeper": True, "listed": "true"}


def test_published_signatures_find_what_computed_ones_find(project: Project) -> None:
    marks = "select shard, row, is_keeper, similarity from rp.duplicates where method = 'minhash' order by all"
    make(project, own=True)
    assert signed(project) == {"n_rows": 8, "n_published": 7}
    found = query(project, marks)
    assert {row["shard"] for row in found} == {"mine/00000", "rp/00000", "rp/00002"}
    assert len(found) == 6  # three of text 1, two of text 2 and mine; none of the short one, none of text 3
    assert sum(row["is_keeper"] for row in found) == 2
    for path in (project.folder.parent / "layout" / "minhash").rglob("*.parquet"):
        path.unlink()
    make(project, own=True)
    assert signed(project) == {"n_rows": 8, "n_published": 0}
    assert query(project, marks) == found


def test_signatures_are_those_of_the_file_and_a_wrong_one_marks_nothing(project: Project) -> None:
    path = next((project.folder.parent / "layout" / "minhash").rglob("0000/en_head.minhash.parquet"))
    table = pq.read_table(path)
    columns = {name: table.column(name) for name in table.column_names}
    # every document gets the signature of the third
    same = [table.column(f"signature_sim0.{n}")[2] for n in (7, 8, 9)]
    for n, one in zip((7, 8, 9), same):
        columns[f"signature_sim0.{n}"] = pa.array([one.as_py()] * table.num_rows, pa.list_(pa.binary()))
    pq.write_table(pa.table(columns, schema=table.schema), path)
    make(project)
    found = query(project, "select url, similarity from rp join rp.duplicates using (shard, row) where method = 'minhash'")
    assert {row["url"] for row in found} == {
        f"http://{place}" for place in ("a.example/1", "a.example/2", "c.example/1", "b.example/1")
    }
    assert all(row["similarity"] >= 0.8 for row in found)


def test_edited_texts_are_signed_anew(project: Project) -> None:
    make(project, edits=[C4Lines()])
    assert signed(project) == {"n_rows": 7, "n_published": 0}


def test_a_damaged_file_of_signatures_is_named(project: Project) -> None:
    path = next((project.folder.parent / "layout" / "minhash").rglob("0000/en_head.minhash.parquet"))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(SourceError, match="published signatures cannot be read") as caught:
        make(project)
    assert str(caught.value.where).endswith("0000/en_head.minhash.parquet")
    path.unlink()
    make(project)


def test_only_published_thresholds_can_be_asked_for() -> None:
    with pytest.raises(RecipeError, match="no signatures for this threshold") as caught:
        RedPajamaMinHash(0.75)
    assert caught.value.fix == "There are 0.7, 0.8, 0.9, 1."
    assert (RedPajamaMinHash(0.7).n_bands, RedPajamaMinHash(0.7).n_rows) == (14, 9)


@pytest.mark.data
def test_real_documents_are_marked_alike_with_and_without_published_signatures(tmp_path: Path, test_data: Path) -> None:
    docs = [json.loads(line) for line in (test_data / "rpv2_reference" / "docs.jsonl").read_bytes().splitlines()]
    near = [{**doc, "raw_content": doc["raw_content"] + " Amen.", "digest": f"sha1:{i}"} for i, doc in enumerate(docs[:40])]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in [*docs, *near]))
    score([str(tmp_path / "docs.jsonl")], tmp_path / "layout", choose("rpv2", {}, {}), "rpv2", snapshot="2023-06")
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project")
    marks = "select doc_id, cluster_id, is_keeper, similarity from rp.duplicates where method = 'minhash' order by all"
    make(project)
    stats = signed(project)
    assert stats["n_published"] == stats["n_rows"] > 500
    found = query(project, marks)
    n_long = sum(len(doc["raw_content"].split()) >= 100 for doc in docs[:40])
    assert n_long > 15
    assert len(found) >= 2 * n_long  # of the long ones each with its copy
    for path in (tmp_path / "layout" / "minhash").rglob("*.parquet"):
        path.unlink()
    make(project)
    assert signed(project)["n_published"] == 0
    assert query(project, marks) == found
