"""Near-duplicates from JSONL to clusters: Tilth's command line and its peers, whole processes on the same corpus, in turns.

    python benchmarks/dedup.py [--documents 150000] [--repeats 5] [--peers rensa-5-grams,...] [--peers-env ~/.cache/tilth-peers]

Every process reads the same files and writes clusters; peers run as benchmarks/peers/ says, in an environment that this script
makes once from peers_dedup.txt. All have 5-word shingles and the threshold .7; the peers have 14 bands of 8 as datatrove ships
(rensa's own benchmark apart), Tilth the bands that its recall asks for. In a round everyone runs once; a peer that takes minutes
runs in fewer rounds, and its row says in how many. The clusters of the last round are scored against the exhaustive truth.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dedup_corpus
import numpy as np
import pyarrow.parquet as pq
from dedup_score import clusters_by_number, score
from dedup_truth import Ints, Pairs, true_pairs
from process_cost import Cost, successful
from results import append, row, spread

HERE = Path(__file__).parent
THRESHOLD = 0.7
ALONE = ["text-dedup==0.4.1", "polars-grouper==0.6.1"]  # see peers_dedup.txt


class Peer(NamedTuple):
    """`script` of benchmarks/peers with its `mode`; how many rounds it takes part in; whether it compares what it proposes."""

    script: str
    mode: tuple[str, ...]
    max_rounds: int
    says: str


PEERS = {
    "rensa-5-grams": Peer("rensa_minhash.py", ("5-grams",), 5, "rensa 0.5.0, 5-grams made in Python, unverified"),
    "rensa-unigrams": Peer(
        "rensa_minhash.py", ("unigrams",), 5, "rensa 0.5.0, its own benchmark mode: unigrams, flags, unverified"
    ),
    "datasketch": Peer("datasketch_minhash.py", (), 3, "datasketch 2.0.0, unverified"),
    "text-dedup": Peer("textdedup_minhash.py", ("unverified",), 2, "text-dedup 0.4.1, unverified"),
    "text-dedup-verified": Peer("textdedup_minhash.py", ("verified",), 2, "text-dedup 0.4.1, verified"),
    "datatrove": Peer("datatrove_minhash.py", (), 1, "datatrove 0.10.1, four stages, unverified"),
}


def peers_python(folder: Path, requirements: Path, alone: Sequence[str] = ()) -> Path:
    """The interpreter of an environment for peers, made where it is missing; `alone` are installed without what they ask for."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "-r", str(requirements)], check=True)
        if alone:
            subprocess.run([*pip, "--no-deps", "--ignore-requires-python", *alone], check=True)
        (folder / "ready").touch()
    return python


def tilth_command(files: list[Path], out: Path, *more: str) -> list[str]:
    """Tilth alone on these files, with this interpreter."""
    options = ["--id", "id", "--text", "text", "--method", "minhash", "--threshold", str(THRESHOLD)]
    return [sys.executable, "-m", "tilth", "dedup", *map(str, files), *options, *more, "-o", str(out)]


class Run:
    """Rounds over one corpus."""

    def __init__(self, work: Path, n_documents: int, names: list[str], python: Path | None) -> None:
        self.work, self.python, self.names = work, python, names
        self.files = dedup_corpus.write(work / "corpus", dedup_corpus.corpus_from(None), n_documents)
        self.costs: dict[str, list[Cost]] = defaultdict(list)
        n_bytes = sum(path.stat().st_size for path in self.files)
        self.size = f"{n_documents} documents, {n_bytes / 1e6:.1f} MB"

    def round(self, number: int) -> None:
        """Tilth, then each peer that still takes part."""
        alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.costs["tilth"].append(successful(tilth_command(self.files, self.work / "tilth.parquet")))
        for name in self.names:
            if number < PEERS[name].max_rounds:
                script, mode = HERE / "peers" / PEERS[name].script, PEERS[name].mode
                command = [str(self.python), str(script), str(self.work / name), *mode, *map(str, self.files)]
                self.costs[name].append(successful(command, alone))
                print(f"round {number}: {name} {self.costs[name][-1].cpu_seconds:.1f} CPU s", flush=True)
        print(f"round {number}: tilth {self.costs['tilth'][-1].cpu_seconds:.1f} CPU s", flush=True)

    def rows(self, scores: dict[str, str]) -> list[dict[str, str]]:
        """One of CPU-seconds for each peer, one of memory; accuracy is in the notes."""
        ours = [cost.cpu_seconds for cost in self.costs["tilth"]]
        own = f"{len(ours)} runs{', p10-p90 ' + spread(ours) + ' s' if len(ours) > 1 else ''}; {scores['tilth']}"
        found = [row("dedup, JSONL to verified clusters", self.size, statistics.median(ours), "CPU s", None, own, 1)]
        for name in self.names:
            theirs = [cost.cpu_seconds for cost in self.costs[name]]
            notes = f"peer: {PEERS[name].says}; {len(theirs)} runs of it"
            notes += f"; its {scores[name]}" if name in scores else ""
            medians = statistics.median(ours), statistics.median(theirs)
            found.append(row(f"dedup vs {name}", self.size, medians[0], "CPU s", medians[1], notes, 1))
            peaks = [statistics.median(cost.peak for cost in self.costs[each]) / 2**20 for each in ("tilth", name)]
            found.append(row(f"dedup vs {name}, peak memory", self.size, peaks[0], "MiB RSS", peaks[1], PEERS[name].says, 1))
        return found


