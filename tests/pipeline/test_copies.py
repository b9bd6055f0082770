"""Copies that are marked beside equal texts, and repeated passages that are cut, from a recipe to SQL."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tilth import Corpus, Folder, MinHashParameters
from tilth.errors import RecipeError
from tilth.pipeline.recipe import RepeatedLines, RepeatedSentences, SimHash

Run = Callable[..., object]


def query(tilth: Run, project: Path, sql: str) -> list[dict]:
    return json.loads(tilth("sql", sql, "--json", cwd=project).stdout)


def test_each_method_has_its_column_and_none_decides_who_is_kept(copies: Path, tilth: Run) -> None:
    flags = [f"count(*) filter (not is_{name}keeper)" for name in ("", "exact_", "url_", "normal_text_")]
    sums = ", ".join(
        [*flags, "count(duplicate_similarity)", "count(distinct cluster_id)", "count(is_simhash_keeper)", "count(*)"]
    )
    (row,) = query(tilth, copies, f"select [{sums}] as counts from copies")
    assert row["counts"] == [0, 0, 5, 5, 0, 43, 43, 43]


def test_marks_name_the_copies_and_what_they_match(copies: Path, tilth: Run) -> None:
    marks = query(
        tilth,
        copies,
        """select d.method, c.url, o.url as first, d.similarity from copies.duplicates as d join copies as c using (shard, row)
        join copies as o on d.matched_id = o.doc_id where not d.is_keeper""",
    )
    found = {
        method: {row["url"]: row["first"] for row in marks if row["method"] == method}
        for method in ("normal_text", "url", "simhash")
    }
    # "First" is by shard and row, so of a page and its copy either can be it.
    pairs = {method: {frozenset(pair) for pair in found[method].items()} for method in found}
    copies_of = [("url", "HTTP://Example.org:80/{}/?utm_source=x#top"), ("normal_text", "http://example.org/other/{}")]
    for method, copy in copies_of:
        assert pairs[method] == {frozenset((copy.format(i), f"http://example.org/{i}")) for i in range(5)}
    assert {url.rsplit("/", 1)[-1] for url in found["simhash"]} == set("01234")
    assert all(row["similarity"] >= 1 - 5 / 64 for row in marks)


def test_repeated_passages_are_cut_and_counted(copies: Path, tilth: Run) -> None:
    rows = query(tilth, copies, "select text from copies where contains(text, 'reserved here')")
    assert len(rows) == 1  # the first copy of the paragraph
    texts = [row["text"] for row in query(tilth, copies, "select text from copies where source = 'passages' order by shard, row")]
    assert [text.count(". ") for text in texts] == [4, 1, 1, 1, 1, 1]
    counts = query(tilth, copies, "select reason, count(*) as n from copies.edits group by all order by all")
    assert counts == [{"reason": "repeated_paragraph", "n": 5}, {"reason": "repeated_sentences", "n": 5}]


def test_the_limits_empty_documents_and_other_steps_are_not_made_again(copies: Path, tilth: Run, tmp_path: Path) -> None:
    project = Path(shutil.copytree(copies, tmp_path / "project", symlinks=True))
    store = project / ".tilth" / "artifacts"
    before = {
        step: {path.name for path in (store / step).iterdir()} for step in ("edits.sentences", "dedup.url_keys", "dedup.url")
    }
    tilth("build", "copies", "min_words=1000", cwd=project)
    assert {step: {path.name for path in (store / step).iterdir()} for step in before} == before
    (row,) = query(tilth, project, "select count(*) as n from copies where text = '' and source = 'passages'")
    assert row["n"] == 5
    reasons = query(tilth, project, "select distinct reason from copies.edits order by reason")
    # The paragraph lies within what goes because too little is left.
    assert [row["reason"] for row in reasons] == ["repeated_sentences", "too_short_after_cuts"]


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_makes_the_same(copies: Path, tilth: Run, tmp_path: Path, workers: int) -> None:
    project = tmp_path / "project"
    (project / "recipes").mkdir(parents=True)
    (project / "recipes" / "copies.py").write_bytes((copies / "recipes" / "copies.py").read_bytes())
    tilth("build", "copies", "--workers", str(workers), cwd=project)
    parts = [json.loads((folder / ".tilth/names/corpus/copies.json").read_text())["parts"] for folder in (copies, project)]
    assert parts[0] == parts[1]


def _corpus(**settings: object) -> Corpus:
    return Corpus(sources=[Folder("a", "a")], **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("duplicates", "words"),
    [
        (("exact",), "always marked"),
        (("simhash",), r"SimHash\(\)"),
        (("urls",), "Known:"),
        ((MinHashParameters(),), "near_duplicates"),
        (("url", "url"), "twice"),
        ((SimHash(), SimHash(n=5)), "twice"),
    ],
)
def test_other_methods_are_refused(duplicates: tuple[object, ...], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        _corpus(duplicates=duplicates)


def test_edits_that_cannot_be_are_refused() -> None:
    _corpus(edits=[RepeatedLines(), RepeatedLines(unit="paragraph"), RepeatedSentences(), RepeatedSentences(unit="line")])
    for edits, words in (
        ([RepeatedLines(unit="paragraph"), RepeatedLines(unit="paragraph")], "twice"),
        ([RepeatedSentences(sources=("b",))], "wants a source `b`"),
    ):
        with pytest.raises(RecipeError, match=words):
            _corpus(edits=edits)
    for wrong in ({"unit": "word"}, {"n": 0}, {"min_words": -1}):
        with pytest.raises(RecipeError):
            RepeatedSentences(**wrong)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="unit"):
        RepeatedLines(unit="word")  # type: ignore[arg-type]
