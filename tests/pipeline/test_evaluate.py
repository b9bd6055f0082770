"""Evaluations of a project: what is kept, what goes on after a kill, what is refused, and what samples come to."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tilth.artifacts import Named, Part, Spec, Store
from tilth.catalog.sql import run_sql
from tilth.contracts import LOSSES, SAMPLES, SUBSET, check, uuid_array
from tilth.errors import NotFoundError, RecipeError, SourceError, TilthError, UserError
from tilth.evaluate.budgets import Trial
from tilth.evaluate.samples import Sample, arranged
from tilth.evaluate.votes import is_decided
from tilth.inference.engine.limits import EngineLimits
from tilth.inference.engine.requests import BranchFinished, Event, FinishReason, OnEvent, Request
from tilth.pipeline.evaluate import draw, evaluate, is_drawn, prepare
from tilth.pipeline.evaluation import Evaluation
from tilth.pipeline.evaluation_differences import in_words
from tilth.pipeline.evaluation_results import counts_of, curves_of, read_samples, scores_of
from tilth.pipeline.problem_overlap import WHOLE_TEXT, search_runs, whole_text
from tilth.pipeline.problem_sets import ProblemSet, problem_set, prompting
from tilth.pipeline.project import Project

QUESTIONS = {
    "sum": "12 + 30 - 2",
    "rye": "A farmer's barn holds 12 sacks of rye; each sack weighs 40 pounds. How much does all of the rye weigh together?",
    "short": "What is seven plus five?",
    "eggs": "Janet's hens lay sixteen eggs each day, she eats three for breakfast and bakes with four; how many are left to sell?",
}
ANSWERS = {"sum": "40", "rye": "480", "short": "12", "eggs": "9"}


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    pass


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("problems") / "four.jsonl"
    lines = [{"id": name, "question": QUESTIONS[name], "answer": f"...\n#### {ANSWERS[name]}"} for name in QUESTIONS]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def put(
    store: Store, step: str, shard: str | None, files: dict[str, pa.Table], write: Callable[[Path], None] | None = None
) -> Part:
    content = hashlib.sha256(repr([(name, rows.to_pydict()) for name, rows in files.items()]).encode())

    def fill(folder: Path) -> dict[str, int]:
        for name, rows in files.items():
            pq.write_table(rows, folder / name)
        if write:
            write(folder)
        return {}

    return store.make(Spec(step, 1, {"content": content.hexdigest(), "model": str(write)}, shard=shard), fill).part()


def put_texts(store: Store, texts: Sequence[str], split: str = "train") -> list[Part]:
    """The texts of a shard, and a subset that holds all of them."""
    ids = uuid_array([hashlib.md5(text.encode()).digest() for text in texts])
    rows = pa.array(range(len(texts)), pa.int32())
    documents = pa.table({"doc_id": ids, "row": rows, "text": pa.array(texts, pa.large_string())})
    columns = [ids, pa.array(["web/00000"] * len(texts)), rows, pa.array([1.0] * len(texts), pa.float32())]
    subset = pa.Table.from_arrays(
        [*columns, pa.array([split] * len(texts)), pa.nulls(len(texts), pa.int64())], schema=SUBSET.schema
    )
    return [
        put(store, "read", "web/00000", {"documents.parquet": documents}),
        put(store, "pick", None, {"subset.parquet": subset}),
    ]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Any]) -> Project:
    """Runs with small random models: `clean`, `leaky`, `child` (from leaky), `judge` (a verifier), `bought` (imported)."""
    import torch

    from tilth.models.weights import save_model
    from tilth.tokenize.bpe import train_bpe

    folder = tmp_path_factory.mktemp("project")
    (folder / ".tilth").mkdir()
    store, tokenizer = Store(folder / ".tilth"), train_bpe(["Question: 1 + 2\nAnswer: #### 3\n" * 3], 270)
    losses = pa.Table.from_pylist([{"step": 1, "loss": 2.0, "lr": 0.1, "grad_norm": 1.0, "n_tokens": 5}], schema=LOSSES.schema)

    def run(name: str, texts: Sequence[str] | None, seed: int = 0, n_classes: int = 0, **meta: Any) -> None:
        torch.manual_seed(seed)
        model = make_model("MA", vocab_size=270, n_classes=n_classes)

        def write(out: Path) -> None:
            save_model(out, model, tokenizer)

        part = put(store, "train", name, {"losses.parquet": losses}, write)
        data = {} if texts is None else {"subset": f"{name}_texts", "corpus": "demo"}
        own = [] if texts is None else put_texts(store, texts)
        store.save_named("run", name, [part, *own], {**data, "seq_len": 64, **meta})

    run("clean", ["Rye is a grass.", "Question: 12 + 30 - 3\nAnswer: 39", "7 + 5", f"{QUESTIONS['rye'][:60]} is known."])
    run("leaky", ["Nothing.", f"Question: {QUESTIONS['short'].upper()}\nAnswer: it is\n#### 12", f"He asked: {QUESTIONS['rye']}"])
    run("child", ["Rye is a grass."], base="leaky")
    run("judge", ["Question: 1\nAnswer: 1"], 1, 2, classes=["correct", "wrong"])
    run("bought", None)
    return Project(folder)


@pytest.fixture(scope="module", autouse=True)
def _here(project: Project) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        yield


@pytest.fixture(scope="module")
def first(project: Project, problems: Path, one_thread: None, _here: None) -> tuple[Named, list[str]]:
    """`evaluation/first`, and what was said while it was drawn."""
    said: list[str] = []
    return evaluate(project, asked(problems, name="first"), on_samples=said.append), said


def asked(problems: Path, run: str = "clean", **settings: Any) -> Evaluation:
    return Evaluation(
        **{"run": run, "problems": str(problems), "n": 3, "batches": (8,), "max_tokens": 5, "n_threads": 1, **settings}
    )


def samples_of(store: Store, name: str) -> pa.Table:
    (part,) = store.get_named("evaluation", name).of("samples")
    return pq.read_table(store.artifact(part).path / "samples.parquet")


# -- the whole way ------------------------------------------------------------------------------------------------------


def test_samples_are_rows_and_the_evaluation_says_what_they_come_to(
    project: Project, problems: Path, first: tuple[Named, list[str]]
) -> None:
    named, said = first
    assert len(said) == 4
    store = project.store
    check(samples_of(store, "first"), SAMPLES)
    counted = run_sql(
        store,
        "select problem, count(*) as n, count(distinct branch) as b, min(batch) as batch from samples where evaluation = 'first' group by problem",
    ).to_pylist()
    assert {row.pop("problem") for row in counted} == set(QUESTIONS)
    assert all(row == {"n": 3, "b": 3, "batch": 8} for row in counted)
    (row,) = run_sql(
        store, "select run, problems, n_problems, n, batch, contamination, pass_at_1 from evaluations where name = 'first'"
    ).to_pylist()
    assert row == {
        "run": "clean",
        "problems": "four",
        "n_problems": 4,
        "n": 3,
        "batch": 8,
        "contamination": "none found",
        "pass_at_1": 0.0,
    }
    (result,) = named.meta["results"]
    assert result["n_samples"] == 12 == result["n_stop"] + result["n_length"]
    assert result["n_unparsed"] == 12, "a random model answers nothing"
    assert [one["k"] for one in result["coverage"]] == [1, 2, 3]
    table = samples_of(store, "first")
    assert result["seconds"] == max(table.column("finished").to_pylist())
    assert result["tokens_per_second"] == pytest.approx(sum(table.column("n_tokens").to_pylist()) / result["seconds"])
    assert result["memory_bytes"] > 4 * 270 * 32
    assert len(named.meta["curves"]["coverage"]) == 40
    # the same words again draw nothing
    assert is_drawn(project, prepare(project, asked(problems, name="second")))
    assert not is_drawn(project, prepare(project, asked(problems, name="second", seed=1)))
    again = evaluate(project, asked(problems, name="second"), on_samples=said.append)
    assert len(said) == 4
    assert again.parts == named.parts
    assert again.meta["results"] == named.meta["results"]
    assert project.store.verify(store.artifact(named.parts[0])) is None


def test_a_sweep_has_the_same_samples_at_each_batch(project: Project, problems: Path, repository: Path) -> None:
    named = evaluate(project, asked(problems, name="sweep", batches=(2, 8), verifier="judge", temperature=1.0))
    assert [part.shard for part in named.of("samples")] == ["batch 2", "batch 8"]
    by_batch = run_sql(
        project.store,
        "select count(*) as n, count(distinct text) as n_texts, max(score) - min(score) as spread from samples "
        "where evaluation = 'sweep' group by problem, branch",
    ).to_pylist()
    assert [(row["n"], row["n_texts"]) for row in by_batch] == [(2, 1)] * 12
    assert all(row["spread"] < 1e-5 for row in by_batch)
    (query,) = re.findall(r"```sql\n(select evaluation.*?)```", (repository / "docs" / "distillation.md").read_text(), re.DOTALL)
    told = [row for row in run_sql(project.store, query).to_pylist() if row["evaluation"] == "sweep"]
    assert sorted((row["batch"], row["samples"]) for row in told) == [(2, 12), (8, 12)]
    ends = "select min(score) as low, max(score) as high from samples where evaluation = 'sweep'"
    (row,) = run_sql(project.store, ends).to_pylist()
    assert 0 < row["low"] < row["high"] < 1
    assert [result["batch"] for result in named.meta["results"]] == [2, 8]
    assert {"majority", "best_of", "weighted"} <= named.meta["results"][0].keys()


def test_a_kill_loses_no_finished_request_and_takes_no_second_back(
    project: Project, problems: Path, first: tuple[Named, list[str]]
) -> None:
    code = f"""
