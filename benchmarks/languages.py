"""Languages of files: `python benchmarks/languages.py SAMPLES ENRY REPOSITORY...`, appended to results.csv.

SAMPLES is `samples` of a checkout of linguist; measured are the files that the classifier was not trained on (every second
of a language, in the order of paths, from the second on), though linguist's rules were written with them in view. ENRY is a
shared library made from go-enry that exports `char *Language(const char *name, const void *content, int size)`. REPOSITORY
is any git directory: all files at HEAD are asked of both, each distinct content once, in one thread.
"""

from __future__ import annotations

import ctypes
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from results import append, row, spread

from tilth.corpus.languages import detect
from tilth.corpus.provenance.git_objects import GitObjects

Files = list[tuple[str, bytes]]
OTHER_FOLDERS = {"Fstar": "F*", "ProC": "Pro*C"}  # languages whose names no folder can bear
N_REPEATS = 5
MAX_BYTES = 10 << 20


def main(samples: str, library: str, repositories: list[str]) -> None:
    """Measure agreement and time on samples and on repositories."""
    enry = enry_language(library)
    unseen = [(label, str(path), path.read_bytes()) for label, path in unseen_samples(Path(samples))]
    size = f"{len(unseen)} samples, {len({label for label, *_ in unseen})} languages"
    right = [detect(path, content).language == label for label, path, content in unseen]
    theirs = [enry(path, content) == label for label, path, content in unseen]
    notes = f"enry {sum(theirs) / len(theirs):.4f}, its data of February 2025"
    rows = [row("language, linguist's samples not trained on", size, sum(right) / len(right), "share right", None, notes)]
    files = [file for path in repositories for file in files_at_head(path)]
    size = f"{len(repositories)} repositories, {len(files)} files, {sum(len(content) for _, content in files) / 1e6:.0f} MB"
    rows += [agreement(files, enry, size), *times(files, enry, size)]
    append(rows)


def agreement(files: Files, enry: Callable[[str, bytes], str | None], size: str) -> dict[str, str]:
    """The share of text files for which both say the same, and what they differ about most."""
    found = [(enry(path, content), *detect(path, content)) for path, content in files]
    texts = [(theirs, ours) for theirs, ours, how in found if how != "binary"]
    differ = Counter(f"{theirs} / {ours}" for theirs, ours in texts if theirs != ours)
    notes = f"{len(texts)} text files; enry / ours: " + ", ".join(f"{what} {n}" for what, n in differ.most_common(4))
    return row("language, agreement with go-enry", size, 1 - differ.total() / len(texts), "share equal", None, notes)


def times(files: Files, enry: Callable[[str, bytes], str | None], size: str) -> list[dict[str, str]]:
    """CPU time of a file for both, in turns."""
    ours, theirs = [], []
    for _ in range(N_REPEATS):
        ours.append(cpu_seconds(files, lambda path, content: detect(path, content)) / len(files))
        theirs.append(cpu_seconds(files, enry) / len(files))
    ours_us, theirs_us = [1e6 * value for value in ours], [1e6 * value for value in theirs]
    notes = f"{1 / statistics.median(ours):.0f} files/s; peer go-enry through ctypes; p10-p90 ours {spread(ours_us)}"
    return [row("language, time", size, statistics.median(ours_us), "CPU us/file", statistics.median(theirs_us), notes, 1)]


def cpu_seconds(files: Files, ask: Callable[[str, bytes], object]) -> float:
    """CPU seconds of asking for every file once."""
    start = time.process_time()
    for path, content in files:
        ask(path, content)
    return time.process_time() - start


def unseen_samples(samples: Path) -> list[tuple[str, Path]]:
    """Language and path of the files that did not train the classifier."""
    return [
        (OTHER_FOLDERS.get(folder.name, folder.name), path)
        for folder in sorted(samples.iterdir())
        for path in sorted(path for path in folder.rglob("*") if path.is_file())[1::2]
    ]


def files_at_head(repository: str) -> Files:
    """Path and content of every distinct blob at HEAD."""
    objects = GitObjects(repository, repository)
    paths = {file.oid: file.path for file in objects.tree(objects.head().tree) if file.is_file}
    return [(paths[blob.oid], blob.data) for blob in objects.blobs(paths, MAX_BYTES) if blob.data is not None]


def enry_language(library: str) -> Callable[[str, bytes], str | None]:
    """go-enry's answer for a path and a content."""
    language = ctypes.CDLL(library).Language
    language.argtypes, language.restype = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int), ctypes.c_char_p
    return lambda path, content: language(path.encode("utf-8", "surrogateescape"), content, len(content)).decode() or None


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
