"""A code corpus from real repositories: a whole build beside bigcode-dataset's steps, its cost by size, 1 and 4 workers.

    python benchmarks/code_build.py FOLDER [--rounds 3] [--workers 4]
        [--bigcode CHECKOUT --stack-v2 CHECKOUT [--enry LIBRARY] [--peers-env ENV] [--sample 16]]

FOLDER holds the repositories, bare or not. Ours is `tilth build` in a process of its own: read, hash, language, licence,
redaction, signals, secrets, near-duplicates, Parquet, catalog. The peer is what the checkouts of bigcode-project/bigcode-dataset
and bigcode-project/the-stack-v2 do to the text files that ours read, without imports, storage and Spark (`peers/bigcode_steps.py`
and `code_signals.py` call their functions), in an environment made once from peers_code.txt. Its steps run on every n-th file by
size, `--sample` megabytes (a fifth of that for secrets), and count by the bytes of all. Without --enry it has no languages.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from code_peers import peer_parts, reading
from process_cost import Cost, successful
from results import append, row

from tilth.artifacts import Named, Store

RECIPE = """
from tilth import Corpus, MinHashParameters
from tilth.corpus.sources.git_repositories import GitRepositories
from tilth.pipeline.recipe import Redact

SIGNALS = ("code_shape", "code_head", "code_html", "code_comments", "secrets")


def corpus() -> Corpus:
    source = GitRepositories("code", {pattern!r})
    return Corpus(sources=[source], signals=SIGNALS, edits=[Redact()], near_duplicates=MinHashParameters(), tokenizer=None)
"""
SHARES = (0.25, 0.5, 1.0)  # of the bytes
N_DRAWS = 2_000
LEFT_OUT = "its ScanCode gives up at once, as its deadline of 100 is long past; not counted: storage, joins, exact duplicates"


class Built(NamedTuple):
    """A corpus that was built, and what that cost."""

    store: Store
    cost: Cost

    @property
    def named(self) -> Named:
        """Its parts."""
        return self.store.get_named("corpus", "bench")

    def sizes(self) -> list[tuple[int, int]]:
        """Bytes of text and documents of each repository, in their order."""
        stats = [self.store.artifact(part).stats for part in self.named.of("read")]
        return [(stat["n_bytes"], stat["n_documents"]) for stat in stats]


def built(folder: Path, repositories: Sequence[Path], n_workers: int = 1) -> Built:
    """Build the corpus of these repositories in the empty `folder`."""
    (folder / "clones").mkdir(parents=True)
    for number, repository in enumerate(repositories):
        (folder / "clones" / f"{number:04}-{repository.name}").symlink_to(repository.resolve(), target_is_directory=True)
    (folder / "recipes").mkdir()
    (folder / "recipes" / "bench.py").write_text(RECIPE.format(pattern=str(folder / "clones" / "*")))
    command = [sys.executable, "-m", "tilth", "build", "bench", "--workers", str(n_workers)]
    return Built(Store(folder / ".tilth"), successful(command, where=folder))


def differing(one: Built, other: Built) -> list[str]:
    """The outputs of two builds that are not the same bytes, or that only one of them has."""
    digests = [{(part.step, part.shard): part.digest for part in each.named.parts} for each in (one, other)]
    labels = sorted(digests[0].keys() | digests[1].keys(), key=str)
    return [" ".join(filter(None, label)) for label in labels if digests[0].get(label) != digests[1].get(label)]


def nested(sizes: Sequence[tuple[int, int]], shares: Sequence[float] = SHARES) -> list[list[int]]:
    """Repositories by number, each list within the next, that have about these shares of bytes and of files together.

    Repositories differ in the size of their files; of many orders the one whose beginnings are most like the whole is taken.
    """
    totals = [sum(column) for column in zip(*sizes)]
    drawn = random.Random(0)

    def beginnings(order: Sequence[int]) -> tuple[float, list[list[int]]]:
        error, found, sums, number = 0.0, [], [0, 0], 0
        for share in shares:
            while number < len(order) and sums[0] + sizes[order[number]][0] / 2 <= share * totals[0]:
                sums = [total + size for total, size in zip(sums, sizes[order[number]])]
                number += 1
            error += sum(abs(total / whole - share) for total, whole in zip(sums, totals))
            found.append(sorted(order[:number]))
        return error, found

    return min((beginnings(drawn.sample(range(len(sizes)), len(sizes))) for _ in range(N_DRAWS)), key=lambda one: one[0])[1]


def time_by_step(found: Built) -> str:
    """Where the time by the clock went, the longest first."""
    lines = (found.store.root / "log" / "seconds.jsonl").read_text().splitlines()
    spent: Counter[str] = Counter()
    for line in map(json.loads, lines):
        spent[line["step"]] += line["seconds"]
    return ", ".join(f"{step} {100 * seconds / spent.total():.0f} %" for step, seconds in spent.most_common(7))


def records(found: Built) -> Iterator[dict[str, Any]]:
    """Path, text and language of every document as it was read."""
    for part in found.named.of("read"):
        folder = found.store.artifact(part).path
        paths = pq.read_table(folder / "occurrences.parquet", columns=["row", "path"]).to_pydict()
        first = dict(zip(reversed(paths["row"]), reversed(paths["path"])))
        documents = pq.read_table(folder / "documents.parquet", columns=["row", "text", "language", "n_bytes"])
        for batch in documents.to_batches():
            yield from ({**document, "path": first[document["row"]]} for document in batch.to_pylist())


def main() -> None:
    """Measure and append rows to results.csv."""
    parser: Any = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=4, help="to compare with 1; 1 for no comparison")
    parser.add_argument("--bigcode", type=Path)
    parser.add_argument("--stack-v2", type=Path)
    parser.add_argument("--enry", type=Path)
    parser.add_argument("--peers-env", type=Path, default=Path("~/.cache/tilth-code-peers"))
    parser.add_argument("--sample", type=float, default=16.0, help="megabytes that the peer's steps see")
    given = parser.parse_args()
    repositories = sorted(path for path in given.folder.iterdir() if path.is_dir())
    with tempfile.TemporaryDirectory(prefix="tilth-bench-") as work:
        measure(given, repositories, Path(work))


def measure(given: argparse.Namespace, repositories: Sequence[Path], work: Path) -> None:
    """All rows; the first build compiles what is not yet cached, and is not counted."""
    fresh(work, repositories)
    whole = built(work / "whole", repositories)
    costs = [whole.cost, *(fresh(work, repositories).cost for _ in range(given.rounds - 1))]
    n_bytes, n_files = (sum(column) for column in zip(*whole.sizes()))
    ours = statistics.median(cost.cpu_seconds for cost in costs)
    size = f"{len(repositories)} repositories, {n_files} files, {n_bytes / 1e6:.1f} MB of text"
    peak = statistics.median(cost.peak for cost in costs) / 2**20
    spent = ", ".join(f"{cost.cpu_seconds:.1f}" for cost in costs)
    notes = f"{n_bytes / 1e6 / ours:.1f} MB/s; runs {spent} s; by the clock: {time_by_step(whole)}"
    append([row("code build", size, ours, "CPU s", None, notes, 1), row("code build, peak memory", size, peak, "MiB RSS")])
    append([linear_row(repositories, whole, ours, given.rounds, work)])
    if given.workers > 1:
        append([worker_row(repositories, whole, given.workers, size, work)])
    if given.bigcode is not None:
        append(peer_rows(given, repositories, whole, ours, size, work))


def linear_row(repositories: Sequence[Path], whole: Built, ours: float, n_rounds: int, work: Path) -> dict[str, str]:
    """CPU-seconds a gigabyte of a quarter, of half and of all (`ours`), each less what a repository of one file takes."""

    def seconds(chosen: Sequence[Path]) -> float:
        return statistics.median(fresh(work, chosen).cost.cpu_seconds for _ in range(n_rounds))

    fixed = seconds([tiny_repository(work / "tiny")])
    told, costs = [], []
    for chosen in nested(whole.sizes()):
        n_bytes, n_files = (sum(column) for column in zip(*(whole.sizes()[number] for number in chosen)))
        spent = ours if len(chosen) == len(repositories) else seconds([repositories[number] for number in chosen])
        costs.append((spent - fixed) / n_bytes * 1e9)
        told.append(f"{n_bytes / 1e6:.0f} MB in {n_files} files {costs[-1]:.0f}")
    notes = f"slowest by fastest, each less {fixed:.1f} s that one file takes; 1 is linear; CPU s a GB: {', '.join(told)}"
    return row("code build, CPU s a GB", "a quarter, half and all", max(costs) / min(costs), "x", None, notes, 1)


def fresh(work: Path, repositories: Sequence[Path]) -> Built:
    """A build that is measured and removed."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        return built(Path(folder) / "project", repositories)