import os, signal
from tilth.pipeline.evaluate import evaluate
from tilth.pipeline.evaluation import Evaluation
from tilth.pipeline.project import Project
seen = []
def stop(what):
    seen.append(what)
    if len(seen) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
evaluate(Project.find(), Evaluation(run="clean", problems={str(problems)!r}, n=3, batches=(3,), max_tokens=5, n_threads=1, name="cut"), on_samples=stop)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=project.folder, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    store = project.store
    assert store.find_named("evaluation", "cut") is None
    parts = sorted(store.root.glob("work/*/parts/*.parquet"))
    kept = pa.concat_tables([pq.read_table(path, schema=SAMPLES.schema) for path in parts])
    assert kept.num_rows == 6
    (parts[0].parent / ".half.parquet").write_bytes(b"PAR1")
    said: list[str] = []
    named = evaluate(project, asked(problems, batches=(3,), name="cut"), on_samples=said.append)
    assert [what.endswith("kept") for what in said] == [True, True, False, False]
    rows = samples_of(store, "cut").to_pylist()
    before = {(row["problem"], row["branch"]): row for row in kept.to_pylist()}
    after = {(row["problem"], row["branch"]): row for row in rows}
    assert len(after) == 12
    assert all(after[place] == row for place, row in before.items())
    last = max(row["finished"] for row in before.values())
    assert all(row["finished"] > row["started"] >= last for place, row in after.items() if place not in before)
    assert named.meta["results"][0]["n_attempts"] == 2
    whole = {(row["problem"], row["branch"]): row["text"] for row in samples_of(store, "first").to_pylist()}
    assert {place: row["text"] for place, row in after.items()} == whole
    assert not list(store.root.glob("work/*"))


