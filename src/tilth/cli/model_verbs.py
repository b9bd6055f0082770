"""train, deploy, trace, why: from a subset to a served fine-tune, and from a token or a step back to documents."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import click

from tilth.cli.tables import as_json, record, say, size, table


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def train(recipe: str, overrides: tuple[str, ...], debug: bool) -> None:
    """Train the run that RECIPE (`demo:base`) describes.

    NAME=VALUE sets a parameter of the recipe. Under `torchrun` it trains on all processes.
    """
    from tilth.pipeline import launch
    from tilth.pipeline.progress import progress
    from tilth.pipeline.project import Project
    from tilth.pipeline.recipe import Train
    from tilth.pipeline.recipes import load_recipe

    started = time.monotonic()
    project = Project.find()
    loaded = load_recipe(recipe, overrides, Train, project.folder)
    with progress(f"train {loaded.name}", loaded.description.settings.get("steps", 0)) as advance:
        launched = launch.train(
            project, loaded.name, loaded.description, lambda line: advance(f"loss {line['loss']:.3f}"), say_costs
        )
    if os.environ.get("RANK", "0") != "0":
        return  # one process of a `torchrun` reports for all
    meta = launched.named.meta
    if launched.was_there:
        say(f"{launched.named.label} is up to date ({time.monotonic() - started:.1f} s)")
        return
    from tilth.kernels.backend import backends_used  # imports torch, which a run that was there does not need

    is_validated = meta.get("validation_loss") is not None
    fields = {
        "run": launched.named.label,
        "subset": meta["subset"],
        "parameters": meta["n_parameters"],
        "loss": f"{meta['start_loss']:.3f} -> {meta['end_loss']:.3f} in {meta['steps']} steps",
        "validation loss": f"{meta['start_validation_loss']:.3f} -> {meta['validation_loss']:.3f}" if is_validated else None,
        "validation accuracy": meta.get("validation_accuracy"),
        "resumed": f"after step {meta['resumed_from']}" if meta.get("resumed_from") else None,
        "classes": ", ".join(f"{number} {name}" for number, name in enumerate(meta.get("classes") or [])) or None,
        "tokens/s": meta.get("tokens_per_second"),
        "kernels": ", ".join(backends_used()),
    }
    print(record({name: value for name, value in fields.items() if value is not None}))


def say_costs(costs: dict[str, Any]) -> None:
    """Say what a run will take, before it begins."""
    if os.environ.get("RANK", "0") != "0":
        return
    others = " and the model that is asked" if costs["n_asked_parameters"] else ""
    say(
        f"{costs['n_parameters']:,} parameters, {costs['n_parameters_without_embedding']:,} of them not embedding; "
        f"{size(costs['state_bytes'])} for parameters, gradients and optimiser{others}\n"
        f"{costs['n_tokens']:,} tokens, {costs['tokens_per_step']:,} a step; "
        f"{costs['flops_per_token']:.3g} FLOPs a token, {costs['flops']:.3g} in all"
    )


@click.command()
@click.argument("run")
@click.option("--base", required=True, help="The run that RUN was fine-tuned from.")
@click.option(
    "--codec", "codecs", multiple=True, metavar="[PATTERN=]CODEC",
    help="Of the matrices: rank1 (default), bitdelta, residual:N, low-rank[:RANK] or whole; `blocks.0.*=whole` of some alone.",
)  # fmt: skip
@click.option(
    "--tables", type=click.Choice(["auto", "16", "8", "4", "1", "whole"]), default="auto", show_default=True,
    help="Bits of the embedding's and the head's changed rows; auto decides by bytes and error.",
)  # fmt: skip
@click.option("--prompt", default="", help="What the sample continues.")
@click.option(
    "--distill-steps",
    type=click.IntRange(min=0),
    default=60,
    show_default=True,
    help="Steps that train the scales; 0 leaves them as they are nearest to the weights.",
)
@click.option(
    "--task", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSONL of prompt and answer, to score base, fine-tune and delta on.",
)  # fmt: skip
@click.option(
    "--max-loss", type=click.FloatRange(min=0), default=0.25, show_default=True,
    help="Refuse a delta that loses more than this share of what the fine-tune gained, in loss or in right answers.",
)  # fmt: skip
@click.option("--json", "as_data", is_flag=True, help="The facts as JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def deploy(run: str, base: str, as_data: bool, debug: bool, **options: Any) -> None:
    """Compress RUN to one bit per weight against its base.

    Or to what `--codec` says. Then verifies what came of it, refuses it where it lost too much, and samples from it.
    """
    from tilth.deploy.acceptance import LEAST_NATS
    from tilth.pipeline.deploy import deploy as compress
    from tilth.pipeline.progress import progress
    from tilth.pipeline.project import Project

    with progress(f"deploy {run}", options["distill_steps"]) as advance:
        named = compress(
            Project.find(),
            run,
            base,
            **options,
            on_step=lambda _, error: advance(f"mean squared error of the logits {error:.3g}"),
        )
    meta = named.meta
    gain = meta["loss_base"] - meta["loss_tuned"]
    if gain < LEAST_NATS:
        say(f"warning: the fine-tune gained {gain:.4f} nats over its base on these tokens: there is little to keep")
    if as_data:
        print(as_json(meta))
        return
    smaller = f"{meta['bf16_ratio']:.2f}x smaller than bf16, {meta['ratio']:.1f}x than {size(meta['full_size_bytes'])} stored"
    kinds = {"matrices": "matrix_bytes", "tables": "table_bytes", "other": "other_bytes"}
    fields = {
        "delta": named.label,
        "codec": meta["codec"],
        "size": f"{size(meta['size_bytes'])} ({smaller})",
        "of which": ", ".join(f"{kind} {size(meta[key])}" for kind, key in kinds.items()),
        "loss": f"base {meta['loss_base']:.4f}, fine-tune {meta['loss_tuned']:.4f}, base + delta {meta['loss_delta']:.4f}",
        "same likeliest token": f"{meta['agreement']:.1%}",
        "right answers": _answers(meta),
        "largest logit error": meta["max_logit_error"],
        "sample": meta["sample"],
    }
    print(record({name: value for name, value in fields.items() if value is not None}))


def _answers(meta: dict[str, Any]) -> str | None:
    if not meta["n_task_answers"]:
        return None
    shares = {"base": "task_base", "fine-tune": "task_tuned", "base + delta": "task_delta"}
    return ", ".join(f"{name} {meta[key]:.1%}" for name, key in shares.items()) + f" of {meta['n_task_answers']:,}"


@click.command()
@click.argument("what", metavar="RUN|SHARD:OFFSET")
@click.option("--step", type=int, help="Training step of RUN.")
@click.option("--sequence", default=0, show_default=True, help="Sequence within the step's global batch.")
@click.option("--position", default=0, show_default=True, help="Token within the sequence.")
@click.option("--json", "as_data", is_flag=True, help="All of it as JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def trace(what: str, step: int | None, sequence: int, position: int, as_data: bool, debug: bool) -> None:
    """Trace a token back to its document.

    It is one of a training step, or one of a token shard, which is SUBSET/train or SUBSET/validation. Prints the token's
    place, the bytes that it stands for, and the document's SWHID, file or URL, and licence with its evidence.
    """
    from tilth.pipeline import trace as tracing
    from tilth.pipeline.project import Project

    if ":" in what:
        found: Any = tracing.trace_token(Project.find(), what)
    elif step is None:
        raise click.UsageError("of a run, give the `--step` of the token; of a token shard, write `SHARD:OFFSET`")
    else:
        found = tracing.trace(Project.find(), what, step, sequence, position)
    if as_data:
        print(as_json(dataclasses.asdict(found)))
        return
    document = {name: value for name, value in found.document.items() if value not in (None, [], "") and name != "text"}
    if document:
        document.setdefault("licence", "unknown: nothing in the source states one")
    names = [name for name in ("context", "epoch", "offset", "kind", "part", "locus") if getattr(found, name, None) is not None]
    names += ["is_turned"] if getattr(found, "is_turned", False) else []
    ranges = {name: (getattr(found, first), getattr(found, last)) for name, first, last in _BYTES}
    told = {name: f"{first:,} to {last:,}" for name, (first, last) in ranges.items() if first is not None}
    print(record({"token": repr(found.token), **{name: getattr(found, name) for name in names}, **told, **document}))


_BYTES = (("bytes trained on", "start", "end"), ("bytes as read", "source_start", "source_end"))


@click.command()
@click.argument("run")
@click.argument("step", type=int)
@click.option("--sequence", type=int, help="One sequence of the step's global batch alone.")
@click.option(
    "--by", type=click.Choice(["sequence", "tokens", "loss"]), default="sequence", show_default=True,
    help="In order of reading, or the most tokens or the highest loss first.",
)  # fmt: skip
@click.option("--signal", "signals", multiple=True, help="A column of the corpus to show beside; may be repeated.")
@click.option("--json", "as_data", is_flag=True, help="All of it as JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def why(run: str, step: int, sequence: int | None, by: str, signals: tuple[str, ...], as_data: bool, debug: bool) -> None:
    """List the documents that a step of RUN read.

    With each: how many of its tokens, in which epoch, where it comes from, its licence, and its loss where the run wrote
    `document_losses`. Nothing was logged for the rest: the order of a run is a pure function of its settings.
    """
    from tilth.pipeline.project import Project
    from tilth.pipeline.why import Why

    found = Why(Project.find(), run, signals).step(step, sequence, by)
    if as_data:
        print(as_json([dataclasses.asdict(read) for read in found]))
        return
    shown = [name for name in ("subset", "loss") if len({getattr(read, name) for read in found}) > 1]
    columns = ["sequence", "tokens", "share", "epoch", *shown, "document", "licence", "language", *signals, "text_swhid"]
    cells = []
    for read in found:
        row = read.document
        where = row.get("path") or row.get("url") or row.get("source") or "(of no one document)"
        own = [read.sequence, read.n_tokens, f"{read.share:.2%}", read.epoch, *(getattr(read, name) for name in shown), where]
        cells.append([*own, *(row.get(name) for name in ("licence", "language", *signals, "text_swhid"))])
    print(table(columns, cells))
    documents = {(read.document.get("shard"), read.document.get("row")) for read in found if read.document}
    say(f"{len(documents):,} document{'s' * (len(documents) != 1)}, {sum(read.n_tokens for read in found):,} tokens")
