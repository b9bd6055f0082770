"""From a curated subset to a run, a delta, a trace and a report; killed, resumed, on two processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tilth.artifacts import Store
from tilth.tokenize.shards import TokenSet

Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def curated(built: Path, tmp_path_factory: pytest.TempPathFactory, tilth: Run) -> Path:
    """A copy of the built project with two subsets."""
    project = Path(shutil.copytree(built, tmp_path_factory.mktemp("curated") / "project", symlinks=True))
    tilth("pick", "clean", "is_keeper and source in ('prose', 'code') and n_tokens > 5", "--validation", "0.2", cwd=project)
    tilth("pick", "code", "is_keeper and source = 'code'", cwd=project)
    return project


@pytest.fixture(scope="module")
def trained(curated: Path, tmp_path_factory: pytest.TempPathFactory, tilth: Run) -> Path:
    """A copy with the runs `base` and `tuned` and the delta between them."""
    project = Path(shutil.copytree(curated, tmp_path_factory.mktemp("trained") / "project", symlinks=True))
    tilth("train", "small:base", cwd=project)
    tilth("train", "small:tuned", cwd=project)
    tilth("deploy", "tuned", "--base", "base", "--distill-steps", "4", cwd=project)
    return project


def losses(project: Path, run: str, tilth: Run) -> list[float]:
    return [
        row["loss"]
        for row in json.loads(
            tilth("sql", f"select loss from losses where run = '{run}' order by step", "--json", cwd=project).stdout
        )
    ]


def weights(project: Path, run: str) -> str:
    store = Store(project / ".tilth")
    return str(store.get_named("run", run).meta["weights_digest"])


def test_no_duplicate_cluster_crosses_the_split(curated: Path, tilth: Run) -> None:
    query = "select count(*) as n from (select cluster_id from subset_documents join small using (shard, row) where subset = 'clean' group by cluster_id having count(distinct split) > 1)"
    assert json.loads(tilth("sql", query, "--json", cwd=curated).stdout) == [{"n": 0}]
    (row,) = json.loads(
        tilth(
            "sql", "select count(distinct split) as n from subset_documents where subset = 'clean'", "--json", cwd=curated
        ).stdout
    )
    assert row["n"] == 2


def test_the_loss_falls_and_a_second_train_is_up_to_date(trained: Path, tilth: Run) -> None:
    curve = losses(trained, "base", tilth)
    assert len(curve) == 12
    assert curve[-1] < curve[0]
    assert "up to date" in tilth("train", "small:base", cwd=trained).stderr


def test_a_run_goes_out_by_its_name(trained: Path, tmp_path: Path, tilth: Run) -> None:
    assert "HF Bamba" in tilth("export-hf", "base", str(tmp_path / "hf"), cwd=trained).stdout
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["max_position_embeddings"], config["eos_token_id"]) == (32, 0)
    assert "Did you mean `base`" in tilth("export-hf", "bse", str(tmp_path / "no"), cwd=trained, expect=2).stderr


def test_a_recipe_names_a_preset(curated: Path, tmp_path: Path, tilth: Run) -> None:
    project = Path(shutil.copytree(curated, tmp_path / "project", symlinks=True))
    (project / "recipes" / "named.py").write_text(
        "from tilth import Train\n"
        "def base(preset: str = 'tiny-hybrid') -> Train:\n"
        "    model = {'preset': preset, 'd_model': 32, 'n_heads': 2}\n"
        "    settings = {'steps': 1, 'seq_len': 32, 'global_batch': 2, 'lr': 0.01, 'checkpoint_every': 1, 'eval_every': 1, 'eval_batches': 1, 'seed': 0}\n"
        "    return Train(subset='clean', model=model, settings=settings)\n"
    )
    tilth("train", "named:base", cwd=project)
    meta = Store(project / ".tilth").get_named("run", "base").meta
    assert meta["layers"] == "MMMA"
    assert "Did you mean `tiny-hybrid`" in tilth("train", "named:base", "preset=tiny-hybird", cwd=project, expect=2).stderr


def test_killed_training_resumes_to_the_bit(trained: Path, curated: Path, tmp_path: Path, tilth: Run) -> None:
    project = Path(shutil.copytree(curated, tmp_path / "project", symlinks=True))
    for n_checkpoints in (1, 2, 4):
        process = subprocess.Popen(
            [sys.executable, "-m", "tilth", "train", "small:base"],
            cwd=project,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and len(list(project.glob(".tilth/work/*/checkpoints/step-*/state.json"))) < min(
            n_checkpoints, 2
        ):
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    tilth("train", "small:base", cwd=project)
    assert weights(project, "base") == weights(trained, "base")
    assert losses(project, "base", tilth) == losses(trained, "base", tilth)
    assert not list((project / ".tilth" / "work").iterdir())


def test_two_processes_give_the_same_loss_curve(trained: Path, curated: Path, tmp_path: Path, tilth: Run) -> None:
    project = Path(shutil.copytree(curated, tmp_path / "project", symlinks=True))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "tilth",
        "train",
        "small:base",
    ]
    done = subprocess.run(
        command, cwd=project, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("parameters ") == 1, "only one process reports"
    assert done.stderr.count(" FLOPs a token, ") == 1
    assert losses(project, "base", tilth) == pytest.approx(losses(trained, "base", tilth), abs=1e-5)


def test_another_setting_is_another_run(trained: Path, tilth: Run) -> None:
    before = weights(trained, "base")
    told = tilth("train", "small:base", "seed=5", cwd=trained).stderr
    run = Store(trained / ".tilth").get_named("run", "base")
    n_tokens = run.meta["steps"] * run.meta["global_batch"] * run.meta["seq_len"]
    assert f"{run.meta['n_parameters']:,} parameters, " in told
    assert f"\n{n_tokens:,} tokens, " in told
    assert weights(trained, "base") != before
    said = tilth("deploy", "tuned", "--base", "base", cwd=trained, expect=2).stderr
    assert "was trained anew since `tuned` was fine-tuned" in said
    tilth("train", "small:base", cwd=trained)
    assert weights(trained, "base") == before


def test_a_delta_is_refused_for_another_base(trained: Path, tilth: Run) -> None:
    assert "was not fine-tuned from" in tilth("deploy", "base", "--base", "tuned", cwd=trained, expect=2).stderr
    facts = json.loads(tilth("deploy", "tuned", "--base", "base", "--distill-steps", "4", "--json", cwd=trained).stdout)
    assert facts["size_bytes"] < facts["full_size_bytes"]
    assert facts["loss_delta"] == pytest.approx(facts["loss_tuned"], abs=0.5)


def test_a_delta_that_loses_too_much_is_not_published(trained: Path, tilth: Run) -> None:
    store = Store(trained / ".tilth")
    before = store.get_named("delta", "tuned").digest
    coarse = ["--codec", "low-rank:1", "--tables", "1", "--distill-steps", "0"]
    said = tilth("deploy", "tuned", "--base", "base", *coarse, "--max-loss", "0", cwd=trained, expect=2).stderr
    assert "the delta loses" in said
    assert "of what the fine-tune gained" in said
    assert store.get_named("delta", "tuned").digest == before
    (trained / "task.jsonl").write_text('{"prompt": "def ", "answer": "f"}\n{"prompt": "import ", "answer": "os"}\n')
    options = ["--codec", "residual:2", "--codec", "blocks.0.*=whole", "--task", "task.jsonl", "--distill-steps", "2"]
    printed = tilth("deploy", "tuned", "--base", "base", *options, cwd=trained).stdout
    assert "residual:2, blocks.0.*=whole" in printed
    assert "right answers" in printed
    assert "smaller than bf16" in printed
    meta = store.get_named("delta", "tuned").meta
    assert meta["n_task_answers"] == 2
    assert meta["agreement"] > 0.9
    (trained / "task.jsonl").write_text('{"prompt": "def "}\n')
    said = tilth("deploy", "tuned", "--base", "base", *options, cwd=trained, expect=2).stderr
    assert "task.jsonl:1" in said


def test_every_position_traces_to_the_document_that_holds_it(trained: Path, tilth: Run) -> None:
    store = Store(trained / ".tilth")
    tokens = TokenSet.open(store.artifact(store.get_named("run", "base").one("tokens.train")).path)
    for step, sequence, position in ((0, 0, 0), (3, 2, 17), (11, 3, 31)):
        words = ["trace", "base", "--step", str(step), "--sequence", str(sequence), "--position", str(position), "--json"]
        traced = json.loads(tilth(*words, cwd=trained).stdout)
        document = traced["document"]
        query = f"select text from small where shard = '{document['shard']}' and row = {document['row']}"
        (row,) = json.loads(tilth("sql", query, "--json", cwd=trained).stdout)
        ids = [*tokens.tokenizer().encode(row["text"]), tokens.separator_id]
        assert tokens.tokenizer().decode([ids[traced["offset"]]]) == traced["token"]
        assert document["text_swhid"].startswith("swh:1:cnt:")
    assert "go from 0 to 11" in tilth("trace", "base", "--step", "12", cwd=trained, expect=2).stderr


def test_a_trace_survives_a_new_pick_and_a_new_build(trained: Path, tmp_path: Path, tilth: Run) -> None:
    project = Path(shutil.copytree(trained, tmp_path / "project", symlinks=True))
    words = ["trace", "base", "--step", "3", "--sequence", "1", "--position", "9", "--json"]
    before = json.loads(tilth(*words, cwd=project).stdout)
    tilth("build", "small", "vocab_size=290", cwd=project)
    tilth("pick", "clean", "is_keeper and source = 'noise'", cwd=project)
    assert json.loads(tilth(*words, cwd=project).stdout) == before


def test_the_report_of_a_real_project_is_written(trained: Path, tilth: Run) -> None:
    path = trained / tilth("report", cwd=trained).stdout.strip()
    page = path.read_text()
    assert "Training runs" in page
    assert "http://" not in page.split("<body")[0].replace("http://www.w3.org", "")


def test_ls_and_show_name_everything(trained: Path, tilth: Run) -> None:
    listed = tilth("ls", cwd=trained).stdout
    for kind, name in (("corpus", "small"), ("subset", "clean"), ("run", "tuned"), ("delta", "tuned"), ("tokens", "code")):
        assert f"{kind}" in listed
        assert name in tilth("show", f"{kind}/{name}", cwd=trained).stdout
    for kind in ("signals", "sources", "contracts", "recipes"):
        first = json.loads(tilth("ls", kind, "--json", cwd=trained).stdout)[0]
        assert first["name"] in tilth("show", f"{first['kind']}/{first['name']}", cwd=trained).stdout


def test_check_finds_damage_and_repair_mends_it(trained: Path, tmp_path: Path, tilth: Run) -> None:
    project = Path(shutil.copytree(trained, tmp_path / "moved", symlinks=True))
    assert "out of date" in tilth("check", cwd=project, expect=1).stdout  # the catalog names the old folder
    victim = next((project / ".tilth" / "artifacts" / "signals.language").glob("*/signals.parquet"))
    victim.write_bytes(victim.read_bytes()[:-7])
    assert "signals.language" in tilth("check", cwd=project, expect=1).stdout
    tilth("check", "--repair", cwd=project, expect=1)
    tilth("build", "small", cwd=project)
    tilth("check", cwd=project)
