"""Panels of a web corpus: every number on the page against SQL that knows nothing of the page's tables."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tilth.artifacts import Store
from tilth.catalog.policies import POLICIES
from tilth.report.cuts import Cut
from tilth.report.panels.correlations import MAX_SIGNALS, chosen_signals, correlations
from tilth.report.panels.edits import edited
from tilth.report.panels.thresholds import curve, other_clauses
from tilth.report.scope import Scope


class Numbers(HTMLParser):
    """The named numbers of a page, its specs, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.values: dict[str, float] = {}
        self.specs: dict[str, Any] = {}
        self.text, self._spec = "", ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self._spec = attributes.get("data-spec") or ""
        if attributes.get("data-name") and attributes.get("data-value"):
            self.values[str(attributes["data-name"])] = float(str(attributes["data-value"]))

    def handle_data(self, data: str) -> None:
        if self._spec:
            self.specs[self._spec], self._spec = json.loads(data), ""
        else:
            self.text += data


@pytest.fixture(scope="module")
def numbers(web_page: Path) -> Numbers:
    return Numbers(web_page.read_text("utf-8"))


@pytest.fixture(scope="module")
def scope(web_connection: Any) -> Scope:
    return Scope(web_connection, "demo")


def one(connection: Any, sql: str, *parameters: Any) -> Any:
    return connection.execute(sql, list(parameters)).fetchone()[0]


def test_every_signal_is_on_the_page(numbers: Numbers, web_connection: Any) -> None:
    columns = [row[0] for row in web_connection.execute("select column_name from (describe demo.signals)").fetchall()]
    signals = {name for name in columns if name not in ("doc_id", "shard", "row") and not name.endswith("_undefined")}
    assert len(signals) > 50
    drawn = {name.removeprefix("signal-") for name in numbers.specs if name.startswith("signal-")}
    assert signals - drawn == {"constant_signal"}
    assert "constant_signal (1.5)" in numbers.text


def test_every_spec_is_vega_lite(numbers: Numbers) -> None:
    import altair

    # One of each kind of picture is enough: the schema takes a second for ten of them.
    kinds = ("signal-lid_score", "signal-bucket", "policies", "correlations", "mixture-mixed", "edits")
    curves = [name for name in numbers.specs if name.startswith("threshold-cut-score_3")]
    assert len(curves) == 1
    for name in (*kinds, *curves):
        altair.Chart.from_dict(numbers.specs[name], validate=True)


def test_medians_by_source_are_those_of_sql(numbers: Numbers, web_connection: Any) -> None:
    for signal in ("score_7", "lid_score", "rps_doc_word_count"):
        rows = web_connection.execute(f"select source, median({signal}::double) from demo group by source").fetchall()
        assert len(rows) == 3
        for source, median in rows:
            assert numbers.values[f"median/{signal}/{source}"] == pytest.approx(median, rel=1e-5)


def test_a_list_is_drawn_as_its_mean_over_lines(numbers: Numbers, web_connection: Any) -> None:
    assert "rps_lines_uppercase_letter_fraction: mean over the document's lines" in numbers.text
    assert "mail_places: entries in a document" in numbers.text
    rows = web_connection.execute(
        "select source, median(list_avg(rps_lines_uppercase_letter_fraction)) from demo group by source"
    ).fetchall()
    for source, median in rows:
        shown = numbers.values[f"median/rps_lines_uppercase_letter_fraction/{source}"]
        assert shown == pytest.approx(median, rel=1e-5)


def test_words_and_truth_values_are_shares_by_source(numbers: Numbers, web_connection: Any) -> None:
    for column in ("bucket", "is_listed"):
        labels = {row["label"] for row in numbers.specs[f"signal-{column}"]["data"]["values"]}
        rows = web_connection.execute(
            f"select source, coalesce({column}::varchar, 'undefined'), count(*) from demo group by all"
        ).fetchall()
        assert {re.sub(r", [\d.]+ %$", "", label) for label in labels} == {f"{s}, {k}: {n:,} documents" for s, k, n in rows}
        shares: dict[str, float] = {}
        for row in numbers.specs[f"signal-{column}"]["data"]["values"]:
            shares[row["source"]] = shares.get(row["source"], 0) + row["share"]
        assert all(total == pytest.approx(100, abs=0.01) for total in shares.values())


def test_edits_are_counted_by_source_and_reason(numbers: Numbers, web_connection: Any) -> None:
    rows = web_connection.execute(
        """select e.reason, d.source, count(*), sum(e."end" - e.start)
           from demo.edits as e join demo.documents as d using (shard, row) group by all"""
    ).fetchall()
    assert len(rows) == 6
    for reason, source, n_spans, n_characters in rows:
        assert numbers.values[f"edits/spans/{reason}/{source}"] == n_spans
        assert numbers.values[f"edits/characters/{reason}/{source}"] == n_characters
    assert "as read" in numbers.text
    assert "<i>|mail|</i>" in numbers.text, "a replacement is text"


