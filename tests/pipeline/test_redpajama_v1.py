"""RedPajama-V1's seven slices from small dumps: built, filtered by the published rules, mixed by the published weights."""

from __future__ import annotations

import bz2
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
RECIPE = Path(__file__).parents[2] / "recipes" / "redpajama_v1.py"
SMALL = ("n_pieces=1000", "vocab_size=1024")
WEIGHTS = {"commoncrawl": 878, "c4": 175, "github": 59, "books": 26, "arxiv": 28, "wikipedia": 24, "stackexchange": 20}

pytestmark = [pytest.mark.slow, pytest.mark.data]

# Mostly words, so that no tokenizer as small as this one comes near the rule on letters a token.
TURN = (
    '    """Turn the soil of the field over before the winter comes, and leave the furrows open to the frost and the rain."""\n'
)
CODE = "".join(f"def plough_{i}(field):\n{TURN}    return furrow(field, depth={i})\n\n\n" for i in range(12))
# path -> content, and whether the slice keeps it
FILES = {
    "farm.py": ("#!/usr/bin/env python\n# Copyright 2020 A. Farmer\n\n# It ploughs.\n" + CODE, True),
    "docs/guide.md": ("# Guide\n\n" + "Sow the rye after the first rain of the autumn.\n" * 20, True),
    "notes.txt": ("Sow the oats before the last frost of the spring.\n" * 20, False),
    "wide.py": (CODE + "x = '" + "clover " * 200 + "'\n", False),
    "long.js": (("var meadow = " + "hedge + " * 12 + "stone\n") * 20, False),
    "table.sql": ("(((--, ,,, ;;; ''' ***)))\n" * 40 + "select 1;\n", False),
    "digits.c": ("0x1f, 0x2e, 0x3d, 0x4c, 0x5b, 0x6a,\n" * 40, False),
    "copyleft.py": ("# SPDX-License-Identifier: GPL-3.0-only\n" + CODE, False),
}


def write_repository(folder: Path) -> None:
    for path, (text, _) in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (folder / "LICENSE").write_text("SPDX-License-Identifier: MIT\n")
    who = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in IDENTITY.items()}
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True, env={**os.environ, **who})


IDENTITY = {"NAME": "A", "EMAIL": "a@example.org", "DATE": "2026-01-01T00:00:00Z"}


def write_c4(folder: Path) -> None:
    random_ = random.Random(3)
    words = ["rye", "oat", "clover", "barley", "meadow", "hedge", "brook", "furrow", "harvest", "stone", "wind", "frost"]
    with (folder / "c4-train.00000-of-01024.json").open("w") as file:
        for i in range(80):
            text = " ".join(random_.choice(words) for _ in range(random_.randrange(40, 400)))
            record = {"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": f"http://example.org/{i}"}
            file.write(json.dumps(record) + "\n")


def lay_out(dumps: Path, data: Path) -> None:
    """Real files, a few of each slice, and C4 and GitHub made here."""
    gensim = data / "gensim_wiki/gensim/test/test_data"
    for source, target in {
        "dolma_warc/tests/data/warc/sample-0000.warc.gz": "commoncrawl/pages.warc.gz",
        "whirlwind_cc/whirlwind.warc.wet.gz": "commoncrawl/whirlwind.warc.wet.gz",
        "pg_alice11/11-0.txt": "books/pg19/alice.txt",
        "pg_alice11/old/alice30.txt": "books/shadow/alice.txt",
        "pg_entrenous44157/44157-0.txt": "books/shadow/entrenous.txt",
        "emcee_paper/document/ms.tex": "arxiv/emcee/ms.tex",
        "emcee_paper/joss/paper.tex": "arxiv/joss/paper.tex",
        "se_coffee/Posts.xml": "stackexchange/coffee.stackexchange.com/Posts.xml",
        gensim / "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2": "wikipedia/enwiki.xml.bz2",
        gensim / "bgwiki-latest-pages-articles-shortened.xml.bz2": "wikipedia/bgwiki.xml.bz2",
    }.items():
        (dumps / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / source, dumps / target)
    for slice_ in ("c4", "github/farm"):
        (dumps / slice_).mkdir(parents=True)
    for language in ("gl", "pl"):  # the minidumps say that they are English
        dump = bz2.decompress(
            (data / f"dbpedia_minidumps/dump/src/test/resources/minidumps/{language}/wiki.xml.bz2").read_bytes()
        )
        corrected = dump.replace(b'xml:lang="en"', f'xml:lang="{language}"'.encode(), 1)
        assert corrected != dump
        (dumps / f"wikipedia/{language}wiki.xml.bz2").write_bytes(bz2.compress(corrected))
    write_c4(dumps / "c4")
    write_repository(dumps / "github/farm")