def tiny_repository(folder: Path, text: str = "print('rye')\n") -> Path:
    """A repository of one file."""
    folder.mkdir()
    (folder / "seed.py").write_text(text)
    git = ["git", "-C", str(folder), "-c", "user.name=A. Farmer", "-c", "user.email=farmer@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "Sow"]):
        subprocess.run([*git, *words], check=True)
    return folder


def worker_row(repositories: Sequence[Path], alone: Built, n_workers: int, size: str, work: Path) -> dict[str, str]:
    """How many outputs differ when several processes make them."""
    several = built(work / "several", repositories, n_workers)
    different = differing(alone, several)
    notes = f"of {len(alone.named.parts)}; bar 0; {several.cost.cpu_seconds:.1f} CPU s with {n_workers}"
    notes += f"; {', '.join(different[:10])}" if different else ""
    return row(f"code build, outputs that differ with {n_workers} workers", size, len(different), "outputs", None, notes)


def peer_rows(
    given: argparse.Namespace, repositories: Sequence[Path], whole: Built, ours: float, size: str, work: Path
) -> list[dict[str, str]]:
    """All of the peer's steps together, and each of them."""
    parts = [reading(repositories), *peer_parts(given, list(records(whole)), work)]
    total = sum(part.seconds for part in parts)
    enry = "" if given.enry is not None else "languages, no go-enry here; "
    notes = f"peer: bigcode-dataset and The Stack v2; bar 10; {', '.join(map(str, parts))}; {enry}{LEFT_OUT}"
    found = [row("code build vs bigcode-dataset", size, ours, "CPU s", total, notes, 1)]
    for part in parts:
        notes = f"peer alone; {part.found}; saw {100 * part.seen:.1f} % of the bytes; peak {part.peak / 2**20:.0f} MiB"
        found.append(row(f"code build, bigcode-dataset's {part.name}", size, part.seconds, "CPU s", None, notes, 1))
    return found


if __name__ == "__main__":
    main()
