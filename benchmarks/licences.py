"""Licence files: Tilth's tiers beside ScanCode. `python benchmarks/licences.py SCANCODE_PYTHON ANSWERS FOLDER...`

SCANCODE_PYTHON is the interpreter of an environment with scancode-toolkit and pluggy<1.6. What ScanCode says of a content is kept
in ANSWERS (a JSON line each) and not asked again. Every distinct licence file below the folders is read. A file agrees where both
name the same licences and exceptions, all of them. Names of ScanCode's that are no licence (GENERIC) are left aside, and of GNU's
licences `-only` and `-or-later` are one, as a text cannot say which: the notes tell the share without either.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import results

from tilth.corpus.extract.textfile import decoded
from tilth.corpus.provenance.licence_claims import Found, licence_file_claims
from tilth.corpus.provenance.licence_names import PUBLIC_DOMAIN
from tilth.corpus.provenance.licences import is_licence_path
from tilth.corpus.provenance.spdx_expressions import UNKNOWN, family, strictness
from tilth.corpus.provenance.swhid import content_swhid

PEER = Path(__file__).parent / "peers/scancode_licences.py"
MAX_BYTES = 200_000
GENERIC = re.compile(
    r"LicenseRef-scancode-(?:unknown.*|generic-.*|warranty-disclaimer|proprietary-license|other-permissive|other-copyleft|free-unknown"
    r"|commercial-license)"
)
WORDS = ("AND", "OR", "WITH")


def licence_files(folders: Sequence[str]) -> dict[str, tuple[Path, str]]:
    """SWHID -> (path, text) of each distinct licence file below the folders, ScanCode's own rules left out."""
    found: dict[str, tuple[Path, str]] = {}
    for path in sorted(path for folder in folders for path in _files(os.path.realpath(folder))):
        data = path.read_bytes()
        if 0 < len(data) < MAX_BYTES and b"\0" not in data:
            found.setdefault(content_swhid(data), (path, decoded(data)))
    return found


def _files(folder: str) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "licensedcode"]
        yield from (Path(root, name) for name in names if is_licence_path(name) and os.path.isfile(os.path.join(root, name)))


def scancode(python: str, answers: Path, files: dict[str, tuple[Path, str]]) -> dict[str, list[str]]:
    """What ScanCode says of each content; what it has not said yet is asked, and kept."""
    known = {}
    if answers.exists():
        known = {one["swhid"]: one["spdx"] for one in map(json.loads, answers.read_text().splitlines())}
    left = [swhid for swhid in files if swhid not in known]
    if left:
        asked = "".join(f"{files[swhid][0]}\n" for swhid in left)
        done = subprocess.run([python, str(PEER)], input=asked, capture_output=True, text=True, check=True)
        with answers.open("a") as kept:
            for swhid, line in zip(left, done.stdout.splitlines(), strict=True):
                known[swhid] = json.loads(line)["spdx"]
                kept.write(json.dumps({"swhid": swhid, **json.loads(line)}) + "\n")
    return {swhid: known[swhid] for swhid in files}


def main(python: str, answers: str, folders: Sequence[str]) -> None:
    """Measure and append rows."""
    files = licence_files(folders)
    theirs = scancode(python, Path(answers), files)
    licence_file_claims(next(iter(files.values()))[1])  # the list is loaded once
    counts = dict.fromkeys(("exact", "named", "family", "single", "single equal", "GPL", "hidden"), 0)
    seconds = 0.0
    for swhid, (path, text) in files.items():
        started = time.process_time()
        ours = licence_file_claims(text)
        seconds += time.process_time() - started
        _compare(path, ours, theirs[swhid], counts)
    n = len(files)
    size = f"{n} distinct licence files"
    speed = f"{n / seconds:.0f} files a second of CPU"
    shares = {name: 100 * counts[name] / n for name in ("exact", "named", "family")}
    single = f"of {counts['single']} files in which ScanCode finds one licence"
    strict = f"{shares['exact']:.1f} % with every name of ScanCode's, {shares['named']:.1f} % with `-only` told from `-or-later`"
    results.append(
        [
            results.row("licence files, the same set of licences as ScanCode", size, shares["family"], "%", notes=strict),
            results.row(
                "licence files, agreement with ScanCode", size, 100 * counts["single equal"] / counts["single"], "%", notes=single
            ),
            results.row("licence files", size, 1000 * seconds / n, "ms a file", notes=speed, threads=1),
            results.row(
                "licence files with GPL called permissive",
                size,
                counts["hidden"],
                "files",
                notes=f"ScanCode finds GPL in {counts['GPL']}",
            ),
        ]
    )


def _compare(path: Path, ours: Sequence[Found], theirs: Sequence[str], counts: dict[str, int]) -> None:
    found = names(one.spdx for one in ours) - {UNKNOWN}
    full = names(theirs)
    wanted = {PUBLIC_DOMAIN if "public-domain" in name else name for name in full if not GENERIC.fullmatch(name)}
    counts["exact"] += found == full
    counts["named"] += found == wanted
    is_same = set(map(family, found)) == set(map(family, wanted))
    counts["family"] += is_same
    if not is_same:
        print(f"{path}: only Tilth {sorted(found - wanted)}, only ScanCode {sorted(wanted - found)}")
    if len(full) == 1:
        counts["single"] += 1
        counts["single equal"] += found == full
    if any("GPL" in name and "LGPL" not in name for name in wanted):
        counts["GPL"] += 1
        if max(strictness(one.spdx) for one in ours) <= 1:
            counts["hidden"] += 1
            print(f"{path}: {sorted(found)}, and ScanCode finds {sorted(wanted)}")


def names(expressions: object) -> set[str]:
    """The licences and exceptions in expressions."""
    return {word for one in expressions for word in re.findall(r"[^\s()]+", one) if word not in WORDS}  # type: ignore[attr-defined]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
