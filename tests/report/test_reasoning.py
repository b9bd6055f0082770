"""The panel of evaluations: a line and its band for each, on the same problems together, and the numbers of the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tilth.artifacts import Spec, Store
from tilth.report import write_report
from tilth.report.blocks import Chart, Grid, Table
from tilth.report.panels.reasoning import draw
from tilth.report.scope import AbsentError, Scope


def score(k: int, mean: float) -> dict[str, float]:
    return {"k": k, "mean": mean, "low": mean - 0.05, "high": mean + 0.05, "n_problems": 100}


def points(scale: float, top: float) -> list[dict[str, float]]:
    rows = []
    for i in range(40):
        mean = top * (1 - 0.9**i)
        rows.append(
            {
                "seconds": scale * 1.15**i,
                "mean": mean,
                "low": mean * 0.9,
                "high": mean * 1.1,
                "n_completed": i / 2.5,
                "batch": 64 if i > 20 else 8,
            }
        )
    return rows


def meta(run: str, problems: str, scale: float, top: float, has_verifier: bool = False, **more: Any) -> dict[str, Any]:
    curves = {"coverage": points(scale, top), "majority": points(scale, top * 0.7)}
    result = {
        "batch": 64, "seconds": 40 * scale, "tokens_per_second": 5000.0 / scale, "memory_bytes": 10**7, "n_samples": 1600, "n_unparsed": 12,
        "n_refused": 0, "n_cancelled": 0, "coverage": [score(1, 0.3 * top), score(16, top)], "majority": [score(16, 0.7 * top)],
    }  # fmt: skip
    if has_verifier:
        curves["best_of"] = points(scale, top * 0.8)
        result["best_of"] = [score(16, 0.8 * top)]
        result["weighted"] = [score(16, 0.75 * top)]
    return {
        "run": run, "problems": problems, "problems_digest": problems, "n_problems": 100, "n": 16, "temperature": 0.8,
        "contamination": "none found", "curves": curves, "results": [result, {**result, "batch": 8}], **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("evaluated") / ".tilth")
    store.root.mkdir()

    def save(name: str, about: dict[str, Any]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        from tilth.contracts import SAMPLES

        def write(folder: Path) -> None:
            pq.write_table(pa.Table.from_pylist([], schema=SAMPLES.schema), folder / "samples.parquet")

        store.save_named("evaluation", name, [store.make(Spec("samples", 1, {"name": name}), write).part()], about)

    save("teacher-gsm", meta("teacher", "gsm8k", 1.0, 0.9, has_verifier=True))
    sunk = [{**one, "mean": one["mean"] - 0.4, "low": one["low"] - 0.4, "high": one["high"] - 0.4} for one in points(0.3, 0.8)]
    less = {"against": "teacher-gsm", "coverage": sunk, "majority": points(0.3, 0.1)}
    save("student-gsm", meta("student", "gsm8k", 0.3, 0.8, difference=less))
    save("student-sums", meta("student", "sums", 0.3, 0.5, contamination="2 problems were trained on"))
    save(
        "stopped-gsm", meta("student", "gsm8k", 0.2, 0.6) | {"curves": {"majority": points(0.2, 0.6)}, "stops_when_decided": True}
    )
    for i in range(9):
        save(f"many-{i}", meta(f"m{i}", "many", 1.0, 0.1 * i))
    return store


@pytest.fixture(scope="module")
def blocks(store: Store) -> list[Any]:
    from tilth.catalog.connect import connect

    with connect(store) as connection:
        return list(draw(Scope(connection, None)))


def charts(blocks: list[Any]) -> dict[str, Chart]:
    return {
        chart.name: chart for block in blocks if isinstance(block, Grid) for chart in block.blocks if isinstance(chart, Chart)
    }


def test_runs_on_the_same_problems_share_a_chart(blocks: list[Any]) -> None:
    found = charts(blocks)
    assert {name: [label for label, _ in chart.legend] for name, chart in found.items() if "many" not in chart.title} == {
        "reasoning-coverage-0": ["student-gsm", "teacher-gsm"],
        "reasoning-majority-0": ["stopped-gsm", "student-gsm", "teacher-gsm"],
        "reasoning-best_of-0": ["teacher-gsm"],
        "reasoning-difference-student-gsm": ["coverage", "majority"],
        "reasoning-coverage-3": ["student-sums"],
        "reasoning-majority-3": ["student-sums"],
    }
    assert [len(found[f"reasoning-coverage-{place}"].legend) for place in (1, 2)] == [7, 2], "as many as there are colours"
    colours = dict(found["reasoning-majority-0"].legend)
    assert len(set(colours.values())) == 3
    assert dict(found["reasoning-coverage-0"].legend).items() <= colours.items(), "a run has one colour in all charts"


def test_a_line_has_the_points_and_the_band_that_were_kept(blocks: list[Any]) -> None:
    spec = charts(blocks)["reasoning-coverage-0"].spec
    assert [layer["mark"]["type"] for layer in spec["layer"]] == ["area", "line", "point"]
    band = spec["layer"][0]["encoding"]
    assert (band["y"]["field"], band["y2"]["field"]) == ("low", "high")
    assert band["x"]["scale"]["type"] == "log"
    values = spec["layer"][0].get("data", spec.get("data"))["values"]
    mine = [row for row in values if row["name"] == "student-gsm"]
    wanted = points(0.3, 0.8)
    assert [(row["seconds"], row["mean"], row["low"]) for row in mine] == [
        pytest.approx((one["seconds"], one["mean"], one["low"]), rel=1e-4) for one in wanted
    ]
    assert mine[-1][
        "label"
    ] == "student-gsm: 78.7 % after 69.9 s a problem (70.8 % to 86.6 %), 15.6 samples each, batch 64".replace(
        "69.9 s", "1 min 10 s"
    )


def test_a_difference_may_be_below_none(blocks: list[Any]) -> None:
    chart = charts(blocks)["reasoning-difference-student-gsm"]
    assert "student-gsm less teacher-gsm" in chart.title
    low, high = chart.spec["layer"][1]["encoding"]["y"]["scale"]["domain"]
    assert (low, high) == (pytest.approx(-0.4, abs=0.01), pytest.approx(0.46, abs=0.02))


def test_the_table_tells_each_batch_and_what_was_trained_on(blocks: list[Any]) -> None:
    tables = [block for block in blocks if isinstance(block, Table)]
    assert [len(table.rows) for table in tables] == [6, 14, 4, 2]
    html = tables[0].html()
    assert 'data-name="evaluation/teacher-gsm/64/pass_at_n" data-value="0.9"' in html
    assert f'data-name="evaluation/teacher-gsm/8/best_of_n" data-value="{0.8 * 0.9}"' in html
    assert f'data-name="evaluation/teacher-gsm/8/weighted" data-value="{0.75 * 0.9}"' in html
    assert "90.0 % (85.0–95.0)" in html
    assert "2 problems were trained on" in tables[3].html()


def test_the_page_shows_it_and_says_where_there_is_none(store: Store, tmp_path: Path) -> None:
    page = write_report(store, tmp_path / "report.html").read_text()
    assert "reasoning-coverage-0" in page
    assert '<section id="reasoning"' in page or 'data-panel="reasoning"' in page
    from tilth.catalog.connect import connect

    with connect(Store(tmp_path / ".tilth")) as connection, pytest.raises(AbsentError, match="tilth evaluate RUN"):
        list(draw(Scope(connection, None)))
