"""A student of a run: its stages are runs like any other, found again, resumed, and refused before anything is tokenised."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from tilth.artifacts import Named, Store
from tilth.cli.main import cli
from tilth.corpus.sources.folder import Folder
from tilth.errors import NotFoundError, RecipeError
from tilth.models.config import ModelConfig
from tilth.models.weights import load_config, load_model
from tilth.pipeline import distill as distilling
from tilth.pipeline.build import build
from tilth.pipeline.curate import pick, sql
from tilth.pipeline.deploy import deploy
from tilth.pipeline.distill import Stage, distill, tokens_read
from tilth.pipeline.launch import train
from tilth.pipeline.project import Project
from tilth.pipeline.recipe import Bpe, Corpus, Distill, Train
from tilth.pipeline.trace import trace
from tilth.pipeline.why import Why
from tilth.trainer import given
from tilth.trainer.config import TrainConfig
from tilth.trainer.distill import teacher_pass
from tilth.trainer.distill.student import student_config

# torch.utils.tensorboard still imports what Python 3.12 moved.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch.utils.tensorboard",
    "ignore::DeprecationWarning:tensorboard",
)
WORDS = ["soil", "seed", "root", "leaf", "rain", "field", "barn", "clover", "rye", "oat", "meadow", "hedge"]
SHAPE = {"layers": "AAA", "d_model": 16, "n_heads": 2, "d_ff": 32, "chunk_size": 16}
SETTINGS: dict[str, Any] = {
    "steps": 4, "seq_len": 32, "global_batch": 4, "lr": 0.01, "checkpoint_every": 2, "eval_batches": 2, "device": "cpu",
}  # fmt: skip
STAGES = [{**SETTINGS, "objective": name} for name in ("orientation", "alignment", "distillation")]
RECIPE = f"""
from tilth.pipeline.recipe import Distill


def student(steps: int = 4) -> Distill:
    stages = [{{**one, "steps": steps}} for one in {STAGES!r}]
    return Distill("clean", "teacher", "DAD", stages)
"""


def corpus_of(folder: Path, vocab_size: int = 300) -> Corpus:
    return Corpus(sources=[Folder("web", str(folder / "inputs"))], signals=["natural_language"], tokenizer=Bpe(vocab_size))


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a subset and a trained teacher."""
    folder = tmp_path_factory.mktemp("taught")
    random_ = random.Random(3)
    (folder / "inputs").mkdir()
    for i in range(40):
        words = " ".join(random_.choice(WORDS) for _ in range(random_.randrange(3, 60)))
        (folder / "inputs" / f"{i:02d}.txt").write_text(words)
    (folder / "project" / "recipes").mkdir(parents=True)
    (folder / "project" / "recipes" / "reasoning.py").write_text(RECIPE)
    project = Project(folder / "project")
    build(project, "farm", corpus_of(folder))
    pick(project, "clean", "true", corpus="farm", validation_share=0.2)
    pick(project, "more", "true", corpus="farm", validation_share=0.0)
    train(project, "teacher", Train("clean", {**SETTINGS, "steps": 12}, SHAPE))
    return folder / "project"


@pytest.fixture(scope="module")
def distilled(taught: Path) -> tuple[Path, list[Stage]]:
    """The same project with a student of three stages."""
    return taught, distill(Project(taught), "student", Distill("clean", "teacher", "DAD", STAGES))


def run_in(folder: Path, *words: str) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner().invoke(cli, list(words))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_each_stage_is_a_run_that_begins_from_the_one_before(distilled: tuple[Path, list[Stage]]) -> None:
    folder, stages = distilled
    store = Project(folder).store
    assert store.names("run") == ["student", "student-alignment", "student-orientation", "teacher"]
    teacher = store.get_named("run", "teacher")
    metas = [store.get_named("run", name).meta for name in ("student-orientation", "student-alignment", "student")]
    assert [meta["base"] for meta in metas] == ["teacher"] * 3
    assert [meta["initial"] for meta in metas] == [None, "student-orientation", "student-alignment"]
    assert [meta["stage"] for meta in metas] == ["1 of 3", "2 of 3", "3 of 3"]
    assert [meta["n_student_tokens"] for meta in metas] == [512, 1024, 1536]
    assert {meta["n_teacher_tokens"] for meta in metas} == {12 * 4 * 32}
    # the teacher's own evaluation at its end: of the same sequences, so the same number
    assert {meta["teacher_loss"] for meta in metas} == {teacher.meta["validation_loss"]}
    last = stages[-1]
    assert last.gap == pytest.approx(metas[-1]["validation_loss"] / teacher.meta["validation_loss"] - 1)
    folders = [store.artifact(store.get_named("run", name).one("train")).path for name in ("student-orientation", "student")]
    assert load_config(folders[0]).pattern == "DAD"
    old, new, origin = (load_model(path).state_dict() for path in (*folders, store.artifact(teacher.one("train")).path))
    assert torch.equal(old["blocks.1.mixer.qkv_proj.weight"], origin["blocks.1.mixer.qkv_proj.weight"])
    assert torch.equal(old["embedding.weight"], origin["embedding.weight"])
    assert not torch.equal(new["embedding.weight"], origin["embedding.weight"])


