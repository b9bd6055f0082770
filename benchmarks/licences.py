"""Licence files: Tilth's tiers beside ScanCode on the same files. `python benchmarks/licences.py SCANCODE_PYTHON FOLDER...`

SCANCODE_PYTHON is the interpreter of an environment with scancode-toolkit and pluggy<1.6. Every distinct licence file below the
folders is read. Agreement is counted where ScanCode finds one licence; besides, for all files, whether one of them is called
permissive in which ScanCode finds GPL.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import results

from tilth.corpus.extract.textfile import decoded
from tilth.corpus.provenance.licence_claims import Found, licence_file_claims
from tilth.corpus.provenance.licences import is_licence_path
from tilth.corpus.provenance.spdx_expressions import licences_in, strictness
from tilth.corpus.provenance.swhid import content_swhid

PEER = Path(__file__).parent / "peers/scancode_licences.py"
MAX_BYTES = 200_000


def licence_files(folders: Sequence[str]) -> list[tuple[Path, str]]:
    """(path, text) of each distinct licence file below the folders, ScanCode's own rules left out."""
    found = {}
    for path in sorted(path for folder in folders for path in _files(os.path.realpath(folder))):
        data = path.read_bytes()
        if 0 < len(data) < MAX_BYTES and b"\0" not in data:
            found.setdefault(content_swhid(data), (path, decoded(data)))
    return list(found.values())


def _files(folder: str) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "licensedcode"]
        yield from (Path(root, name) for name in names if is_licence_path(name) and os.path.isfile(os.path.join(root, name)))


def scancode(python: str, paths: Sequence[Path]) -> list[dict[str, object]]:
    """What ScanCode says of each file, in order."""
    asked = "".join(f"{path}\n" for path in paths)
    done = subprocess.run([python, str(PEER)], input=asked, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main(python: str, folders: Sequence[str]) -> None:
    """Measure and append rows."""
    files = licence_files(folders)
    theirs = scancode(python, [path for path, _ in files])
    licence_file_claims(files[0][1])  # the list is loaded once
    seconds, ours = [], []
    for _, text in files:
        started = time.process_time()
        ours.append(licence_file_claims(text))
        seconds.append(time.process_time() - started)
    n_single = n_equal = n_gpl = n_hidden = 0
    for (path, _), found, peer in zip(files, ours, theirs, strict=True):
        named, wanted = _names(one.spdx for one in found), _names(peer["spdx"])  # type: ignore[arg-type]
        if len(wanted) == 1:
            n_single += 1
            n_equal += named == wanted
            if named != wanted:
                print(f"{path}: {sorted(named)} instead of {sorted(wanted)}")
        if any("GPL" in name and "LGPL" not in name for name in wanted):
            n_gpl += 1
            n_hidden += _level(found) <= 1
            if _level(found) <= 1:
                print(f"{path}: {sorted(named)}, and ScanCode finds {sorted(wanted)}")
    cost, peer_cost = (1000 * sum(times) / len(files) for times in (seconds, [float(str(one["seconds"])) for one in theirs]))
    speeds = f"peer: ScanCode; {1000 / cost:.0f} and {1000 / peer_cost:.1f} files a second of CPU"
    size = f"{len(files)} distinct licence files"
    single = f"of {n_single} files in which ScanCode finds one licence"
    hidden = f"ScanCode finds GPL in {n_gpl}"
    results.append(
        [
            results.row("licence files, agreement with ScanCode", size, 100 * n_equal / n_single, "%", notes=single),
            results.row("licence files", size, cost, "ms a file", peer_cost, speeds, threads=1),
            results.row("licence files with GPL called permissive", size, n_hidden, "files", notes=hidden),
        ]
    )


def _names(expressions: object) -> set[str]:
    return set().union(*(licences_in(str(one)) or {str(one)} for one in expressions))  # type: ignore[attr-defined]


def _level(found: Sequence[Found]) -> int:
    return max(strictness(one.spdx) for one in found)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
