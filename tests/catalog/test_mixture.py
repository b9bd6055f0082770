"""Mixtures against their definition: shares in tokens, whole repeats, the same documents and more for a larger budget."""

from __future__ import annotations

import random

import pytest

from tilth.artifacts import Store
from tilth.catalog.mixture import Mixture
from tilth.catalog.pick import Pick, pick
from tilth.catalog.sql import run_sql
from tilth.catalog.trace import subset_documents
from tilth.errors import SubsetError

N_WEB, N_CODE = 300, 40


@pytest.fixture
def mixed(store: Store, new_document, corpus_saver) -> Store:
    rng = random.Random(0)
    web = [new_document("web/00000", row, "soil " * (1 + row % 7), rng) for row in range(N_WEB)]
    code = [new_document("code/00000", row, f"def sow_{row}(): " + "grow " * (row % 5), rng) for row in range(N_CODE)]
    corpus_saver("demo", [*web, *code])
    return store


def tokens(store: Store, source: str, of: str = "demo") -> int:
    return run_sql(store, f"select sum(n_tokens) as n from {of} where source = '{source}'").to_pylist()[0]["n"]


def taken(store: Store, picked: Pick) -> dict[str, int]:
    """Tokens by source, repeats counted, from the subset's own rows."""
    query = (
        "select d.source, sum(s.n_tokens * s.weight)::bigint as n from subset_documents as s join demo as d using (shard, row) "
        f"where s.subset = '{picked.named.name}' group by all"
    )
    return {row["source"]: row["n"] for row in run_sql(store, query).to_pylist()}


def test_a_small_source_repeats_and_a_large_one_is_sampled(mixed: Store) -> None:
    there = {source: tokens(mixed, source) for source in ("web", "code")}
    n_tokens = there["code"] * 4  # half of it is code: it repeats twice
    picked = pick(mixed, "demo", "half", "true", max_tokens=n_tokens, mixture=Mixture({"web": 1, "code": 1}, max_repeats=3))
    found = taken(mixed, picked)
    assert found["code"] == 2 * there["code"]
    assert found["web"] == pytest.approx(n_tokens / 2, abs=15)  # to within one document
    assert picked.n_tokens == sum(found.values())
    assert {share.source: share.n_tokens for share in picked.shares} == found
    weights = run_sql(mixed, "select distinct weight from subset_documents where shard = 'code/00000'").to_pylist()
    assert weights == [{"weight": 2.0}]


