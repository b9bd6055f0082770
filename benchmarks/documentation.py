"""Documentation: packages, repositories and generated pages; CPU-seconds of one process and its git.

    python benchmarks/documentation.py [--packages FOLDER] [--repositories FOLDER] [--pages SITE SOURCES] [--rounds 3]

FOLDER of packages holds what `pip download` and `npm pack` gave, FOLDER of repositories clones. SITE is a folder of HTML that
was made from the Markdown files in SOURCES (`mkdocs build`): the share of their fenced lines of code that the text still has.
"""

from __future__ import annotations

import argparse
import re
import resource
import statistics
from collections import Counter
from pathlib import Path

from results import append, row

from tilth.corpus.extract.html import Extractor
from tilth.corpus.formats.members import Damage, read_members
from tilth.corpus.records import Document, Source
from tilth.corpus.sources.git_repositories import GitRepositories
from tilth.corpus.sources.package_archives import PackageArchives

FENCED = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
MODES = ("documentation", "resiliparse", "both", "trafilatura")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path)
    parser.add_argument("--repositories", type=Path)
    parser.add_argument("--pages", type=Path, nargs=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.packages:
        append(package_rows(options.packages, options.rounds))
    if options.repositories:
        append(repository_rows(options.repositories, options.rounds))
    if options.pages:
        append(page_rows(*options.pages))


def package_rows(folder: Path, n_rounds: int) -> list[dict[str, str]]:
    files = [Path(file.location) for file in PackageArchives("packages", str(folder)).files()]
    n_unpacked = sum(map(unpacked_bytes, files))
    rows = []
    for only in ("documentation", "all"):
        seconds, n_documents, n_text = timed(PackageArchives("packages", str(folder), only=only), n_rounds)
        size = (
            f"{len(files)} archives, {n_unpacked / 1e6:.0f} MB unpacked, {n_documents} documents, {n_text / 1e6:.1f} MB of text"
        )
        rows.append(
            row(f"packages: {only}", size, seconds, "CPU s", notes=f"{n_unpacked / 1e6 / seconds:.0f} MB/s unpacked", threads=1)
        )
    return rows


def repository_rows(folder: Path, n_rounds: int) -> list[dict[str, str]]:
    seconds, n_documents, n_text = timed(GitRepositories("code", str(folder), only="documentation"), n_rounds)
    size, speed = f"{n_documents} documents, {n_text / 1e6:.1f} MB of text", f"{n_text / 1e6 / seconds:.1f} MB/s of text"
    return [row("repositories: documentation", size, seconds, "CPU s", notes=speed, threads=1)]


def page_rows(site: Path, sources: Path) -> list[dict[str, str]]:
    kept, n_lines, n_bytes = Counter[str](), 0, 0
    seconds = dict.fromkeys(MODES, 0.0)
    pages = [(source, site / source.relative_to(sources).with_suffix("") / "index.html") for source in sources.rglob("*.md")]
    pages = [(source, page) for source, page in pages if page.exists()]
    for source, page in pages:
        lines = Counter(
            line.strip() for block in FENCED.findall(source.read_text()) for line in block.split("\n") if line.strip()
        )
        n_lines += lines.total()
        n_bytes += page.stat().st_size
        for mode in MODES:
            before = cpu_seconds()
            text = Extractor(mode).extract(page.read_text()).text
            seconds[mode] += cpu_seconds() - before
            kept[mode] += (lines & Counter(line.strip() for line in text.split("\n"))).total()
    told = "; ".join(f"{mode} {kept[mode] / n_lines:.3f}, {n_bytes / 1e6 / seconds[mode]:.1f} MB/s" for mode in MODES)
    return [
        row("pages: lines of code kept", f"{len(pages)} pages, {n_lines} lines", kept[MODES[0]] / n_lines, "share", notes=told)
    ]


def timed(source: Source, n_rounds: int) -> tuple[float, int, int]:
    """(median of CPU-seconds, documents, bytes of text)."""
    seconds, n_documents, n_text = [], 0, 0
    for _ in range(n_rounds):
        before = cpu_seconds()
        texts = [one.text for shard in source.plan() for one in source.read(shard) if isinstance(one, Document)]
        seconds.append(cpu_seconds() - before)
        n_documents, n_text = len(texts), sum(len(text.encode("utf-8", "replace")) for text in texts)
    return statistics.median(seconds), n_documents, n_text


def unpacked_bytes(path: Path) -> int:
    with path.open("rb") as file:
        return sum(0 if isinstance(member, Damage) else member.size_bytes for member in read_members(file))


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
