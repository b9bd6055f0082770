"""A file of a repository that was trained on in a training form: everything that saw it is found, and it goes from all of it."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tilth.corpus.optout.requests import Request
from tilth.corpus.sources.git_repositories import GitRepositories
from tilth.pipeline.build import build
from tilth.pipeline.curate import pick, sql
from tilth.pipeline.deploy import deploy
from tilth.pipeline.forget import Forgotten, forget
from tilth.pipeline.forget_purge import purge
from tilth.pipeline.forget_seen import seen_by
from tilth.pipeline.forget_verify import verify
from tilth.pipeline.launch import train
from tilth.pipeline.project import Project
from tilth.pipeline.recipe import Bpe, CodeForm, Corpus, Train
from tilth.pipeline.run_sources import sources_of
from tilth.pipeline.tokenise import tokenise_subset
from tilth.pipeline.trace import TokenShard
from tilth.pipeline.why import Why

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
THIRD = "pkg/m2.py"
SEEN = ["delta/tuned", "fitted/tokenizer", "run/base", "run/tuned", "subset/all", "tokens/all"]
MODEL = {"layers": "MA", "d_model": 16, "n_heads": 2, "d_state": 8, "ssm_head_dim": 16, "chunk_size": 16}
SETTINGS = {"steps": 2, "seq_len": 32, "global_batch": 2, "lr": 0.01, "checkpoint_every": 2, "seed": 0}


def _repository(folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    (folder / "pkg").mkdir(parents=True)
    for i in range(5):
        text = "".join(f"plough_{rng.randrange(10**6)} = sow({rng.randrange(10**6)})\n" for _ in range(20))
        (folder / "pkg" / f"m{i}.py").write_text(f"# file {i} of farm {seed}\n{text}")
    who = {f"GIT_{role}_{what}": "2026-01-01T00:00:00Z" if what == "DATE" else "a@example.org"
           for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL", "DATE")}  # fmt: skip
    origin = ["remote", "add", "origin", f"https://example.org/octo/farm{seed}"]
    for words in (["init", "-q", "-b", "main"], origin, ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True, env={**os.environ, **who})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two repositories in a training form, a subset, its tokens, a run, one that began from it, and a delta."""
    folder = tmp_path_factory.mktemp("formed")
    for seed in range(2):
        _repository(folder / "clones" / f"farm{seed}", seed)
    (folder / "project" / "recipes").mkdir(parents=True)
    project = Project(folder / "project")
    build(project, "farm", corpus_of(project))
    pick(project, "all", "true", corpus="farm", validation_share=0.0)
    train(project, "base", Train("all", SETTINGS, model=MODEL))
    train(project, "tuned", Train("all", {**SETTINGS, "seed": 1}, initial="base"))
    deploy(project, "tuned", "base", distill_steps=1, n_sample_tokens=2)
    return folder


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Project:
    """A copy of it that a test may change, beside the same clones."""
    shutil.copytree(trained, tmp_path / "formed", symlinks=True)
    return Project(tmp_path / "formed" / "project")


def corpus_of(project: Project) -> Corpus:
    form = CodeForm(order="path", names=1.0, fim_repositories=1.0)
    source = GitRepositories("code", str(project.folder.parent / "clones"))
    return Corpus(sources=[source], signals=[], tokenizer=Bpe(300), training_form=form)


def forget_third(project: Project) -> Forgotten:
    asked = [Request.parse("path", f"octo/farm0:{THIRD}")]
    return forget(project, "farm", corpus_of(project), asked, scope="content", near=True)


def third(project: Project) -> dict[str, Any]:
    (row,) = sql(project, f"select * from farm where path = '{THIRD}' and origin like '%farm0'").to_pylist()
    return dict(row)


def test_every_file_of_a_repository_is_in_sql(project: Project) -> None:
    rows = sql(project, 'select * from token_documents join farm using (shard, "row") order by "offset"').to_pylist()
    assert [row["path"] for row in rows] == [f"pkg/m{i}.py" for i in range(5)] * 2
    assert [row["document"] for row in rows] == [0] * 5 + [1] * 5
    with TokenShard(project, "all/train") as shard:
        for row in rows:
            text = shard.tokenizer.decode(shard.tokens.tokens[row["offset"] : row["offset"] + row["length"]])
            assert text.startswith(f"<file_sep>{row['path']}\n")
            assert text.count("<file_sep>") == 1
            assert f"of {row['origin'].rpartition('/')[2].replace('farm', 'farm ')}\n" in text
    assert sql(project, "select count(*) as n from token_documents").to_pylist() == [{"n": 10}]
    assert sql(project, "select run, count(*) as n from run_documents group by run order by run").to_pylist() == [
        {"run": "base", "n": 10},
        {"run": "tuned", "n": 10},
    ]


