"""What people ask to be forgotten goes from all copies; every other shard keeps its bytes; a signed tombstone remains."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tilth.artifacts import Artifact, Spec
from tilth.contracts import LOSSES
from tilth.corpus.optout.requests import Request
from tilth.corpus.sources.git_repositories import GitRepositories
from tilth.pipeline import forget as forgetting
from tilth.pipeline.build import build
from tilth.pipeline.curate import pick, sql
from tilth.pipeline.forget_purge import purge
from tilth.pipeline.forget_verify import verify
from tilth.pipeline.optout_files import OptOutFiles
from tilth.pipeline.parquet import write_table
from tilth.pipeline.project import Project
from tilth.pipeline.recipe import Corpus
from tilth.pipeline.recipes import load_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
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
RECIPE = """
from tilth import Corpus, Folder, MinHashParameters
from tilth.corpus.sources.git_repositories import GitRepositories

def farm() -> Corpus:
    return Corpus(
        sources=[
            Folder("leaves", {inputs!r} + "/leaves", shard_bytes=64),
            GitRepositories("code", {inputs!r} + "/code", history=True),
        ],
        near_duplicates=MinHashParameters(threshold=0.7),
        signals=["code_shape"],
        tokenizer=None,
    )
"""


def lines(seed: int, n: int = 30) -> str:
    random_ = random.Random(seed)
    return "".join(f"{random_.choice(WORDS)}_{i} = {random_.choice(WORDS)}({random_.randrange(10**6)})\n" for i in range(n))


LONG, SHARED = lines(1), lines(2)
CODE: dict[str, tuple[str, str, dict[str, str]]] = {  # folder: origin, e-mail of its commits, files
    "0": ("https://github.com/Octo/plough.git", "octo@example.org", {"long.py": LONG, "shared.py": SHARED, "logo.png": "\0"}),
    "1": ("https://github.com/other/barn", "b@example.org", {"vendor/a.py": SHARED, "vendor/b.py": SHARED, "own.py": lines(3)}),
    "2": ("git@github.com:third/field.git", "c@example.org", {"near.py": LONG + "sown = True\n", "own.py": lines(4)}),
    "3": ("https://example.org/group/sub/four", "Mole@Example.org", {"by_mole.py": lines(5)}),
    "4": ("https://github.com/fifth/x", "e@example.org", {"names.py": "# Ask MOLE@example.org\n" + lines(6), "own.py": lines(7)}),
}


def write_inputs(folder: Path, n_leaves: int) -> None:
    (folder / "leaves").mkdir(parents=True)
    for i in range(n_leaves):
        (folder / "leaves" / f"{i:03d}.txt").write_text(lines(100 + i, 4))
    (folder / "leaves" / "007.txt").write_text(SHARED)  # a copy outside of any repository
    for name, (origin, email, files) in CODE.items():
        place = folder / "code" / name
        for path, text in files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_text(text)
        who = {"NAME": "A", "EMAIL": email, "DATE": "2026-01-01T00:00:00Z"}
        own = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in who.items()}
        for words in (
            ["init", "-q", "-b", "main"],
            ["remote", "add", "origin", origin],
            ["add", "."],
            ["commit", "-q", "-m", "x"],
        ):
            subprocess.run(["git", "-C", str(place), *words], check=True, env={**os.environ, **own})


def build_farm(folder: Path, n_leaves: int) -> Project:
    write_inputs(folder / "inputs", n_leaves)
    project = Project(folder / "project")
    (project.folder / "recipes").mkdir(parents=True)
    (project.folder / "recipes" / "farm.py").write_text(RECIPE.format(inputs=str(folder / "inputs")))
    build(project, "farm", recipe_of(project))
    return project


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose corpus has 13 shards, and a subset of all that it keeps."""
    folder = tmp_path_factory.mktemp("farm")
    pick(build_farm(folder, n_leaves=8), "all", "is_keeper", corpus="farm")
    return folder


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Project:
    """A copy of it that a test may change."""
    shutil.copytree(built / "project", tmp_path / "project")
    return Project(tmp_path / "project")


