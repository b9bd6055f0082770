"""CPU time of the published filter rules against datatrove's filters: `python benchmarks/rules.py [DATA]`, medians of 5.

DATA is the folder of test data (or TILTH_TEST_DATA); the documents are those of `rpv2_reference`. Needs datatrove 0.10.1
and spaCy 3.8. Both sides run on one thread, each repetition on fresh objects, compiled code warm; a policy's rules
are timed from the Arrow array to the columns, datatrove's from its documents to its decisions.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.formatters import PIIFormatter
from results import append, row, spread

from tilth.quality_signals.families.c4 import c4
from tilth.quality_signals.families.dolma import dolma
from tilth.quality_signals.families.fineweb import fineweb
from tilth.quality_signals.families.gopher import gopher, gopher_repetition
from tilth.quality_signals.families.pii import pii, pii_edits
from tilth.quality_signals.fused.text_batch import TextBatch

N_REPEATS = 5


def main(folder: Path) -> None:
    """Measure all rules on the documents of the reference and append rows to results.csv."""
    lines = (folder / "rpv2_reference" / "docs.jsonl").read_bytes().splitlines()
    texts = [json.loads(line)["raw_content"] for line in lines]
    array = pa.array(texts, pa.large_string())
    n_bytes = sum(len(text.encode()) for text in texts)
    size = f"{len(texts)} documents, {n_bytes / 1e6:.2f} MB"
    peer = f"datatrove {importlib.metadata.version('datatrove')}, spacy {importlib.metadata.version('spacy')}"
    cases: list[tuple[str, list[Callable[[TextBatch], Any]], list[Any]]] = [
        ("gopher quality rules", [gopher], [GopherQualityFilter()]),
        ("gopher repetition rules", [gopher_repetition], [GopherRepetitionFilter()]),
        ("gopher rules", [gopher, gopher_repetition], [GopherQualityFilter(), GopherRepetitionFilter()]),
        ("c4 rules, both variants", [c4], [C4QualityFilter()]),
        ("fineweb rules", [fineweb], [FineWebQualityFilter()]),
        ("dolma gopher_v1 rules", [dolma], []),
        ("pii signals", [pii], [PIIFormatter()]),
    ]
    for what, families, filters in cases:
        ours = cpu_seconds(lambda families=families: score(families, array))
        theirs = cpu_seconds(lambda filters=filters: judge(filters, texts)) if filters else None
        notes = [f"{len(texts) / statistics.median(ours):.0f} docs/s, {n_bytes / 1e6 / statistics.median(ours):.1f} MB/s"]
        if theirs:
            notes.append(f"peer {peer}: {len(texts) / statistics.median(theirs):.0f} docs/s")
        notes.append(f"p10-p90 ours {spread(ours)}" + (f", peer {spread(theirs)}" if theirs else ""))
        middle = statistics.median(theirs) if theirs else None
        append([row(what, size, statistics.median(ours), "CPU s", middle, "; ".join(notes), threads=1)])
    ours = cpu_seconds(lambda: pii_edits(array))
    theirs = cpu_seconds(lambda: [PIIFormatter().format(text) for text in texts])
    notes_of = f"{n_bytes / 1e6 / statistics.median(ours):.1f} MB/s; ours finds telephone numbers and IPv6 too; peer {peer}"
    append([row("pii redaction", size, statistics.median(ours), "CPU s", statistics.median(theirs), notes_of, threads=1)])


def score(families: Iterable[Callable[[TextBatch], Any]], texts: pa.Array) -> None:
    """Compute families over a fresh batch, which they share."""
    batch = TextBatch(texts)
    for family in families:
        family(batch)


def judge(filters: Iterable[Any], texts: Iterable[str]) -> None:
    """Let datatrove's steps see every text; each sees all, as ours do, though in a pipeline a later one sees what is left."""
    for step in filters:
        for text in texts:
            if isinstance(step, PIIFormatter):
                step.format(text)
            else:
                step.filter(Document(text=text, id=""))


def cpu_seconds(work: Callable[[], Any]) -> list[float]:
    """CPU time of each repetition, after one that warms up."""
    work()
    found = []
    for _ in range(N_REPEATS):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["TILTH_TEST_DATA"]))
