"""Charts as Vega-Lite: what they hold is what SQL counts, and they stay small."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

import pytest

from tilth.report.blocks import Block, Chart, Folded, Grid
from tilth.report.registry import panels
from tilth.report.scope import AbsentError, Scope


@pytest.fixture(scope="module")
def charts(connection: Any) -> dict[str, dict[str, Any]]:
    return charts_of(Scope(connection, "demo"))


@pytest.fixture(scope="module")
def web_charts(web_connection: Any) -> dict[str, dict[str, Any]]:
    return charts_of(Scope(web_connection, "demo"))


def charts_of(scope: Scope) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for panel in panels():
        with contextlib.suppress(AbsentError):
            for chart in charts_in(panel.draw(scope)):
                assert chart.name not in found
                found[chart.name] = dict(chart.spec)
    return found


def charts_in(blocks: Iterable[Block]) -> Iterator[Chart]:
    for block in blocks:
        if isinstance(block, Chart):
            yield block
        elif isinstance(block, Grid | Folded):
            yield from charts_in(block.blocks)


def datasets(spec: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The rows that each layer of a spec draws."""
    return [layer.get("data", spec.get("data"))["values"] for layer in layers(spec)]


def rows(spec: dict[str, Any], field: str) -> list[dict[str, Any]]:
    """The dataset of a spec whose rows have this field."""
    (found,) = [data for data in datasets(spec) if field in data[0]]
    return found


def layers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return spec.get("layer", [spec])


def test_all_charts_are_there_small_and_without_a_link(charts: dict[str, dict[str, Any]]) -> None:
    signals = {name for name in charts if name.startswith("signal-")}
    assert {"signal-lid_score", "signal-rps_doc_word_count", "signal-n_tokens"} <= signals
    assert "signal-constant_signal" not in signals, "without a spread there is nothing to draw"
    assert charts.keys() - signals == {
        "flow-documents", "flow-tokens", "rejects", "sizes-exact", "sizes-minhash", "similarity", "kinds-lid_language",
        "kinds-language", "kinds-licence", "loss", "delta-size-tuned", "delta-loss-tuned", "seconds", "correlations",
        "threshold-clean-lid_score >= 0.5", "threshold-clean-rps_doc_word_count >= 20",
        "threshold-clean-rps_doc_word_count <= 5000", "threshold-clean-quality_score >= -0.25",
        "threshold-code-rps_doc_word_count > 30",
    }  # fmt: skip
    for name, spec in charts.items():
        assert spec["width"] == "container", name
        assert all(layer.get("data", spec.get("data")).keys() == {"values"} for layer in layers(spec)), name
        assert sum(map(len, datasets(spec))) < 5_000, name


def test_the_spec_of_a_flow_is_stable(charts: dict[str, dict[str, Any]]) -> None:
    (layer,) = layers(charts["flow-documents"])
    assert layer["mark"] == {"type": "bar"}
    assert layer["encoding"]["color"] == {
        "field": "source",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": ["web", "packages", "git <b>"], "range": ["var(--c1)", "var(--c2)", "var(--c3)"]},
    }
    assert layer["encoding"]["y"]["sort"] == ["read", "readable", "unique text", "unique", "picked: clean", "picked: code"]


def test_a_histogram_counts_every_document_once(charts: dict[str, dict[str, Any]], connection: Any) -> None:
    n_outside = "count(*) filter (isfinite(lid_score) and not lid_score between ? and ?)"
    bars = rows(charts["signal-lid_score"], "i")
    names = layers(charts["signal-lid_score"])[-1]["encoding"]["color"]["scale"]["domain"]
    low, high = connection.execute("select unnest(quantile_cont(lid_score::double, [0.01, 0.99])) from demo").fetchall()
    outside, defined = connection.execute(f"select {n_outside}, count(lid_score) from demo", [low[0], high[0]]).fetchone()
    assert sum(bar["n"] for bar in bars) == defined - outside
    for source, n in connection.execute(
        "select source, count(*) from demo where lid_score between ? and ? group by source", [low[0], high[0]]
    ).fetchall():
        assert sum(bar["n"] for bar in bars if names[bar["s"]] == source) == n
    assert all(0 <= bar["i"] < 26 and bar["n"] > 0 for bar in bars)


def test_each_bin_of_whole_numbers_holds_what_sql_counts() -> None:
    import duckdb

    from tilth.report.measures import choose_range, histogram, measure, tails

    with duckdb.connect() as other:
        other.execute(
            """create schema t; create table t.signals as
               select 's' as shard, i::int as row, (case when i % 50 = 0 then 900 + i else (i * 7919) % 61 end)::int as n_lines
               from range(2000) as r(i);
               create table t.documents as select unnest(['x', 'y']) as source;
               create table main.t as select *, uuid() as doc_id, case when row % 3 = 0 then 'x' else 'y' end as source,
                      true as is_keeper from t.signals"""
        )
        scope = Scope(other, "t")
        one = measure(scope, "n_lines")
        bins = choose_range(one)
        assert bins is not None
        assert bins.whole
        counted = {(row["source"], row["bin"]): row["n"] for row in histogram(scope, one, bins, scope.sources)}
        expected = {}
        for index in range(bins.n_bins):
            sql = "select source, count(*) from t where n_lines >= ? and n_lines < ? group by source"
            for source, n in other.execute(sql, [bins.edge(index), bins.edge(index + 1)]).fetchall():
                expected[source, index] = n
        assert counted == expected
        outside = tails(scope, one, bins)
        assert sum(counted.values()) + outside["below"] + outside["above"] == one.n == 2000
        assert outside["above"] > 0


