"""From WARC to scored Parquet: what the extraction library alone takes, what reading takes, and a build on 1, 2 and 4 workers.

    python benchmarks/web.py PAGES [--megabytes 100]      PAGES: a folder of real .html files

The archive is made of the pages over and over, each copy with a paragraph of its own, so that no two are alike. Reading
and the library take turns in one process (CPU-seconds, medians of 3). Builds are wall seconds of `tilth build`.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from results import append, row

RECIPE = """
from tilth import Corpus, Warc

SIGNALS = ("natural_language", "repetition", "lines", "stop_words", "language")


def corpus() -> Corpus:
    return Corpus(sources=[Warc("web", {pattern!r})], signals=SIGNALS, tokenizer=None)
"""
N_FILES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path)
    parser.add_argument("--megabytes", type=float, default=100.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        n_pages, n_bytes = write_archives(options.pages, folder, int(options.megabytes * 1e6))
        size = f"{n_pages} pages, {n_bytes / 1e6:.0f} MB of HTML"
        print(size)
        append([reading_row(folder, size, n_bytes), *build_rows(folder, size, n_bytes)])


def write_archives(pages: Path, folder: Path, n_wanted: int) -> tuple[int, int]:
    """Write N_FILES archives; returns how many pages they hold and how many bytes of HTML."""
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    bodies = [path.read_bytes() for path in sorted(pages.rglob("*.html"))]
    if not bodies:
        sys.exit(f"no .html file below {pages}")
    files = [open(folder / f"{i}.warc.gz", "wb") for i in range(N_FILES)]  # noqa: SIM115
    writers = [WARCWriter(file, gzip=True) for file in files]
    n_pages = n_bytes = 0
    while n_bytes < n_wanted:
        own = f"<p>Copy {n_pages} of a page, with a sentence that only it has: {n_pages * 7919} furrows.</p></body>".encode()
        body = bodies[n_pages % len(bodies)].replace(b"</body>", own, 1)
        headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
        writer = writers[n_pages % N_FILES]
        record = writer.create_warc_record(f"http://example.org/{n_pages}", "response", io.BytesIO(body), http_headers=headers)
        writer.write_record(record)
        n_pages, n_bytes = n_pages + 1, n_bytes + len(body)
    for file in files:
        file.close()
    return n_pages, n_bytes


def reading_row(folder: Path, size: str, n_bytes: int) -> dict[str, str]:
    """One archive: ours to Arrow against FastWARC and resiliparse alone, which keep nothing."""
    from tilth import Warc
    from tilth.corpus.reading import read_shard

    source = Warc("web", str(folder / "0.warc.gz"))
    (shard,) = source.plan()
    ours, alone = [], []
    for _ in range(3):
        ours.append(cpu_seconds(lambda: sum(batch.documents.num_rows for batch in read_shard(source, shard))))
        alone.append(cpu_seconds(lambda: sum(map(len, library_alone(folder / "0.warc.gz")))))
    mb = n_bytes / N_FILES / 1e6
    found = statistics.median(ours)
    notes = f"peer: FastWARC + resiliparse alone; ours {mb / found:.1f} MB/s of HTML; one process, shared machine"
    return row("read WARC to Arrow", size, found, "CPU s", statistics.median(alone), notes, threads=1)


def library_alone(archive: Path) -> Iterator[str]:
    from fastwarc.warc import ArchiveIterator, WarcRecordType
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    with archive.open("rb") as file:
        for record in ArchiveIterator(file, record_types=WarcRecordType.response):
            tree = HTMLTree.parse_from_bytes(record.reader.read(), "utf-8")
            yield extract_plain_text(tree, main_content=True)


def build_rows(folder: Path, size: str, n_bytes: int) -> list[dict[str, str]]:
    rows = []
    alone = 0.0
    for n_workers in (1, 2, 4):
        project = folder / f"project-{n_workers}"
        (project / "recipes").mkdir(parents=True)
        (project / "recipes" / "bench.py").write_text(RECIPE.format(pattern=str(folder / "*.warc.gz")))
        started = time.monotonic()
        command = [sys.executable, "-m", "tilth", "build", "bench", "--workers", str(n_workers)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=project, env=environment, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - started
        alone = alone or seconds
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        notes = (
            f"{n_bytes / 1e6 / seconds:.1f} MB/s of HTML; largest process so far {peak:.0f} MB; peer: one worker; shared machine"
        )
        rows.append(row(f"WARC to scored Parquet, {n_workers} workers", size, seconds, "s", alone, notes, threads=n_workers))
    return rows


def cpu_seconds(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


if __name__ == "__main__":
    main()
