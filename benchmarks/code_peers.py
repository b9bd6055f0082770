"""What bigcode-dataset's and The Stack v2's own steps cost on given repositories and texts, each in a process of its own.

Imports, reading the texts and writing answers are not counted, nor are storage and Spark. Slow steps see a sample of the texts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from code_signals import PEER as FILTERS
from git_read import cpu_seconds

from dedup import peers_python

HERE = Path(__file__).parent
SLOW = {"secrets": 5}  # steps that see so many times fewer bytes


class Part(NamedTuple):
    """What one step of the peer cost, by the bytes of all; `seen` is how much of the bytes it saw, `found` what it found."""

    name: str
    seconds: float
    seen: float
    peak: int
    found: str

    def __str__(self) -> str:
        return f"{self.name} {self.seconds:.0f} s" + (f" (by {100 * self.seen:.1f} % of the bytes)" if self.seen < 1 else "")


def sample(documents: Sequence[dict[str, Any]], n_wanted: int) -> list[dict[str, Any]]:
    """Every n-th document by size, of about `n_wanted` bytes together."""
    step = max(1, round(sum(document["n_bytes"] for document in documents) / n_wanted))
    return sorted(documents, key=lambda document: (document["n_bytes"], document["path"]))[step // 2 :: step]


def reading(repositories: Sequence[Path]) -> Part:
    """`git cat-file` and a SHA-1: neither is the peer's, which reads a bucket of blobs by id; so it has the cheapest there is."""
    started, n_blobs = cpu_seconds(), 0
    for repository in repositories:
        command = ["git", "-c", "safe.directory=*", "-C", str(repository), "ls-tree", "-r", "--format=%(objectname)", "HEAD"]
        listed = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        oids = b"".join(oid + b"\n" for oid in sorted(set(listed.split())))
        command[5:] = ["cat-file", "--batch", "--buffer"]
        output = subprocess.run(command, input=oids, stdout=subprocess.PIPE, check=True).stdout
        hashlib.sha1(output, usedforsecurity=False)
        n_blobs += oids.count(b"\n")
    return Part("reading and hashing", cpu_seconds() - started, 1.0, 0, f"{n_blobs} blobs")


def peer_parts(given: argparse.Namespace, documents: Sequence[dict[str, Any]], folder: Path) -> Iterator[Part]:
    """The peer's steps, one process after the other."""
    python = str(peers_python(given.peers_env.expanduser(), HERE / "peers_code.txt"))
    n_bytes = sum(document["n_bytes"] for document in documents)
    file = folder / "records.jsonl"
    for step in ("languages and licences", "filters", "secrets", "near-duplicates"):
        chosen = sample(documents, int(given.sample * 1e6 / SLOW.get(step, 1)))
        file.write_text("".join(json.dumps(document) + "\n" for document in chosen))
        command = [python, str(HERE / "peers/bigcode_steps.py"), step, str(given.bigcode), str(given.stack_v2), str(file)]
        if step == "filters":
            command = [python, "-c", FILTERS, str(given.bigcode / "preprocessing"), str(file)]
        elif given.enry is not None:
            command.append(str(given.enry))
        told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout)
        seen = sum(document["n_bytes"] for document in chosen) / n_bytes
        what = told.get("found", f"{len(told.get('values', []))} files")
        yield Part(step, told["seconds"] / seen, seen, told.get("peak", 0), what)
