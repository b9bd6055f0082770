"""Near-duplicates at scale: memory and CPU-seconds of Tilth's command line, 100,000 to 10 million documents of 500 bytes.

    python benchmarks/dedup_scale.py [--sizes 100000,1000000,10000000] [--index-documents 1000000]
                                     [--crowds 100000,1000000] [--kills 20] [--kill-documents 100000] [--work FOLDER]

Sizes: peak memory of the process, and what of it is beyond an interpreter with the same imports; CPU-seconds a gigabyte beyond
those of ten documents, which are equal for all sizes where time is linear. Index: 10 % more documents against an index of the
others, compared with searching all of them afresh, in CPU-seconds and in the result. Crowds: copies of one page, and one template
filled in that often; all must be in one cluster, in linear time. Kills: kill -9 at random moments, twice for each result, and the
same command again; the result must be that of a run in peace, byte for byte. A part is left out by an empty list or a zero.

Ten million documents take 5 GB, and what the search spills, in the folder for work, which is emptied after each part.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import dedup_corpus
import pyarrow.parquet as pq
from process_cost import cost_of, successful
from results import append, row

from dedup import tilth_command

MEAN_WORDS = 85
DOCUMENTS_PER_SHARD = 100_000
LIST_IMPORTS = """
import atexit, json, sys
out = sys.argv.pop(1)
atexit.register(lambda: json.dump(sorted(sys.modules), open(out, "w")))
from tilth.cli import main
main()
"""
IMPORT = """
import contextlib, importlib, json, sys
for name in json.load(open(sys.argv[1])):
    with contextlib.suppress(ImportError):  # of names that others made up while running
        importlib.import_module(name)
"""
N_KILLS_A_RESULT = 2
MIB = 2**20


def corpus(folder: Path, n_documents: int, n_shards: int = 0) -> list[Path]:
    """The same documents for the same number, in files of consecutive ones."""
    made = dedup_corpus.corpus_from(None, mean_words=MEAN_WORDS)
    return dedup_corpus.write(folder, made, n_documents, n_shards or max(2, n_documents // DOCUMENTS_PER_SHARD))


def size_of(n_documents: int, files: list[Path]) -> str:
    return f"{n_documents} documents, {n_bytes(files) / 1e6:.1f} MB"


def n_bytes(files: list[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def measure_sizes(work: Path, sizes: list[int]) -> list[dict[str, str]]:
    """Rows of memory and time for each size; the smallest runs three times, the others once."""
    rows, speeds = [], []
    bare, start = empty_interpreter(work), startup(work)
    for n_documents in sizes:
        files = corpus(work / "corpus", n_documents)
        repeats = 3 if n_documents == min(sizes) else 1
        costs = [successful(tilth_command(files, work / "out.parquet")) for _ in range(repeats)]
        cpu, peak = statistics.median(cost.cpu_seconds for cost in costs), max(cost.peak for cost in costs)
        speeds.append((cpu - start) / n_bytes(files) * 1e9)
        size = size_of(n_documents, files)
        wall = statistics.median(cost.wall_seconds for cost in costs)
        found = pq.read_metadata(work / "out.parquet").num_rows
        notes = f"{repeats} runs, {wall:.0f} s by the clock; {found} documents in clusters"
        rows.append(row("dedup at scale, time", size, cpu, "CPU s", None, notes, 1))
        notes = f"peak RSS {peak / MIB:.0f} MiB less {bare / MIB:.0f} MiB of an interpreter with the same imports"
        rows.append(row("dedup at scale, memory", size, (peak - bare) / MIB, "MiB", None, notes, 1))
        print(f"{size}: {cpu:.1f} CPU s, peak {peak / MIB:.0f} MiB", flush=True)
        empty(work)
    if len(sizes) > 1:
        notes = f"slowest by fastest, each less {start:.1f} s that ten documents take; 1 is linear; CPU s a GB: " + ", ".join(
            f"{n}: {speed:.1f}" for n, speed in zip(sizes, speeds, strict=True)
        )
        span = f"{min(sizes)} to {max(sizes)} documents"
        rows.append(row("dedup at scale, CPU s a GB", span, max(speeds) / min(speeds), "x", None, notes, 1))
    return rows


def startup(work: Path) -> float:
    """CPU-seconds of the command on ten documents: imports and loading what is compiled."""
    files = corpus(work / "corpus", 10)
    seconds = statistics.median(successful(tilth_command(files, work / "out.parquet")).cpu_seconds for _ in range(3))
    empty(work)
    return seconds


def empty_interpreter(work: Path) -> int:
    """Peak memory of an interpreter that imports all modules that the command has imported at its end, and does nothing."""
    names, command = work / "imports.json", tilth_command(corpus(work / "corpus", 10), work / "out.parquet")
    successful([sys.executable, "-c", LIST_IMPORTS, str(names), *command[3:]])
    peak = successful([sys.executable, "-c", IMPORT, str(names)]).peak
    empty(work)
    return peak


def measure_index(work: Path, n_documents: int) -> list[dict[str, str]]:
    """10 % of the documents against an index of the others."""
    files = corpus(work / "corpus", n_documents * 11 // 10, 11)
    index, out, fresh = work / "index", work / "out.parquet", work / "fresh.parquet"
    before = successful(tilth_command(files[:10], out, "--index", str(index)))
    added = successful(tilth_command(files, out, "--index", str(index)))
    again = successful(tilth_command(files, out, "--index", str(index)))
    full = successful(tilth_command(files, fresh, "--index", str(work / "other")))
    is_equal = pq.read_table(out).equals(pq.read_table(fresh))
    spill = sum(path.stat().st_size for path in index.rglob("*") if path.is_file())
    notes = f"peer: all afresh; {added.cpu_seconds / full.cpu_seconds:.1%} of it; result {'the same' if is_equal else 'DIFFERS'}"
    notes += f"; the others before: {before.cpu_seconds:.1f} s; with nothing new: {again.cpu_seconds:.1f} s"
    notes += f"; index {spill / 1e6:.0f} MB, peak {added.peak / MIB:.0f} MiB"
    size = f"{n_documents} documents and 10 % more, {n_bytes(files) / 1e6:.1f} MB"
    empty(work)
    return [row("dedup, 10 % added to an index", size, added.cpu_seconds, "CPU s", full.cpu_seconds, notes, 1)]


def measure_crowds(work: Path, sizes: list[int]) -> list[dict[str, str]]:
    """Copies of one page and fillings of one template, every size of each."""
    start, rows = startup(work), []
    for what, filling in (("copies of one page", "same"), ("fillings of one template", "item{}")):
        for n_documents in sizes:
            files = crowd(work / "corpus", n_documents, filling)
            cost = successful(tilth_command(files, work / "out.parquet"))
            clusters = pq.read_table(work / "out.parquet", columns=["cluster_id"]).column(0)
            if (len(clusters), len(clusters.unique())) != (n_documents, 1):
                sys.exit(f"{n_documents} {what}: {len(clusters)} of them in {len(clusters.unique())} clusters")
            beyond = (cost.cpu_seconds - start) / n_documents * 1e6
            notes = f"{beyond:.1f} us a document beyond the {start:.1f} s that ten documents take; peak {cost.peak / MIB:.0f} MiB"
            size = size_of(n_documents, files)
            rows.append(row(f"dedup, {what}", size, cost.cpu_seconds, "CPU s", None, notes, 1))
            empty(work)
    return rows


def crowd(folder: Path, n_documents: int, filling: str) -> list[Path]:
    """A text and the same backwards, and between them a word that `filling` makes of the document's number."""
    folder.mkdir()
    [(_, text)] = dedup_corpus.corpus_from(None, mean_words=MEAN_WORDS).documents(1)
    files = [folder / f"{part}.jsonl" for part in range(4)]
    for part, path in enumerate(files):
        with path.open("w", encoding="utf-8") as lines:
            for number in range(part, n_documents, len(files)):
                page = f"{text} {filling.format(number)} {text[::-1]}"
                lines.write(json.dumps({"id": str(number), "text": page}, ensure_ascii=False) + "\n")
    return files