def test_a_step_is_told_file_by_file(project: Project) -> None:
    names = set()
    with Why(project, "base") as why, TokenShard.of_run(project, sources_of(why.run)[0]) as shard:
        for step in range(SETTINGS["steps"]):
            read = why.step(step)
            assert sum(one.n_tokens for one in read) == SETTINGS["seq_len"] * SETTINGS["global_batch"]
            for one in read:
                at = one.start + int(shard.tokens.offsets[0 if one.document.get("origin", "").endswith("farm0") else 1])
                if one.document:
                    assert shard.at(at).document["path"] == one.document["path"]
                    names.add(one.document["path"])
    assert names <= {f"pkg/m{i}.py" for i in range(5)}
    assert len(names) > 1


def test_the_documented_sql_tells_what_saw_a_file(project: Project) -> None:
    shipped = (Path(__file__).parents[2] / "docs" / "code.md").read_text()
    (query,) = (block for block in shipped.split("```sql\n")[1:] if "run_documents" in block.split("```")[0])
    query = query.split("```")[0].replace("from code", "from farm").replace("src/a.py", THIRD)
    assert sql(project, query).to_pylist() == [
        {"what": "delta", "name": "tuned"},
        {"what": "run", "name": "base"},
        {"what": "run", "name": "tuned"},
        {"what": "subset", "name": "all"},
        {"what": "tokens", "name": "all"},
    ]
    none = query.replace(THIRD, "pkg/m9.py")
    assert sql(project, none).num_rows == 0


def test_the_third_file_of_a_repository_is_forgotten(project: Project) -> None:
    row = third(project)
    text = row["text"]
    done = forget_third(project)
    assert [f"{one.kind}/{one.name}" for one in sorted(done.found.seen, key=lambda one: one.kind)] == SEEN
    assert {one.n_documents for one in done.found.seen} == {1}
    (path,) = done.tombstones
    assert sorted(f"{one['kind']}/{one['name']}" for one in json.loads(path.read_text())["seen_by"]) == SEEN
    assert sql(project, f"select count(*) as n from farm where text_swhid = '{row['text_swhid']}'").to_pylist() == [{"n": 0}]
    assert {one.what: one.state for one in verify(project, "farm") if one.state == "old"}.keys() >= {"tokens/all", "run/base"}
    purge(project, "farm")
    assert {one.state for one in verify(project, "farm")} == {"ok", "note"}
    pick(project, "all", "true", corpus="farm", validation_share=0.0)
    tokenise_subset(project.store, project.store.get_named("subset", "all"))
    with TokenShard(project, "all/train") as shard:
        assert text.splitlines()[1] not in shard.tokenizer.decode(shard.tokens.tokens)
        assert shard.tokens.n_documents == 2
    assert sql(project, "select count(*) as n from token_documents").to_pylist() == [{"n": 9}]
    assert {one.state for one in verify(project, "farm")} == {"ok", "note"}


def test_tokens_alone_are_found_to_hold_it(project: Project) -> None:
    """Also where the subset that they were made of was picked anew and its rows are gone."""
    store, row = project.store, third(project)
    ids = {row["doc_id"].bytes if hasattr(row["doc_id"], "bytes") else bytes.fromhex(row["doc_id"].replace("-", ""))}
    store.discard(store.artifact(store.get_named("subset", "all").one("pick")).path)
    for kind, name in (("subset", "all"), ("run", "base"), ("run", "tuned"), ("delta", "tuned")):
        store.remove_named(kind, name)
    assert [(one.kind, one.name, one.n_documents) for one in seen_by(store, ids)] == [("tokens", "all", 1)]
    forget_third(project)
    assert [one.what for one in verify(project, "farm") if one.state == "old"] == ["no name", "tokens/all"]
