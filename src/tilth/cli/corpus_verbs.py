"""new, build, sql, pick: from sources to a curated subset."""

from __future__ import annotations

import csv
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tilth.cli.tables import as_json, as_text, check_output, fitting_table, say, size, table

MAX_ROWS_SHOWN = 50


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--recipe", "recipes", multiple=True, metavar="NAME", help="A shipped recipe; again for more.  [default: demo]")
def new(folder: Path, recipes: tuple[str, ...]) -> None:
    """Make a project in FOLDER, with the demo recipe in it.

    With --recipe others that Tilth ships come in its place; a project that is there already gets them besides its own.
    """
    from tilth.pipeline.project import create_project

    made = create_project(folder, recipes)
    for recipe in made:
        say(f"made {recipe}")
    enter = f"cd {shlex.quote(str(folder))}"
    say(f"next: {enter} && tilth build demo" if not recipes else f"next: {enter}; the commands of a recipe are its first lines")


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--explain", is_flag=True, help="Tell what would run and why; run nothing.")
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes on this machine; 1 runs in this one."
)
@click.option("--scheduler", metavar="ADDRESS", help="Use an existing Dask scheduler: tcp://host:8786.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def build(recipe: str, overrides: tuple[str, ...], explain: bool, workers: int, scheduler: str | None, debug: bool) -> None:
    """Build the corpus that RECIPE describes.

    Reads, scores and marks duplicates: whatever is not made yet. NAME=VALUE sets a parameter of the recipe.
    """
    from tilth.pipeline import build as building
    from tilth.pipeline.contamination_steps import count_contamination
    from tilth.pipeline.project import Project
    from tilth.pipeline.recipe import Corpus
    from tilth.pipeline.recipes import load_recipe

    started = time.monotonic()
    project = Project.find()
    loaded = load_recipe(recipe, overrides, Corpus, project.folder)
    if explain:
        planned = building.plan_build(project, loaded.name, loaded.description)
        print(_explained(project, planned))
        return
    built = building.build(project, loaded.name, loaded.description, n_workers=workers, scheduler=scheduler)
    seconds = time.monotonic() - started
    if not built.n_made:
        say(f"{built.named.label} is up to date ({seconds:.1f} s)")
        return
    print(table(["source", "read", "rejected", "documents", "duplicates", "kept", "text", "tokens"], _flow(built.counts)))
    _say_contamination(count_contamination(project.store, built.named))
    n_there = len(built.named.parts) - built.n_made
    say(f"{built.named.label} built in {seconds:.1f} s; {built.n_made} outputs made, {n_there} were there")


def _say_contamination(found: list[Any]) -> None:
    """What was looked for of benchmarks and what was found, nothing included."""
    for one in found:
        left_out = f"; {one.n_short:,} texts were too short to be looked for" if one.n_short else ""
        say(f"{one.in_words}{left_out}")


def _flow(counts: dict[str, dict[str, int]]) -> list[tuple[Any, ...]]:
    """What came in and what is left, by source and in all."""
    totals = {key: sum(n[key] for n in counts.values()) for key in next(iter(counts.values()))}
    return [
        (
            source,
            n["n_documents"] + n["n_rejected"],
            n["n_rejected"],
            n["n_documents"],
            n["n_documents"] - n["n_kept"],
            n["n_kept"],
            size(n["n_bytes"]),
            n["n_tokens"],
        )
        for source, n in [*counts.items(), ("all", totals)]
    ]


def _explained(project: Any, planned: list[Any]) -> str:
    steps: dict[str, list[Any]] = {}
    for item in planned:
        steps.setdefault(item.node.step.name, []).append(item)
    rows = []
    for name, items in steps.items():
        stale = [item for item in items if item.part is None]
        n_bytes = sum(project.store.artifact(item.part).size_bytes for item in items if item.part is not None)
        why = stale[0].why if stale else "up to date"
        rows.append((name, len(items), len(stale), size(n_bytes) if n_bytes else "", why))
    n_stale = sum(item.part is None for item in planned)
    end = "Everything is up to date." if not n_stale else f"{n_stale} of {len(planned)} outputs would be made. Nothing was run."
    rules = [f"\n  keepers: {item.node.params['rule']}" for item in steps.get("dedup.keepers", [])]
    return table(["step", "outputs", "to make", "on disk", "why"], rows) + "".join(rules) + f"\n  {end}"


@click.command()
@click.argument("query", required=False)
@click.option("--json", "as_data", is_flag=True, help="Rows as JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Rows as CSV.")
@click.option("--parquet", type=click.Path(path_type=Path), help="Write the result to this Parquet file.")
@click.option("-i", "--interactive", is_flag=True, help="A shell: one query a line.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def sql(query: str | None, as_data: bool, as_csv: bool, parquet: Path | None, interactive: bool, debug: bool) -> None:
    """Ask everything in the project with SQL (DuckDB).

    Without QUERY, reads it from standard input. Begin with `tilth sql "show all tables"`. A published filter stands for its
    condition by its name: `where @gopher`.
    """
    from tilth.pipeline.curate import sql as run
    from tilth.pipeline.project import Project

    if as_data + as_csv + interactive + (parquet is not None) > 1:
        raise click.UsageError("--json, --csv, --parquet and -i exclude each other.")
    project = Project.find()
    if interactive:
        _shell(project)
        return
    if parquet is not None:
        check_output(parquet)
    answer = run(project, sys.stdin.read() if query is None else query)
    if parquet is not None:
        _save(answer, parquet)
    elif as_data:
        print(as_json(answer.to_pylist()))
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(answer.column_names)
        writer.writerows([as_text(value) for value in row.values()] for row in answer.to_pylist())
    else:
        print(_result(answer))


def _save(answer: Any, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tilth.artifacts.atomic import write_atomically

    written = pa.BufferOutputStream()
    pq.write_table(answer, written)
    write_atomically(path, written.getvalue())
    say(f"{answer.num_rows:,} rows in {path}")


def _result(answer: Any) -> str:
    shown = answer.slice(0, MAX_ROWS_SHOWN).to_pylist()
    text, n_columns = fitting_table(answer.column_names, [list(row.values()) for row in shown])
    left = [(answer.num_rows - len(shown), "rows"), (answer.num_columns - n_columns, "columns")]
    more = " and ".join(f"{n:,} more {what}" for n, what in left if n)
    return text + (f"\n  … {more}; `--csv`, `--json` and `--parquet` give all" if more else "")


def _shell(project: Any) -> None:
    import readline  # noqa: F401  (line editing for input())

    from tilth.errors import TilthError
    from tilth.pipeline.curate import sql as run

    say("One query a line; an empty line or Ctrl-D ends.")
    while True:
        try:
            query = input("tilth> ").strip()
        except EOFError:
            return
        if not query:
            return
        try:
            print(_result(run(project, query)))
        except TilthError as error:
            say(f"error: {error}")
        except KeyboardInterrupt:
            say("stopped")


@click.command()
@click.argument("name")
@click.argument("where")
@click.option("--from", "corpus", help="The corpus; may be left out where there is only one.")
@click.option("--tokens", help="Stop at about so many tokens: 500k, 20M, 2B.")
@click.option("--mix", help="Shares of the tokens by source, in whole documents: web=0.8,code=0.2.")
@click.option(
    "--max-repeats",
    default=1.0,
    show_default=True,
    help="How often --mix may repeat a small source; it is refused where that is too little.",
)
@click.option("--validation", type=float, help="Share of duplicate clusters kept for validation.  [default: 0.05]")
@click.option(
    "--validation-where",
    metavar="WHERE",
    help="What is for validation instead, with all its duplicates: \"meta['sequence'] = 'chrX'\".",
)
@click.option("--seed", default=0, show_default=True, help="Decides the split and which documents a budget takes.")
@click.option("--json", "as_data", is_flag=True, help="The counts as JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def pick(
    name: str,
    where: str,
    corpus: str | None,
    tokens: str | None,
    mix: str | None,
    max_repeats: float,
    validation: float | None,
    validation_where: str | None,
    seed: int,
    as_data: bool,
    debug: bool,
) -> None:
    """Curate the subset NAME by the SQL predicate WHERE.

    It holds the documents for which WHERE is true; each clause is shown with what it cost. A published filter stands there
    by its name, `@gopher` (`tilth ls policies`). The same document cannot be picked twice: a predicate usually says
    `is_keeper`.
    """
    from tilth.pipeline import curate
    from tilth.pipeline.project import Project

    project = Project.find()
    picked = curate.pick(
        project,
        name,
        where,
        corpus=corpus or project.only_corpus(),
        max_tokens=_count(tokens),
        mixture=_mixture(mix, max_repeats),
        validation_share=validation,
        validation_where=validation_where,
        seed=seed,
    )
    print(as_json({**picked.named.meta, "shares": [asdict(share) for share in picked.shares]}) if as_data else _picked(picked))
    _warn_of_shares(picked)


@click.command()
@click.argument("subset")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file rather than to standard output.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def notice(subset: str, output: Path | None, debug: bool) -> None:
    """Write the attributions that a release of SUBSET owes.

    By origin the licences in force and the copyright lines, then the text of each licence once.
    """
    from tilth.artifacts.atomic import write_atomically
    from tilth.pipeline import curate
    from tilth.pipeline.project import Project

    project = Project.find()
    if output is not None:
        check_output(output)
    composed = curate.notice(project, subset)
    if output is None:
        print(composed.text, end="")
    else:
        write_atomically(output, composed.text.encode("utf-8"))
    missing = f"; {composed.n_without:,} documents without a licence" if composed.n_without else ""
    say(f"{composed.n_origins:,} origins, {composed.n_licences:,} licences, {composed.n_texts:,} texts{missing}")


def _picked(picked: Any) -> str:
    """Before and after, then what each clause cost: documents that fail it, that are null for it, that only it drops."""
    cuts = picked.cuts
    rows = [
        (clause.sql, clause.failed.n_documents, clause.unknown.n_documents, clause.alone.n_documents, clause.failed.n_tokens)
        for clause in cuts.clauses
    ]
    before, after = f"{cuts.before.n_documents:,}", f"{picked.n_documents:,}"
    lines = [
        f"  {picked.named.label}: {after} of {before} documents ({picked.n_train:,} train, {picked.n_validation:,} validation)",
        *_held_out(picked.named.meta),
        f"  tokens: {picked.n_tokens or 0:,} of {cuts.before.n_tokens or 0:,}",
        f"  lost to null: {cuts.unknown.n_documents:,} documents",
        *([f"  licences: {picked.named.meta['licences']}"] if picked.named.meta.get("licences") else []),
        *([f"  keepers: {picked.named.meta['keepers']}"] if picked.named.meta.get("keepers") else []),
        table(["clause", "fail", "null", "only this", "tokens"], rows),
    ]
    if picked.shares:
        taken = [
            (
                one.source,
                one.n_tokens_there,
                round(one.repeats, 3),
                one.n_tokens_wanted,
                one.n_tokens,
                _percent(one.weight),
                _percent(one.reached),
            )
            for one in picked.shares
        ]
        lines.append(table(["source", "tokens there", "repeats", "wanted", "taken", "share wanted", "of training"], taken))
    if cuts.biggest is not None:
        lines.append(f"  biggest cut: {cuts.biggest.sql} ({cuts.biggest.n_dropped:,} documents)")
    return "\n".join(lines)


def _held_out(meta: dict[str, Any]) -> list[str]:
    if not meta.get("validation_where"):
        return []
    n_moved = meta["n_moved_to_validation"]
    also = f", and {n_moved:,} more documents that are duplicates of those" if n_moved else "; no document outside is a duplicate"
    return [f"  validation: {meta['validation_where']}{also}"]


def _warn_of_shares(picked: Any) -> None:
    from tilth.catalog.mixture import TOLERANCE

    for one in picked.shares:
        if one.why_off:
            off = f"{_percent(one.reached)} of the training tokens instead of {_percent(one.weight)}"
            say(f"warning: `{one.source}` has {off} (more than {100 * TOLERANCE:g} % of its share off): {one.why_off}")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _mixture(text: str | None, max_repeats: float) -> Any:
    """`web=0.8,code=0.2` as a Mixture."""
    from tilth.catalog.mixture import Mixture

    if text is None:
        return None
    weights = {}
    for item in text.split(","):
        source, _, weight = item.partition("=")
        try:
            weights[source.strip()] = float(weight)
        except ValueError:
            raise click.BadParameter(f"`{item}` is not source=weight; write web=0.8,code=0.2") from None
    return Mixture(weights, max_repeats)


def _count(text: str | None) -> int | None:
    """`20M` -> 20,000,000."""
    if text is None:
        return None
    factor = {"k": 10**3, "m": 10**6, "b": 10**9}.get(text[-1:].lower(), 1)
    try:
        n = int(float(text[:-1] if factor > 1 else text) * factor)
    except (ValueError, OverflowError):
        n = 0
    if n < 1:
        raise click.BadParameter(f"`{text}` is not a number of tokens; write 500k, 20M or 2B")
    return n
