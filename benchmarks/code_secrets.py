"""Secrets and addresses in source code: `python benchmarks/code_secrets.py FOLDER... [--peer PYTHON] [--show]`.

Recall: each form of `secret_samples` is injected into real files (those below FOLDER that are text), where a developer
would put it, and must be covered by a finding. Precision: of all findings in the files with injections, those that
overlap an injection, and of the others the share that was judged true by hand in a sample of --show (--judged 190/200). Speed is
CPU time of one thread from Arrow arrays to findings. The peer is detect-secrets in a Python of its own, on part of the files.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from results import append, row
from secret_samples import sample, tokens

from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.secrets.judge import Finding, find_secrets

ENDINGS = (
    ".py .pyx .pyi .js .ts .c .h .cpp .hpp .java .go .rs .rb .hs .sh .pl .php .lua .tcl .sql .xml .html .css .json .yml .yaml"
    " .toml .cfg .ini .conf .md .rst .txt .tex .ipynb"
)
MOST_BYTES = 1_000_000  # of a file
PLACES = (
    '{name} = "{value}"', "export {NAME}={value}", '"{name}": "{value}",', "{name}: {value}", "curl -H 'X-Auth: {value}' $URL",
    "client = Client('{value}')", "# TODO: remove {value}",
)  # fmt: skip
PEER = """
import sys, time, warnings
warnings.simplefilter("ignore")
from detect_secrets import SecretsCollection
from detect_secrets.settings import default_settings
paths, found = sys.argv[1:], SecretsCollection()
start = time.process_time()
with default_settings():
    for path in paths:
        found.scan_file(path)
seconds = time.process_time() - start
for path, secret in found:
    print(path, secret.line_number, sep="\\t")
print(seconds)
"""


def main() -> None:
    """Measure on the files below the folders and append rows to results.csv."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--peer", help="the Python that has detect-secrets")
    parser.add_argument("--show", action="store_true", help="print what is found in the files as they are")
    parser.add_argument("--judged", default="0/1", help="how many of how many findings in the files as they are were judged true")
    parser.add_argument("--megabytes", type=int, default=100)
    given = parser.parse_args()
    files = list(source_files(given.folders, given.megabytes * 10**6))
    n_bytes = sum(len(text.encode()) for _, text in files)
    size = f"{len(files)} files, {n_bytes / 1e6:.1f} MB"
    texts = [text for _, text in files]
    find(texts[:10])
    plain: list[list[Finding]] = []
    speeds = []
    for _ in range(3):
        start = time.process_time()
        plain = find(texts)
        speeds.append(n_bytes / 1e6 / (time.process_time() - start))
    if given.show:
        show(files, plain)
    append(
        [
            row(
                "secrets and addresses, speed",
                size,
                sorted(speeds)[1],
                "MB/s",
                notes=f"lowest {min(speeds):.0f}, highest {max(speeds):.0f}",
                threads=1,
            )
        ]
    )
    files_with, places = injected(files, random.Random(6))
    n_true, n_judged = map(int, given.judged.split("/"))
    measure(files_with, places, (n_true, n_judged), size)
    if given.peer:
        measure_peer(given.peer, files_with, places)


def source_files(folders: list[Path], most: int) -> Iterator[tuple[Path, str]]:
    """Text files, evenly from all folders, until `most` bytes."""
    endings = set(ENDINGS.split())
    paths = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in endings and path.is_file())
    random.Random(0).shuffle(paths)
    for path in paths:
        if path.stat().st_size > MOST_BYTES:
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        most -= path.stat().st_size
        yield path, text
        if most < 0:
            return


def find(texts: list[str]) -> list[list[Finding]]:
    """The findings of each text, in batches as a build has them."""
    array = pa.array(texts, pa.large_string())
    return [items for first in range(0, len(texts), 500) for items in find_secrets(TextBatch(array.slice(first, 500)))]


def injected(files: list[tuple[Path, str]], rng: random.Random) -> tuple[list[tuple[Path, str]], list[tuple[str, int, int]]]:
    """One secret or address in each of up to 6,000 files; and for each its name and place in bytes."""
    changed, places = [], []
    kinds: list[str] = []
    for path, text in files[:6000]:
        kinds = kinds or rng.sample([*tokens(rng), *["assigned", "password", "url", "email", "ipv4", "ipv6"] * 2], k=66)
        name = kinds.pop()
        value, line = secret_line(name, rng)
        lines = text.split("\n")
        at = rng.randrange(len(lines) + 1)
        before = "\n".join([*lines[:at], ""]) if at else ""
        start = len(before.encode()) + line.encode().index(value.encode())
        changed.append((path, before + line + "\n" + "\n".join(lines[at:])))
        places.append((name, start, start + len(value.encode())))
    return changed, places


