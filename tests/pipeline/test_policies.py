"""Named policies over corpora that are built: by their own signals, by the published ones, or with what to add."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tilth import Corpus
from tilth.catalog.pick import pick
from tilth.catalog.policies import POLICIES
from tilth.catalog.sql import run_sql
from tilth.corpus import JsonLines
from tilth.errors import QueryError
from tilth.pipeline.build import build
from tilth.pipeline.explain import explain
from tilth.pipeline.inventory import describe
from tilth.pipeline.linguist import Linguist
from tilth.pipeline.project import Project
from tilth.pipeline.recipe import Bpe, Perplexity

WORDS = ["the", "soil", "is", "made", "ready", "for", "seed", "and", "rye", "of", "a", "field"]
CODE = ("code_shape", "code_head", "code_html", "code_comments")
ALL = ("natural_language", "repetition", "lines", "language", "gopher", "gopher_repetition", "c4", "fineweb", "dolma", "pii")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Pages, half of which come with CCNet's bucket."""
    for name, bucket in (("web", None), ("ccnet", "head")):
        records = []
        for i in range(30):
            words = [WORDS[(i * j + j * j // 3) % len(WORDS)] for j in range(60 + i)]
            record = {"text": ". ".join(" ".join(words[k : k + 12]).capitalize() for k in range(0, len(words), 12)) + "."}
            records.append(
                record if bucket is None else {**record, "bucket": bucket if i % 3 else "tail", "perplexity": 100.0 + i}
            )
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "project").mkdir()
    return Project(tmp_path / "project")


def make(project: Project, name: str, *sources: str, **settings: Any) -> None:
    folder = project.folder.parent
    given = {"signals": ALL, "tokenizer": None, **settings}
    build(project, name, Corpus([JsonLines(source, str(folder / f"{source}.jsonl")) for source in sources], **given))


def test_every_policy_stands_on_a_corpus_with_its_families(project: Project) -> None:
    make(project, "web", "web", signals=(*ALL, *CODE, "ccnet", Linguist()), tokenizer=Bpe(300))
    for name in POLICIES:
        (row,) = run_sql(project.store, f"select count(*) as n, count(*) filter (@{name}) as kept from web").to_pylist()
        assert 0 <= row["kept"] <= row["n"] == 30
        if row["kept"]:
            assert pick(project.store, "web", "x", f"@{name}").n_documents == row["kept"]
    judged = {row["policy"] for row in explain(project, "web", "web/00000:0").policies}
    # a page of the web has no field of a thread
    assert judged == {name for name, policy in POLICIES.items() if all(clause.family != "meta" for clause in policy.clauses)}


def test_heads_by_own_published_and_both_buckets(project: Project) -> None:
    models = [Perplexity("web", n_pieces=0, order=2)]
    make(project, "own", "web", models=models)
    picked = pick(project.store, "own", "x", "@ccnet-head")
    assert [clause.sql for clause in picked.cuts.clauses] == ["perplexity_bucket = 'head'"]
    make(project, "published", "ccnet", signals=("ccnet",))
    picked = pick(project.store, "published", "x", "@ccnet-head")
    assert [clause.sql for clause in picked.cuts.clauses] == ["ccnet_bucket = 0"]
    assert picked.n_documents == 20
    make(project, "mixed", "web", "ccnet", signals=("ccnet", "language"), models=models)
    assert (
        pick(project.store, "mixed", "x", "@ccnet-head").n_documents
        == run_sql(
            project.store, "select count(*) as n from mixed where coalesce(ccnet_bucket = 0, perplexity_bucket = 'head')"
        ).to_pylist()[0]["n"]
    )
    with pytest.raises(QueryError, match="another condition in each of these corpora"):
        run_sql(project.store, "select count(*) from own, published where @ccnet-head")


def test_what_is_missing_is_said_with_what_to_add(project: Project) -> None:
    make(project, "web", "web", signals=("gopher",))
    for ask in (
        lambda where: pick(project.store, "web", "x", where),
        lambda where: run_sql(project.store, f"from web where {where}"),
    ):
        with pytest.raises(QueryError) as caught:
            ask("@fineweb")
        assert (
            caught.value.fix
            == "Add `language`, `gopher_repetition`, `c4`, `fineweb` to the signals of the recipe and build again."
        )
        with pytest.raises(QueryError, match="ccnet_bucket, perplexity_bucket"):
            ask("@ccnet-head")
    with pytest.raises(QueryError) as caught:
        pick(project.store, "web", "x", "gopher and n_bytes > 1")
    assert caught.value.fix == "Write `@gopher`."
    with pytest.raises(QueryError) as caught:
        run_sql(project.store, "select count(*) from web where @goper")
    assert caught.value.fix == "Did you mean `gopher`?"


def test_a_policy_that_counts_tokens_says_that_it_needs_a_tokenizer(project: Project) -> None:
    make(project, "web", "web", signals=CODE)
    with pytest.raises(QueryError, match="n_tokens") as caught:
        pick(project.store, "web", "x", "@santacoder-fertility")
    assert caught.value.fix == "Add `tokenizer=Bpe(...)` to the arguments of the recipe and build again."


def test_strings_and_absolute_values_stay_in_queries(project: Project) -> None:
    make(project, "web", "web", signals=("gopher",))
    query = "select '@c4' as a, @(-2) as b, @n_bytes as c /* @c4 */ from web where url is null -- @c4\n limit 1"
    (row,) = run_sql(project.store, query).to_pylist()
    assert (row["a"], row["b"]) == ("@c4", 2)
    assert row["c"] > 0


def test_a_policy_is_shown_by_the_name_that_pick_takes(project: Project) -> None:
    assert describe(project, "@c4") == describe(project, "policy/c4")
    assert "takes lines out" in describe(project, "@c4")["besides"]
    assert [row["clause"] for row in describe(project, "@ccnet-head")["rows"]] == [
        "ccnet_bucket = 0",
        "perplexity_bucket = 'head'",
    ]
