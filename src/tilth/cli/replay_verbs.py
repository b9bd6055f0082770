"""replay: a trace of requests through the prefix cache, without a model."""

from __future__ import annotations

import csv
import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from tilth.cli.byte_sizes import ByteSize
from tilth.cli.option_groups import GroupedCommand, option
from tilth.cli.tables import as_json, check_output, say, size, table
from tilth.errors import UserError

TRACE, CACHE, SERVER, ANSWER = "The trace", "The cache", "The server", "The answer"
DEFAULT_CAPACITIES = "1GB,2GB,5GB,10GB"


@click.command(cls=GroupedCommand)
@click.argument("trace", required=False, metavar="[TRACE]", type=click.Path(path_type=Path))
@option("--format", "form", group=TRACE, default="auto", show_default=True, metavar="FORM", help="mooncake, azure, marconi.")
@option("--synthetic", group=TRACE, metavar="NAME", help="Instead of a file: lmsys, sharegpt or swebench.")
@option("--sessions-per-second", group=TRACE, type=float, default=0.5, show_default=True, help="How fast synthetic ones come.")
@option("--seed", group=TRACE, type=click.IntRange(min=0), default=0, show_default=True, help="Of a synthetic trace.")
@option("--limit", group=TRACE, type=click.IntRange(min=1), metavar="N", help="Only the first N requests.")
@option("--max-input", group=TRACE, type=click.IntRange(min=1), metavar="N", help="Leave out prompts above N tokens.")
@option("--policy", "policies", group=CACHE, metavar="A,B", help="Which to compare; all of them otherwise.")
@option("--capacity", "capacities", group=CACHE, default=DEFAULT_CAPACITIES, show_default=True, metavar="SIZES", help="Bytes.")
@option("--model", group=CACHE, default="marconi-7b", show_default=True, help="Or modern, a RUN, or a model's folder.")
@option("--int8", is_flag=True, group=CACHE, help="Also each policy of Tilth's with checkpoints in 8 bits.")
@option("--instant", is_flag=True, group=SERVER, help="Requests end as they arrive, as in the paper's simulator.")
@option("--flops", group=SERVER, type=float, default=4e14, show_default=True, help="FLOP/s of the machine that reads prompts.")
@option("--json", "as_data", is_flag=True, group=ANSWER, help="As JSON.")
@option("--csv", "as_csv", is_flag=True, group=ANSWER, help="As CSV.")
@option("--report", group=ANSWER, type=click.Path(path_type=Path), metavar="FILE", help="Also a page with a chart: HTML.")
@option("--debug", is_flag=True, group=ANSWER, help="Show tracebacks.")
def replay(
    trace: Path | None,
    form: str,
    synthetic: str | None,
    sessions_per_second: float,
    seed: int,
    limit: int | None,
    max_input: int | None,
    policies: str | None,
    capacities: str,
    model: str,
    int8: bool,
    instant: bool,
    flops: float,
    as_data: bool,
    as_csv: bool,
    report: Path | None,
    debug: bool,
) -> None:
    """Replay a trace through the prefix cache.

    Which policy saves how much of it, at which capacity: shares of the tokens and of the FLOPs of prompts that need not be
    read again, and the time to the first token. In a project the answer is kept, and `tilth report` shows it.
    """
    if as_data and as_csv:
        raise click.UsageError("--json and --csv exclude each other.")
    if (trace is None) == (synthetic is None):
        raise click.UsageError("give either a TRACE or `--synthetic NAME`")
    if report is not None:
        check_output(report)
    sizes = [ByteSize().convert(text, None, None) for text in capacities.split(",")]
    if not all(sizes):
        raise click.BadParameter("0 bytes hold nothing", param_hint="--capacity")
    from tilth.inference.replay.contenders import chosen_policies
    from tilth.inference.replay.replay import Server
    from tilth.inference.replay.sweep import sweep
    from tilth.pipeline.progress import progress
    from tilth.pipeline.replay import facts_of, geometry_of, keep

    names = chosen_policies(policies.split(",") if policies else None, int8)
    geometry, server = geometry_of(model), Server(flops_per_second=flops)
    name, requests = _requests(trace, form, synthetic, sessions_per_second, seed, limit, max_input)
    facts = facts_of(requests, geometry, instant, flops)
    say(_about(name, facts))
    if len({int(request.input_N[0]) for request in requests}) == len(requests):
        say("no two requests begin alike (a trace of lengths has no contents): nothing can be shared, whatever the cache")
    with progress("replay", len(sizes) * len(names)) as advance:
        cells = sweep(requests, geometry, sizes, names, server, is_instant=instant, tell=advance)
    rows = [dataclasses.asdict(cell) for cell in cells]
    named = keep(name, facts, cells)
    if named is not None:
        say(f"kept as {named.label}; `tilth report` shows it")
    if report is not None:
        from tilth.report.replay_page import write_replay

        say(f"written: {write_replay(report, {'name': name, 'trace': name, **facts}, rows)}")
    _print(name, facts, rows, as_data, as_csv)


def _print(name: str, facts: dict[str, Any], rows: list[dict[str, Any]], as_data: bool, as_csv: bool) -> None:
    if as_data:
        print(as_json({"trace": name, **facts, "cells": rows}))
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        print(table(_COLUMNS, map(_cells, rows)))


_COLUMNS = ["capacity", "policy", "token hits", "FLOPs saved", "first token p50", "p95", "most held", "evictions", "CPU"]


def _cells(row: dict[str, Any]) -> list[Any]:
    rates = [f"{100 * row[rate]:.2f} %" for rate in ("token_hit_rate", "flop_hit_rate")]
    times = [f"{row[time]:.3f} s" for time in ("first_token_p50", "first_token_p95")]
    held = size(row["high_water_bytes"])
    return [size(row["capacity_bytes"]), row["policy"], *rates, *times, held, row["n_evictions"], f"{row['cpu_seconds']:.1f} s"]


def _requests(
    trace: Path | None, form: str, synthetic: str | None, rate: float, seed: int, limit: int | None, max_input: int | None
) -> tuple[str, Any]:
    if trace is not None:
        from tilth.inference.replay.traces.read import read_trace

        return trace.stem, read_trace(trace, form, limit, max_input)
    from tilth.inference.replay.synthetic import synthetic_trace

    made = synthetic_trace(str(synthetic), rate, seed)
    kept = [one for one in made if max_input is None or len(one.input_N) <= max_input][:limit]
    if not kept:
        raise UserError("the trace has no request so short", f"--max-input {max_input}", "Raise it, or leave it out.")
    return str(synthetic), kept


def _about(name: str, facts: dict[str, Any]) -> str:
    mode = "each ends as it arrives" if facts["is_instant"] else f"{facts['seconds']:,.0f} s long"
    return (
        f"{name}: {facts['n_requests']:,} requests, {facts['n_input_tokens'] / facts['n_requests']:,.0f} tokens in and "
        f"{facts['n_output_tokens'] / facts['n_requests']:,.0f} out on average, {mode}\n"
        f"{facts['model']}: {size(facts['kv_bytes'])} a token, {size(facts['checkpoint_bytes'])} a checkpoint"
    )
