"""evaluate: many samples of each problem, which of them are right, and what that took."""

from __future__ import annotations

from typing import Any

import click

from tilth.cli.byte_sizes import ByteSize
from tilth.cli.option_groups import GroupedCommand, option
from tilth.cli.tables import as_json, say, size, table
from tilth.pipeline.evaluation import DTYPES, Evaluation

PROBLEMS, SAMPLES, CHOICE, MACHINE, ANSWER = "The problems", "The samples", "The choice", "The machine", "The answer"
_CHOSEN = {"majority": "maj", "best_of": "best of", "weighted": "weighted"}


class Numbers(click.ParamType):
    """Whole numbers from 1 on, separated by commas."""

    name = "N,N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """`8,64`."""
        if isinstance(value, tuple):
            return value
        words = str(value).split(",")
        if not all(word.strip().isdigit() and int(word) > 0 for word in words):
            self.fail(f"`{value}` is not a number from 1 on, or several with commas", param, ctx)
        return tuple(int(word) for word in words)


@click.command(cls=GroupedCommand)
@click.argument("run")
@option("--problems", group=PROBLEMS, required=True, metavar="FILE", help="JSON lines, or `arithmetic[:n=200,n_steps=3,...]`.")
@option("--limit", group=PROBLEMS, type=click.IntRange(min=1), metavar="N", help="Only the first N.")
@option("--shots", group=PROBLEMS, metavar="FILE:K", help="Show the first K solutions of FILE before each question.")
@option("--prompt", "template", group=PROBLEMS, metavar="TEXT", help="With {question}; default `Question: {question}\\nAnswer:`.")
@option("--contaminated-too", is_flag=True, group=PROBLEMS, help="Also if RUN was trained on some; it is recorded.")
@option("--n", "n", group=SAMPLES, type=click.IntRange(min=1), default=16, show_default=True, help="Samples of each problem.")
@option("--batch", "batches", group=SAMPLES, type=Numbers(), default="64", show_default=True, help="At once; several: a sweep.")
@option("--at-once", group=SAMPLES, type=click.IntRange(min=1), metavar="N", help="Of one problem, before the others' next.")
@option("--max-tokens", group=SAMPLES, type=click.IntRange(min=1), default=512, show_default=True, help="Of a sample.")
@option("--temperature", group=SAMPLES, type=float, default=0.8, show_default=True, help="0 draws one sample; the rest are it.")
@option("--top-p", group=SAMPLES, type=float, default=1.0, show_default=True, help="The likeliest that sum to this share.")
@option("--seed", group=SAMPLES, type=click.IntRange(0, 2**62), default=0, show_default=True, help="Of all chances.")
@option("--stop", "stops", group=SAMPLES, multiple=True, metavar="TEXT", help="Ends a sample, as `\\nQuestion:` always does.")
@option("--verifier", group=CHOICE, metavar="RUN[:CLASS]", help="Scores samples: best-of-n and weighted votes.")
@option(
    "--stop-when-decided",
    "stops_when_decided",
    is_flag=True,
    group=CHOICE,
    help="Cancel what no vote can change: the majority alone is told.",
)
@option("--device", group=MACHINE, default="cpu", show_default=True, help="Where the model lies, such as cuda.")
@option("--dtype", group=MACHINE, type=click.Choice(DTYPES), help="Of the model's weights; default: as stored.")
@option("--threads", "n_threads", group=MACHINE, type=click.IntRange(min=1), metavar="N", help="Of the products on the CPU.")
@option("--memory", "memory_bytes", group=MACHINE, type=ByteSize(), help="For states, at most; default: what the batch needs.")
@option(
    "--cache",
    "uses_cache",
    is_flag=True,
    group=MACHINE,
    help="Read what prompts share once; samples are then the same to rounding.",
)
@option("--against", group=ANSWER, metavar="EVALUATION", help="Of the same problems: the difference at each second.")
@option("--name", group=ANSWER, help="Of the evaluation; default RUN-PROBLEMS.")
@option("--json", "as_data", is_flag=True, group=ANSWER, help="As JSON.")
@option("--debug", is_flag=True, group=ANSWER, help="Show tracebacks.")
def evaluate(run: str, stops: tuple[str, ...], as_data: bool, debug: bool, **settings: Any) -> None:
    """Sample solutions of problems, and say how many are right.

    RUN is a run of this project or the folder of a model. Coverage is pass@k, the chance that one of k samples is right;
    maj@k takes the answer that most of k give. Seconds count prefill, scoring and the last sample. Every sample is a row of
    `samples`: `tilth sql "from samples"`. What is broken off goes on where it was.
    """
    ends = tuple(stop.replace("\\n", "\n") for stop in stops)
    _run(Evaluation(run=run, stops=ends, **settings), as_data)


def _run(asked: Evaluation, as_data: bool) -> None:
    from tilth.pipeline.evaluate import draw, is_drawn, prepare
    from tilth.pipeline.evaluation_differences import in_words
    from tilth.pipeline.progress import progress
    from tilth.pipeline.project import Project

    project = Project.find()
    work = prepare(project, asked, say)
    if is_drawn(project, work):
        say("all samples were drawn before: seconds are those of then")
    with progress(f"evaluate {work.model.label}", work.n_requests) as advance:
        named = draw(project, work, advance)
    if as_data:
        print(as_json({"name": named.name, **named.meta}))
        return
    meta = named.meta
    say(
        f"{named.label}: {meta['run']} on {meta['n_problems']:,} problems of {meta['problems']}; overlap: {meta['contamination']}"
    )
    print(table(*_rows(meta)))
    for result in meta["results"]:
        if result["n_refused"]:
            say(f"batch {result['batch']}: {result['n_refused']:,} samples were refused, and count neither as right nor as wrong")
    for sentence in in_words(meta["difference"]) if meta.get("difference") else ():
        say(sentence)
    say("95 % intervals over problems; `tilth report` draws them against seconds")


def _rows(meta: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """A row for each batch."""
    shown = [("coverage", "pass", one["k"]) for one in _ends(meta["results"][0]["coverage"])]
    shown += [(name, word, meta["n"]) for name, word in _CHOSEN.items() if meta["results"][0].get(name)]
    columns = ["batch", "samples", *(f"{word}@{k}" for _, word, k in shown), "no answer", "tokens/s", "seconds", "memory"]
    if meta["stops_when_decided"]:
        columns.insert(2, "cancelled")
    body = []
    for result in meta["results"]:
        scores = [_score(result[name], k) for name, _, k in shown]
        row = [result["batch"], result["n_samples"], *scores, result["n_unparsed"], round(result["tokens_per_second"] or 0)]
        row += [f"{result['seconds']:.1f} s", size(result["memory_bytes"])]
        if meta["stops_when_decided"]:
            row.insert(2, result["n_cancelled"])
        body.append(row)
    return columns, body


def _ends(scores: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first, one in the middle and the last."""
    places = sorted({0, len(scores) // 2, len(scores) - 1}) if scores else []
    return [scores[place] for place in places]


def _score(scores: list[dict[str, Any]], k: int) -> str:
    found = next((one for one in scores if one["k"] == k), None)
    return f"{100 * found['mean']:.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}] %" if found else "–"
