"""What a corpus fitted on its texts stays when something is forgotten, and so does every shard that did not hold it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilth.artifacts import Named
from tilth.corpus.optout.requests import Request
from tilth.errors import StoreError
from tilth.pipeline.build import build
from tilth.pipeline.forget import Forgotten, find, forget
from tilth.pipeline.forget_purge import purge
from tilth.pipeline.forget_verify import verify
from tilth.pipeline.optout_files import OptOutFiles
from tilth.pipeline.project import Project
from tilth.pipeline.recipe import Corpus
from tilth.pipeline.recipes import load_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FITS = ["model.fluency", "model.fluency.cutoffs", "model.quality", "tokenizer"]
GONE = "leaves/00007"
RECIPE = """
from tilth import Bpe, Corpus, Folder, QualityModel
from tilth.pipeline.recipe import Perplexity

def farm(vocab_size: int = 300) -> Corpus:
    return Corpus(
        sources=[Folder(name, {inputs!r} + "/" + name, shard_bytes=64) for name in ("leaves", "noise")],
        signals=["language"],
        tokenizer=Bpe(vocab_size),
        models=[
            QualityModel(positive="leaves", negative="noise"),
            Perplexity(train_on="leaves", name="fluency", order=2, n_pieces=0),
        ],
    )
