"""Evaluations: coverage and accuracy on problems against the seconds that they took, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tilth.report.blocks import Block, Cell, Chart, Grid, Table
from tilth.report.charts import finished
from tilth.report.numbers import number, seconds, share, size
from tilth.report.registry import panel
from tilth.report.scope import Row, Scope
from tilth.report.theme import SOURCE_COLOURS

MAX_LINES = len(SOURCE_COLOURS)
MAX_EVALUATIONS = 40
CURVES = {
    "coverage": "Coverage: a right sample is there",
    "majority": "Accuracy: the majority's answer is right",
    "best_of": "Accuracy: the answer that the verifier likes best is right",
}
_POINT = """[{"seconds": "DOUBLE", "mean": "DOUBLE", "low": "DOUBLE", "high": "DOUBLE", "n_completed": "DOUBLE",
"batch": "BIGINT"}]"""
_SCORE = '[{"k": "BIGINT", "mean": "DOUBLE", "low": "DOUBLE", "high": "DOUBLE"}]'
_RESULT = f"""[{{"batch": "BIGINT", "seconds": "DOUBLE", "tokens_per_second": "DOUBLE", "memory_bytes": "BIGINT",
"n_samples": "BIGINT", "n_unparsed": "BIGINT", "n_refused": "BIGINT", "n_cancelled": "BIGINT", "coverage": {_SCORE},
"majority": {_SCORE}, "best_of": {_SCORE}, "weighted": {_SCORE}}}]"""


@panel("Reasoning", order=87, per_corpus=False)
def draw(scope: Scope) -> Iterable[Block]:
    """The share of problems that are solved within a budget of seconds: those since the start, over the number of problems.
    They count prefill, scoring and the last sample; of several batches the one that had completed most is shown at each
    budget. Bands are 95 % intervals over problems."""
    evaluations = scope.need(
        "evaluations", ("name", "meta"), "No model has been evaluated on problems yet: `tilth evaluate RUN --problems FILE` does."
    )
    rows = scope.rows(
        f"""select name, run, problems, coalesce(meta ->> '$.problems_digest', '') as digest, n_problems, n, temperature,
                   contamination, meta ->> '$.difference.against' as against
            from {evaluations} order by problems, digest, name limit {MAX_EVALUATIONS}"""
    )
    for number_of_group, members in enumerate(_groups(rows)):
        charts = [*_charts(scope, evaluations, number_of_group, members), *_differences(scope, evaluations, members)]
        yield Grid(charts)
        yield _table(scope, evaluations, members)


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Evaluations on the same problems, as many as there are colours."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["problems"], row["digest"]), []).append(row)
    return [members[i : i + MAX_LINES] for members in groups.values() for i in range(0, len(members), MAX_LINES)]


def _charts(scope: Scope, evaluations: str, place: int, members: Sequence[Row]) -> Iterator[Chart]:
    colours = dict(zip((row["name"] for row in members), SOURCE_COLOURS, strict=False))
    about = f"{members[0]['problems']}, {members[0]['n_problems']:,} problems"
    for curve, title in CURVES.items():
        points = [
            {"name": row["name"], **point}
            for row in members
            for point in scope.rows(
                f"""select unnest(from_json(meta -> '$.curves.{curve}', '{_POINT}'), recursive := true) from {evaluations}
                    where name = ?""",
                row["name"],
            )
        ]
        if points:
            legend = [(name, colour) for name, colour in colours.items() if any(point["name"] == name for point in points)]
            yield Chart(f"reasoning-{curve}-{place}", f"{title} ({about})", _lines(points, dict(legend)), legend=legend)


def _differences(scope: Scope, evaluations: str, members: Sequence[Row]) -> Iterator[Chart]:
    """For each evaluation that was compared with another one, its curves less the other's."""
    for row in members:
        points = [
            {"name": curve, **point}
            for curve in ("coverage", "majority")
            for point in scope.rows(
                f"""select unnest(from_json(meta -> '$.difference.{curve}', '{_POINT}'), recursive := true) from {evaluations}
                    where name = ?""",
                row["name"],
            )
        ]
        if points:
            colours = {"coverage": SOURCE_COLOURS[0], "majority": SOURCE_COLOURS[1]}
            title = f"{row['name']} less {row['against']}: above 0 it solves more by that second"
            yield Chart(f"reasoning-difference-{row['name']}", title, _lines(points, colours), legend=list(colours.items()))


