"""A small project on inputs made here: text files with planted duplicates, and a git repository."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

RECIPE = '''
"""A small corpus."""
from pathlib import Path

from tilth import Bpe, Corpus, Folder, GitRepository, MinHashParameters, QualityModel, Train
from tilth.dedup.semantic.hashed_ngrams import HashedNgrams
from tilth.dedup.semantic.duplicates import Semantic

INPUTS = Path({inputs!r})


def corpus(threshold: float = 0.7, vocab_size: int = 320, fail: bool = False, keep: str = "") -> Corpus:
    return Corpus(
        sources=[
            Folder("prose", str(INPUTS / "prose")),
            Folder("noise", str(INPUTS / "noise")),
            GitRepository("code", str(INPUTS / "repository")),
        ],
        near_duplicates=MinHashParameters(threshold=threshold),
        duplicates=(Semantic(HashedNgrams(64), threshold=0.98),),
        tokenizer=Bpe(vocab_size),
        models=[QualityModel(positive="prose", negative="noise")],
        keep=keep or (),
    )


def base(subset: str = "clean", steps: int = 12, seed: int = 0) -> Train:
    model = {{"layers": "MA", "d_model": 32, "n_heads": 2, "d_state": 16, "ssm_head_dim": 32, "chunk_size": 16}}
    return Train(subset=subset, model=model, settings=settings(steps, seed))


def tuned(subset: str = "code", steps: int = 6, seed: int = 1) -> Train:
    return Train(subset=subset, initial="base", settings=settings(steps, seed))


def settings(steps: int, seed: int) -> dict:
    return {{"steps": steps, "seq_len": 32, "global_batch": 4, "lr": 0.01, "checkpoint_every": 2, "eval_every": 4, "eval_batches": 1, "seed": seed}}
'''

COPIES = '''
"""Pages with every kind of copy that is marked beside equal texts, and others with passages to cut."""
from tilth import Corpus, RepeatedLines
from tilth.corpus.sources.json_lines import JsonLines
from tilth.pipeline.recipe import RepeatedSentences, SimHash


def corpus(min_words: int = 0) -> Corpus:
    own = ("passages",)
    return Corpus(
        sources=[JsonLines(name, {inputs!r} + "/" + name, shard_bytes=4000) for name in ("pages", "passages")],
        edits=[
            RepeatedLines(unit="paragraph", mode="keep_first", keep_empty=True, sources=own),
            RepeatedSentences(min_words=min_words, sources=own),
        ],
        duplicates=("normal_text", "url", SimHash(max_distance=5)),
        signals=(),
        tokenizer=None,
    )
'''

WORDS = [
    "soil",
    "seed",
    "root",
    "leaf",
    "rain",
    "field",
    "plough",
    "harvest",
    "barn",
    "furrow",
    "clover",
    "rye",
    "oat",
    "meadow",
    "hedge",
    "stone",
    "brook",
    "sun",
    "frost",
    "wind",
]


def sentence(random_: random.Random, n: int) -> str:
    return " ".join(random_.choice(WORDS) for _ in range(n)).capitalize() + "."


def write_inputs(folder: Path, n_documents: int = 60) -> None:
    """Prose with exact and near copies, noise, a repository with two commits."""
    random_ = random.Random(7)
    prose, noise = folder / "prose", folder / "noise"
    prose.mkdir(parents=True)
    noise.mkdir()
    for i in range(n_documents):
        text = "\n".join(sentence(random_, 12) for _ in range(8))
        (prose / f"{i:03d}.txt").write_text(text)
        if i < 5:
            (prose / f"copy-{i:03d}.txt").write_text(text)
            (prose / f"near-{i:03d}.txt").write_text(text + " Amen.")
        (noise / f"{i:03d}.txt").write_text(" ".join(str(random_.randrange(10**6)) for _ in range(60)))
    (noise / "empty.txt").write_text("")
    (noise / "nul.txt").write_bytes(b"zero \0 byte")
    write_repository(folder / "repository", random_)


def write_repository(folder: Path, random_: random.Random) -> None:
    folder.mkdir()
    (folder / "LICENSE").write_text("SPDX-License-Identifier: MIT\n")
    for i in range(20):
        body = "\n".join(f"    {random_.choice(WORDS)}_{j} = {random_.randrange(1000)}" for j in range(12))
        (folder / f"module_{i}.py").write_text(
            f'"""Module {i}."""\n\ndef {random_.choice(WORDS)}_{i}():\n{body}\n    return {i}\n'
        )
    environment = {
        **os.environ,
        **{f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in IDENTITY.items()},
    }
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True, env=environment)


IDENTITY = {"NAME": "A", "EMAIL": "a@example.org", "DATE": "2026-01-01T00:00:00Z"}


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty documents of prose, as many of noise, and a repository."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="session")
def make_project() -> Callable[[Path, Path], Path]:
    """Make a project folder with `recipes/small.py` on some inputs."""

    def make(folder: Path, inputs: Path) -> Path:
        (folder / "recipes").mkdir(parents=True)
        (folder / "recipes" / "small.py").write_text(RECIPE.format(inputs=str(inputs)))
        return folder

    return make


@pytest.fixture
def project(tmp_path: Path, inputs: Path, make_project: Callable[[Path, Path], Path]) -> Path:
    """A fresh project."""
    return make_project(tmp_path / "project", inputs)


@pytest.fixture(scope="session")
def tilth() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a verb as a user would; stdout and stderr as text."""

    def run(*words: str, cwd: Path, expect: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tilth", *words]
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **environment}
        )
        assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder with its bytes."""

    def read(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

    return read


def write_pages(folder: Path) -> None:
    """JSON lines: pages again in capitals, under another spelling of the URL, with a letter less; passages in several texts."""
    random_ = random.Random(11)
    texts = ["\n".join(sentence(random_, 12) for _ in range(8)) for _ in range(20)]
    pages = [{"text": text, "url": f"http://example.org/{i}"} for i, text in enumerate(texts)]
    for i in range(5):
        pages.append({"text": texts[i].upper().replace(".", " ."), "url": f"http://example.org/other/{i}"})
        pages.append({"text": sentence(random_, 80), "url": f"HTTP://Example.org:80/{i}/?utm_source=x#top"})
        pages.append({"text": texts[i].replace("a", "", 1), "url": f"http://example.org/near/{i}"})
    pages += [{"text": "...", "url": ""}, {"text": "?!", "url": ""}]
    passage = " ".join(sentence(random_, 9) for _ in range(3))
    passages = [
        {"text": f"{sentence(random_, 12)}\n\nAll rights are\nreserved here.\n\nPage {i} ends. {passage} Good bye {i}."}
        for i in range(6)
    ]
    for name, rows in (("pages", pages), ("passages", passages)):
        (folder / name).mkdir(parents=True)
        for part in range(2):
            (folder / name / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[part::2]))


@pytest.fixture(scope="session")
def copies(tmp_path_factory: pytest.TempPathFactory, tilth: Callable[..., object]) -> Path:
    """A project with the corpus `copies`, built once."""
    folder = tmp_path_factory.mktemp("copies")
    write_pages(folder / "inputs")
    project = folder / "project"
    (project / "recipes").mkdir(parents=True)
    (project / "recipes" / "copies.py").write_text(COPIES.format(inputs=str(folder / "inputs")))
    tilth("build", "copies", cwd=project)
    return project


@pytest.fixture(scope="session")
def built(
    tmp_path_factory: pytest.TempPathFactory,
    inputs: Path,
    make_project: Callable[[Path, Path], Path],
    tilth: Callable[..., object],
) -> Path:
    """A project that was built once, for tests that only look (or work on a copy)."""
    project = make_project(tmp_path_factory.mktemp("built") / "project", inputs)
    tilth("build", "small", cwd=project)
    return project


OVERLAP_RECIPE = """
from pathlib import Path