"""


def _words(seed: int, words: list[str]) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(words) for _ in range(40)) + f"\nsigned by farmer{seed}@barn{seed}.net\n"


def _build(folder: Path, n_shards: int) -> Project:
    words = {
        "leaves": ["soil", "seed", "root", "leaf", "rain", "field", "plough", "barn"],
        "noise": ["zq", "xv", "19", "wk", "jj"],
    }
    for name, n in (("leaves", n_shards - 8), ("noise", 8)):
        (folder / "inputs" / name).mkdir(parents=True)
        for i in range(n):
            (folder / "inputs" / name / f"{i:03d}.txt").write_text(_words(i + 1000 * (name == "noise"), words[name]))
    project = Project(folder / "project")
    (project.folder / "recipes").mkdir(parents=True)
    (project.folder / "recipes" / "farm.py").write_text(RECIPE.format(inputs=str(folder / "inputs")))
    build(project, "farm", recipe_of(project))
    return project


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted")
    _build(folder, 24)
    return folder


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Project:
    shutil.copytree(built / "project", tmp_path / "project")
    return Project(tmp_path / "project")


def recipe_of(project: Project, **settings: Any) -> Corpus:
    asked = [f"{name}={value}" for name, value in settings.items()]
    loaded: Corpus = load_recipe("farm", asked, Corpus, project.folder).description
    return loaded


def forget_one(project: Project, refit: bool = False, number: int = 7) -> Forgotten:
    asked = [Request.parse("email", f"farmer{number}@barn{number}.net")]
    return forget(project, "farm", recipe_of(project), asked, scope="content", near=True, refit=refit)


def bytes_of(project: Project) -> dict[tuple[str, str | None], dict[str, bytes]]:
    """The files of every output of the corpus, by step and shard."""
    artifacts = [project.store.artifact(part) for part in project.store.get_named("corpus", "farm").parts]
    return {(one.spec.step, one.spec.shard): {path.name: path.read_bytes() for path in one.path.iterdir()} for one in artifacts}


def digests(named: Named) -> dict[str, str]:
    return {part.step: part.digest for part in named.parts if part.step in FITS}


def states(project: Project) -> dict[str, str]:
    return {one.what: one.state for one in verify(project, "farm")}


def test_every_other_shard_of_more_than_200_keeps_its_bytes(tmp_path: Path) -> None:
    project = _build(tmp_path, 208)
    before = bytes_of(project)
    done = forget_one(project)
    after = bytes_of(project)
    of_shards = {place for place in before if place[1] is not None}
    assert {shard for step, shard in of_shards if before[step, shard] != after[step, shard]} == {GONE}
    assert len({shard for _, shard in of_shards}) == 208
    assert len(of_shards) > 5 * 208, "signals of tokenizer and models among them"
    assert done.n_made < 40
    assert sorted(done.fitted) == FITS


def test_what_was_fitted_stays_and_is_told(project: Project) -> None:
    before = project.store.get_named("corpus", "farm")
    shown = find(project, "farm", recipe_of(project), [Request.parse("email", "farmer7@barn7.net")], scope="content", near=True)
    assert sorted(one.name for one in shown.seen if one.kind == "fitted") == FITS
    done = forget_one(project)
    assert done.corpus is not None
    assert digests(done.corpus) == digests(before)
    (path,) = done.tombstones
    seen = {one["name"]: one for one in json.loads(path.read_text())["seen_by"] if one["kind"] == "fitted"}
    assert sorted(seen) == FITS
    assert {one["n_documents"] for one in seen.values()} == {1}
    assert {name: one["digest"] for name, one in seen.items()} == digests(before)
    found = states(project)
    assert {what for what, state in found.items() if state == "note"} == set(FITS)
    assert "bad" not in found.values()
    purge(project, "farm")
    assert set(states(project).values()) == {"ok", "note"}
    assert build(project, "farm", recipe_of(project)).n_made == 0


def test_a_store_that_is_built_from_nothing_has_the_same(project: Project) -> None:
    forget_one(project)
    before = bytes_of(project)
    shutil.rmtree(project.folder / ".tilth")
    build(project, "farm", recipe_of(project))
    after = bytes_of(project)
    without = [{place: {name: data for name, data in files.items() if name != "manifest.json"} for place, files in one.items()}
               for one in (before, after)]  # fmt: skip
    assert without[0] == without[1]


def test_kept_files_that_are_gone_or_damaged_are_an_error(project: Project) -> None:
    forget_one(project)
    shutil.rmtree(project.folder / ".tilth")
    (kept,) = (project.folder / "optout" / "fitted").glob("*/tokenizer.json")
    kept.write_text(kept.read_text() + " ")
    with pytest.raises(StoreError, match="kept `tokenizer` is gone or damaged"):
        build(project, "farm", recipe_of(project))


def test_refit_makes_it_new_and_nothing_of_the_old_is_left(project: Project) -> None:
    before = project.store.get_named("corpus", "farm")
    forget_one(project)
    done = forget(project, "farm", recipe_of(project), [], scope="content", near=True, refit=True)
    assert done.corpus is not None
    assert (done.tombstones, done.fitted) == ([], [])
    old, new = digests(before), digests(done.corpus)
    assert all(old[name] != new[name] for name in ("tokenizer", "model.quality", "model.fluency"))
    assert not list((project.folder / "optout" / "fitted").glob("*"))
    assert "note" not in states(project).values()
    purge(project, "farm")
    assert set(states(project).values()) == {"ok"}
    left = {project.store.load(folder).digest for folder in project.store.folders()}
    assert not left & (set(old.values()) - set(new.values()))


def test_refit_at_once_leaves_nothing_fitted_on_it(project: Project) -> None:
    before = project.store.get_named("corpus", "farm")
    done = forget_one(project, refit=True)
    assert done.fitted == []
    assert done.corpus is not None
    assert digests(done.corpus)["tokenizer"] != digests(before)["tokenizer"]
    (path,) = done.tombstones
    assert "fitted" in {one["kind"] for one in json.loads(path.read_text())["seen_by"]}, "it had seen it"
    assert OptOutFiles(project.folder, "farm").kept().fits == ()


def test_a_second_request_keeps_the_same_and_another_recipe_fits_anew(project: Project) -> None:
    before = digests(project.store.get_named("corpus", "farm"))
    forget_one(project)
    done = forget_one(project, number=9)
    assert done.corpus is not None
    assert digests(done.corpus) == before
    assert {one.name for one in done.found.seen if one.kind == "fitted"} == set(FITS)
    changed = build(project, "farm", recipe_of(project, vocab_size=310)).named
    assert digests(changed)["tokenizer"] != before["tokenizer"]
    assert digests(changed)["model.quality"] == before["model.quality"]
    assert {what for what, state in states(project).items() if state == "note"} == set(FITS[:3])


def test_the_verb_says_what_stays(project: Project, tilth: Callable[..., Any]) -> None:
    said = tilth("forget", "farm", "--email", "farmer7@barn7.net", cwd=project.folder)
    assert "fitted/tokenizer" in said.stdout
    assert "tokenizer was fitted on texts that held it, and stays" in said.stderr
    tilth("forget", "farm", "--purge", cwd=project.folder)
    assert "note" in tilth("forget", "farm", "--verify", cwd=project.folder).stdout
    assert "stays" not in tilth("forget", "farm", "--refit", cwd=project.folder).stderr
    assert "none of --dry-run" in tilth("forget", "farm", "--refit", "--dry-run", cwd=project.folder, expect=2).stderr
