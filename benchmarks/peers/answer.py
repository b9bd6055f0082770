"""What every peer hands back: the documents that share a cluster, as lines of `file number, line number, cluster`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

Place = tuple[int, int]  # of a document: which file, which line


def documents(files: list[str]) -> Iterator[tuple[Place, str]]:
    """Every document's place and text."""
    for file_number, path in enumerate(files):
        with open(path, "rb") as lines:
            for line_number, line in enumerate(lines):
                yield (file_number, line_number), json.loads(line)["text"]


def clusters_of(candidates: Iterable[tuple[int, int]]) -> dict[int, int]:
    """The connected components of pairs of document numbers: number -> smallest number of its component."""
    parent: dict[int, int] = {}

    def root(number: int) -> int:
        while (above := parent.setdefault(number, number)) != number:
            parent[number] = parent.setdefault(above, above)
            number = above
        return number

    for left, right in candidates:
        a, b = root(left), root(right)
        if a != b:
            parent[max(a, b)] = min(a, b)
    return {number: root(number) for number in list(parent)}


def write_clusters(out: str, members: Iterable[tuple[Place, int]]) -> None:
    """Write (place, cluster) of every document in a cluster of two or more."""
    with Path(out).open("w") as lines:
        lines.writelines(f"{file_number}\t{line_number}\t{cluster}\n" for (file_number, line_number), cluster in members)