def recipe_of(project: Project) -> Corpus:
    loaded: Corpus = load_recipe("farm", [], Corpus, project.folder).description
    return loaded


def forget(project: Project, *asked: tuple[str, str], scope: str = "content", near: bool = True) -> forgetting.Forgotten:
    requests = [Request.parse(kind, text) for kind, text in asked]
    return forgetting.forget(project, "farm", recipe_of(project), requests, scope=scope, near=near)


def held(project: Project) -> set[tuple[str, str]]:
    """(origin, path) of every occurrence."""
    rows = sql(project, "select distinct origin, path from farm.occurrences").to_pylist()
    return {(row["origin"].split("/")[-1], row["path"]) for row in rows}


def shards_of(project: Project) -> dict[tuple[str, str], dict[str, bytes]]:
    """The bytes of every output that belongs to one shard, by step and shard."""
    store = project.store
    named = store.get_named("corpus", "farm")
    shards = {part.shard for part in named.of("read")}
    artifacts = [store.artifact(part) for part in named.parts if part.shard in shards]
    return {(one.spec.step, str(one.spec.shard)): files_of(one) for one in artifacts}


def files_of(artifact: Artifact) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in artifact.path.iterdir()}


def states(project: Project) -> dict[str, str]:
    return {finding.what: finding.state for finding in verify(project, "farm")}


def test_a_user_is_forgotten_with_all_copies_and_every_other_shard_keeps_its_bytes(tmp_path: Path) -> None:
    project = build_farm(tmp_path, n_leaves=205)
    before, places = shards_of(project), held(project)
    done = forget(project, ("user", "oCTO"))
    assert places - held(project) == {
        ("plough.git", "long.py"), ("plough.git", "shared.py"), ("barn", "vendor/a.py"), ("barn", "vendor/b.py"),
        ("field.git", "near.py"), ("leaves", "007.txt"),
    }  # fmt: skip
    after = shards_of(project)
    touched = {shard for (step, shard), files in after.items() if step == "read" and files != before[step, shard]}
    folders = {shard.name: Path(shard.location).name for shard in GitRepositories("code", str(tmp_path / "inputs/code")).plan()}
    assert {folders.get(shard, shard) for shard in touched} == {"0", "1", "2", "leaves/00007"}
    untouched = {place for place in before if place[1] not in touched}
    assert len({shard for _, shard in untouched}) >= 200
    assert all(before[place] == after[place] for place in untouched)
    assert {row["found"] for row in done.found.rows} == {"named", "copy", "near"}
    texts = set(sql(project, "select text from farm").column("text").to_pylist())
    assert not texts & {LONG, SHARED, LONG + "sown = True\n"}
    assert {lines(3), lines(4)} <= texts
    rejects = sql(project, "select location, reason from farm.rejects").to_pylist()
    assert [row["reason"] for row in rejects].count("withdrawn") == 6  # five documents, and the file that was none
    assert not any("Octo" in row["location"] for row in rejects)
    assert {what: state for what, state in states(project).items() if state == "bad"} == {}


def test_without_near_duplicates_the_like_stay(project: Project) -> None:
    forget(project, ("repo", "octo/PLOUGH"), near=False)
    assert ("field.git", "near.py") in held(project)
    assert ("leaves", "007.txt") not in held(project)


def test_an_occurrence_goes_and_the_content_stays_where_others_hold_it(project: Project) -> None:
    places = held(project)
    done = forget(project, ("path", "other/barn:vendor/a.py"), scope="occurrence")
    assert places - held(project) == {("barn", "vendor/a.py")}
    assert (done.found.n_documents, done.found.n_occurrences) == (0, 1)
    forget(project, ("repo", "https://github.com/Other/barn.git"), scope="occurrence")
    assert {path for origin, path in held(project) if origin == "barn"} == set()
    assert {("plough.git", "shared.py"), ("leaves", "007.txt")} <= held(project)
    assert "bad" not in states(project).values()