def said(*words: str) -> str:
    """What the recipe prints when it is run as a script."""
    return subprocess.run([sys.executable, str(RECIPE), *words], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, test_data: Path, tilth: Run) -> Path:
    """A project with the corpus built and the subset `slices` picked with the published weights."""
    folder = tmp_path_factory.mktemp("redpajama")
    lay_out(folder / "dumps", test_data)
    (folder / "recipes").mkdir()
    shutil.copy(RECIPE, folder / "recipes")
    tilth("build", "redpajama_v1", *SMALL, "--workers", "2", cwd=folder)
    pick(tilth, folder)
    return folder


def pick(tilth: Run, folder: Path) -> str:
    options = ("--max-repeats", "50", "--tokens", "60k", "--validation", "0")
    return tilth("pick", "slices", said("where"), "--mix", said("mix"), *options, cwd=folder).stdout


def query(tilth: Run, project: Path, sql: str) -> list[dict]:
    return json.loads(tilth("sql", sql, "--json", cwd=project).stdout)


def parts_of_subset(project: Path) -> set[tuple[str, str, str]]:
    parts = json.loads((project / ".tilth/names/subset/slices.json").read_bytes())["parts"]
    return {(part["step"], part["key"], part["digest"]) for part in parts}


def test_every_slice_is_read_and_nothing_is_lost(project: Path, tilth: Run) -> None:
    rows = query(tilth, project, "select source, count(*) as n, bool_and(n_tokens > 0) as counted from redpajama_v1 group by all")
    assert {row["source"] for row in rows} == WEIGHTS.keys()
    assert all(row["n"] > 0 and row["counted"] for row in rows)


def smallest_miss(sizes: list[int], wanted: float) -> float:
    """How near to `wanted` whole documents come, each taken as often as all of them or once more."""
    rest = wanted % sum(sizes)
    sums = 1  # bit s: some documents add up to s
    for size in sizes:
        sums |= sums << size
    return min(abs(total - rest) for total in range(sums.bit_length()) if sums >> total & 1)


def test_tokens_are_shared_as_published_as_near_as_whole_documents_come(project: Path, tilth: Run) -> None:
    sql = f"""select d.source, coalesce(sum(s.taken), 0)::bigint as taken, list(d.n_tokens) as sizes
              from redpajama_v1 as d left join (
                  select shard, row, n_tokens * weight as taken from subset_documents where subset = 'slices') as s using (shard, row)
              where {said("where")} group by all"""
    rows = {row["source"]: row for row in query(tilth, project, sql)}
    assert rows.keys() == WEIGHTS.keys()
    for source, weight in WEIGHTS.items():
        wanted = 60_000 * weight / sum(WEIGHTS.values())
        assert abs(rows[source]["taken"] - wanted) <= smallest_miss(rows[source]["sizes"], wanted) + 1, source
    assert rows["books"]["taken"] == 0  # a whole book is too much


def test_a_slice_whose_documents_are_too_large_for_its_share_is_said(project: Path, tilth: Run) -> None:
    options = ("--max-repeats", "50", "--tokens", "60k", "--validation", "0")
    said_of = tilth("pick", "slices", said("where"), "--mix", said("mix"), *options, cwd=project).stderr
    assert "warning: `books` has 0.0 % of the training tokens instead of 2.1 %" in said_of
    assert "documents are taken whole" in said_of