def secret_line(name: str, rng: random.Random) -> tuple[str, str]:
    """A secret and a line that holds it."""
    number = rng.randrange(1, 250)
    if name == "assigned":
        value = sample(rng.choice(["<32w>", "<40h>", "<40s>", "<32l>", "<24b>"]), rng)
        return value, rng.choice(PLACES[:4]).format(name="client_secret", NAME="SECRET_ACCESS_KEY", value=value)
    if name == "password":
        value = sample("<4w>", rng).capitalize() + rng.choice("!_&-+") + sample("<3d><4w>", rng)
        return value, rng.choice(["password = '{}'", '"password": "{}"', "DB_PASSWORD='{}'"]).format(value)
    if name == "url":
        value = sample("<12w>", rng)
        return value, f"url = 'postgres://app:{value}@db{number}.farm.org:5432/x'"
    if name == "email":
        value = (
            f"{rng.choice(['jane.doe', 'k.meier', 'olu'])}{number}@{rng.choice(['tilth-farm.com', 'uni-furrow.de', 'rye.co.uk'])}"
        )
        return value, rng.choice(["# Author: Jane Doe <{}>", "contact = '{}'", " * @author {}"]).format(value)
    if name == "ipv4":
        value = f"{rng.choice([23, 54, 81, 93, 151])}.{rng.randrange(40, 250)}.{number}.{rng.randrange(1, 250)}"
        return value, rng.choice(["host = '{}'", "ping {}", "http://{}:8080/x", "allow {};"]).format(value)
    if name == "ipv6":
        value = f"2a02:{rng.randrange(256, 9999):x}:{number:x}:1::{rng.randrange(256, 9999):x}"
        return value, rng.choice(["host = '{}'", "ping6 {}", "http://[{}]:80/x"]).format(value)
    value = tokens(rng)[name]
    return value, rng.choice(PLACES).format(name="setting", NAME="SETTING", value=value)


def measure(files: list[tuple[Path, str]], places: list[tuple[str, int, int]], judged: tuple[int, int], size: str) -> None:
    """Recall of what was injected; precision of all that is found, by injections and by the share judged true without them."""
    found = find([text for _, text in files])
    missed = Counter(name for items, (name, start, end) in zip(found, places, strict=True) if not covers(items, start, end))
    recall = 1 - missed.total() / len(places)
    hits = sum(one.start < end and start < one.end for items, (_, start, end) in zip(found, places, strict=True) for one in items)
    others = sum(map(len, found)) - hits
    true_share = judged[0] / judged[1]
    precision = (hits + true_share * others) / (hits + others)
    worst = ", ".join(f"{name} {n}" for name, n in missed.most_common(6))
    notes = f"{len(places)} injected, {len({name for name, _, _ in places})} kinds; missed: {worst or 'none'}"
    append([row("secrets and addresses, recall", size, recall, "share", notes=notes, threads=1)])
    notes = f"{hits} findings are injections, {others} others, of which {judged[0]} of {judged[1]} judged by hand are true"
    append([row("secrets and addresses, precision", size, precision, "share", notes=notes, threads=1)])


def covers(items: list[Finding], start: int, end: int) -> bool:
    """Is all that is secret in start:end within findings? Fixed beginnings, such as a URL's, need not be."""
    return any(one.start < end and start < one.end and one.end >= end - 2 and one.start <= max(start, end - 40) for one in items)


def measure_peer(python: str, files: list[tuple[Path, str]], places: list[tuple[str, int, int]]) -> None:
    """detect-secrets with its default plugins on 200 of the files with injections of secrets (it finds no e-mail addresses)."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, names = {}, []
        for number, ((path, text), (name, start, _)) in enumerate(zip(files, places, strict=True)):
            if name in ("email", "ipv4", "ipv6") or len(text) > 50_000 or len(names) == 200:
                continue
            names.append(str(Path(folder) / f"{number}{path.suffix}"))
            Path(names[-1]).write_text(text)
            wanted[names[-1]] = text.encode()[:start].count(b"\n") + 1
        done = subprocess.run([python, "-c", PEER, *names], capture_output=True, text=True, check=True)
        *lines, seconds = done.stdout.splitlines()
        hits = {(path, int(number)) for path, number in (line.split("\t") for line in lines)}
        n_bytes = sum(Path(name).stat().st_size for name in names)
        texts = [Path(name).read_text() for name in names]
    start_at = time.process_time()
    ours = find(texts)
    own_seconds = time.process_time() - start_at
    n_found = sum((path, line) in hits for path, line in wanted.items())
    notes = (
        f"{n_bytes / 1e6 / own_seconds:.1f} and {n_bytes / 1e6 / float(seconds):.3f} MB/s; its recall {n_found / len(wanted):.3f}"
    )
    notes += f", its findings {len(hits)}; ours {sum(map(len, ours))}, with addresses"
    size = f"{len(names)} files, {n_bytes / 1e6:.2f} MB"
    append([row("secrets vs detect-secrets", size, own_seconds, "CPU s", float(seconds), notes, threads=1)])


def show(files: list[tuple[Path, str]], plain: list[list[Finding]]) -> None:
    """Every finding with what is around it, to be judged by hand."""
    for (path, text), items in zip(files, plain, strict=True):
        data = text.encode()
        for one in items:
            before = data[max(0, one.start - 60) : one.start].decode("utf-8", "replace").rpartition("\n")[2]
            print(
                one.kind,
                one.what,
                before,
                "[[",
                data[one.start : one.end][:90].decode("utf-8", "replace"),
                "]]",
                path.name,
                file=sys.stderr,
            )


if __name__ == "__main__":
    main()
