"""From WARC to scored Parquet: where the processor time goes, what extraction adds to the libraries, and 1, 2 and 4 workers.

    python benchmarks/web.py [DATA] [--megabytes 50]      DATA: a folder with WARC files (else TILTH_TEST_DATA)

The archives are made of every HTML response in the WARCs of DATA, as it was archived, over and over under new URLs (the
real files hold a few MB). Stages take turns in one process (CPU-seconds, medians). Builds are wall seconds of `tilth build`.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from results import append, row

from tilth.corpus.extract.html import BOTH_RESILIPARSE, BOTH_TRAFILATURA, TRAFILATURA_OPTIONS, Extractor

# A shard is a file here: those of a crawl are larger than a shard.
RECIPE = """
from tilth import Corpus, Warc

SIGNALS = {signals!r}


def corpus() -> Corpus:
    return Corpus(sources=[Warc("web", {pattern!r}, extract={extract!r}, shard_bytes=1)], signals=SIGNALS, tokenizer=None)
"""
SIGNALS = ("natural_language", "repetition", "lines", "stop_words", "language")
N_FILES = 8
N_ROUNDS = 3
POLL_SECONDS = 0.1
MAX_BYTES = 64 << 20


class Size(NamedTuple):
    """How many pages the archives hold, and how many bytes of HTML after their encodings."""

    n_pages: int
    n_bytes: int

    def __str__(self) -> str:
        return f"{self.n_pages} pages, {self.n_bytes / 1e6:.0f} MB of HTML"

    def speed(self, seconds: float) -> str:
        return f"{self.n_pages / seconds:.0f} pages/s, {self.n_bytes / 1e6 / seconds:.2f} MB/s of HTML"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=os.environ.get("TILTH_TEST_DATA"))
    parser.add_argument("--megabytes", type=float, default=50.0)
    options = parser.parse_args()
    if options.data is None or not (blocks := list(html_responses(Path(options.data)))):
        sys.exit("give a folder with WARC files, or set TILTH_TEST_DATA")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        size = write_archives(blocks, folder, int(options.megabytes * 1e6))
        print(f"{size}, from {len(blocks)} real ones", flush=True)
        append(stage_rows(folder, len(blocks)))
        for extract, workers in (("both", (1, 2, 4)), ("resiliparse", (1, 2, 4))):
            append(build_rows(folder, size, extract, workers))


def html_responses(data: Path) -> Iterator[bytes]:
    """The HTTP messages with HTML in the WARCs below a folder that can be read."""
    from tilth.corpus.formats.archive import ArchivedRecord, read_archive

    for path in sorted(path for path in data.rglob("*.warc*") if path.is_file()):
        for record in read_archive(path, frozenset({"response"}), MAX_BYTES):
            if isinstance(record, ArchivedRecord) and page_of(record.block):
                yield record.block


def write_archives(blocks: list[bytes], folder: Path, n_wanted: int) -> Size:
    from warcio.warcwriter import WARCWriter

    sizes = [len(page[0]) for block in blocks if (page := page_of(block))]
    files = [open(folder / f"{i}.warc.gz", "wb") for i in range(N_FILES)]  # noqa: SIM115
    writers = [WARCWriter(file, gzip=True) for file in files]
    n_pages = n_bytes = 0
    while n_bytes < n_wanted:
        which = n_pages % len(blocks)
        writer = writers[(n_pages + n_pages // len(blocks)) % N_FILES]  # each file has all of them in turn
        headers = {"Content-Type": "application/http; msgtype=response"}
        record = writer.create_warc_record(
            f"http://example.org/{n_pages}", "response", io.BytesIO(blocks[which]), length=len(blocks[which]),
            warc_headers_dict=headers, warc_content_type="application/http; msgtype=response",
        )  # fmt: skip
        writer.write_record(record)
        n_pages, n_bytes = n_pages + 1, n_bytes + sizes[which]
    for file in files:
        file.close()
    return Size(n_pages, n_bytes)


def page_of(block: bytes) -> tuple[bytes, str | None] | None:
    """(body, charset) of an HTTP message with HTML, as `PageReader` takes it; None of any other."""
    from tilth.corpus.extract.http import BodyError, decode_body, parse_response
    from tilth.corpus.web_pages import HTML_TYPES, content_type

    try:
        response = parse_response(block)
        media_type, charset = content_type(response)
        body = decode_body(response, MAX_BYTES) if media_type in HTML_TYPES and response.status == 200 else b""
    except BodyError:
        return None
    return (body, charset) if body.strip() else None


def stage_rows(folder: Path, n_real: int) -> list[dict[str, str]]:
    """One archive in one process, each stage by itself, taking turns."""
    from tilth import Warc
    from tilth.corpus.batches import batches
    from tilth.corpus.formats.archive import ArchivedRecord, read_archive
    from tilth.corpus.web_pages import KINDS, read_page

    archive = folder / "0.warc.gz"
    records = list(read_archive(archive, KINDS, MAX_BYTES))
    pages = [page for record in records if isinstance(record, ArchivedRecord) and (page := page_of(record.block))]
    source = Warc("web", str(archive), max_seconds=0)
    (shard,) = source.plan()
    rows = list(source.read(shard))
    tables = [batch.documents for batch in batches(rows, shard)]
    both, fast = Extractor("both"), Extractor("resiliparse")
    stages: dict[str, Callable[[], object]] = {
        "reading": lambda: [page_of(record.block) for record in read_archive(archive, KINDS, MAX_BYTES)],
        "extraction": lambda: [read_page(*page, both) for page in pages],
        "libraries alone": lambda: [libraries_alone(body) for body, _ in pages],
        "resiliparse": lambda: [read_page(*page, fast) for page in pages],
        "resiliparse alone": lambda: [resiliparse_alone(body, {}) for body, _ in pages],
        "signals": lambda: score(tables),
        "writing": lambda: write(rows, shard, folder / "documents.parquet"),
    }
    for stage in stages.values():
        stage()  # imports, compiled kernels
    spent = {name: statistics.median(cpu_seconds(stage) for _ in range(N_ROUNDS)) for name, stage in stages.items()}
    parts = ("reading", "extraction", "signals", "writing")
    what = f"{len(pages)} pages, {sum(len(body) for body, _ in pages) / 1e6:.1f} MB of HTML ({n_real} real pages repeated)"
    fast_parts = ("reading", "resiliparse", "signals", "writing")
    return [
        *(share_row(what, spent, names) for names in (parts, fast_parts)),
        overhead_row(what, spent, "extraction", "libraries", "resiliparse and trafilatura called directly on the same bytes"),
        overhead_row(what, spent, "resiliparse", "resiliparse", "called directly on the same bytes"),
    ]


def share_row(what: str, spent: dict[str, float], parts: tuple[str, ...]) -> dict[str, str]:
    whole = sum(spent[name] for name in parts)
    notes = ", ".join(f"{name} {spent[name]:.3f} s {100 * spent[name] / whole:.1f} %" for name in parts)
    name = "both" if "extraction" in parts else "resiliparse"
    share = 100 * (spent[parts[1]]) / whole
    return row(f"WARC to scored Parquet, {name}: extraction's share", what, share, "% of CPU", notes=notes, threads=1)


def overhead_row(what: str, spent: dict[str, float], ours: str, peer: str, notes: str) -> dict[str, str]:
    alone = spent[f"{peer} alone"]
    notes = f"peer: {peer}, {notes}; ours {100 * (spent[ours] / alone - 1):+.1f} %"
    return row(f"extraction from bytes: {'both' if ours == 'extraction' else ours}", what, spent[ours], "CPU s", alone, notes, 1)


def resiliparse_alone(body: bytes, options: dict[str, Any]) -> str:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import detect_encoding
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse_from_bytes(body, detect_encoding(body, html5_compatible=True, from_html_meta=True))
    return extract_plain_text(tree, main_content=True, alt_texts=False, **options)


def libraries_alone(body: bytes) -> tuple[str, str]:
    import trafilatura

    options: dict[str, Any] = {**TRAFILATURA_OPTIONS, **BOTH_TRAFILATURA}
    return resiliparse_alone(body, BOTH_RESILIPARSE), trafilatura.extract(body, **options) or ""


def score(tables: list[Any]) -> None:
    from tilth.quality_signals.registry import compute_family, get_family

    for name in SIGNALS:
        for table in tables:
            compute_family(get_family(name), table)


def write(rows: list[Any], shard: Any, path: Path) -> None:
    from tilth.contracts import DOCUMENTS
    from tilth.corpus.batches import batches
    from tilth.pipeline.parquet import Writer

    with Writer(path, DOCUMENTS) as writer:
        for batch in batches(rows, shard):
            writer.write(batch.documents)
    path.unlink()


def build_rows(folder: Path, size: Size, extract: str, workers: tuple[int, ...]) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    alone = 0.0
    for n_workers in workers:
        project = folder / f"{extract}-{n_workers}"
        (project / "recipes").mkdir(parents=True)
        recipe = RECIPE.format(signals=SIGNALS, pattern=str(folder / "*.warc.gz"), extract=extract)
        (project / "recipes" / "bench.py").write_text(recipe)
        command = [sys.executable, "-m", "tilth", "build", "bench", "--workers", str(n_workers)]
        seconds, cpu, peaks = run(command, project)
        alone = alone or seconds
        memory = ", ".join(f"{name} {kib / 1024:.0f} MB" for name, kib in peaks.items())
        load = f"{cpu:.0f} CPU-s, {size.n_pages / cpu:.0f} pages/CPU-s, load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
        notes = f"{size.speed(seconds)}; {load}; peak memory (VmHWM) of one: {memory}; peer: one worker; shared machine"
        rows.append(
            row(f"WARC to scored Parquet, {extract}, {n_workers} workers", str(size), seconds, "s", alone, notes, n_workers)
        )
    return rows


def run(command: list[str], project: Path) -> tuple[float, float, dict[str, int]]:
    """Seconds by the clock and of processors, and the largest high-water mark (KiB) of a worker and of what extracts for it."""
    peaks = {"worker": 0, "its extracting process": 0}
    started, before = time.monotonic(), sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    process = subprocess.Popen(command, cwd=project, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        for pid in family(process.pid):
            name, kib = peak(pid)
            if name:
                peaks[name] = max(peaks[name], kib)
        time.sleep(POLL_SECONDS)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return time.monotonic() - started, sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before, peaks


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def peak(pid: int) -> tuple[str, int]:
    """Which kind of process it is, and its VmHWM in KiB; no kind if it has ended."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "", 0
    found = re.search(r"VmHWM:\s+(\d+)", status)
    return ("its extracting process" if b"time_limit" in command else "worker"), int(found[1]) if found else 0


def cpu_seconds(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


if __name__ == "__main__":
    main()