def test_each_stage_says_which_runs_it_began_from(distilled: tuple[Path, list[Stage]]) -> None:
    teacher = Project(distilled[0]).store.get_named("run", "teacher")
    first, second, _ = distilled[1]
    digest = teacher.one("train").digest
    assert first.launched.named.meta["origins"] == {"teacher": digest}
    assert second.launched.named.meta["origins"] == {"teacher": digest, "student-orientation": first.launched.artifact.digest}


def test_the_verb_finds_what_is_there_and_prints_what_is_new(distilled: tuple[Path, list[Stage]]) -> None:
    folder, _ = distilled
    again = run_in(folder, "distill", "reasoning")
    assert again.exit_code == 0
    assert "3 stages are up to date" in again.output
    new = run_in(folder, "distill", "reasoning:student", "steps=3")
    assert new.exit_code == 0
    for words in ("1 of 3, orientation", "3 of 3, distillation", "teacher's loss", "gap", "1,152, 75.0% of the teacher's 1,536"):
        assert words in new.stdout, new.stdout
    back = run_in(folder, "distill", "reasoning")
    assert "up to date" in back.output


def test_what_a_run_read_and_where_it_came_from_can_be_asked(distilled: tuple[Path, list[Stage]]) -> None:
    folder, _ = distilled
    project = Project(folder)
    for run in ("student-orientation", "student"):
        found = trace(project, run, 2, 1, 5)
        read = Why(project, run).step(2)
        assert found.document["doc_id"] in {one.document.get("doc_id") for one in read}
    rows = sql(project, "select name, base, layers, end_loss from runs order by name").to_pylist()
    assert [(row["name"], row["base"], row["layers"]) for row in rows if row["name"].startswith("student")] == [
        ("student", "teacher", "DAD"), ("student-alignment", "teacher", "DAD"), ("student-orientation", "teacher", "DAD")
    ]  # fmt: skip
    assert sql(project, "select count(*) as n from losses where run = 'student'").to_pylist() == [{"n": 4}]
    report = run_in(folder, "report")
    assert report.exit_code == 0
    with pytest.raises(RecipeError, match="`student` is a student of `teacher`"):
        deploy(project, "student", "teacher")


