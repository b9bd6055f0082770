"""RedPajama-V2's signals that need no model: documents and megabytes a CPU-second, memory, and what the first call costs.

With `--reference` (the folder `app/src` of a checkout of RedPajama-Data) the same signals of its own code run on the same
documents in the same run, by an interpreter (`--python`) that has nltk and msgspec, and the values are compared.

    python benchmarks/signals.py DATA/rpv2_reference [--reference app/src --python PYTHON] [--notes TEXT]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from results import append, row, spread

from tilth.quality_signals.fused.phrases import word_lists
from tilth.quality_signals.registry import compute_families, get_family

FAMILIES = ("natural_language", "repetition", "lines", "stop_words", "bad_words", "blocked_domains", "ccnet")
REPEATS = 5
NUMBERS = ("language_score", "length", "nlines", "original_length", "original_nlines", "perplexity", "bucket")

# What the published worker does for a document, less the signals with models, the signatures and the files.
PEER = """
import json, sys, time, types
sys.modules["fasttext"] = types.ModuleType("fasttext")
from core.document import Document
from core.quality_signals.content import register_content_callables
from core.quality_signals.lines import register_lines_callables
from core.quality_signals.natural_language import register_natural_language_callables
from core.quality_signals.repetitions import register_repetitions_callables
folder, repeats = sys.argv[1], int(sys.argv[2])
records = [json.loads(line) for line in open(folder + "/docs.jsonl", "rb")]
signals = register_content_callables("en", folder + "/artifacts/bad_urls", folder + "/artifacts/bad_words")
signals += register_repetitions_callables() + register_natural_language_callables() + register_lines_callables()
times = []
for _ in range(repeats):
    start, values = time.process_time(), []
    for record in records:
        document = Document(record["raw_content"], domain=record["source_domain"], precompute_ngrams=True)
        values.append({signal.field_name: signal(document) for signal in signals})
    times.append(time.process_time() - start)
json.dump({"times": times, "values": values}, sys.stdout)
"""

FIRST_CALL = """
import time
start = time.process_time(), time.perf_counter()
import pyarrow as pa
from tilth.quality_signals.registry import compute_families, get_family
columns = {"shard": ["s"], "row": pa.array([0], pa.int32()), "text": ["a b"], "language": ["en"]}
families = [get_family(name) for name in ("natural_language", "repetition", "lines", "stop_words", "bad_words")]
ready = time.perf_counter()
compute_families(families, pa.table(columns), resources={"bad_words": b'{"en": ["a"]}'})
print(time.perf_counter() - ready)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder with docs.jsonl and artifacts/")
    parser.add_argument("--reference", type=Path, help="app/src of a checkout of RedPajama-Data")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with nltk and msgspec for the reference")
    parser.add_argument("--notes", default="", help="added to each row, such as what else ran on the machine")
    chosen = parser.parse_args()
    records = [json.loads(line) for line in (chosen.data / "docs.jsonl").read_bytes().splitlines()]
    resources = {
        "bad_words": word_lists(chosen.data / "artifacts" / "bad_words"),
        "blocked_domains": (chosen.data / "artifacts" / "bad_urls" / "domain_to_category_id.json").read_bytes(),
    }
    ascii_records = [record for record in records if record["raw_content"].isascii()]
    ascii_records *= 1 + 64_000_000 // sum(len(record["raw_content"]) for record in ascii_records)
    rows = [_against_reference(records, resources, chosen), *_on_ascii(ascii_records, resources, chosen.notes)]
    append([*rows, *_first_calls(chosen.notes)])