def _lines(points: Sequence[Row], colours: Mapping[str, str]) -> dict[str, Any]:
    """A line with its band for each evaluation, over seconds per problem."""
    import altair as alt

    data = [{**_rounded(point), "label": _label(point)} for point in points]
    lowest, highest = min(point["low"] for point in points), max(point["high"] for point in points)
    colour = alt.Color("name:N", scale=alt.Scale(domain=list(colours), range=list(colours.values())), legend=None)
    scale = alt.Scale(domain=[min(0.0, lowest), min(1.0, max(0.05, highest))], nice=True)
    base = alt.Chart(alt.Data(values=data)).encode(
        x=alt.X("seconds:Q", title="seconds per problem", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(format="~g")),
        color=colour,
    )
    y = alt.Y("mean:Q", title="share of problems", scale=scale, axis=alt.Axis(format="%", tickCount=5))
    band = base.mark_area(opacity=0.16, interpolate="step-after", line=False).encode(
        y=alt.Y("low:Q", scale=scale, title="share of problems"), y2="high:Q"
    )
    line = base.mark_line(interpolate="step-after").encode(y=y)
    dots = base.mark_point(filled=True, size=60, opacity=0).encode(y=y, description="label:N", tooltip="label:N")
    return finished(alt.layer(band, line, dots), height=260)


def _rounded(point: Row) -> dict[str, Any]:
    kept = {key: float(f"{point[key]:.5g}") for key in ("seconds", "mean", "low", "high")}
    return {"name": point["name"], **kept}


def _label(point: Row) -> str:
    what = f"{point['name']}: {share(point['mean'], 1)} after {seconds(point['seconds'])} a problem"
    interval = f"{share(point['low'], 1)} to {share(point['high'], 1)}"
    drawn = f", {number(point['n_completed'])} samples each, batch {point['batch']}" if point["batch"] else ""
    return f"{what} ({interval}){drawn}"


def _table(scope: Scope, evaluations: str, members: Sequence[Row]) -> Table:
    columns = ["evaluation", "run", "samples each", "temperature", "batch", "pass@1", "pass@n", "maj@n", "best of n", "weighted"]
    columns += ["no answer", "refused", "tokens/s", "seconds", "memory", "trained on them"]
    body: list[list[Cell | str]] = []
    for row in members:
        results = scope.rows(
            f"select unnest(from_json(meta -> '$.results', '{_RESULT}'), recursive := true) from {evaluations} where name = ?",
            row["name"],
        )
        for result in results:
            key = f"evaluation/{row['name']}/{result['batch']}"
            scores = [
                _score(result["coverage"], 1, f"{key}/pass_at_1"),
                _score(result["coverage"], row["n"], f"{key}/pass_at_n"),
                _score(result["majority"], row["n"], f"{key}/majority"),
                _score(result["best_of"], row["n"], f"{key}/best_of_n"),
                _score(result["weighted"], row["n"], f"{key}/weighted"),
            ]
            ends = [Cell(result[name], name=f"{key}/{name}") for name in ("n_unparsed", "n_refused")]
            speed = Cell(result["tokens_per_second"], name=f"{key}/tokens_per_second")
            took = Cell(result["seconds"], seconds(result["seconds"]), f"{key}/seconds")
            memory = Cell(result["memory_bytes"], size(result["memory_bytes"]))
            drawn = [Cell(row["n"]), Cell(row["temperature"]), Cell(result["batch"])]
            body.append([row["name"], row["run"], *drawn, *scores, *ends, speed, took, memory, row["contamination"] or "–"])
    return Table(columns, body)


def _score(scores: Sequence[Row] | None, k: int, name: str) -> Cell:
    found = next((one for one in scores or () if one["k"] == k), None)
    if found is None:
        return Cell(None)
    shown = f"{share(found['mean'], 1)} ({100 * found['low']:.1f}–{100 * found['high']:.1f})"
    return Cell(found["mean"], shown, name)