def test_a_part_of_a_repeat_takes_some_documents_once_more(mixed: Store) -> None:
    there = tokens(mixed, "code")
    mixture = Mixture({"code": 1, "web": 0}, max_repeats=2)
    picked = pick(mixed, "demo", "more", "true", max_tokens=there * 5 // 4, mixture=mixture)
    assert picked.n_documents == N_CODE
    assert taken(mixed, picked)["code"] == pytest.approx(there * 5 / 4, abs=15)
    larger = pick(mixed, "demo", "most", "true", max_tokens=there * 7 // 4, mixture=mixture)
    twice = {
        name: {
            row["doc_id"]
            for row in run_sql(mixed, f"select doc_id from subset_documents where subset = '{name}' and weight = 2").to_pylist()
        }
        for name in ("more", "most")
    }
    assert twice["more"] < twice["most"]
    assert larger.n_tokens > picked.n_tokens


def test_without_a_budget_the_scarcest_source_decides(mixed: Store) -> None:
    there = {source: tokens(mixed, source) for source in ("web", "code")}
    picked = pick(mixed, "demo", "largest", "true", mixture=Mixture({"web": 0.2, "code": 0.8}))
    assert taken(mixed, picked)["code"] == there["code"]
    assert taken(mixed, picked)["web"] == pytest.approx(there["code"] / 4, abs=15)


def test_validation_repeats_nothing_and_training_gets_every_copy(mixed: Store) -> None:
    mixture = Mixture({"web": 0, "code": 1}, max_repeats=3)
    picked = pick(mixed, "demo", "thrice", "true", mixture=mixture, validation_share=0.3)
    rows = run_sql(mixed, "select split, weight, count(*) as n from subset_documents group by all order by all").to_pylist()
    assert [(row["split"], row["weight"]) for row in rows] == [("train", 3.0), ("validation", 1.0)]
    copies = {document.split: document.n_copies for document in subset_documents(mixed, picked.named)}
    assert copies == {"train": 3, "validation": 1}


@pytest.mark.parametrize(
    ("mixture", "max_tokens", "message"),
    [
        ({"web": 1}, None, "gives `code` no weight"),
        ({"web": 1, "code": 1, "wep": 1}, None, "no selected document is of source `wep`"),
        ({"web": 0, "code": 1}, 10**6, "would repeat"),
    ],
)
def test_what_cannot_be_mixed_is_refused(mixed: Store, mixture: dict[str, float], max_tokens: int | None, message: str) -> None:
    with pytest.raises(SubsetError, match=message) as caught:
        pick(mixed, "demo", "x", "true", mixture=Mixture(mixture), max_tokens=max_tokens)
    assert len(str(caught.value).splitlines()) >= 2


@pytest.mark.parametrize("weights", [{}, {"web": -1.0}, {"web": 0.0}, {"web": float("nan")}])
def test_weights_that_mean_nothing(weights: dict[str, float]) -> None:
    with pytest.raises(SubsetError, match="weights from 0 up"):
        Mixture(weights)


@pytest.fixture
def with_a_book(store: Store, new_document, corpus_saver) -> Store:
    """Many small pages, and a source of few books: one holds most of its tokens."""
    rng = random.Random(1)
    web = [new_document("web/00000", row, "soil " * (1 + row % 7), rng) for row in range(2_000)]
    lengths = [9_000, 700, 400, 310, 250, 150]
    books = [new_document("books/00000", row, f"volume {row} " + "grow " * n, rng) for row, n in enumerate(lengths)]
    corpus_saver("demo", [*web, *books])
    return store


@pytest.mark.parametrize("seed", range(5))
def test_a_book_that_does_not_fit_gives_way_to_those_that_do(with_a_book: Store, seed: int) -> None:
    sizes = run_sql(with_a_book, "select n_tokens as n from demo where source = 'books'").column("n").to_pylist()
    budget = 2 * sum(sorted(sizes)[:3])
    mixture = Mixture({"web": 1, "books": 1})
    picked = pick(with_a_book, "demo", "half", "true", max_tokens=budget, mixture=mixture, seed=seed)
    books, web = picked.shares
    assert (books.n_tokens, books.n_tokens_wanted) == (budget // 2, budget // 2)
    assert abs(web.n_tokens - budget / 2) <= 1
    assert books.reached == pytest.approx(0.5, abs=0.001)
    assert not books.why_off + web.why_off
    again = pick(with_a_book, "demo", "again", "true", max_tokens=budget, mixture=mixture, seed=seed)
    assert again.named.parts[0] == picked.named.parts[0]


def test_a_share_that_whole_documents_cannot_reach_is_said(with_a_book: Store) -> None:
    where = "source = 'web' or n_tokens > 5000"
    picked = pick(with_a_book, "demo", "half", where, max_tokens=10_000, mixture=Mixture({"web": 1, "books": 1}))
    books, web = picked.shares
    assert books.n_tokens in (0, books.n_tokens_there)
    size = f"{books.n_tokens_there:,}"
    assert books.why_off == f"documents are taken whole, and its own have {size} to {size} tokens"
    assert web.why_off == "`books` missed its own share"
    assert books.reached == books.n_tokens / picked.n_tokens


def test_documents_that_validation_takes_away_are_said(with_a_book: Store) -> None:
    mixture = Mixture({"web": 1, "books": 9}, max_repeats=2)
    whys = set()
    for seed in range(12):
        picked = pick(with_a_book, "demo", "x", "true", mixture=mixture, validation_share=0.3, seed=seed)
        books, _ = picked.shares
        is_off = abs(books.reached - 0.9) > 0.05 * 0.9
        assert bool(books.why_off) == is_off
        whys.add(books.why_off[:10])
    assert whys == {"", "validation"}


@pytest.mark.parametrize("seed", range(4))
def test_a_budget_without_a_mixture_passes_over_what_does_not_fit(with_a_book: Store, seed: int) -> None:
    sizes = run_sql(with_a_book, "select n_tokens as n from demo where source = 'books'").column("n").to_pylist()
    budget = sum(sorted(sizes)[:2]) + 1
    picked = pick(with_a_book, "demo", "few", "source = 'books'", max_tokens=budget, seed=seed)
    assert picked.n_tokens == max(one for one in (sum(sorted(sizes)[:2]), *sizes) if one <= budget)
