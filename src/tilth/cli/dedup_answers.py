"""What `dedup` prints: counts, warnings where nothing was found, and the plan of a search."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilth.cli.tables import as_json, say, size, table

if TYPE_CHECKING:
    from tilth.pipeline.dedup_files import Deduplicated, Search
    from tilth.pipeline.passage_files import Cuts


def tell_duplicates(output: Path, found: Deduplicated, as_data: bool, started: float) -> None:
    """Counts of documents, and what is wrong with some of them."""
    counts = [
        ("read", found.n_documents),
        ("rejected rows", found.n_rejected),
        ("without a text to compare", found.n_without_text),
        *([("pairs that share a band", found.stats["n_candidates"])] if found.stats else []),
        ("in clusters", found.n_members),
        ("clusters", found.n_clusters),
        ("duplicates", found.n_duplicates),
    ]
    nothing = f"none of {found.n_documents:,} documents has a duplicate: {output} has no rows"
    _tell(output, found, ["what", "documents"], counts, "" if found.n_members else nothing, as_data, started)


def tell_cuts(output: Path, found: Cuts, as_data: bool, started: float) -> None:
    """Counts of documents and of cuts."""
    counts = [
        ("documents read", found.n_documents),
        ("rejected rows", found.n_rejected),
        ("documents with a cut", found.n_cut_documents),
        ("cuts", found.n_cuts),
        ("characters cut", found.n_cut_chars),
    ]
    nothing = f"no passage of {found.n_documents:,} documents is repeated: {output} has no rows"
    _tell(output, found, ["what", "number"], counts, "" if found.n_cuts else nothing, as_data, started)


def _tell(
    output: Path,
    found: Deduplicated | Cuts,
    columns: Sequence[str],
    counts: Sequence[tuple[str, int]],
    nothing: str,
    as_data: bool,
    started: float,
) -> None:
    print(as_json(dataclasses.asdict(found)) if as_data else table(columns, counts))
    for line in (*found.rejects, *([nothing] if nothing else [])):
        say(f"warning: {line}")
    say(f"{output} written in {time.monotonic() - started:.1f} s; {found.n_made} outputs made")


def tell_plan(search: Search, planned: list[Any]) -> None:
    """What would run, and what that takes, for the files at hand and for a billion documents like theirs."""
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