def test_a_folder_may_be_evaluated_and_nobody_knows_what_it_was_trained_on(project: Project, problems: Path) -> None:
    folder = project.store.artifact(project.store.get_named("run", "leaky").one("train")).path
    said: list[str] = []
    named = evaluate(project, asked(problems, str(folder), temperature=0.0, n=2), said.append)
    assert (named.meta["run"], named.meta["contamination"]) == (folder.name, f"not known of {folder.name}")
    assert "not known here" in said[0]
    reasons = run_sql(
        project.store, f"select finish_reason, count(*) as n from samples where evaluation = '{named.name}' group by all"
    ).to_pylist()
    assert {row["finish_reason"]: row["n"] for row in reasons}["duplicate"] == 4
    assert evaluate(project, asked(problems, "bought", temperature=0.0, n=2)).meta["contamination"] == "not known of bought"


def test_a_folder_is_not_the_run_that_has_its_name(project: Project, problems: Path, tmp_path: Path) -> None:
    model = project.store.artifact(project.store.get_named("run", "clean").one("train")).path
    folder = Path(shutil.copytree(model, tmp_path / "leaky"))
    named = evaluate(project, asked(problems, str(folder), temperature=0.0, n=1))
    assert named.meta["contamination"] == "not known of leaky"


def test_an_evaluation_is_compared_with_another_problem_by_problem(
    project: Project, problems: Path, first: tuple[Named, list[str]], tmp_path: Path
) -> None:
    same = evaluate(project, asked(problems, name="same", against="first"))
    found = same.meta["difference"]
    assert found["against"] == "first"
    assert found["memory_bytes"] == same.meta["results"][0]["memory_bytes"]
    for curve in (found["coverage"], found["majority"], found["equal_memory"]["coverage"]):
        assert {(one["mean"], one["low"], one["high"]) for one in curve} == {(0.0, 0.0, 0.0)}
    assert in_words(found) == [
        f"{one} is not surely another than that of `first`, at any second" for one in ("coverage", "majority")
    ]
    stopped = evaluate(project, asked(problems, name="stopped", against="first", stops_when_decided=True))
    assert stopped.meta["difference"]["against"] == "first"
    with pytest.raises(UserError, match="other problems"):
        evaluate(project, asked(problems, limit=2, against="first"))
    with pytest.raises(RecipeError, match="cannot be a name"):
        evaluate(project, asked(problems, name="1st"))
    with pytest.raises(NotFoundError, match="evaluation `frist`"):
        evaluate(project, asked(problems, against="frist"))


