"""Reading and hashing every blob of repositories: CPU-seconds of one process and its git, peers in the same rounds.

    python benchmarks/git_read.py REPOSITORY... [--peers-python PYTHON] [--rounds 3]

Ours is `GitObjects.blobs`: `git cat-file --batch --buffer`, every blob held to its id. Peers (pygit2, dulwich, and swh.model on
what `cat-file` gives) run under PYTHON, which needs `pip install pygit2 dulwich swh.model`; each computes the SWHID of every
blob. CPU time is that of the process and its children, so that it stays comparable on a machine that others use.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
from pathlib import Path

from results import append, row, spread

from tilth.corpus.provenance.git_objects import GitObjects

PEERS = Path(__file__).parent / "peers" / "git_read.py"
MAX_BYTES = 1 << 31


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repositories", type=Path, nargs="+")
    parser.add_argument("--peers-python", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for path in options.repositories:
        append(repository_rows(path, options.peers_python, options.rounds))


def repository_rows(path: Path, peers_python: Path | None, n_rounds: int) -> list[dict[str, str]]:
    objects = GitObjects(path, str(path))
    oids = blob_ids(objects)
    times: dict[str, list[float]] = {"ours": []}
    n_bytes = sum(blob.n_bytes or 0 for blob in objects.blobs(oids, MAX_BYTES))  # and the page cache is warm
    for _ in range(n_rounds):
        before = cpu_seconds()
        assert sum(blob.n_bytes or 0 for blob in objects.blobs(oids, MAX_BYTES)) == n_bytes
        times["ours"].append(cpu_seconds() - before)
        for name, seconds in (peer_seconds(peers_python, path, oids) if peers_python else {}).items():
            times.setdefault(name, []).append(seconds)
    name = path.parent.name.replace("+", "/") if path.name == "repo" else path.name
    size = f"{name}: {len(oids)} blobs, {n_bytes / 1e6:.0f} MB"
    ours = statistics.median(times.pop("ours"))
    speed = f"{n_bytes / 1e6 / ours:.0f} MB/s a core"
    rows = [row("git: read and hash", size, ours, "CPU s", notes=f"{speed}; bar 200", threads=1)]
    for peer, seconds in times.items():
        median = statistics.median(seconds)
        told = f"peer {peer}: {n_bytes / 1e6 / median:.0f} MB/s, {spread(seconds)} s; ours {speed}"
        rows.append(row("git: read and hash", size, ours, "CPU s", median, told, threads=1))
    return rows


def blob_ids(objects: GitObjects) -> list[str]:
    """Every blob, in the order of ids: no help from the order in the pack."""
    form = "--batch-check=%(objecttype) %(objectname)"
    listed = objects.git.run("cat-file", "--batch-all-objects", form).stdout.decode("ascii")
    return [line[5:] for line in listed.splitlines() if line.startswith("blob ")]


def peer_seconds(python: Path, path: Path, oids: list[str]) -> dict[str, float]:
    asked = json.dumps({"path": str(path), "oids": oids}).encode()
    done = subprocess.run([str(python), str(PEERS)], input=asked, capture_output=True, check=True)
    return json.loads(done.stdout)


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
