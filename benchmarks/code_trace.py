"""Tracing code: random tokens of a real repository in its training form, each back to bytes of a blob, which git gives again.

python benchmarks/code_trace.py [REPOSITORY ...]      by default this repository; 10,000 tokens
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import results

from tilth.corpus.edits import edited
from tilth.corpus.sources.git_repositories import GitRepositories
from tilth.pipeline.build import build
from tilth.pipeline.curate import pick, sql
from tilth.pipeline.project import Project
from tilth.pipeline.recipe import Bpe, CodeForm, Corpus, RedactPersonalData
from tilth.pipeline.tokenise import tokenise_subset
from tilth.pipeline.trace import TokenShard, TracedToken

N_TOKENS = 10_000
Edits = dict[tuple[str, int], list[tuple[int, int, str]]]


def main() -> None:
    repositories = [Path(given).resolve() for given in sys.argv[1:]] or [Path(__file__).parents[1]]
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), repositories)


def measure(folder: Path, repositories: list[Path]) -> None:
    (folder / "project" / "recipes").mkdir(parents=True)
    (folder / "clones").mkdir()
    for number, repository in enumerate(repositories):
        (folder / "clones" / f"{number:03d}-{repository.name}").symlink_to(repository, target_is_directory=True)
    project = Project(folder / "project")
    source = GitRepositories("code", str(folder / "clones" / "*"))
    form = CodeForm(order="dependency", fim_repositories=1.0)
    corpus = Corpus(sources=[source], signals=[], edits=[RedactPersonalData()], tokenizer=Bpe(8_192), training_form=form)
    build(project, "code", corpus)
    subset = pick(project, "all", "is_keeper", corpus="code", validation_share=0.0).named
    started = time.perf_counter()
    tokens = tokenise_subset(project.store, subset)
    seconds = time.perf_counter() - started
    stats = project.store.artifact(tokens.one("tokens.train")).stats
    traced, times, of_cpu = trace_some(project, int(stats["n_tokens"]))
    kinds = Counter(found.kind for found in traced)
    n_wrong, n_lost = check(project, traced, repositories)
    (held,) = sql(project, 'select sum(n_bytes) as n, count(*) as n_files from "code"').to_pylist()
    size = f"{held['n'] / 1e6:.1f} MB, {held['n_files']:,} files, {stats['n_tokens']:,} tokens, {N_TOKENS:,} traced"
    seen = ", ".join(f"{kind} {n:,}" for kind, n in sorted(kinds.items()))
    rows = [
        ("code trace, median", 1e3 * times[len(times) // 2], "ms", f"open session; {seen}"),
        ("code trace, p95", 1e3 * times[len(times) * 95 // 100], "ms", "bar: 50; opening is not counted"),
        ("code trace, CPU time, p95", 1e3 * of_cpu[len(of_cpu) * 95 // 100], "ms", "of one look-up in an open session"),
        ("code trace, tokens that are not git's bytes after the edits", n_wrong, "tokens", "bar: 0"),
        ("code trace, tokens without SWHID, path, bytes or licence", n_lost, "tokens", "bar: 0"),
        ("training form", held["n"] / 1e6 / seconds, "MB/s", "dependency order, all repositories with FIM; with tokenizing"),
    ]
    results.append([results.row(what, size, ours, unit, notes=notes, threads=1) for what, ours, unit, notes in rows])


def trace_some(project: Project, n_tokens: int) -> tuple[list[TracedToken], list[float], list[float]]:
    """Tokens drawn at random, and the times that their look-ups took, ascending: by the clock, and of the CPU."""
    random_ = random.Random(0)
    traced: list[TracedToken] = []
    times: list[float] = []
    of_cpu: list[float] = []
    with TokenShard(project, "all/train") as shard:
        for offset in random_.sample(range(n_tokens), min(N_TOKENS, n_tokens)):
            started, cpu = time.perf_counter(), time.process_time()
            traced.append(shard.at(offset))
            times.append(time.perf_counter() - started)
            of_cpu.append(time.process_time() - cpu)
    return traced, sorted(times), sorted(of_cpu)


def check(project: Project, traced: list[TracedToken], repositories: list[Path]) -> tuple[int, int]:
    """Tokens whose bytes differ from those that git gives, and code tokens of which something is not known."""
    edits: Edits = {}
    for row in sql(project, 'select shard, "row", start, "end", replacement from "code".edits order by all').to_pylist():
        edits.setdefault((row["shard"], row["row"]), []).append((row["start"], row["end"], row["replacement"]))
    n_wrong = n_lost = 0
    blobs: dict[str, bytes] = {}
    with TokenShard(project, "all/train") as shard:
        spelled = byte_words(shard.tokenizer)
        ids = shard.tokens.tokens
        for found in traced:
            if found.kind == "synthetic":
                continue
            of = found.document
            n_lost += not (of["raw_swhid"] and of["path"] and of["licence"]) or found.source_start is None
            if of["raw_swhid"] not in blobs:
                blobs[of["raw_swhid"]] = blob(of["raw_swhid"], repositories)
            text = blobs[of["raw_swhid"]].decode(of["encoding"])
            trained = edited(text, edits.get((of["shard"], of["row"]), [])).encode()
            token = spelled[int(ids[found.offset])]
            same = trained[found.start : found.end] == token
            if found.kind == "text":
                same = same and text.encode()[found.source_start : found.source_end] == token
            n_wrong += not same
    return n_wrong, n_lost


def blob(swhid: str, repositories: list[Path]) -> bytes:
    for repository in repositories:
        words = ["git", "-C", str(repository), "cat-file", "blob", swhid.rpartition(":")[2]]
        done = subprocess.run(words, capture_output=True, check=False)
        if not done.returncode:
            return done.stdout
    raise SystemExit(f"no repository holds {swhid}")


def byte_words(tokenizer: Any) -> list[bytes]:
    """The bytes of each token, by GPT-2's alphabet of bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    alphabet = {chr(byte) if byte in shown else chr(256 + hidden.index(byte)): byte for byte in range(256)}
    words = (tokenizer._library.id_to_token(number) for number in range(tokenizer.vocab_size))
    special = set(tokenizer.special_ids)
    return [b"" if word in special else bytes(alphabet[char] for char in word) for word in words]


if __name__ == "__main__":
    main()
