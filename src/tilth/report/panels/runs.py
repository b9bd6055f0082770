"""Training runs: the loss, how fast, and on what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tilth.report.blocks import Block, Cell, Chart, Sql, Table
from tilth.report.charts import NUMBER_LABELS, finished
from tilth.report.registry import panel
from tilth.report.scope import Row, Scope
from tilth.report.theme import SOURCE_COLOURS

MAX_RUNS = len(SOURCE_COLOURS)
_POINTS = 400  # of a curve; longer ones are averaged within equal spans of steps
TEXT = "cross entropy, nats per token"
# What the loss of an objective is; curves of one chart have one measure. The others are of text.
MEASURES = {
    "masked": "cross entropy, nats per masked token",
    "classify": "cross entropy, nats per document",
    "preferences": "preferences, nats per pair",
    "distillation": "divergence from the teacher, nats per token",
    "alignment": "distance to the teacher's streams, per token",
    "orientation": "distance to the teacher's matrices, per sequence",
}
OF_TEACHER = ("distillation", "alignment", "orientation")  # which are validated by the next token


@panel("Training runs", order=70, per_corpus=False)
def draw(scope: Scope) -> Iterable[Block]:
    """The line is the loss in training (averaged where there are more steps than points), the dots are the loss on the
    validation split; runs that learn from a teacher are validated by the next token, so theirs stands in the table. Below
    it, the predicate that chose the documents."""
    scope.need("runs", ("name", "meta"), "No model has been trained yet: `tilth train RECIPE` does.")
    runs = scope.rows(
        """select r.name, r.subset, r.base, s."where" as predicate, r.steps, r.seq_len, r.global_batch,
                   (r.meta ->> '$.n_parameters')::bigint as n_parameters,
                   (r.meta ->> '$.tokens_per_second')::double as tokens_per_second,
                   (r.meta ->> '$.validation_accuracy')::double as accuracy,
                   coalesce(r.meta ->> '$.objective', 'next_token') as objective,
                   if(objective = 'orientation', r.steps * r.seq_len * r.global_batch, l.n_tokens) as n_tokens,
                   l.first_loss, l.last_loss, l.validation_loss
            from runs as r left join subsets as s on s.name = r.subset left join (
                select run, sum(n_tokens)::bigint as n_tokens, arg_min(loss, step) as first_loss,
                       arg_max(loss, step) as last_loss,
                       arg_max(validation_loss, step) filter (validation_loss is not null) as validation_loss
                from losses group by run) as l on l.run = r.name
            order by r.base is not null, r.name"""
    )
    for number, (title, members) in enumerate(_charts(runs)):
        colours = dict(zip((row["name"] for row in members), SOURCE_COLOURS, strict=False))
        has_dots = members[0]["objective"] not in OF_TEACHER
        name = f"loss-{number}" if number else "loss"
        yield Chart(name, title, _curves(scope, colours, has_dots), legend=list(colours.items()))
    yield _table(runs)
    for name, predicate in dict.fromkeys((row["subset"], row["predicate"]) for row in runs):
        if predicate:
            yield Sql(f"Subset {name}: documents where", predicate)


def _charts(runs: Sequence[Row]) -> list[tuple[str, Sequence[Row]]]:
    """One chart a measure where the colours suffice; else one for each subset, of as many runs as there are colours."""
    charts: list[tuple[str, Sequence[Row]]] = []
    for measure in sorted({_measure(row) for row in runs}, key=[TEXT, *MEASURES.values()].index):
        own, title = [row for row in runs if _measure(row) == measure], f"Loss by step: {measure}"
        if len(own) <= MAX_RUNS:
            charts.append((title, own))
            continue
        for subset in dict.fromkeys(row["subset"] for row in own):
            members = [row for row in own if row["subset"] == subset]
            for start in range(0, len(members), MAX_RUNS):
                charts.append((f"{title}, on {subset}", members[start : start + MAX_RUNS]))
    return charts


def _measure(run: Row) -> str:
    return MEASURES.get(run["objective"], TEXT)


def _curves(scope: Scope, colours: dict[str, str], has_dots: bool) -> dict[str, Any]:
    import altair as alt

    rows = scope.rows(
        f"""with spans as (
                select *, greatest(1, max(step) over (partition by run) // {_POINTS}) as span
                from losses where list_contains(?, run))
            select run, max(step) as step, avg(loss) as loss, max(validation_loss) as validation from spans
            group by run, step // span order by run, step""",
        list(colours),
    )
    train = [{"run": row["run"], "step": row["step"], "loss": round(row["loss"], 5)} for row in rows]
    checked = [
        {"run": row["run"], "step": row["step"], "loss": round(row["validation"], 5),
         "label": f"{row['run']}, validation at step {row['step']:,}: {row['validation']:.4f}"}
        for row in rows if has_dots and row["validation"] is not None
    ]  # fmt: skip
    color = alt.Color("run:N", scale=alt.Scale(domain=list(colours), range=list(colours.values())), legend=None)
    x = alt.X("step:Q", title="step", axis=alt.Axis(labelExpr=NUMBER_LABELS, tickMinStep=1))
    y = alt.Y("loss:Q", title="loss", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    line = alt.Chart(alt.Data(values=train)).mark_line().encode(x=x, y=y, color=color)
    layers = [line]
    if checked:
        dots = alt.Chart(alt.Data(values=checked)).mark_point(
            filled=True, size=55, opacity=1, stroke="var(--paper)", strokeWidth=1.5
        )
        layers.append(dots.encode(x=x, y=y, color=color, description="label:N", tooltip="label:N"))
    return finished(alt.layer(*layers), height=260)


def _table(runs: Sequence[Row]) -> Table:
    columns = [
        "run",
        "subset",
        "from",
        "objective",
        "parameters",
        "steps",
        "tokens",
        "first loss",
        "last loss",
        "validation loss",
        "tokens/s",
    ]
    is_classifying = any(row["accuracy"] is not None for row in runs)
    columns += ["accuracy"] * is_classifying
    rows = []
    for row in runs:
        losses = [row[key] for key in ("first_loss", "last_loss", "validation_loss")]
        exact = [
            Cell(loss, _loss(loss), f"{key}/{row['name']}")
            for key, loss in zip(("first-loss", "last-loss", "validation-loss"), losses, strict=True)
        ]
        counts = [Cell(row[key]) for key in ("n_parameters", "steps", "n_tokens")]
        speed = row["tokens_per_second"]
        share = row["accuracy"]
        right = [Cell(share, "–" if share is None else f"{100 * share:.1f} %")] * is_classifying
        origin = row["base"] or ("imported" if row["steps"] is None else "scratch")
        rows.append(
            [row["name"], row["subset"] or "–", origin, row["objective"], *counts, *exact, Cell(speed and round(speed)), *right]
        )
    return Table(columns, rows)


def _loss(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.3f}"