def test_cuts_are_drawn_where_documents_begin_to_be_kept(charts: dict[str, dict[str, Any]], sample: ModuleType) -> None:
    def lines(name: str) -> dict[str, float]:
        found = {}
        for layer in layers(charts[f"signal-{name}"]):
            if layer["mark"]["type"] == "rule":
                (row,) = layer["data"]["values"]
                found[row["label"]] = row["a"]
        return found

    assert "not quality_score <" in sample.WHERE["clean"]
    assert lines("quality_score") == {"cut: quality_score >= -0.25": -0.25}
    assert lines("lid_score") == {"cut: lid_score >= 0.5": 0.5}
    assert lines("rps_doc_word_count") == {
        "cut: rps_doc_word_count >= 20": 20,
        "cut: rps_doc_word_count <= 5000": 5001,  # whole numbers: the line stands before the first that is dropped
        "cut: rps_doc_word_count > 30": 31,
    }
    assert lines("n_tokens") == {}


def test_similarities_are_counted_with_the_empty_bins_between(charts: dict[str, dict[str, Any]], connection: Any) -> None:
    bars = rows(charts["similarity"], "low")
    assert [bar["low"] for bar in bars] == ["0.68", "0.72", "0.76", "0.80", "0.84", "0.88", "0.92", "0.96"]
    n = connection.execute("select count(*) from demo.duplicates where method = 'minhash' and not is_keeper").fetchone()[0]
    assert sum(bar["n"] for bar in bars) == n > 0


def test_every_bar_says_what_it_is(charts: dict[str, dict[str, Any]]) -> None:
    for name, spec in charts.items():
        encodings = [
            layer["encoding"] for layer in layers(spec) if layer["mark"]["type"] in ("bar", "rect") and "y" in layer["encoding"]
        ]
        assert all(encoding["description"]["field"] == "label" for encoding in encodings), name


def test_loss_curves_keep_their_ends_and_validation(charts: dict[str, dict[str, Any]], connection: Any) -> None:
    points = [row for part in datasets(charts["loss"]) for row in part]
    checked = [row for row in points if "label" in row]
    assert len(checked) == connection.execute("select count(validation_loss) from losses").fetchone()[0]
    for run, steps, loss in connection.execute("select run, max(step), arg_max(loss, step) from losses group by run").fetchall():
        last = max((row for row in points if row["run"] == run and "label" not in row), key=lambda row: row["step"])
        assert (last["step"], last["loss"]) == (steps, pytest.approx(loss, abs=1e-5))


def test_long_runs_are_averaged(connection: Any) -> None:
    import duckdb

    from tilth.report.panels.runs import _curves

    with duckdb.connect() as other:
        other.execute(
            """create table losses as select r.run, s.step, 8.0 / s.step as loss, null::double as validation_loss, 1 as n_tokens
               from (values ('a'), ('b')) as r(run), (select unnest(range(1, 20_001)) as step) as s"""
        )
        spec = _curves(Scope(other, None), {"a": "red", "b": "blue"}, has_dots=True)
    assert 600 < len(rows(spec, "loss")) < 1_000


def test_more_runs_than_colours_get_a_chart_for_each_subset() -> None:
    from tilth.report.panels.runs import _charts

    few = [{"name": f"r{i}", "subset": "ab"[i % 2], "objective": "next_token"} for i in range(7)]
    title = "Loss by step: cross entropy, nats per token"
    assert [(title, len(members)) for title, members in _charts(few)] == [(title, 7)]
    many = [{"name": f"r{i}", "subset": "a" if i else "b", "objective": "next_token"} for i in range(10)]
    found = [(title, [row["name"] for row in members]) for title, members in _charts(many)]
    assert found == [
        (f"{title}, on b", ["r0"]),
        (f"{title}, on a", [f"r{i}" for i in range(1, 8)]),
        (f"{title}, on a", ["r8", "r9"]),
    ]


def test_losses_of_other_measures_are_not_drawn_in_one_chart() -> None:
    from tilth.report.panels.runs import _charts

    objectives = ("orientation", "answers", "alignment", "next_token", "distillation", "masked")
    runs = [{"name": one, "subset": "a", "objective": one} for one in objectives]
    found = [(title.removeprefix("Loss by step: "), [row["name"] for row in members]) for title, members in _charts(runs)]
    assert found == [
        ("cross entropy, nats per token", ["answers", "next_token"]),
        ("cross entropy, nats per masked token", ["masked"]),
        ("divergence from the teacher, nats per token", ["distillation"]),
        ("distance to the teacher's streams, per token", ["alignment"]),
        ("distance to the teacher's matrices, per sequence", ["orientation"]),
    ]


def test_without_a_corpus_a_panel_is_absent(connection: Any) -> None:
    with pytest.raises(AbsentError, match="No corpus"):
        list(panels()[0].draw(Scope(connection, None)))
