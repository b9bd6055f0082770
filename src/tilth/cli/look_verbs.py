"""report, explain, ls, show, check: look at what there is."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import click

from tilth.cli.tables import as_json, check_output, record, say, table


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write it; .tilth/report.html otherwise.")
@click.option("--from", "corpus", help="The corpus; may be left out where there is only one.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def report(output: Path | None, corpus: str | None, debug: bool) -> None:
    """Write the report: one HTML file that needs no network."""
    from tilth.pipeline.project import Project
    from tilth.report import write_report

    started = time.monotonic()
    project = Project.find()
    if output is not None:
        check_output(output)
    path = write_report(project.store, output or project.store.root / "report.html", corpus)
    say(f"written in {time.monotonic() - started:.1f} s")
    print(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@click.command()
@click.argument("document")
@click.option("--from", "corpus", help="The corpus; may be left out where there is only one.")
@click.option("--json", "as_data", is_flag=True, help="All of it as JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def explain(document: str, corpus: str | None, as_data: bool, debug: bool) -> None:
    """Explain a document: its steps, signals and policies.

    DOCUMENT is a doc_id, a URL, a path, or shard:row. Signals come with their percentile in the corpus, policies with the
    clauses that would drop it.
    """
    from tilth.pipeline.explain import explain as find
    from tilth.pipeline.project import Project

    project = Project.find()
    found = find(project, corpus or project.only_corpus(), document)
    if as_data:
        print(as_json(dataclasses.asdict(found)))
        return
    print(record({name: value for name, value in found.document.items() if value not in (None, [], "")}))
    for title, rows in (("steps", found.steps), ("edits", found.edits), ("signals", found.signals), ("policies", found.policies)):
        if rows:
            cells = [[_plain(value) for value in row.values()] for row in rows]
            print(f"\n{table([title, *list(rows[0])[1:]], cells)}")


def _plain(value: Any) -> Any:
    return "; ".join(map(str, value)) if isinstance(value, list) else value


@click.command()
@click.argument("kind", required=False)
@click.option("--json", "as_data", is_flag=True, help="As JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def ls(kind: str | None, as_data: bool, debug: bool) -> None:
    """List what there is, or one KIND of it.

    Kinds: corpora, subsets, tokens, runs, deltas, replays; recipes, signals, policies, sources, contracts.
    """
    from tilth.pipeline.inventory import inventory
    from tilth.pipeline.project import Project

    rows = inventory(Project.find(), kind)
    if as_data:
        print(as_json(rows))
    elif rows:
        print(table(["kind", "name", "what"], [(row["kind"], row["name"], row["what"]) for row in rows]))
    else:
        say("nothing yet; begin with `tilth build demo`")


@click.command()
@click.argument("name", metavar="KIND/NAME")
@click.option("--json", "as_data", is_flag=True, help="As JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def show(name: str, as_data: bool, debug: bool) -> None:
    """Show one thing and how it was made.

    Such as corpus/demo, subset/clean, run/base, delta/tuned, recipe/demo, signal/language, source/Folder, contract/documents.
    """
    from tilth.pipeline.inventory import describe
    from tilth.pipeline.project import Project

    shown = describe(Project.find(), name)
    if as_data:
        print(as_json(shown))
        return
    print(record({key: value for key, value in shown.items() if key != "rows"}))
    if shown.get("rows"):
        print(table(list(shown["rows"][0]), [list(row.values()) for row in shown["rows"]], cut=False))


@click.command()
@click.option("--repair", is_flag=True, help="Remove damaged outputs (the next build makes them again) and rewrite the catalog.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def check(repair: bool, debug: bool) -> None:
    """Check the environment, the outputs and the catalog.

    Every file is read and compared with its checksum.
    """
    from tilth.pipeline.checking import check_project
    from tilth.pipeline.project import Project

    findings = check_project(Project.find(), repair=repair)
    print(table(["what", "state", "detail"], [(finding.what, finding.state, finding.detail) for finding in findings], cut=False))
    if any(finding.state == "bad" for finding in findings):
        raise SystemExit(1)
