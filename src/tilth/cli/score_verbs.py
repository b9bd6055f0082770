"""score, fit: the signals of the user's own files and the models behind some of them, without a project."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from tilth.cli.own_files import COUNTS, DEBUG, FILES, ID, TEXT
from tilth.cli.tables import as_json, record, say, size, table


@click.command()
@FILES
@click.option("-o", "--output", required=True, metavar="DIR", type=click.Path(path_type=Path), help="The folder to write to.")
@click.option("--signals", default="rpv2", show_default=True, metavar="NAMES", help="rpv2, gopher, all, or families: c4,fineweb.")
@click.option("--as", "form", default="parquet", show_default=True, metavar="FORM", help="parquet, jsonl, or rpv2: its layout.")
@TEXT
@ID
@click.option("--language", metavar="LANG", help="The language of texts that do not name theirs: en.")
@click.option("--bad-words", type=click.Path(exists=True, path_type=Path), help="LDNOOBW's folder, or JSON by language.")
@click.option("--blocked-domains", type=click.Path(exists=True, path_type=Path), help="UT1's folder, or JSON by domain.")
@click.option("--model", "models", multiple=True, metavar="NAME=FILE", help="A model of `tilth fit`; NAME begins its columns.")
@click.option("--snapshot", default="0000-00", show_default=True, metavar="YYYY-WW", help="The snapshot's name, as rpv2.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes; each scores whole files.")
@COUNTS
@DEBUG
def score(
    files: tuple[str, ...],
    output: Path,
    signals: str,
    form: str,
    text: str | None,
    id_field: str | None,
    language: str | None,
    bad_words: Path | None,
    blocked_domains: Path | None,
    models: tuple[str, ...],
    snapshot: str,
    workers: int,
    as_data: bool,
    debug: bool,
) -> None:
    """Score your own files, without a project.

    JSON lines, Parquet, CSV, WARC, WET, ARC or text; packed or not; folders and patterns, too. Every input has one
    output with a row for each of its rows. What is there and still true is kept, so that the same command goes on
    where it was stopped.
    """
    from tilth.pipeline.score import score as run
    from tilth.pipeline.score_inputs import Fields
    from tilth.pipeline.score_signals import choose, read_list

    started = time.monotonic()
    lists = {"bad_words": bad_words, "blocked_domains": blocked_domains}
    resources = {name: read_list(name, path) for name, path in lists.items() if path is not None}
    chosen = choose(signals, resources, _models(models))
    done = run(files, output, chosen, form, Fields(text, id_field, language), workers, snapshot)
    if as_data:
        print(as_json({"inputs": {one.name: {**one.counts, "made": one.why} for one in done.inputs}}))
        return
    rows = [(one.name, *_counts(one), one.why or "up to date") for one in done.inputs]
    print(table(["input", "rows", "rejected", "documents", "text", "why"], rows))
    if form == "rpv2":
        say(f"{done.n_duplicates:,} documents repeat an earlier one; {_unscored(chosen)}")
    say(f"{sum(bool(one.why) for one in done.inputs)} of {len(done.inputs)} made in {time.monotonic() - started:.1f} s: {output}")


@click.command()
@click.argument("kind", metavar="KIND")
@click.option("--positive", multiple=True, required=True, metavar="FILES", help="Texts that are wanted; may be repeated.")
@click.option("--negative", multiple=True, metavar="FILES", help="The other texts; `perplexity` has none.")
@click.option("-o", "--output", required=True, metavar="FILE", type=click.Path(path_type=Path), help="The model to write.")
@click.option("--seed", default=0, show_default=True, help="Of the choice of texts and of a classifier's training.")
@click.option("--max-documents", type=click.IntRange(min=1), help="At most so many texts of a side.")
@click.option("--compat", default="", metavar="NAME", help="redpajama-v2: its formula of importance.")
@TEXT
@click.option("--json", "as_data", is_flag=True, help="The manifest.")
@DEBUG
def fit(
    kind: str,
    positive: tuple[str, ...],
    negative: tuple[str, ...],
    output: Path,
    seed: int,
    max_documents: int | None,
    compat: str,
    text: str | None,
    as_data: bool,
    debug: bool,
) -> None:
    """Train a model on your own files, for `tilth score --model`.

    KIND is quality (fastText's classifier), importance (DSIR) or perplexity (a 5-gram model). FILE.manifest.json
    says of what files it was made, with which seed and parameters.
    """
    from tilth.pipeline.fit import Settings, manifest_path
    from tilth.pipeline.fit import fit as run
    from tilth.pipeline.score_inputs import Fields

    sides = {"positive": positive, "negative": negative}
    manifest = run(kind, sides, output, Fields(text), Settings(seed, max_documents, compat))
    if as_data:
        print(as_json(manifest))
        return
    read = {
        side: f"{found['n_rows']:,} rows of {len(found['files']):,} files, {found['n_rejects']:,} rejected"
        for side, found in manifest["data"].items()
    }
    print(record({"model": str(output), **read, "sha256": manifest["sha256"], "manifest": str(manifest_path(output))}))


def _counts(one: Any) -> tuple[Any, ...]:
    return one.counts["rows"], one.counts["rejects"], one.counts["documents"], size(one.counts["bytes"])


def _models(given: tuple[str, ...]) -> dict[str, bytes]:
    """`quality=model.bin` as bytes by name."""
    found = {}
    for item in given:
        family, equals, path = item.partition("=")
        if not equals or not Path(path).is_file():
            raise click.BadParameter(f"`{item}` is not NAME=FILE with a file that is there", param_hint="--model")
        found[family] = Path(path).read_bytes()
    return found


def _unscored(chosen: Any) -> str:
    """Which signals of the layout are null because nothing was given to compute them with."""
    from tilth.pipeline.interchange.redpajama_v2 import SIGNALS

    columns = {column for family in chosen.families for column in family.columns}
    missing = [name for name in SIGNALS if name not in columns]
    return f"null for want of a list or model: {', '.join(missing)}" if missing else "all signals are there"