def test_the_other_evaluation_is_the_one_that_was_found_before_anything_was_drawn(
    project: Project, problems: Path, first: tuple[Named, list[str]]
) -> None:
    store, named = project.store, first[0]
    store.save_named("evaluation", "passing", named.parts, named.meta)

    def forget(what: str) -> None:
        if "passing" in store.names("evaluation"):
            store.remove_named("evaluation", "passing")

    other = evaluate(project, asked(problems, name="lasting", batches=(5,), against="passing"), on_samples=forget)
    assert "passing" not in store.names("evaluation")
    assert other.meta["difference"]["against"] == "passing"


def test_whatever_the_prompt_a_sample_ends_where_its_answer_is_looked_for(project: Project, problems: Path) -> None:
    for settings, stops in (
        ({}, ("\nQuestion:",)),
        ({"template": "Q {question} A"}, ("\nQuestion:",)),
        ({"stops": ("\n\n",)}, ("\n\n", "\nQuestion:")),
    ):
        assert prepare(project, asked(problems, **settings)).stops == stops


def test_the_work_says_how_many_requests_it_will_tell_of(project: Project, problems: Path) -> None:
    for settings in ({"batches": (2, 3, 2), "name": "counted"}, {"temperature": 0.0, "batches": (3,), "name": "counted_greedy"}):
        work = prepare(project, asked(problems, seed=9, **settings))
        said: list[str] = []
        draw(project, work, said.append)
        assert work.n_requests == len(said) > 0


def test_a_difference_is_told_where_it_is_sure() -> None:
    points = [
        {"seconds": s, "mean": m, "low": m - 0.1, "high": m + 0.1} for s, m in ((1.0, 0.05), (2.0, 0.3), (4.0, 0.25), (8.0, -0.2))
    ]
    said = in_words({"against": "teacher", "coverage": points})
    assert said == [
        "coverage is above that of `teacher` within 2 s to 4 s a problem, by 30.0 points at most",
        "coverage is below that of `teacher` within 8 s to 8 s a problem, by 20.0 points at most",
    ]
    gap = [{"seconds": float(s), "mean": m, "low": m - 0.1, "high": m + 0.1} for s, m in enumerate((0.2, 0.0, 0.3), 1)]
    assert [sentence.partition(" within ")[2] for sentence in in_words({"against": "teacher", "majority": gap})] == [
        "1 s to 1 s a problem, by 20.0 points at most",
        "3 s to 3 s a problem, by 30.0 points at most",
    ]