def test_stored_logits_serve_a_second_student_without_the_teacher(
    taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(Path(shutil.copytree(taught, tmp_path / "project")))
    stage = {**SETTINGS, "objective": "distillation"}
    for k in (16, "all"):
        first = distill(project, f"first-{k}", Distill("clean", "teacher", "DAD", [stage], cached_logits=k))
        n_logits = len(list((project.store.root / "artifacts" / "teacher_logits").iterdir()))
        with monkeypatch.context() as patch:
            patch.setattr(teacher_pass, "load_teacher", _must_not)
            patch.setattr(given, "load_teacher", _must_not)
            second = distill(project, f"second-{k}", Distill("clean", "teacher", "MMM", [stage], cached_logits=k))
        assert not second[0].launched.was_there
        assert len(list((project.store.root / "artifacts" / "teacher_logits").iterdir())) == n_logits
        # of a run that is there nothing is asked, not even what was stored
        shutil.rmtree(project.store.root / "artifacts" / "teacher_logits")
        again = distill(project, f"first-{k}", Distill("clean", "teacher", "DAD", [stage], cached_logits=k))
        assert again[0].launched.was_there
        assert again[0].launched.artifact == first[0].launched.artifact
    live = distill(project, "live", Distill("clean", "teacher", "DAD", [stage]))
    (start, end), (live_start, live_end) = [
        [one[0].launched.named.meta[f"{which}_loss"] for which in ("start", "end")] for one in (again, live)
    ]
    assert start == pytest.approx(live_start, rel=1e-3)  # rounding to fp16
    assert end == pytest.approx(live_end, rel=2e-2)  # Adam makes whole steps of gradients that are nearly 0
    assert start != live_start


def _must_not(*arguments: Any) -> Any:
    raise AssertionError("the teacher was asked again")


def test_the_teachers_pass_is_taken_up_where_it_was_killed(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = {**SETTINGS, "objective": "distillation"}
    recipe = Distill("clean", "teacher", "DAD", [stage], cached_logits=8)
    digests = []
    for name in ("whole", "killed"):
        project = Project(Path(shutil.copytree(taught, tmp_path / name)))
        shutil.rmtree(project.store.root / "artifacts" / "teacher_logits", ignore_errors=True)
        if name == "killed":
            _fail_at(monkeypatch, 3)
            with pytest.raises(KeyboardInterrupt):
                distill(project, "own", recipe)
            monkeypatch.undo()
            assert not (project.store.root / "artifacts" / "teacher_logits").exists()
        digests.append(distill(project, "own", recipe)[0].launched.artifact.digest)
        (logits,) = (project.store.root / "artifacts" / "teacher_logits").iterdir()
        digests.append(Store(project.store.root).load(logits).digest)
        assert not list((project.store.root / "work").glob("*/logits"))
    assert digests[:2] == digests[2:]


def _fail_at(patch: pytest.MonkeyPatch, n: int) -> None:
    real, calls = teacher_pass.written_step, []

    def written(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == n:
            raise KeyboardInterrupt
        return real(*arguments)

    patch.setattr(teacher_pass, "written_step", written)


def test_more_layers_can_be_replaced_step_by_step_and_the_residual_changed(taught: Path, tmp_path: Path) -> None:
    project = Project(Path(shutil.copytree(taught, tmp_path / "project")))
    stage = {**SETTINGS, "steps": 2}
    kd = {**stage, "objective": "distillation", "trained": "mixers"}
    distill(project, "half", Distill("clean", "teacher", "ADA", [kd]))
    found = distill(project, "whole", Distill("clean", "teacher", "DDD", [kd, {**kd, "trained": "all"}], initial="half"))
    assert [one.launched.named.name for one in found] == ["whole-distillation", "whole"]
    assert found[-1].n_tokens == 3 * 2 * 4 * 32
    own, half = (project.store.artifact(project.store.get_named("run", name).one("train")).path for name in ("whole", "half"))
    assert load_config(own).pattern == "DDD"
    assert load_config(half).pattern == "ADA"
    ladder = Distill(
        "clean", "teacher", "AAA", [{**stage, "objective": "distillation"}], {"residual": "ladder", "residual_from": 1}
    )
    assert distill(project, "ladder", ladder)[0].launched.named.meta["layers"] == "AAA"
    drawn = Distill("clean", "teacher", "DDD", [{**stage, "objective": "next_token"}], from_attention=False)
    assert distill(project, "drawn", drawn)[0].gap is not None


def test_without_a_validation_split_there_is_no_gap(taught: Path, tmp_path: Path) -> None:
    project = Project(Path(shutil.copytree(taught, tmp_path / "project")))
    (stage,) = distill(project, "own", Distill("more", "teacher", "DAD", [{**SETTINGS, "steps": 1, "objective": "distillation"}]))
    assert (stage.gap, stage.teacher_loss) == (None, None)


KD = {**SETTINGS, "objective": "distillation"}
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"teacher": "teecher"}, NotFoundError, r"teacher `teecher` is no run[\s\S]*Did you mean `teacher`"),
    ({"initial": "nobody"}, NotFoundError, "initial `nobody` is no run"),
    ({"layers": "DADA"}, RecipeError, "student has 4 layers, its teacher 3"),
    ({"layers": "AAA", "stages": [{**SETTINGS, "objective": "alignment"}]}, RecipeError, "`alignment` has nothing to train"),
    ({"model": {"d_ff": 64}}, RecipeError, "student has the `d_ff` of its teacher"),
    ({"model": {"d_state": 4}}, RecipeError, r"layer 0[\s\S]*does not fit: d_state=4"),
    ({"cached_logits": 301}, RecipeError, "its 301 likeliest cannot be stored"),
    ({"stages": [KD, {**KD, "temprature": 2}]}, RecipeError, r"no setting `temprature`[\s\S]*stage 2[\s\S]*`temperature`"),
    ({"stages": [{**KD, "objective": "distilation"}]}, RecipeError, "Did you mean `distillation`"),
    ({"stages": [{**KD, "objective": "masked"}]}, RecipeError, "stage 1 has the objective 'masked'"),
    ({"stages": [SETTINGS]}, RecipeError, "stage 1 has no objective"),
    ({"stages": [{**KD, "temperature": 0}]}, RecipeError, r"temperature is 0[\s\S]*stage 1"),
    ({"stages": [{**KD, "tensor_parallel": 2}]}, RecipeError, "a teacher is not cut into slices"),
    (
        {"layers": "DAD", "model": {"residual": "ladder"}, "stages": [{**KD, "objective": "orientation"}]},
        RecipeError,
        "`orientation` compares layers, which residual='ladder' runs together",
    ),
]