def test_a_text_is_edited_as_the_corpus_was(web_sample: ModuleType, web_connection: Any, web_store: Store) -> None:
    rows = web_connection.execute(
        """select r.row, r.text, d.text from temp.report_read_demo as r join demo.documents as d using (shard, row)
           where r.text <> d.text"""
    ).fetchall()
    assert len(rows) > 50
    for row, before, after in rows:
        edits = web_sample.edits_of(row, before)
        assert edited(before, 0, edits) == after
        # A piece that ends within the first span shows what comes before it, and nothing that was cut.
        assert edited(before[:8], 0, edits) == before[:2]
        assert edited(before[1:], 1, edits) == after[1:]


def test_policies_keep_what_their_sql_keeps(numbers: Numbers, web_connection: Any) -> None:
    sql = POLICIES["redpajama-v2"].sql
    rows = web_connection.execute(
        f"select source, count(*), sum(n_tokens) from demo where {sql} group by rollup (source)"
    ).fetchall()
    assert len(rows) == 4
    for source, n_documents, n_tokens in rows:
        place = f"policy/redpajama-v2/{source or 'all sources'}"
        assert numbers.values[f"{place}/documents"] == n_documents > 0
        assert numbers.values[f"{place}/tokens"] == n_tokens
    dropped = [
        one(web_connection, f"select count(*) from demo where ({c.sql}) is not true") for c in POLICIES["redpajama-v2"].clauses
    ]
    assert numbers.values["policy/redpajama-v2/most"] == max(dropped) > 0
    assert "@gopher (gopher, gopher_repetition)" in numbers.text, "what a policy lacks is said"


def test_a_mixture_is_what_was_asked_and_taken(numbers: Numbers, web_connection: Any) -> None:
    rows = web_connection.execute(
        """select d.source, sum(p.n_tokens * p.weight), sum(sum(p.n_tokens * p.weight)) over ()
           from subset_documents as p join demo.documents as d using (shard, row) where subset = 'mixed' group by d.source"""
    ).fetchall()
    asked = {"web": 0.5, "packages": 0.3, "git <b>": 0.2}
    assert {row[0] for row in rows} == asked.keys()
    for source, n_tokens, in_all in rows:
        assert numbers.values[f"mixture/mixed/{source}/asked"] == pytest.approx(asked[source])
        assert numbers.values[f"mixture/mixed/{source}/tokens"] == n_tokens
        assert numbers.values[f"mixture/mixed/{source}/taken"] == pytest.approx(n_tokens / in_all)


def test_a_threshold_where_it_stands_keeps_the_subset(scope: Scope, web_connection: Any) -> None:
    (subset,) = [subset for subset in scope.subsets if subset.name == "cut"]
    n_picked = one(web_connection, "select count(*) from subset_documents where subset = 'cut'")
    judged = 0
    for cut in subset.cuts:
        others = other_clauses(scope, subset, cut)
        assert (others is None) == (cut.column == "lid_score"), "what stands under OR is no clause by itself"
        if others is not None:
            judged += 1
            (now,) = curve(scope, cut, others, [cut.value])
            assert now["n_documents"] == n_picked
    assert judged == 3


@pytest.mark.parametrize("operator", [">", ">=", "<", "<="])
@pytest.mark.parametrize("column", ["score_3", "rps_doc_word_count"])
def test_each_point_of_a_curve_is_a_count(scope: Scope, web_connection: Any, operator: str, column: str) -> None:
    found = web_connection.execute(f"select distinct {column}::double from demo order by 1").fetchall()
    thresholds = [found[0][0] - 1, *(row[0] for row in found[:: max(1, len(found) // 9)]), found[-1][0] + 1]
    rows = curve(scope, Cut(column, operator, 0.0), "is_keeper", thresholds)
    assert [row["edge"] for row in rows] == thresholds
    for row in rows:
        where = f"is_keeper and {column}::double {operator} ?"
        expected = web_connection.execute(f"select count(*), coalesce(sum(n_tokens), 0) from demo where {where}", [row["edge"]])
        assert (row["n_documents"], row["n_tokens"]) == expected.fetchone()


def test_rank_correlations_are_spearmans(scope: Scope, web_connection: Any) -> None:
    columns = ["score_1", "rps_doc_word_count", "code_alnum_share", "mail_places"]
    values = web_connection.execute(
        "select score_1, rps_doc_word_count, code_alnum_share::double, len(mail_places) from demo order by shard, row"
    ).fetchnumpy()
    ranks = []
    for column in values.values():
        _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[inverse])  # ties share their mean rank
    expected = np.corrcoef(ranks)
    found = correlations(scope, columns)
    assert len(found) == 6
    for first, second, rho in found:
        assert rho == pytest.approx(expected[columns.index(first), columns.index(second)], abs=1e-12)


def test_correlated_signals_are_chosen_by_the_rule(scope: Scope) -> None:
    chosen = chosen_signals(scope)
    assert len(chosen) == len(set(chosen)) == MAX_SIGNALS
    cut = {cut.column for subset in scope.subsets for cut in subset.cuts}
    assert cut <= set(chosen)
    assert "constant_signal" not in chosen


def test_a_page_of_many_signals_stays_small(web_page: Path) -> None:
    assert web_page.stat().st_size < 1_600_000