def test_an_address_is_found_in_texts_and_in_commits(project: Project) -> None:
    places = held(project)
    forget(project, ("email", "mole@EXAMPLE.org"))
    assert places - held(project) == {("four", "by_mole.py"), ("x", "names.py")}
    assert "bad" not in states(project).values()


def test_a_commit_and_a_content_are_found_by_their_ids(project: Project) -> None:
    (row,) = sql(project, "select o.revision, d.raw_swhid from farm.occurrences o join farm.documents d using (shard, row) where path = 'by_mole.py'").to_pylist()  # fmt: skip
    forget(project, ("commit", row["revision"].removeprefix("swh:1:rev:").upper()), scope="occurrence")
    assert "four" not in {origin for origin, _ in held(project)}
    swhid = sql(project, "select raw_swhid from farm.documents where text_swhid is not null and source = 'leaves' order by row, shard limit 1").to_pylist()[0]["raw_swhid"]  # fmt: skip
    assert forget(project, ("swhid", swhid.upper() + ";path=/x")).found.n_documents == 1


def test_the_tombstone_is_signed_names_nobody_and_lists_who_had_seen_it(project: Project) -> None:
    subset = project.store.get_named("subset", "all")
    done = forget(project, ("user", "octo"), ("email", "octo@example.org"))
    (path,) = done.tombstones
    tombstone, files = json.loads(path.read_text()), OptOutFiles(project.folder, "farm")
    assert files.is_genuine(tombstone)
    assert not files.is_genuine({**tombstone, "scope": "occurrence"})
    assert [(one["kind"], one["name"], one["digest"]) for one in tombstone["seen_by"]] == [("subset", "all", subset.digest)]
    assert tombstone["corpus_after"] == done.corpus.digest  # type: ignore[union-attr]
    kept = b"".join(one.read_bytes() for one in (project.folder / "optout").rglob("*") if one.is_file()).lower()
    assert not [word for word in (b"octo", b"plough", b"long.py", b"example.org", b"barn") if word in kept]
    assert (project.folder / "optout" / "key").stat().st_mode & 0o077 == 0


def test_runs_that_began_from_one_that_saw_it_and_their_deltas_are_listed(project: Project) -> None:
    store, subset = project.store, project.store.get_named("subset", "all")

    def weights(folder: Path, seed: int) -> None:
        write_table(folder / "losses.parquet", LOSSES.schema.empty_table(), LOSSES)
        (folder / "weights").write_bytes(bytes([seed]))

    base, tuned, other = (store.make(Spec("train", 1, {"seed": i}), partial(weights, seed=i)).part() for i in range(3))
    store.save_named("run", "base", [base, *subset.parts], {"base": None})
    store.save_named("run", "tuned", [tuned], {"base": "base"})
    store.save_named("run", "other", [other], {"base": None})
    store.save_named("delta", "tuned", [tuned, base], {"run": "tuned", "base": "base"})
    (path,) = forget(project, ("user", "octo")).tombstones
    seen = [(one["kind"], one["name"], one["n_documents"], one["through"]) for one in json.loads(path.read_text())["seen_by"]]
    assert seen == [
        ("delta", "tuned", 2, "run/tuned"),
        ("run", "base", 2, None),
        ("run", "tuned", 2, "run/base"),
        ("subset", "all", 2, None),
    ]
    purge(project, "farm")
    left = store.get_named("run", "base").parts
    assert base in left, "the weights stay"
    assert "pick" not in {part.step for part in left}
    assert all(store.artifact(part) for part in left)
    assert store.get_named("delta", "tuned").parts == (tuned, base)


def test_the_scan_tells_what_old_names_hold_and_purge_removes_it(project: Project) -> None:
    forget(project, ("user", "octo"))
    found = states(project)
    assert found["subset/all"] == found["no name"] == "old"
    assert {found[what] for what in ("requests", "texts", "catalog", "tombstones")} == {"ok"}
    done = purge(project, "farm")
    assert done.names == ["subset/all"]
    assert set(states(project).values()) == {"ok"}
    assert texts_on_disk(project).isdisjoint({LONG, SHARED, LONG + "sown = True\n"})
    assert purge(project, "farm").n_outputs == 0
    assert build(project, "farm", recipe_of(project)).n_made == 0