def _against_reference(records: list[dict[str, Any]], resources: dict[str, bytes], chosen: argparse.Namespace) -> dict[str, str]:
    documents, families = _table(records), [get_family(name) for name in FAMILIES]
    compute_families(families, documents, resources=resources)
    ours = _cpu_seconds(lambda: compute_families(families, documents, resources=resources))
    peer, notes = None, ""
    if chosen.reference:
        command = [chosen.python, "-c", PEER, str(chosen.data), str(REPEATS)]
        path = {**os.environ, "PYTHONPATH": str(chosen.reference)}
        found = json.loads(subprocess.run(command, env=path, capture_output=True, text=True, check=True).stdout)
        peer = statistics.median(found["times"])
        n_equal, n_values = _equal(compute_families(families, documents, resources=resources), found["values"])
        notes = f"; peer: RedPajama-V2's own code for the same signals, {len(records) / peer:.0f} docs/s"
        notes += f"; {n_equal} of {n_values} values equal"
    n_bytes = sum(len(record["raw_content"].encode()) for record in records)
    median = statistics.median(ours)
    speed = f"{len(records) / median:.0f} docs/s and {n_bytes / median / 1e6:.1f} MB/s per core; CPU p10-p90 {spread(ours)} s"
    size = f"{len(records)} documents, {n_bytes / 1e6:.2f} MB"
    scale = 1e6 / len(records)
    what = "rpv2 signals without models"
    return row(what, size, median * scale, "CPU us/document", peer and peer * scale, _joined(speed + notes, chosen.notes), 1)


def _on_ascii(records: list[dict[str, Any]], resources: dict[str, bytes], notes: str) -> list[dict[str, str]]:
    documents, n_bytes = _table(records), sum(len(record["raw_content"]) for record in records)
    size = f"{len(records)} ASCII documents, {n_bytes / 1e6:.0f} MB"
    rows = []
    for what, names in (("rpv2 signals without models, ASCII", FAMILIES), ("rpv2 document signals, ASCII", FAMILIES[:2])):
        families = [get_family(name) for name in names]
        times = _cpu_seconds(lambda chosen=families: compute_families(chosen, documents, resources=resources))
        speed = f"{len(records) / statistics.median(times):.0f} docs/s; CPU p10-p90 {spread(times)} s; {', '.join(names)}"
        rows.append(row(what, size, n_bytes / statistics.median(times) / 1e6, "MB/CPU-s", None, _joined(speed, notes), 1))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    said = "peak RSS of the process, texts and scores of all documents included"
    return [*rows, row("rpv2 signals without models, memory", size, peak, "MiB", None, _joined(said, notes), 1)]


def _first_calls(notes: str) -> list[dict[str, str]]:
    rows = []
    with tempfile.TemporaryDirectory(prefix="tilth-bench-") as cache:
        for what in ("cold: compiles all kernels", "warm: loads them"):
            command, environment = [sys.executable, "-c", FIRST_CALL], {**os.environ, "NUMBA_CACHE_DIR": cache}
            wall = float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
            rows.append(
                row(f"rpv2 signals, first call {what}", "1 document", wall, "s wall", None, _joined("once a process", notes), 1)
            )
    return rows


def _cpu_seconds(work: Callable[[], Any]) -> list[float]:
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return times


def _equal(ours: dict[str, pa.Table], theirs: list[dict[str, Any]]) -> tuple[int, int]:
    """How many of the reference's values are ours too, of how many; a line signal of a document counts as one."""
    found = [row for table in ours.values() for row in [table.to_pydict()]]
    columns = {name: values for table in found for name, values in table.items()}
    n_equal = n_values = 0
    for index, signals in enumerate(theirs):
        for name, spans in signals.items():
            scores = [score for *_, score in spans]
            if name.startswith("rps_lines_"):
                same = columns[name][index] == [score for score in scores if score is not None]
            else:
                same = columns[name][index] == scores[0]
            n_values, n_equal = n_values + 1, n_equal + same
    return n_equal, n_values


def _table(records: list[dict[str, Any]]) -> pa.Table:
    meta = [[(name, str(record[name])) for name in NUMBERS] for record in records]
    return pa.table(
        {
            "shard": pa.array(["benchmark"] * len(records), pa.string()),
            "row": pa.array(range(len(records)), pa.int32()),
            "text": pa.array([record["raw_content"] for record in records], pa.large_string()),
            "url": pa.array([f"http://{record['source_domain']}/" for record in records], pa.string()),
            "language": pa.array([record["language"] for record in records], pa.string()),
            "meta": pa.array(meta, pa.map_(pa.string(), pa.string())),
        }
    )


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


if __name__ == "__main__":
    main()