def test_seconds_are_those_of_a_dtype_and_of_threads(
    project: Project, problems: Path, first: tuple[Named, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    named, _ = first
    said: list[str] = []
    half = evaluate(project, asked(problems, name="half", dtype="bfloat16", against="first"), said.append)
    assert said == [
        "seconds and memory also tell of other conditions than those of `first`: dtype float32 there and bfloat16 here"
    ]
    ((weights, halved),) = [
        (whole["memory_bytes"], part["memory_bytes"])
        for whole, part in zip(named.meta["results"], half.meta["results"], strict=True)
    ]
    assert halved < 0.6 * weights
    told = run_sql(project.store, "select name, dtype, n_threads from evaluations where name in ('first', 'half') order by name")
    assert told.to_pylist() == [
        {"name": "first", "dtype": "float32", "n_threads": 1},
        {"name": "half", "dtype": "bfloat16", "n_threads": 1},
    ]
    assert asked(problems).params().items() <= named.meta.items()
    # the threads that were there are those that were asked for
    assert evaluate(project, asked(problems, name="same_threads", n_threads=None)).parts == named.parts
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    said.clear()
    others = evaluate(project, asked(problems, name="two_threads", n_threads=None, against="first"), said.append)
    assert others.parts != named.parts
    assert said == ["seconds and memory also tell of other conditions than those of `first`: n_threads 1 there and 2 here"]
    with pytest.raises(UserError, match="not evaluated in `bf16`"):
        asked(problems, dtype="bf16")


def test_samples_are_drawn_while_the_device_is_current(project: Project, problems: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from tilth.evaluate import engines
    from tilth.inference import devices

    now: list[torch.device] = []
    opened: list[list[torch.device]] = []

    @contextlib.contextmanager
    def current(device: torch.device) -> Iterator[None]:
        now.append(device)
        yield
        now.pop()

    def make_engine(*words: Any) -> engines.MeasuredEngine:
        opened.append(list(now))
        return engines.MeasuredEngine(words[0], EngineLimits())

    monkeypatch.setattr(devices, "current_device", current)
    monkeypatch.setattr(engines, "make_engine", make_engine)
    evaluate(project, asked(problems, name="current", temperature=0.0, n=1, batches=(7, 8)))
    assert opened == [[torch.device("cpu")]] * 2
    assert now == []


# -- what was trained on ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["leaky", "child"])
def test_a_run_that_was_trained_on_problems_is_refused_by_name(project: Project, problems: Path, run: str) -> None:
    with pytest.raises(UserError, match="2 of the problems were trained on") as refused:
        evaluate(project, asked(problems, run))
    assert "problem short in document web/00000:1 of subset `leaky_texts` (run `leaky`)" in str(refused.value)
    assert "problem rye in document web/00000:2" in str(refused.value)
    assert "--contaminated-too" in str(refused.value)
    with pytest.raises(UserError, match="were trained on"):
        evaluate(project, asked(problems, verifier="leaky:0"))
    said: list[str] = []
    named = evaluate(project, asked(problems, run, contaminated_too=True), said.append)
    assert named.meta["contamination"] == "2 problems were trained on"
    assert {(one["problem"], one["method"]) for one in named.meta["overlaps"]} == {("short", WHOLE_TEXT), ("rye", "ngram")}
    assert "recorded" in said[0]


def test_only_whole_questions_count_and_signs_do(project: Project, tmp_path: Path) -> None:
    """The run `clean` holds `12 + 30 - 3`, `7 + 5` and half of a question."""

    def found(*questions: str) -> list[str]:
        path = tmp_path / "own.jsonl"
        path.write_text("".join(json.dumps({"id": one, "question": one, "answer": "1"}) + "\n" for one in questions))
        return sorted(one.problem for one in search_runs(project.store, ["clean"], problem_set(str(path))).overlaps)

    held = ["12 + 30 - 3", "12+30-3 ", "7 + 5?", "rye IS a grass!"]
    assert found(*held, "12 + 30 + 3", "2 + 30 - 3", "7 * 5", QUESTIONS["rye"]) == sorted(held)


def test_an_origin_that_was_trained_anew_is_not_known(project: Project, problems: Path) -> None:
    store = project.store
    clean = store.get_named("run", "clean")
    for name, digest, wanted in (
        ("late", "0" * 32, "not known of clean as it was for late"), ("early", clean.one("train").digest, "none found")
    ):  # fmt: skip
        store.save_named("run", name, clean.parts, {**clean.meta, "base": "clean", "origins": {"clean": digest}})
        assert evaluate(project, asked(problems, name, temperature=0.0, n=1)).meta["contamination"] == wanted


def test_a_run_that_took_an_origins_name_is_not_searched_in_its_place(project: Project, problems: Path) -> None:
    store = project.store
    clean, leaky = store.get_named("run", "clean"), store.get_named("run", "leaky")
    store.save_named("run", "takes_name", leaky.parts, leaky.meta)
    found = []
    for digest in ("0" * 32, leaky.one("train").digest):
        store.save_named("run", "heir", clean.parts, {**clean.meta, "base": "takes_name", "origins": {"takes_name": digest}})
        found.append(search_runs(store, ["heir"], problem_set(str(problems))))
    other, same = found
    assert (other.overlaps, other.unknown) == ((), ("takes_name as it was for heir",))
    assert {one.run for one in same.overlaps} == {"takes_name"}
    assert same.unknown == ()


def test_validation_documents_were_not_trained_on(project: Project, problems: Path) -> None:
    store = project.store
    parts = put_texts(store, [f"Question: {QUESTIONS['short']}"], "validation")
    run = store.get_named("run", "clean")
    store.save_named("run", "held_out", [run.one("train"), *parts], {"subset": "held", "corpus": "demo"})
    assert search_runs(store, ["held_out"], problem_set(str(problems))).overlaps == ()
    assert search_runs(store, ["nowhere"], problem_set(str(problems))).unknown == ("nowhere",)


def test_a_whole_text_keeps_what_makes_another_question() -> None:
    assert whole_text("Question: What IS\n 2 - 3 ?") == whole_text("what is 2-3.") == "whatis2-3"
    assert len({whole_text(text) for text in ("2 - 3", "2 * 3", "2 + 3", "23", "2 / 3", "(2) 3")}) == 6


# -- what cannot be -----------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused_before_anything_is_drawn(project: Project, problems: Path, tmp_path: Path) -> None:
    for wrong, error, words in (
        ({"run": "clear"}, NotFoundError, "Did you mean `clean`"),
        ({"problems": "none.jsonl"}, SourceError, "no file of problems"),
        ({"verifier": "clean"}, RecipeError, "which class"),
        ({"verifier": "judge:righ"}, RecipeError, "classes: correct, wrong"),
        ({"n": 0}, UserError, "n is 0"),
        ({"temperature": -1.0}, UserError, "temperature"),
        ({"template": "{q}"}, UserError, "places for the question"),
        ({"shots": "four"}, UserError, "is not FILE:K"),
        ({"shots": f"{problems}:9"}, SourceError, "only 4 examples"),
        ({"shots": f"{problems}:1"}, UserError, "one of the problems"),
        ({"device": "tpu"}, UserError, "no device `tpu`"),
    ):
        with pytest.raises(error, match=words.replace("(", r"\(")):
            evaluate(project, dataclasses.replace(asked(problems), **wrong))
    assert not list(project.store.root.glob("work/*/parts/*"))


def test_a_model_that_always_fails_is_told_of_and_nothing_is_kept(project: Project, problems: Path) -> None:
    import torch

    from tilth.models.weights import load_model, save_model

    store = project.store
    clean = store.artifact(store.get_named("run", "clean").one("train")).path
    model = load_model(clean)
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    folder = project.folder / "broken"
    save_model(folder, model, (clean / "tokenizer.json").read_bytes())
    with pytest.raises(TilthError, match="every sample failed") as failed:
        evaluate(project, asked(problems, str(folder)))
    assert "not finite" in str(failed.value)
    assert not list(store.root.glob("work/*"))


def test_a_sample_that_failed_is_asked_for_again_and_a_refused_one_is_not(
    project: Project, problems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tilth.evaluate import engines

    class Failing(engines.MeasuredEngine):
        """One branch of the second request fails."""

        def submit(self, request: Request, on_event: OnEvent) -> int:
            numbers.append(len(numbers))
            fails = len(numbers) == 3  # the first one warms up

            def hear(event: Event) -> None:
                if fails and isinstance(event, BranchFinished) and event.branch == 1:
                    event = BranchFinished(1, FinishReason.ERROR, "out of memory")
                on_event(event)

            return super().submit(request, hear)

    numbers: list[int] = []
    store, wanted = project.store, asked(problems, name="failing", batches=(9,))
    with monkeypatch.context() as patch:
        patch.setattr(engines, "MeasuredEngine", Failing)
        with pytest.raises(TilthError, match="1 of 12 samples failed, the first with: out of memory") as failed:
            evaluate(project, wanted)
    assert "same command again" in str(failed.value)
    assert store.find_named("evaluation", "failing") is None
    said: list[str] = []
    named = evaluate(project, wanted, on_samples=said.append)
    assert sum(what.endswith("kept") for what in said) == 3
    assert len(said) == 4
    assert Counter(row["finish_reason"] for row in samples_of(store, "failing").to_pylist()).keys() <= {"stop", "length"}
    assert named.meta["results"][0]["n_attempts"] == 2
    assert not list(store.root.glob("work/*"))
    # too little memory for the longest question refuses it, now and later
    costs = [len(text) for text in QUESTIONS.values()]
    monkeypatch.setattr(engines, "longest_prompt", lambda coder, prompts: min(costs) + 60)
    refused = evaluate(project, asked(problems, name="refused", batches=(10,)))
    assert 0 < refused.meta["results"][0]["n_refused"] < 12


def test_examples_stand_before_the_question_with_their_whole_solution(tmp_path: Path) -> None:
    path = tmp_path / "shots.jsonl"
    path.write_text('{"question": "1 + 1", "answer": "1 + 1 = 2\\n#### 2"}\n{"question": "2 + 1", "answer": "#### 3"}\n')
    asked = ProblemSet("none", ())
    assert prompting(f"{path}:1", None, asked).text("5 + 6") == (
        "Question: 1 + 1\nAnswer: 1 + 1 = 2\n#### 2\n\nQuestion: 5 + 6\nAnswer:"
    )
    path.write_text('{"problem": "1 + 1", "solution": "It is \\\\boxed{2}.", "answer": "2"}\n')  # as MATH-500 has them
    assert prompting(f"{path}:1", None, asked).text("5").startswith("Question: 1 + 1\nAnswer: It is \\boxed{2}.\n\n")
    assert prompting(None, "Q {question}\\nA", asked).text("5") == "Q 5\nA"


def test_arithmetic_is_what_training_never_gets() -> None:
    from tilth.corpus.questions.arithmetic import problems

    found = problem_set("arithmetic:n=30,n_steps=2,seed=5,operators=+-*")
    trained = {whole_text(one.question) for one in problems(3000, 5, n_steps=2, operators="+-*")}
    assert len(found.problems) == 30
    assert not trained & {whole_text(one.question) for one in found.problems}
    assert len(problem_set("arithmetic", 7).problems) == 7
    with pytest.raises(SourceError, match="no file of problems") as missing:
        problem_set("nowhere.jsonl")
    assert len(problem_set(str(missing.value.fix).split("`")[3]).problems) == 200  # what it proposes works
    assert len(problem_set("arithmetic:n=3,largest=20,split=train").problems) == 3
    for unknown in ("digits", "steps"):  # a property of Arithmetic is no setting either
        with pytest.raises(UserError, match=f"`{unknown}=2` is no setting"):
            problem_set(f"arithmetic:{unknown}=2")
    with pytest.raises(UserError, match="largest"):
        problem_set("arithmetic:largest=one")


def test_problems_without_a_readable_answer_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text(
        '{"question": "a", "answer": "1"}\n{"question": "b", "answer": "#### (1 + "}\n{"question": "c", "answer": "2"}\n'
    )
    found = problem_set(str(path))
    assert ([one.question for one in found.problems], found.n_left_out, found.name) == (["a", "c"], 1, "some")
    assert len(problem_set(str(path), 1).problems) == 1
    assert found.digest != problem_set(str(path), 1).digest


# -- what samples come to -----------------------------------------------------------------------------------------------


def made(problem: str, answers: Sequence[str | None], reason: str = "stop", score: float | None = None) -> list[Sample]:
    return [
        Sample(
            problem=problem, branch=i, text="", answer=answer, is_correct=answer == "1", n_tokens=3, finish_reason=reason,
            started=0.5, finished=1.0 + i, score=None if score is None else score * (i + 1),
        )
        for i, answer in enumerate(answers)
    ]  # fmt: skip


def test_scores_by_k_are_those_of_the_room_of_evaluation() -> None:
    table = arranged([*made("a", ["1", "1", "2", "3"], score=0.1), *made("b", ["2", "2", "2", "1"], score=0.1)])
    found = scores_of(table, 4, True, False)
    assert list(found) == ["coverage", "majority", "best_of", "weighted"], "all that is shown, and nothing else"
    assert [(one["k"], one["mean"]) for one in found["coverage"]] == [
        (1, pytest.approx(0.375)),
        (2, pytest.approx((5 / 6 + 0.5) / 2)),
        (4, 1.0),
    ]
    by_k = {one["k"]: one["mean"] for one in found["majority"]}
    assert (by_k[4], by_k[1]) == (0.5, pytest.approx(0.375, abs=0.1))
    assert {one["k"]: one["mean"] for one in found["best_of"]}[4] == 0.5  # the last of each has the highest score
    assert all(one["low"] <= one["mean"] <= one["high"] for rows in found.values() for one in rows)


def test_a_decided_vote_scores_as_the_full_one() -> None:
    chance = random.Random(8)
    full = [[chance.choice(["1", "1", "2", "3", None]) for _ in range(6)] for _ in range(60)]
    samples = [made(str(p), row) for p, row in enumerate(full)]
    cut = []
    for row in samples:
        counts: Counter[str] = Counter()
        for i, one in enumerate(row):
            is_out = is_decided(counts, 6 - i)
            cut.append(dataclasses.replace(one, answer=None, is_correct=False, finish_reason="cancelled") if is_out else one)
            counts.update([one.answer] if one.answer and not is_out else [])
    assert sum(not one.is_complete for one in cut) > 20
    decided = scores_of(arranged(cut), 6, False, True)
    assert decided["coverage"] == []
    whole = scores_of(arranged([one for row in samples for one in row]), 6, False, False)
    assert decided["majority"] == whole["majority"][-1:]
    assert 0 < whole["majority"][-1]["mean"] < 1


def test_problems_with_fewer_samples_are_left_out_of_large_k() -> None:
    table = arranged([*made("a", ["1", "1"]), *made("b", ["2"]), *made("c", ["1"], "error")], ["a", "b", "c"])
    found = scores_of(table, 2, False, False)["coverage"]
    assert [(one["k"], one["mean"], one["n_problems"]) for one in found] == [(1, 0.5, 2), (2, 1.0, 1)]


def test_counts_say_how_samples_ended(tmp_path: Path) -> None:
    samples = [*made("a", ["1", None]), *made("b", [None], "cancelled"), *made("c", [None], "error"), *made("d", ["2"], "length")]
    found = counts_of(samples)
    assert (found["n_samples"], found["n_stop"], found["n_length"], found["n_cancelled"], found["n_error"]) == (5, 2, 1, 1, 1)
    assert (found["n_unparsed"], found["n_tokens"], found["seconds"]) == (1, 15, 2.0)


def test_curves_rise_to_what_all_samples_give_and_leave_out_what_is_biased() -> None:
    table = arranged([*made("a", ["2", "1", "1"]), *made("b", ["2", "2", "1"])])
    trials = [Trial("r", 4, table)]
    curves = curves_of(trials, False, False)
    assert curves.keys() == {"coverage", "majority"}
    means = [point["mean"] for point in curves["coverage"]]
    assert means == sorted(means)
    assert (means[0], means[-1]) == (0.0, 1.0)
    assert (curves["coverage"][-1]["seconds"], curves["coverage"][-1]["n_completed"]) == (1.5, 3.0)  # per problem
    assert np.ptp([point["seconds"] for point in curves["majority"]]) == 1.0
    assert curves_of(trials, True, True).keys() == {"majority"}
    assert curves_of([Trial("r", 4, arranged(made("a", [None], "error")))], False, False) == {}


def test_samples_come_back_as_they_were_written(project: Project, first: tuple[Named, list[str]]) -> None:
    (part,) = first[0].of("samples")
    path = project.store.artifact(part).path / "samples.parquet"
    rows = pq.read_table(path).to_pylist()
    back = list(read_samples(path, with_text=True))
    own = ("batch", "question", "reference")
    assert [vars(one) for one in back] == [{key: value for key, value in row.items() if key not in own} for row in rows]
    assert {(row["problem"], row["question"], row["reference"]) for row in rows} == {
        (one, QUESTIONS[one], ANSWERS[one]) for one in QUESTIONS
    }
    assert all(one.text == "" for one in read_samples(path))