from tilth import Bpe, Corpus, Folder
from tilth.pipeline.recipe import Decontaminate, RepeatedSpans

FOLDER = Path({folder!r})


def pages(mode: str = "keep_first", shard_bytes: int = 2000, benchmark: str = "sums.jsonl", field: str = "") -> Corpus:
    return Corpus(
        sources=[Folder("pages", str(FOLDER / "pages"), shard_bytes=shard_bytes), Folder("notes", str(FOLDER / "notes"))],
        signals=["natural_language"],
        edits=[RepeatedSpans(min_tokens=12, mode=mode, sources=("pages",))],
        decontaminate=Decontaminate(
            {{"sums": str(FOLDER / benchmark), "other": str(FOLDER / "other.csv")}},
            fields={{"sums": (field,)}} if field else {{}},
        ),
        tokenizer=Bpe(300),
    )
"""
QUESTION = "A farmer's barn holds 12 sacks of rye; each sack weighs 40 pounds. How much does all of the rye weigh together?"
SHARED = "This notice stands on every page of the site, and nobody who reads a page ever needs to read it twice."


@pytest.fixture(scope="session")
def overlapping(tmp_path_factory: pytest.TempPathFactory, tilth: Callable[..., object]) -> Path:
    """A project with the corpus `pages`: passages that are repeated, and a benchmark's question on one page."""
    folder = tmp_path_factory.mktemp("overlapping")
    random_ = random.Random(11)
    for name in ("pages", "notes", "project/recipes"):
        (folder / name).mkdir(parents=True)
    for i in range(12):
        text = "\n".join(sentence(random_, 12) for _ in range(4))
        (folder / "pages" / f"{i:02d}.txt").write_text(text + (f"\n{SHARED}\n{i}" if i % 3 == 0 else ""))
    (folder / "notes" / "0.txt").write_text(f"A note.\n{SHARED}\n")
    rewritten = QUESTION.upper().replace("'", "’").replace(";", " --").replace("40 ", "40\n    ")
    (folder / "pages" / "leak.txt").write_text(f"Heard at the market:\n> {rewritten}\nNobody knew.")
    items = [{"question": QUESTION, "answer": "12 * 40 = 480"}, {"question": sentence(random_, 30), "answer": "none"}]
    (folder / "sums.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "other.csv").write_text(f"id,prompt\nq1,{sentence(random_, 40)}\n")
    (folder / "project" / "recipes" / "pages.py").write_text(OVERLAP_RECIPE.format(folder=str(folder)))
    tilth("build", "pages", cwd=folder / "project")
    return folder / "project"


@pytest.fixture(scope="session")
def killed_and_repeated() -> Callable[..., tuple[bytes, bytes]]:
    """(words, folder, output, n_kills, seed) -> what a command wrote in peace, and after that many kills at random moments."""
    return _killed_and_repeated


def _killed_and_repeated(words: list[str], folder: Path, output: str, n_kills: int, seed: int) -> tuple[bytes, bytes]:
    seconds = 0.0
    for _ in range(2):  # the first one compiles
        started = time.monotonic()
        subprocess.run(words, cwd=folder, check=True, capture_output=True)
        seconds = time.monotonic() - started
        whole = (folder / output).rename(folder.with_suffix(".whole")).read_bytes()
    rng, n_killed = random.Random(seed), 0
    while n_killed < n_kills:
        started = time.monotonic()
        process = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0.2, 0.9) * seconds)
            (folder / output).unlink()
            seconds = time.monotonic() - started  # less than it took before: machines are not always equally busy
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            n_killed += 1
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    return whole, (folder / output).read_bytes()
