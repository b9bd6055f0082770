"""dedup: duplicates and repeated passages in the user's own files, without a project."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tilth.cli.dedup_answers import tell_cuts, tell_duplicates, tell_plan
from tilth.cli.dedup_options import METHODS, PASSAGES, PRESETS, minhash_parameters, refuse_unheeded
from tilth.cli.option_groups import GroupedCommand, option
from tilth.cli.own_files import COUNTS, DEBUG, FILES
from tilth.cli.tables import check_output, say

if TYPE_CHECKING:
    from tilth.pipeline.dedup_files import Search
    from tilth.pipeline.dedup_keys import Marker

INPUT, LIKENESS, KEPT, CUT, WORK = "Files", "How alike (minhash)", "What is kept of a cluster", "What is cut", "The work"
SEMANTIC_THRESHOLD = 0.95
EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
TARGET = click.Path(path_type=Path)


@click.command(cls=GroupedCommand)
@FILES
@option("-o", "--output", group=INPUT, required=True, metavar="OUT.parquet", type=TARGET, help="The table to write.")
@option("--method", group=INPUT, type=click.Choice(METHODS), default="minhash", show_default=True, metavar="METHOD",
        help="See above.")  # fmt: skip
@option("--id", "id_field", group=INPUT, metavar="FIELD", help="The field of the document's id; without it, `file:row`.")
@option("--text", group=INPUT, default="text", show_default=True, metavar="FIELD", help="The field of the text.")
@option("--url", group=INPUT, default="url", show_default=True, metavar="FIELD", help="The field that `url` compares.")
@option("--embeddings", group=INPUT, type=EXISTING, metavar="FILE", help="`semantic`: .npy by row, or .parquet by id.")
@option(
    "--preset",
    group=LIKENESS,
    type=click.Choice(PRESETS),
    metavar="NAME",
    help="fineweb, stack-v2 or redpajama-v2: as published.",
)
@option("--threshold", group=LIKENESS, type=float, metavar="X", help="The least similarity, .7; cosine (`semantic`), .95.")
@option("--n", "n_tokens", group=LIKENESS, type=int, metavar="N", help="Tokens in a shingle, 5; `sentences` in a span, 3.")
@option(
    "--unit",
    group=LIKENESS,
    type=click.Choice(["words", "characters", "nucleotides"]),
    metavar="UNIT",
    help="A token is one of words, characters, or nucleotides (DNA, alike on both strands; `minhash`).",
)
@option("--recall", group=LIKENESS, type=float, metavar="X", help="The share of pairs at the threshold to find, .98.")
@option(
    "--keep", group=KEPT, multiple=True, metavar="RULE", help="longest, `latest FIELD`, or SQL, `stars desc`; else the first."
)
@option("--mode", group=CUT, type=click.Choice(["keep_first", "remove_all_copies"]), default="keep_first",
        metavar="MODE", help="keep_first, or remove_all_copies of a passage.")  # fmt: skip
@option("--min-tokens", group=CUT, type=int, default=50, show_default=True, metavar="N", help="Words and marks of a `substring`.")
@option("--index", group=WORK, type=TARGET, metavar="DIR", help="Keep what was made, for the next search.")
@option("--remove", group=WORK, type=EXISTING, metavar="IDS.txt", help="Pass over these ids, one a line.")
@option("--workers", group=WORK, type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Processes.")
@option("--explain", group=WORK, is_flag=True, help="Tell what would run, and what it takes; run nothing.")
@COUNTS
@DEBUG
@click.pass_context
def dedup(context: click.Context, /, files: tuple[str, ...], output: Path, method: str, **asked: Any) -> None:
    """Find duplicates or repeated passages in your own files.

    JSON lines or Parquet, packed or not; folders, patterns and URLs, too.

    \b
    METHOD is one of
      minhash      texts that share shingles; every similarity is verified
      exact        equal texts
      normal_text  texts that are equal without case, marks and wrapping
      url          equal URLs, in normal form
      simhash      near fingerprints
      semantic     embeddings that point into one direction
      lines, paragraphs, sentences, substring: passages that are repeated

    OUT.parquet has a row for each member of a cluster: id, cluster, the document that it matches, and whether it is the one
    to keep; of passages, a row for each cut. What is finished survives a kill: the same command goes on.
    """
    refuse_unheeded(context, method)
    check_output(output)
    if method != "semantic":  # nothing else multiplies matrices, and idle threads of NumPy's spin
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from tilth.dedup.minhash.parameters import MinHashParameters
    from tilth.pipeline.dedup_files import Search

    started = time.monotonic()
    gone = tuple(filter(None, map(str.strip, asked["remove"].read_text().splitlines()))) if asked["remove"] else ()
    shape = {name: value for name, value in (("n", asked["n_tokens"]), ("unit", asked["unit"])) if value is not None}
    given = {**shape, **{name: asked[name] for name in ("threshold", "recall") if asked[name] is not None}}
    parameters = minhash_parameters(asked["preset"], given) if method == "minhash" else MinHashParameters()
    search = Search(files, output, parameters, asked["text"], asked["id_field"], asked["index"], gone, asked["keep"])
    if search.keep:
        say(f"kept of each cluster: {', then '.join([*search.keep, 'the first by file and row'])}")
    if method == "minhash":
        _near(search, asked, started)
    elif method in PASSAGES:
        _passages(search, method, asked, started)
    else:
        from tilth.pipeline.dedup_keys import deduplicate_by_keys

        compared = asked["url"] if method == "url" else search.text
        found = deduplicate_by_keys(search, method, compared, _marker(search, method, shape, asked))
        tell_duplicates(output, found, asked["as_data"], started)


def _near(search: Search, asked: dict[str, Any], started: float) -> None:
    from tilth.pipeline.dedup_files import deduplicate, plan_search

    say(search.parameters.explain())
    if asked["explain"]:
        tell_plan(search, plan_search(search)[1])
        return
    tell_duplicates(search.output, deduplicate(search, asked["workers"]), asked["as_data"], started)


def _passages(search: Search, method: Any, asked: dict[str, Any], started: float) -> None:
    from tilth.pipeline.passage_files import cut_passages
    from tilth.pipeline.passage_steps import Passages

    n = {"n": asked["n_tokens"]} if asked["n_tokens"] is not None else {}
    passages = Passages(method, asked["mode"], min_tokens=asked["min_tokens"], **n)
    tell_cuts(search.output, cut_passages(search, passages, asked["workers"]), asked["as_data"], started)


def _marker(search: Search, method: str, shape: dict[str, Any], asked: dict[str, Any]) -> Marker:
    from tilth.dedup.simhash.parameters import SimHash
    from tilth.pipeline.dedup_keys import key_marker, semantic_marker, simhash_marker

    if method == "semantic":
        threshold = SEMANTIC_THRESHOLD if asked["threshold"] is None else asked["threshold"]
        return semantic_marker(asked["embeddings"], threshold, search.id or "id")
    return simhash_marker(SimHash(**shape)) if method == "simhash" else key_marker(method)