@pytest.mark.parametrize(("changed", "error", "words"), BAD)
def test_what_cannot_be_is_refused_before_anything_is_tokenised(
    changed: dict[str, Any], error: type[Exception], words: str, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distilling, "run_data", _tokenises)
    recipe = {"subset": "clean", "teacher": "teacher", "layers": "DAD", "stages": [KD], **changed}
    with pytest.raises(error, match=words):
        distill(Project(taught), "own", Distill(**recipe))


def test_a_student_of_a_shape_of_its_own_is_not_measured_by_its_teachers(tmp_path: Path) -> None:
    """Three heads of 8 are no multiple of 16 channels, so a student's layers have no shape of the teacher's attention."""
    taught = ModelConfig(vocab_size=300, d_model=16, layers="AAA", n_heads=3, head_dim=8)
    begun = student_config(taught, "ADA", {"expand": 2, "d_state": 8, "ssm_head_dim": 16, "n_groups": 1})
    artifacts: list[Any] = []
    for name, config in (("begun", begun), ("taught", taught)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config.to_dict()))
        artifacts.append(SimpleNamespace(path=tmp_path / name))
    recipe = Distill("clean", "teacher", "DDD", [KD], initial="begun", from_attention=False)
    found = distilling._student_config(recipe, [TrainConfig.from_dict(KD)], *artifacts)
    assert (found.layers, found.expand) == ("DDD", 2)


def _tokenises(*arguments: Any) -> Any:
    raise AssertionError("was tokenised")


def test_a_teacher_of_another_tokenizer_is_refused_by_name(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project(Path(shutil.copytree(taught, tmp_path / "project")))
    build(project, "other", corpus_of(taught.parent, 280))
    pick(project, "foreign", "true", corpus="other")
    monkeypatch.setattr(distilling, "run_data", _tokenises)
    with pytest.raises(RecipeError, match="`teacher` was trained with another tokenizer than that of subset `foreign`"):
        distill(project, "own", Distill("foreign", "teacher", "DAD", [KD]))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"stages": []}, "the stages of Distill are"),
        ({"stages": "distillation"}, "the stages of Distill are"),
        ({"layers": 3}, "the layers of Distill is 3"),
        ({"cached_logits": "some"}, "`cached_logits` is 'some'"),
        ({"cached_logits": 0}, "`cached_logits` is 0"),
        ({"seed": "x"}, "`seed` of Distill is 'x'"),
        ({"subset": {"clean": -1.0}}, "are no shares"),
        ({"model": "ladder"}, "`model` of Distill is 'ladder'"),
    ],
)
def test_a_recipe_that_makes_no_sense_says_which_part(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        Distill(**{"subset": "clean", "teacher": "teacher", "layers": "DAD", "stages": [KD], **changed})


@pytest.mark.parametrize("own", ["teacher", "early"])
def test_a_student_takes_no_name_of_what_it_is_made_of(own: str, taught: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distilling, "run_data", _tokenises)
    with pytest.raises(RecipeError, match=f"would take the name of its [a-z]+, `{own}`"):
        distill(Project(taught), own, Distill("clean", "teacher", "DAD", [KD], initial="early"))
    with pytest.raises(RecipeError, match="cannot be a name"):
        distill(Project(taught), "a" * 60, Distill("clean", "teacher", "DAD", STAGES))
    with pytest.raises(RecipeError, match="would take the name of its teacher, `own-alignment`"):
        distill(Project(taught), "own", Distill("clean", "own-alignment", "DAD", STAGES))


def test_tokens_of_a_run_that_took_the_name_of_its_base_are_not_known(tmp_path: Path) -> None:
    store = Store(tmp_path)
    of_steps = {"steps": 2, "seq_len": 8, "global_batch": 1}
    runs = {name: Named("run", name, (), {**of_steps, "base": base}) for name, base in (("own", "own"), ("child", "own"))}
    store.save_named("run", "own", [], runs["own"].meta)
    assert [tokens_read(store, runs[name]) for name in runs] == [None, None]
    store.save_named("run", "own", [], {**of_steps, "base": None})
    assert tokens_read(store, runs["child"]) == 32
    assert tokens_read(store, Named("run", "orphan", (), {**of_steps, "base": "gone"})) is None


def test_a_missing_recipe_is_named(taught: Path) -> None:
    with pytest.raises(RecipeError, match="has no Distill recipe `studnt`"):
        run_in(taught, "distill", "reasoning:studnt")
    shown = json.loads(run_in(taught, "show", "recipe/reasoning", "--json").stdout)
    assert "distill" in json.dumps(shown)
