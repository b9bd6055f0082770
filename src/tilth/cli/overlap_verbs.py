"""decontaminate: benchmarks in the user's own files, without a project."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import click

from tilth.cli.own_files import COUNTS, DEBUG, FILES, ID, TEXT
from tilth.cli.tables import as_json, check_output, say, table


@click.command()
@FILES
@click.option(
    "--benchmark",
    "benchmarks",
    multiple=True,
    required=True,
    metavar="NAME=PATH",
    help="A benchmark's items: JSON lines, JSON, CSV, Parquet.",
)
@click.option(
    "-o", "--output", required=True, metavar="OUT.parquet", type=click.Path(path_type=Path), help="The file to write to."
)
@click.option("--field", "fields", multiple=True, metavar="NAME=A,B", help="A benchmark's fields, where their names do not tell.")
@TEXT
@ID
@click.option("--n", "n_words", type=int, default=13, show_default=True, help="Words of an n-gram.")
@click.option(
    "--min-words", type=int, default=8, show_default=True, help="Shorter items are not looked for; those in between as a whole."
)
@click.option(
    "--substring", "n_characters", type=int, default=0, show_default=True, help="Letters and digits of a substring; 0: none."
)
@click.option(
    "--code", "n_code", type=int, default=0, show_default=True, help="Words and marks of code, whatever its names; 0: none."
)
@click.option("--max-items", type=int, default=10, show_default=True, help="What more items hold is not looked for.")
@COUNTS
@DEBUG
def decontaminate(
    files: tuple[str, ...],
    benchmarks: tuple[str, ...],
    output: Path,
    fields: tuple[str, ...],
    text: str | None,
    id_field: str | None,
    n_words: int,
    min_words: int,
    n_characters: int,
    n_code: int,
    max_items: int,
    as_data: bool,
    debug: bool,
) -> None:
    """Find benchmark items in your own files, without a project.

    JSON lines, Parquet, CSV, WARC, WET, ARC or text; packed or not; folders and patterns, too. A row of OUT.parquet is a
    span of a document: file, row, id, benchmark, item, field, start, end, and the share of the item that the document holds.
    """
    from tilth.dedup.contamination.parameters import OverlapParameters
    from tilth.pipeline.decontaminate import decontaminate as run
    from tilth.pipeline.decontaminate import index_of
    from tilth.pipeline.score_inputs import Fields

    started = time.monotonic()
    check_output(output)
    parameters = OverlapParameters(n_words, min_words, n_characters, n_code, max_items)
    named_fields = {name: value.split(",") for name, value in _pairs(fields, "--field", "NAME=A,B").items()}
    index = index_of(_pairs(benchmarks, "--benchmark", "NAME=PATH"), named_fields, parameters)
    done = run(files, index, output, Fields(text, id_field))
    if as_data:
        print(as_json(dataclasses.asdict(done)))
        return
    columns = ["benchmark", "items", "looked for", "too short", "found", "documents"]
    rows = [(one.benchmark, one.n_items, one.n_searched, one.n_short, one.n_found, one.n_documents) for one in done.benchmarks]
    print(table(columns, rows))
    for one in done.benchmarks:
        if not one.n_found:
            say(one.in_words)
    read = f"{done.n_documents:,} documents read, {done.n_rejected:,} rows rejected"
    say(f"{done.n_contaminated:,} of {read}; {done.n_spans:,} spans in {time.monotonic() - started:.1f} s: {output}")


def _pairs(given: tuple[str, ...], option: str, form: str) -> dict[str, str]:
    """`name=value` words as a mapping."""
    found: dict[str, str] = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise click.BadParameter(f"`{word}` is not {form}", param_hint=option)
        if name in found:
            raise click.BadParameter(f"`{name}` is given twice", param_hint=option)
        found[name] = value
    return found