def test_the_rules_decide(project: Path, tilth: Run) -> None:
    tilth("pick", "all", said("where"), "--validation", "0", cwd=project)
    kept = {
        (row["source"], row["path"]): row
        for row in query(
            tilth,
            project,
            "select d.source, d.path, d.text, coalesce(d.language, d.lid_language) as language, d.n_chars, wikiref_score, "
            "perplexity_bucket from subset_documents as s join redpajama_v1 as d using (shard, row) where s.subset = 'all'",
        )
    }
    code = {path for source, path in kept if source == "github"}
    assert code == {path for path, (_, keeps) in FILES.items() if keeps}
    assert kept["github", "farm.py"]["text"].startswith("#!/usr/bin/env python\n# It ploughs.\n")
    books = {path for source, path in kept if source == "books"}
    assert books == {"pg19/alice.txt", "shadow/entrenous.txt"}
    languages = {row["language"] for (source, _), row in kept.items() if source == "wikipedia"}
    assert languages == {"en", "bg", "pl"}
    (galician,) = query(tilth, project, "select count(*) as n from redpajama_v1 where source = 'wikipedia' and language = 'gl'")
    assert galician["n"] > 0
    web = [row for (source, _), row in kept.items() if source == "commoncrawl"]
    assert web
    assert all(row["perplexity_bucket"] in ("head", "middle") and row["wikiref_score"] >= 0.25 for row in web)
    (read,) = query(tilth, project, "select count(*) as n from redpajama_v1 where source = 'commoncrawl'")
    assert len(web) < read["n"]


def test_lines_are_cut_and_percentiles_taken_in_common_crawl_alone(project: Path, tilth: Run) -> None:
    edits = query(tilth, project, "select distinct split_part(shard, '/', 1) as source from redpajama_v1.edits")
    assert {row["source"] for row in edits} == {"commoncrawl"}
    (row,) = query(
        tilth,
        project,
        "select max(perplexity) filter (perplexity_bucket = 'middle') as middle, quantile_cont(perplexity, 0.6) as cutoff "
        "from redpajama_v1 where source = 'commoncrawl' and lid_language = 'en'",
    )
    assert row["middle"] <= row["cutoff"]
    (row,) = query(
        tilth, project, "select count(*) as n from redpajama_v1 where extraction like '%edits' and source <> 'commoncrawl'"
    )
    assert row["n"] == 0


def test_sites_can_be_named(project: Path, tilth: Run) -> None:
    largest = query(tilth, project, said("sites"))
    assert list(largest[0].values()) == ["coffee.stackexchange.com"]
    other = said("where", "slices=stackexchange", "sites=tea.stackexchange.com")
    assert "selects none" in tilth("pick", "tea", other, cwd=project, expect=2).stderr


def test_the_same_again_is_up_to_date(project: Path, tilth: Run) -> None:
    before = parts_of_subset(project)
    assert "is up to date" in tilth("build", "redpajama_v1", *SMALL, cwd=project).stderr
    pick(tilth, project)
    assert parts_of_subset(project) == before


@pytest.fixture
def without_books(project: Path) -> Iterator[Path]:
    """The project with one folder of dumps put aside."""
    (project / "dumps/books").rename(project / "books")
    yield project
    (project / "books").rename(project / "dumps/books")


def test_a_slice_that_is_not_there_is_named_unless_left_out(without_books: Path, tilth: Run) -> None:
    error = tilth("build", "redpajama_v1", cwd=without_books, expect=2).stderr
    assert "no folder for the slice `books`" in error
    assert "slices=commoncrawl,c4,github,arxiv,wikipedia,stackexchange" in error
    left = "slices=c4,github,stackexchange"
    assert "Nothing was run." in tilth("build", "redpajama_v1", left, "--explain", cwd=without_books).stdout
    assert "books" not in said("where", left) + said("mix", left)


@pytest.mark.parametrize(
    ("slices", "answer"), [("c4,book", "Did you mean `books`?"), ("commoncrawl", "Add `wikipedia`."), ("", "has no slice")]
)
def test_slices_that_cannot_be(project: Path, tilth: Run, slices: str, answer: str) -> None:
    assert answer in tilth("build", "redpajama_v1", f"slices={slices}", cwd=project, expect=2).stderr