def measure_kills(work: Path, n_documents: int, n_kills: int, seed: int = 0) -> list[dict[str, str]]:
    """Ends the benchmark at the first result that differs."""
    rng, files = random.Random(seed), corpus(work / "corpus", n_documents)
    peace = successful(tilth_command(files, work / "peace.parquet"))
    expected, n_killed = (work / "peace.parquet").read_bytes(), 0
    while n_killed < n_kills:
        out = work / "killed" / "out.parquet"
        out.parent.mkdir()
        for _ in range(N_KILLS_A_RESULT):
            cost = cost_of(tilth_command(files, out), kill_after=rng.uniform(0.2, peace.wall_seconds))
            n_killed += cost.exit_code == -9
        successful(tilth_command(files, out))
        if out.read_bytes() != expected:
            sys.exit(f"after a kill the result differs from that of a run in peace (seed {seed}, {n_killed} kills)")
        shutil.rmtree(out.parent)
    size = size_of(n_documents, files)
    empty(work)
    return [row("dedup, kill -9", size, n_killed, "kills survived", None, "byte-identical every time; twice for each result", 1)]


def empty(work: Path) -> None:
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def main() -> None:
    parser: Any = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="100000,1000000,10000000")
    parser.add_argument("--index-documents", type=int, default=1_000_000)
    parser.add_argument("--crowds", default="100000,1000000")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kill-documents", type=int, default=100_000)
    parser.add_argument("--work", help="a folder with space; a temporary one in it is removed at the end")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tilth-bench-", dir=given.work) as folder:
        work = Path(folder)
        # Compiles what is not yet cached, outside of what is measured.
        successful(tilth_command(corpus(work / "corpus", 2000), work / "out.parquet"))
        empty(work)
        # Each part's rows are kept although a later part may fail.
        if sizes := [int(size) for size in given.sizes.split(",") if size]:
            append(measure_sizes(work, sizes))
        if given.index_documents:
            append(measure_index(work, given.index_documents))
        if crowds := [int(size) for size in given.crowds.split(",") if size]:
            append(measure_crowds(work, crowds))
        if given.kills:
            append(measure_kills(work, given.kill_documents, given.kills))


if __name__ == "__main__":
    main()
