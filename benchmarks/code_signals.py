"""Signals of source code: megabytes a CPU-second, beside bigcode-dataset's own filters on the same files in the same run.

    python benchmarks/code_signals.py FOLDER [FOLDER...]

The files are those below the folders that are text with a language that we know. Where TILTH_BIGCODE_SOURCE names the
folder `preprocessing` of a checkout of bigcode-dataset, its functions run on them, in the interpreter
TILTH_BIGCODE_PYTHON (this one by default), which needs beautifulsoup4 and pygments; the values are compared.
TILTH_BENCHMARK_NOTES is added to each row, such as what else ran on the machine.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
from results import append, row, spread

from tilth.corpus.extract.textfile import NotTextError, read_text
from tilth.corpus.languages import detect
from tilth.quality_signals.registry import compute_families, get_family

FAMILIES = ("code_shape", "code_head", "code_html", "code_comments")
REPEATS, MOST_BYTES = 5, 60_000_000
PEER_BYTES = 6_000_000  # what the peer reads in a minute or so; ours reads the same files

# The functions of filtering.py, which itself cannot be imported without `datasets`; the shares and lengths that it expects
# as columns of The Stack are counted as it counts letters.
PEER = """
import ast, json, sys, time, warnings
from bs4 import BeautifulSoup
warnings.simplefilter("ignore")
source, files = sys.argv[1:]
sys.path.insert(0, source)
from utils.text_extraction import get_nl_ratio
wanted = {"basic_filters", "filter_xml", "filter_html", "get_size_text", "filter_large_and_small_files"}
tree = ast.parse(open(source + "/filtering.py").read())
tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in wanted]
class args: line_max, line_mean, alpha_frac, min_size, max_size = 1000, 100, 0.25, 100, 5000
exec(compile(tree, "filtering.py", "exec"))
seen = []
class Soup(BeautifulSoup):
    def get_text(self, *given, **named):
        text = super().get_text(*given, **named)
        seen.append(len(text))
        return text
BeautifulSoup = Soup
records = [json.loads(line) for line in open(files)]
values, start = [], time.process_time()
for record in records:
    text, language = record["text"], record["language"]
    lengths = [len(line) for line in text.splitlines()] or [0]
    example = {"content": text, "lang": language, "max_line_length": max(lengths), "avg_line_length": sum(lengths) / len(lengths),
               "alphanum_fraction": sum(map(str.isalnum, text)) / len(text)}
    example |= get_size_text(example)
    basic_filters(example); filter_xml(example); filter_large_and_small_files(example)
    value = {"alphabetic": sum(map(str.isalpha, text)) / len(text), "alphanumeric": example["alphanum_fraction"]}
    if language == "HTML":
        filter_html(example)
        value["visible"] = seen[-1]
    if language in ("Python", "Java", "JavaScript"):
        value["comments"] = get_nl_ratio(text, language.lower())
    values.append(value)