def texts_on_disk(project: Project) -> set[str]:
    paths = (project.folder / ".tilth").rglob("documents.parquet")
    return {text for path in paths for text in pq.read_table(path, columns=["text"]).column("text").to_pylist()}


def test_what_comes_back_is_found_and_goes_by_the_same_command(built: Path, project: Project) -> None:
    forget(project, ("user", "octo"))
    leaf = built / "inputs" / "leaves" / "later.txt"
    leaf.write_text(SHARED)
    try:
        build(project, "farm", recipe_of(project))
        assert states(project)["texts"] == "bad"
        done = forget(project)
        assert [row["found"] for row in done.found.rows] == ["copy"]
        assert "bad" not in states(project).values()
    finally:
        leaf.unlink()


def test_nothing_found_is_said_and_nothing_built(project: Project) -> None:
    before = project.store.get_named("corpus", "farm")
    done = forget(project, ("user", "nobody"))
    assert (done.corpus, done.tombstones, done.found.n_documents) == (None, [], 0)
    assert project.store.get_named("corpus", "farm") == before


def test_killed_on_the_way_the_same_command_goes_on(project: Project, tmp_path: Path, tilth: Callable[..., Any]) -> None:
    OptOutFiles(project.folder, "farm").make_key()  # one for both, since digests by it stand in the rejects
    shutil.copytree(project.folder, tmp_path / "whole")
    whole = Project(tmp_path / "whole")
    forget(whole, ("user", "octo"))
    command = [sys.executable, "-m", "tilth", "forget", "farm", "--user", "octo"]
    pending, n_killed = project.folder / "optout" / "tombstones", 0
    for n_outputs in (0, 1, 3):  # as soon as a tombstone is begun, then further on
        before = len(list(project.folder.glob(".tilth/artifacts/*/*/manifest.json")))
        process = subprocess.Popen(command, cwd=project.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (
            list(pending.glob("*.pending.json"))
            and len(list(project.folder.glob(".tilth/artifacts/*/*/manifest.json"))) >= before + n_outputs
        ):
            time.sleep(0.005)
        n_killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert n_killed >= 2
    assert "signed optout/tombstones/" in tilth("forget", "farm", "--user", "octo", cwd=project.folder).stderr
    assert not list(pending.glob("*.pending.json"))
    assert shards_of(project) == shards_of(whole)
    mine, theirs = (OptOutFiles(one.folder, "farm").signed() for one in (project, whole))
    assert [one["removed"]["documents"] for one in mine] == [one["removed"]["documents"] for one in theirs]
    said = tilth("forget", "farm", "--verify", cwd=project.folder, expect=1)  # the subset of before
    assert "subset/all" in said.stdout
    tilth("forget", "farm", "--purge", cwd=project.folder)
    tilth("forget", "farm", "--verify", cwd=project.folder)


def test_what_a_kill_left_before_the_list_was_written_is_taken_up(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(OptOutFiles, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            forget(project, ("user", "octo"))
    done = forget(project, ("path", "third/field:own.py"))
    assert len(done.tombstones) == 2
    assert {origin for origin, _ in held(project)}.isdisjoint({"plough.git", "field.git"})
    assert "bad" not in states(project).values()


def test_the_verb_shows_before_it_does(project: Project, tilth: Callable[..., Any], tree: Callable[[Path], Any]) -> None:
    before = tree(project.folder / ".tilth" / "artifacts")
    said = tilth("forget", "farm", "--repo", "OCTO/plough", "--dry-run", cwd=project.folder)
    assert "near" in said.stdout
    assert "subset/all" in said.stdout
    assert not (project.folder / "optout").exists()
    assert tree(project.folder / ".tilth" / "artifacts") == before
    assert "is no commit" in tilth("forget", "farm", "--commit", "12ab", cwd=project.folder, expect=2).stderr
