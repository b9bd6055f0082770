"""`explain` against brute force: the percentile of every signal, the clause that drops, the document by each of its names."""

from __future__ import annotations

import pytest

from tilth.artifacts import Store
from tilth.catalog.explain import explain
from tilth.catalog.policy import Clause, Policy
from tilth.catalog.sql import run_sql
from tilth.errors import NotFoundError

LONG = (Clause("n_words > 3", "length", "words", ("n_words",)), Clause("is_keeper", "first", "words", ("is_keeper",)))
POLICIES = {
    "long": Policy("long", "here", LONG),
    "english": Policy("english", "here", (Clause("lid_language = 'en'", "English", "language", ("lid_language",)),)),
    "other": Policy("other", "here", (Clause("no_such_signal > 1", "nothing", "none", ("no_such_signal",)),)),
}


def test_every_signal_has_its_percentile(store: Store, demo, docs) -> None:
    doc = next(doc for doc in docs if doc["n_words"])
    found = explain(store, "demo", f"{doc['shard']}:{doc['row']}", POLICIES)
    values = {row["signal"]: row for row in found.signals}
    for signal in ("n_words", "mean_word_length", "n_tokens"):
        known = [other[signal] for other in docs if other[signal] is not None]
        below = sum(value < doc[signal] for value in known) + sum(value == doc[signal] for value in known) / 2
        assert values[signal]["value"] == pytest.approx(doc[signal])
        assert values[signal]["percentile"] == pytest.approx(100 * below / len(known), abs=0.051)
    assert {step["step"] for step in found.steps} >= {"read", "signals.words"}
    assert values["lid_language"]["percentile"] is None


def test_a_null_says_why(store: Store, demo, docs) -> None:
    doc = next(doc for doc in docs if doc["n_words"] is None)
    found = explain(store, "demo", f"{doc['shard']}:{doc['row']}", POLICIES)
    (words,) = [row for row in found.signals if row["signal"] == "n_words"]
    assert (words["value"], words["percentile"], words["why"]) == (None, None, "no words")


def test_the_policies_say_which_clause_drops(store: Store, demo, docs) -> None:
    for doc in docs[:8]:
        found = explain(store, "demo", f"{doc['shard']}:{doc['row']}", POLICIES)
        judged = {row["policy"]: row for row in found.policies}
        assert set(judged) == {"long", "english"}
        (row,) = run_sql(
            store,
            "select coalesce(n_words > 3, false) as long, is_keeper, coalesce(lid_language = 'en', false) as english from demo "
            f"where shard = '{doc['shard']}' and row = {doc['row']}",
        ).to_pylist()
        assert judged["long"]["keeps"] == (row["long"] and row["is_keeper"])
        assert len(judged["long"]["drops"]) == (not row["long"]) + (not row["is_keeper"])
        assert judged["english"]["keeps"] == row["english"]


def test_a_document_by_each_of_its_names(store: Store, demo, docs) -> None:
    (row,) = run_sql(store, "select doc_id, url, shard, row from demo where url is not null order by all limit 1").to_pylist()
    for name in (row["doc_id"], row["doc_id"].upper(), f"{row['shard']}:{row['row']}"):
        assert explain(store, "demo", name, {}).document["shard"] == row["shard"]
    with pytest.raises(NotFoundError, match="no such document"):
        explain(store, "demo", "nowhere", {})


def test_a_name_of_several_documents_is_refused_with_their_places(store: Store, demo, docs) -> None:
    twice = run_sql(store, "select url from demo where url is not null group by url having count(*) > 1 limit 1").to_pylist()
    if not twice:
        pytest.skip("no URL occurs twice in this sample")
    with pytest.raises(NotFoundError, match="several"):
        explain(store, "demo", twice[0]["url"], {})