def scores_of(run: Run) -> dict[str, str]:
    """How right everyone's clusters of the last round are; rensa's flags are no clusters."""
    ids, texts, starts = [], [], [0]
    for path in run.files:
        with path.open("rb") as lines:
            for line in lines:
                record = json.loads(line)
                ids.append(record["id"])
                texts.append(record["text"])
        starts.append(len(ids))
    pairs = true_pairs(texts)
    found = {"tilth": tilth_score(run.work / "tilth.parquet", ids, pairs)}
    for name in run.names:
        if name != "rensa-unigrams":
            found[name] = score(pairs, peer_clusters(run.work / name, starts), THRESHOLD).words()
    return found


def peer_clusters(answer: Path, starts: list[int]) -> Ints:
    """The clusters that benchmarks/peers/answer.py wrote."""
    entries = (tuple(map(int, line.split())) for line in answer.read_text().splitlines())
    return clusters_by_number({starts[file] + line: cluster for file, line, cluster in entries}, starts[-1])


def tilth_score(answer: Path, ids: list[str], pairs: Pairs) -> str:
    """Of clusters, and of the matches that the file claims: their share that is true, and the largest error of a similarity."""
    number_of = {identity: number for number, identity in enumerate(ids)}
    table = pq.read_table(answer)
    members, matched = ([number_of[value] for value in table.column(name).to_pylist()] for name in ("id", "matched_id"))
    clusters = clusters_by_number(dict(zip(members, table.column("cluster_id").to_pylist())), len(ids))
    true = {(a, b): value for a, b, value in zip(pairs.left.tolist(), pairs.right.tolist(), pairs.similarity.tolist())}
    values = np.array([true.get((min(pair), max(pair)), 0.0) for pair in zip(members, matched)])
    error = np.abs(values - table.column("similarity").to_numpy()).max() if len(values) else 0.0
    claims = f"{(values >= THRESHOLD).mean():.4f} of {len(values)} matches are true, similarity off by at most {error:.1e}"
    return f"{score(pairs, clusters, THRESHOLD).words()}; {claims}"


def main() -> None:
    parser: Any = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=150_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", default=",".join(PEERS), help="some of them, with commas; an empty string for none")
    parser.add_argument("--peers-env", type=Path, default=Path("~/.cache/tilth-peers"))
    parser.add_argument("--work", help="folder for the corpus and the answers; removed after (default: a temporary one)")
    given = parser.parse_args()
    names = [name for name in given.peers.split(",") if name]
    if unknown := [name for name in names if name not in PEERS]:
        sys.exit(f"there is no peer `{unknown[0]}`; there are {', '.join(PEERS)}")
    python = peers_python(given.peers_env.expanduser(), HERE / "peers_dedup.txt", ALONE) if names else None
    with tempfile.TemporaryDirectory(prefix="tilth-bench-", dir=given.work) as work:
        run = Run(Path(work), given.documents, names, python)
        successful(tilth_command(run.files[:1], run.work / "warm.parquet"))  # compiles what is not yet cached
        for number in range(given.repeats):
            run.round(number)
        append(run.rows(scores_of(run)))


if __name__ == "__main__":
    main()
