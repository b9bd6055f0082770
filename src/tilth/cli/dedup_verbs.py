"""dedup: the near-duplicates in the user's own files, without a project."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tilth.cli.dedup_options import PRESETS, minhash_parameters
from tilth.cli.tables import as_json, say, size, table

if TYPE_CHECKING:
    from tilth.pipeline.dedup_files import Deduplicated, Search

METHODS = ("minhash", "exact", "normal_text", "url", "simhash")


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILES...")
@click.option("-o", "--output", required=True, metavar="OUT.parquet", type=click.Path(path_type=Path), help="The table to write.")
@click.option("--method", type=click.Choice(METHODS), default="minhash", show_default=True, help="How duplicates are found.")
@click.option("--id", "id_field", metavar="FIELD", help="The field of the document's id; without it, `file:row`.")
@click.option("--text", default="text", show_default=True, metavar="FIELD", help="The field of the text.")
@click.option("--url", default="url", show_default=True, metavar="FIELD", help="The field that `--method url` compares.")
@click.option("--preset", type=click.Choice(PRESETS), help="Parameters as published; the options below change them.")
@click.option("--threshold", type=float, help="The Jaccard similarity from which on two are duplicates.  [default: 0.7]")
@click.option("--n", "n_tokens", type=int, help="Tokens in a shingle.  [default: 5]")
@click.option("--unit", type=click.Choice(["words", "characters"]), help="What a token is.  [default: words]")
@click.option("--recall", type=float, help="The share of pairs at the threshold that is to be found.  [default: 0.98]")
@click.option(
    "--keep", multiple=True, metavar="RULE", help="Which one of a cluster stays: longest, `latest FIELD`, SQL to order by."
)
@click.option("--index", type=click.Path(path_type=Path), metavar="DIR", help="Keep what was made, for the next search.")
@click.option("--remove", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="IDS.txt",
              help="Ids, one a line, that are to be passed over.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes; each signs whole pieces.")
@click.option("--explain", is_flag=True, help="Tell what would run, and what it takes; run nothing.")
@click.option("--json", "as_data", is_flag=True, help="The counts as JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def dedup(
    files: tuple[str, ...],
    output: Path,
    method: str,
    id_field: str | None,
    text: str,
    url: str,
    preset: str | None,
    threshold: float | None,
    n_tokens: int | None,
    unit: str | None,
    recall: float | None,
    keep: tuple[str, ...],
    index: Path | None,
    remove: Path | None,
    workers: int,
    explain: bool,
    as_data: bool,
    debug: bool,
) -> None:
    """Find duplicates in your own files.

    JSON lines or Parquet, packed or not; folders, patterns and URLs, too. Every similarity is verified. OUT.parquet has a
    row for each member of a cluster: id, cluster, the document that it matches, and whether it is the one to keep. What is
    finished survives a kill: the same command goes on.
    """
    from tilth.pipeline.dedup_files import Search, deduplicate, plan_search

    started = time.monotonic()
    given = {"threshold": threshold, "n": n_tokens, "unit": unit, "recall": recall}
    parameters = minhash_parameters(preset, {name: value for name, value in given.items() if value is not None})
    gone = tuple(filter(None, map(str.strip, remove.read_text().splitlines()))) if remove else ()
    search = Search(files, output, parameters, text, id_field, index, gone, keep)
    if keep:
        say(f"kept of each cluster: {', then '.join([*keep, 'the first by file and row'])}")
    if method != "minhash":
        from tilth.pipeline.dedup_keys import deduplicate_by_keys

        _tell(search, deduplicate_by_keys(search, method, url if method == "url" else text), as_data, started)
        return
    say(parameters.explain())
    if explain:
        _explain(search, plan_search(search)[1])
        return
    _tell(search, deduplicate(search, workers), as_data, started)


def _tell(search: Search, found: Deduplicated, as_data: bool, started: float) -> None:
    if as_data:
        print(as_json(dataclasses.asdict(found)))
    else:
        print(table(["what", "documents"], _counts(found)))
    for line in found.rejects:
        say(f"warning: {line}")
    if not found.n_members:
        say(f"warning: none of {found.n_documents:,} documents has a duplicate: {search.output} has no rows")
    say(f"{search.output} written in {time.monotonic() - started:.1f} s; {found.n_made} outputs made")


def _counts(found: Deduplicated) -> list[tuple[str, int]]:
    return [
        ("read", found.n_documents),
        ("rejected rows", found.n_rejected),
        ("without a text to compare", found.n_without_text),
        *([("pairs that share a band", found.stats["n_candidates"])] if found.stats else []),
        ("in clusters", found.n_members),
        ("clusters", found.n_clusters),
        ("duplicates", found.n_duplicates),
    ]


def _explain(search: Search, planned: list[Any]) -> None:
    from tilth.pipeline.dedup_plan import estimate, measure

    waiting = [item for item in planned if item.part is None]
    print(table(["step", "why"], [(item.node.id, item.why) for item in waiting[:20]] or [("all", "up to date")]))
    n_bytes, n_documents = measure(search)
    rows = [
        (
            name,
            f"{plan.n_documents:,}",
            size(plan.n_bytes),
            size(plan.spill_bytes),
            size(plan.memory_bytes),
            f"{plan.cpu_hours:,.2f}",
        )
        for name, plan in (
            ("these files", estimate(n_documents, n_bytes, search.parameters)),
            ("1 billion alike", estimate(10**9, n_bytes * 10**9 // max(1, n_documents), search.parameters)),
        )
    ]
    print(table(["input", "documents", "text", "spill", "memory", "CPU hours"], rows))
