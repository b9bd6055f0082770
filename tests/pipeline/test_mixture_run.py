"""A run on a mixture of two subsets: trained, traced, explained by step, joined with signals, and forgotten."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from tilth.cli.main import cli
from tilth.corpus.optout.requests import Request
from tilth.corpus.sources.folder import Folder
from tilth.errors import ContractError, NotFoundError, QueryError, RecipeError, UserError
from tilth.pipeline.build import build
from tilth.pipeline.checking import check_project
from tilth.pipeline.curate import pick, sql
from tilth.pipeline.deploy import deploy
from tilth.pipeline.forget import forget
from tilth.pipeline.forget_purge import purge
from tilth.pipeline.forget_seen import seen_by
from tilth.pipeline.launch import train
from tilth.pipeline.project import Project
from tilth.pipeline.recipe import Bpe, Corpus, Train
from tilth.pipeline.run_sources import sources_of
from tilth.pipeline.trace import trace
from tilth.pipeline.why import Why

pytestmark = pytest.mark.slow
WORDS = ["soil", "seed", "root", "leaf", "rain", "field", "barn", "clover", "rye", "oat", "meadow", "hedge"]
MODEL = {"layers": "MA", "d_model": 16, "n_heads": 2, "d_state": 8, "ssm_head_dim": 16, "chunk_size": 16}
SETTINGS = {"steps": 4, "seq_len": 48, "global_batch": 6, "lr": 0.01, "checkpoint_every": 2, "seed": 0, "document_losses": True}
MIX = {"web": 0.75, "code": 0.25}


def corpus_of(folder: Path) -> Corpus:
    sources = [Folder(name, str(folder / "inputs" / name)) for name in ("web", "code")]
    return Corpus(sources=sources, signals=["natural_language"], tokenizer=Bpe(300))


def write_texts(folder: Path) -> None:
    random_ = random.Random(3)
    for name, n in (("web", 30), ("code", 12)):
        (folder / "inputs" / name).mkdir(parents=True)
        for i in range(n):
            text = f"{name} {i}: " + " ".join(random_.choice(WORDS) for _ in range(random_.randrange(3, 40)))
            (folder / "inputs" / name / f"{i:02d}.txt").write_text(text)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    write_texts(folder)
    (folder / "project" / "recipes").mkdir(parents=True)
    project = Project(folder / "project")
    build(project, "farm", corpus_of(folder))
    for name in MIX:
        pick(project, name, f"source = '{name}'", corpus="farm", validation_share=0.2)
    train(project, "mixed", Train(MIX, SETTINGS, model=MODEL))
    train(project, "plain", Train("web", {**SETTINGS, "document_losses": False}, model=MODEL))
    return folder


@pytest.fixture
def project(trained: Path) -> Project:
    return Project(trained / "project")


def test_the_run_says_what_it_is_a_mixture_of(project: Project) -> None:
    run = project.store.get_named("run", "mixed")
    assert run.meta["subset"] == "code=0.25,web=0.75"
    assert [(source.subset, source.weight) for source in sources_of(run)] == [("code", 0.25), ("web", 0.75)]
    assert run.meta["validation_loss"] > 0
    again = train(project, "mixed", Train(dict(reversed(MIX.items())), SETTINGS, model=MODEL))
    assert again.was_there
    assert not train(project, "other", Train({"web": 0.5, "code": 0.5}, SETTINGS, model=MODEL)).was_there
    project.store.remove_named("run", "other")


def test_every_token_of_a_step_is_of_a_document_that_why_lists(project: Project) -> None:
    with Why(project, "mixed") as why:
        for step in range(4):
            read = why.step(step)
            assert sum(one.n_tokens for one in read) == 6 * 48
            assert sum(one.share for one in read) == pytest.approx(1)
            for one in read:
                assert one.document["source"] == one.subset
            by_sequence = [one for i in range(6) for one in why.step(step, i)]
            assert by_sequence == read
    alone = Why(project, "mixed").step(3)
    assert [(one.sequence, one.start, one.document["doc_id"]) for one in alone] == [
        (one.sequence, one.start, one.document["doc_id"]) for one in read
    ]
    for step, sequence, position in ((0, 0, 0), (3, 5, 47), (2, 3, 20)):
        traced = trace(project, "mixed", step, sequence, position)
        own = why_at(project, step, sequence, position)
        assert (traced.subset, traced.epoch) == (own.subset, own.epoch)
        assert own.start <= traced.offset < own.end
        assert traced.document["doc_id"] == own.document["doc_id"]
        text = sql(project, f"select text from farm where doc_id = '{traced.document['doc_id']}'").to_pylist()[0]["text"]
        assert traced.token == "<|endoftext|>" or traced.token in text
        assert text.startswith(f"{traced.subset} ")


def why_at(project: Project, step: int, sequence: int, position: int):
    """The piece of a sequence that holds a position, by counting."""
    for one in Why(project, "mixed").step(step, sequence):
        if position < one.n_tokens:
            return one
        position -= one.n_tokens
    raise AssertionError("the pieces are shorter than the sequence")


def test_the_losses_of_a_step_stand_beside_its_documents(project: Project) -> None:
    read = Why(project, "mixed", ["rps_doc_word_count"]).step(2, by="loss")
    losses = [one.loss for one in read if one.loss is not None]
    assert losses == sorted(losses, reverse=True)
    assert len(losses) > 6
    assert all(one.document["rps_doc_word_count"] > 0 for one in read)
    rows = sql(project, "select sequence, subset, loss, doc_id from document_losses where run = 'mixed' and step = 2").to_pylist()
    told = {(one.sequence, one.subset, one.loss, one.document["doc_id"]) for one in read if one.loss is not None}
    assert told == {(row["sequence"], row["subset"], row["loss"], row["doc_id"]) for row in rows}
    most = Why(project, "mixed").step(2, by="tokens")
    assert [one.n_tokens for one in most] == sorted((one.n_tokens for one in read), reverse=True)


def test_sql_joins_losses_with_signals(project: Project) -> None:
    query = """
        select s.rps_doc_word_count > 20 as is_long, sum(l.loss_sum) / sum(l.n_targets) as loss, sum(l.n_targets) as n
        from document_losses as l join farm as s using (shard, "row")
        where l.run = 'mixed' group by all order by all
    """
    rows = sql(project, query).to_pylist()
    assert [row["is_long"] for row in rows] == [False, True]
    (total,) = sql(project, "select sum(n_tokens) as n, sum(loss * n_tokens) as loss from losses where run = 'mixed'").to_pylist()
    assert sum(row["n"] for row in rows) == total["n"]
    assert sum(row["n"] * row["loss"] for row in rows) == pytest.approx(total["loss"], rel=1e-6)
    shares = Counter({row["subset"]: row["n"] for row in sql(
        project, "select subset, count(distinct (step, sequence)) as n from document_losses group by all"
    ).to_pylist()})  # fmt: skip
    assert set(shares) == {"web", "code"}
    (documents,) = sql(project, "select count(*) n, count(distinct subset) s from run_documents where run = 'mixed'").to_pylist()
    assert documents == {"n": 30 + 12, "s": 2}
    assert sql(project, "select count(*) as n from document_losses where run = 'plain'").to_pylist() == [{"n": 0}]


def test_the_documented_sql_is_answered(project: Project) -> None:
    shipped = (Path(__file__).parents[2] / "docs" / "order.md").read_text()
    query = shipped.split("```sql\n")[1].split("```")[0].replace("join demo", "join farm").replace("'base'", "'mixed'")
    rows = sql(project, query).to_pylist()
    assert {row["source"] for row in rows} == {"web", "code"}
    (last,) = sql(project, "select n_tokens as n from losses where run = 'mixed' and step = 3").to_pylist()
    assert sum(row["n_tokens"] for row in rows) == last["n"]
    assert [row["loss"] for row in rows] == sorted((row["loss"] for row in rows), reverse=True)


def test_the_verb_lists_a_step(project: Project) -> None:
    run = partial(CliRunner().invoke, cli, env={"TILTH_PROJECT": str(project.folder)})
    shown = run(["why", "mixed", "1", "--by", "loss", "--signal", "rps_doc_word_count"])
    assert shown.exit_code == 0, shown.output
    assert all(word in shown.stdout for word in ("loss", "rps_doc_word_count", "swh:1:cnt:", "%", "subset"))
    assert "documents, 288 tokens" in shown.stderr
    as_json = json.loads(run(["why", "mixed", "1", "--sequence", "2", "--json"]).stdout)
    assert {row["sequence"] for row in as_json} == {2}
    assert sum(row["n_tokens"] for row in as_json) == 48


def test_a_step_of_whole_documents_is_told(project: Project) -> None:
    settings = {**SETTINGS, "objective": "classify", "seq_len": 200, "lr": 0.001}
    train(project, "classes", Train({"web": 0.5, "code": 0.5}, settings, model={**MODEL, "n_classes": 2}))
    with Why(project, "classes") as why:
        for step in range(4):
            read = why.step(step)
            assert [one.sequence for one in read] == list(range(6))
            assert sum(one.share for one in read) == pytest.approx(1)
            for one in read:
                assert (one.start, one.document["source"]) == (0, one.subset)
                last = trace(project, "classes", step, one.sequence, one.n_tokens - 1)
                assert last.offset == one.end - 1
                with pytest.raises(NotFoundError, match="no token"):
                    trace(project, "classes", step, one.sequence, one.n_tokens + 1)
            assert all(one.loss > 0 for one in read)
    (row,) = sql(
        project, "select sum(loss_sum) as loss, sum(n_targets) as n from document_losses where run = 'classes'"
    ).to_pylist()
    (line,) = sql(
        project, "select sum(loss * n_tokens) as loss, sum(n_tokens) as n from losses where run = 'classes'"
    ).to_pylist()
    assert row["n"] == line["n"] == 24
    assert row["loss"] == pytest.approx(line["loss"], rel=1e-6)
    project.store.remove_named("run", "classes")


def test_what_a_run_does_not_have_is_named(project: Project) -> None:
    with pytest.raises(NotFoundError, match="no step 4"):
        Why(project, "mixed").step(4)
    with pytest.raises(NotFoundError, match="no sequence 6"):
        Why(project, "mixed").step(0, 6)
    with pytest.raises(NotFoundError, match="there is no run `mixd`"):
        Why(project, "mixd")
    with pytest.raises(UserError, match="wrote no losses of documents"):
        Why(project, "plain").step(0, by="loss")
    with pytest.raises(UserError, match="sorted by `lass`"):
        Why(project, "mixed").step(0, by="lass")
    for opened in (lambda: Why(project, "mixed", ["n_wrds"]).step(0), lambda: Why(project, "mixed", ["n_wrds"]).__enter__()):
        with pytest.raises(QueryError, match="n_wrds"):
            opened()
    assert [one.loss for one in Why(project, "plain").step(0)] == [None] * len(Why(project, "plain").step(0))


def test_a_source_that_runs_out_is_refused_before_anything_is_trained(project: Project) -> None:
    with pytest.raises(RecipeError, match=r"read `(web|code)` .* max_repeats is 0\.5[\s\S]*at most \d+ steps"):
        train(project, "short", Train(MIX, {**SETTINGS, "max_repeats": 0.5}, model=MODEL))
    assert "short" not in project.store.names("run")


@pytest.mark.parametrize("weights", [{}, {"web": 0.0, "code": 1.0}, {"web": "much"}, {"web": float("nan")}])
def test_weights_that_are_none_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match="no shares"):
        Train(weights, SETTINGS, model=MODEL)


def test_subsets_of_two_tokenizers_are_not_mixed(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "copy", symlinks=True)
    project = Project(tmp_path / "copy" / "project")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.txt").write_text("another text that makes other merges " * 40)
    build(project, "other", Corpus(sources=[Folder("more", str(tmp_path / "more"))], signals=[], tokenizer=Bpe(280)))
    pick(project, "more", "true", corpus="other", validation_share=0.0)
    with pytest.raises(RecipeError, match="`more` and `web` have different tokenizers"):
        train(project, "both", Train({"web": 1, "more": 1}, SETTINGS, model=MODEL))


def test_what_was_forgotten_is_found_in_a_mixture_and_goes(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "copy", symlinks=True)
    project = Project(tmp_path / "copy" / "project")
    train(project, "tuned", Train("code", {**SETTINGS, "document_losses": False}, initial="mixed"))
    deploy(project, "tuned", "mixed", distill_steps=1, n_sample_tokens=2)
    train(project, "mixed2", Train(MIX, {**SETTINGS, "seed": 1}, initial="mixed"))
    deploy(project, "mixed2", "mixed", distill_steps=1, n_sample_tokens=2)
    (row,) = sql(project, "select doc_id, text_swhid from farm where source = 'code' and text like 'code 7:%'").to_pylist()
    doc_id = row["doc_id"].bytes if hasattr(row["doc_id"], "bytes") else bytes.fromhex(str(row["doc_id"]).replace("-", ""))
    seen = {f"{one.kind}/{one.name}" for one in seen_by(project.store, {doc_id})}
    assert seen >= {"run/mixed", "run/tuned", "subset/code", "tokens/code", "delta/tuned", "delta/mixed2"}
    assert "run/plain" not in seen
    forget(project, "farm", corpus_of(trained), [Request.parse("swhid", row["text_swhid"])], scope="content", near=False)
    purge(project, "farm")
    with pytest.raises(NotFoundError):
        trace(project, "mixed", 0)
    # The losses stay; what they were lost on is no longer told for the source that went.
    told = sql(
        project, "select subset, count(doc_id) as n, count(*) as rows from document_losses where run = 'mixed' group by all"
    )
    counts = {row["subset"]: (row["n"], row["rows"]) for row in told.to_pylist()}
    assert counts["code"][0] == 0 < counts["code"][1]


def test_a_token_shard_cut_short_is_named_and_made_again(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "copy", symlinks=True)
    project = Project(tmp_path / "copy" / "project")
    folder = project.store.artifact(project.store.get_named("tokens", "code").one("tokens.train")).path
    (folder / "tokens.bin").write_bytes((folder / "tokens.bin").read_bytes()[:-8])
    anew = Train(MIX, {**SETTINGS, "seed": 9}, model=MODEL)
    with pytest.raises(ContractError, match=r"8 bytes too short[\s\S]*fix: .*`tilth check --repair`, and train again"):
        train(project, "again", anew)
    assert any(finding.state == "bad" for finding in check_project(project, repair=True))
    assert not train(project, "again", anew).was_there