json.dump({"seconds": time.process_time() - start, "values": values}, sys.stdout)
"""


def main(folders: list[Path]) -> None:
    """Measure and append rows to results.csv."""
    records = _records(folders)
    table, n_bytes = _table(records), _n_bytes(records)
    size = f"{len(records)} files, {n_bytes / 1e6:.1f} MB"
    rows = []
    for what, names in (*((name, (name,)) for name in FAMILIES), ("all signals without a grammar", FAMILIES)):
        times = _cpu_seconds(table, names)
        notes = _noted(f"{len(records) / statistics.median(times):.0f} files/s; CPU p10-p90 {spread(times)} s")
        rows.append(row(f"code signals, {what}", size, n_bytes / statistics.median(times) / 1e6, "MB/CPU-s", None, notes, 1))
    parsed = [record for record in records if record["language"] in ("Python", "JavaScript", "Java", "C", "C++", "Go", "Rust")]
    times = _cpu_seconds(_table(parsed), ("parse_errors",))
    size = f"{len(parsed)} files, {_n_bytes(parsed) / 1e6:.1f} MB"
    rows.append(
        row("code signals, parse_errors", size, _n_bytes(parsed) / statistics.median(times) / 1e6, "MB/CPU-s", None, _noted(), 1)
    )
    if "TILTH_BIGCODE_SOURCE" in os.environ:
        rows.append(_against_peer(records))
    append(rows)


def _against_peer(records: list[dict[str, Any]]) -> dict[str, str]:
    step = max(1, _n_bytes(records) // PEER_BYTES)
    chosen = records[::step]
    table = _table(chosen)
    ours = _cpu_seconds(table, FAMILIES)
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps(record) + "\n" for record in chosen)
        file.flush()
        command = [
            os.environ.get("TILTH_BIGCODE_PYTHON", sys.executable),
            "-c",
            PEER,
            os.environ["TILTH_BIGCODE_SOURCE"],
            file.name,
        ]
        found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    ours += _cpu_seconds(table, FAMILIES)  # ours runs before and after it, so that both see the machine as it is
    speed = _n_bytes(chosen) / found["seconds"] / 1e6
    notes = f"peer: bigcode-dataset's filters, {speed:.2f} MB/CPU-s; {_agreement(table, found['values'])}"
    size = f"{len(chosen)} files, {_n_bytes(chosen) / 1e6:.1f} MB"
    return row("code signals beside bigcode-dataset", size, statistics.median(ours), "CPU s", found["seconds"], _noted(notes), 1)


def _agreement(table: pa.Table, theirs: list[dict[str, Any]]) -> str:
    """How often values are equal (shares of letters), or within 5 % of the text (visible text) or 0.05 (comments)."""
    found = [
        row for one in compute_families([get_family(name) for name in FAMILIES], table).values() for row in [one.to_pydict()]
    ]
    ours = {name: values for columns in found for name, values in columns.items()}
    sizes = [len(text) for text in table.column("text").to_pylist()]
    near: dict[str, list[bool]] = {"letters": [], "visible text": [], "comments": []}
    for index, value in enumerate(theirs):
        shares = (value["alphabetic"], value["alphanumeric"])
        near["letters"].append(shares == (ours["alphabetic_fraction"][index], ours["alphanumeric_fraction"][index]))
        if "visible" in value:
            near["visible text"].append(abs(ours["html_visible_chars"][index] - value["visible"]) <= 0.05 * sizes[index])
        if "comments" in value:
            near["comments"].append(abs(ours["comment_fraction"][index] - value["comments"]) <= 0.05)
    return "agree: " + ", ".join(f"{name} {sum(same)} of {len(same)}" for name, same in near.items())


def _records(folders: list[Path]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    n_bytes = 0
    for path in (path for folder in folders for path in sorted(folder.rglob("*"))):
        if path.is_symlink() or not path.is_file() or path.stat().st_size > 1 << 20:
            continue
        content = path.read_bytes()
        try:
            text, _ = read_text(content)
        except NotTextError:
            continue
        language = detect(path.name, content).language
        if language is None:
            continue
        found.append({"text": text, "language": language})
        n_bytes += len(text)
        if n_bytes > MOST_BYTES:
            break
    return found


def _cpu_seconds(table: pa.Table, names: tuple[str, ...]) -> list[float]:
    families = [get_family(name) for name in names]
    compute_families(families, table)  # loads what is compiled
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        compute_families(families, table)
        times.append(time.process_time() - start)
    return times


def _table(records: list[dict[str, Any]]) -> pa.Table:
    return pa.table(
        {
            "shard": pa.array(["benchmark"] * len(records), pa.string()),
            "row": pa.array(range(len(records)), pa.int32()),
            "text": pa.array([record["text"] for record in records], pa.large_string()),
            "language": pa.array([record["language"] for record in records], pa.string()),
        }
    )


def _n_bytes(records: list[dict[str, Any]]) -> int:
    return sum(len(record["text"].encode()) for record in records)


def _noted(*parts: str) -> str:
    return "; ".join(part for part in (*parts, os.environ.get("TILTH_BENCHMARK_NOTES", "")) if part)


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
