"""Runs that learn from a teacher: the same bits after a kill, frozen what is frozen, stored what the teacher said."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tilth.errors import ContractError, RecipeError, StaleError
from tilth.models.weights import load_model, save_model
from tilth.tokenize.bpe import Tokenizer, train_bpe
from tilth.tokenize.shards import TokenSet, write_tokens
from tilth.trainer import throughput
from tilth.trainer.config import TrainConfig
from tilth.trainer.data import open_tokens
from tilth.trainer.distill import teacher_pass
from tilth.trainer.distill.stored_logits import StoredLogits, step_file
from tilth.trainer.distill.teacher import validation_loss
from tilth.trainer.distill.teacher_pass import store_logits
from tilth.trainer.given import Given
from tilth.trainer.metrics import read_metrics

# torch.utils.tensorboard still imports what Python 3.12 moved.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch.utils.tensorboard",
    "ignore::DeprecationWarning:tensorboard",
)
Run = Callable[..., Any]
CLOCK = ("seconds", "tokens_per_second")
STAGES = ("orientation", "alignment", "distillation")


def weights(folder: Path) -> dict[str, Tensor]:
    return load_model(folder).state_dict()


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder)]


def test_killed_and_resumed_a_stage_has_the_bits_of_one_that_was_not(
    setup: dict[str, Any], teacher: Path, student: Path, tokens: Path, tmp_path: Path
) -> None:
    common = {"steps": 6, "checkpoint_every": 3, "warmup_steps": 2, "eval_batches": 1}
    stages: dict[str, Any] = {name: {"train": {"objective": name}} for name in STAGES}
    stages["stored"] = {"train": {"objective": "distillation", "ce_weight": 0.3}, "teacher_logits": str(tmp_path / "logits")}
    train = {**setup["train"], **common}
    store_logits(teacher, TrainConfig.from_dict(train), tokens, tmp_path / "logits", 8)
    own = {
        "model": load_model(student).config.to_dict(), "train": train, "teacher": str(teacher), "initial": str(student),
        "stages": stages, "work_dir": str(tmp_path),
    }  # fmt: skip
    path = tmp_path / "setup.json"
    path.write_text(json.dumps({**setup, **own}))
    script = Path(__file__).with_name("run_killed_stages.py")
    done = subprocess.run([sys.executable, str(script), str(path)], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: [0, -signal.SIGKILL, 0] for name in stages}, done.stderr
    for name in stages:
        whole, killed = (tmp_path / name / kind for kind in ("whole", "killed"))
        assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
        lines = [
            [{key: value for key, value in line.items() if key not in CLOCK} for line in read_metrics(folder)]
            for folder in (whole, killed)
        ]
        assert lines[0] == lines[1]
        assert len(lines[0]) == 6


@pytest.mark.parametrize("objective", STAGES)
def test_each_stage_lowers_its_loss_and_trains_what_it_says(objective: str, distil: Run, student: Path) -> None:
    result = distil(objective=objective, steps=15, document_losses=True)
    found = losses(result.folder)
    assert found[-1] < 0.97 * found[0]
    before, after = weights(student), weights(result.folder)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    mixers = {name for name in before if name.startswith(("blocks.0.mixer.", "blocks.2.mixer."))}
    if objective == "distillation":
        assert changed == set(before)
    elif objective == "alignment":
        assert changed == mixers
    else:  # the matrix has no part of x, gate and output
        assert changed < mixers
        assert any(name.endswith("in_proj.weight") for name in changed)


def test_mixers_alone_can_be_distilled_too(distil: Run, student: Path) -> None:
    result = distil(trained="mixers", optimizer="muon")
    before, after = weights(student), weights(result.folder)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith(("blocks.0.mixer.", "blocks.2.mixer."))}


def test_alignment_and_orientation_can_train_all_that_they_reach(distil: Run, student: Path) -> None:
    result = distil(objective="alignment", trained="all")
    before, after = weights(student), weights(result.folder)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(".mlp." in name for name in changed)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(distil: Run, teacher: Path, validation: Path) -> None:
    config = load_model(teacher).config
    for kind in ("forward", "reverse"):
        result = distil(kind, model_config=config, initial=teacher, kl=kind, steps=1, validation=validation)
        assert abs(result.first_loss) < 1e-6
    mixed = distil("mixed", model_config=config, initial=teacher, ce_weight=0.25, steps=1)
    plain = distil("plain", model_config=config, initial=teacher, ce_weight=1.0, steps=1)
    assert mixed.first_loss == pytest.approx(0.25 * plain.first_loss, rel=1e-5)
    assert result.start_validation_loss == pytest.approx(_teacher_loss(teacher, validation), rel=1e-6)


def _teacher_loss(teacher: Path, validation: Path) -> float:
    config = TrainConfig(steps=1, seq_len=48, global_batch=4, micro_batch=2, device="cpu")
    return validation_loss(teacher, config, validation)


@pytest.mark.parametrize("settings", [{}, {"kl": "reverse"}, {"temperature": 2.0}, {"ce_weight": 0.5}])
@pytest.mark.parametrize("k", [None, 290])
def test_stored_logits_teach_what_the_teacher_does(
    settings: dict[str, Any], k: int | None, distil: Run, teacher: Path, student: Path, tokens: Path, config: TrainConfig,
    tmp_path: Path,
) -> None:  # fmt: skip
    """To the rounding of fp16, whose step is 2^-11 of a log p of about -5."""
    live = distil("live", **settings)
    own = TrainConfig.from_dict({**config.to_dict(), "steps": 4, "warmup_steps": 0, "objective": "distillation", **settings})
    store_logits(teacher, own, tokens, tmp_path / "logits", k)
    stored = distil("stored", teacher_logits=tmp_path / "logits", **settings)
    np.testing.assert_allclose(losses(stored.folder), losses(live.folder), rtol=3e-3)
    assert losses(stored.folder) != losses(live.folder)
    found, wanted, before = (
        torch.cat([value.flatten() for value in weights(folder).values()]) for folder in (stored.folder, live.folder, student)
    )
    assert float((found - wanted).norm()) < 0.03 * float((wanted - before).norm())


def test_a_few_of_the_likeliest_ids_teach_less_but_teach(distil: Run, teacher: Path, tokens: Path, tmp_path: Path) -> None:
    own = TrainConfig(steps=4, seq_len=48, global_batch=4, device="cpu")
    header = store_logits(teacher, own, tokens, tmp_path / "logits", 8)
    stored = distil("stored", teacher_logits=tmp_path / "logits")
    live = distil("live")
    assert 0 < losses(stored.folder)[0] < losses(live.folder)[0]
    n_bytes = sum(path.stat().st_size - 128 for path in (tmp_path / "logits").glob("*.npy"))
    assert n_bytes == header.bytes_of_run() == 4 * 4 * 48 * (9 * 2 + 8 * 2)


def test_the_teachers_pass_goes_on_after_a_kill(
    teacher: Path, tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = TrainConfig(steps=5, seq_len=48, global_batch=4, micro_batch=2, device="cpu")
    store_logits(teacher, own, tokens, tmp_path / "whole", 4)
    real, n_calls = teacher_pass._store_step, 0

    def dies(*arguments: Any) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 3:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(teacher_pass, "_store_step", dies)
    with pytest.raises(KeyboardInterrupt):
        store_logits(teacher, own, tokens, tmp_path / "killed", 4)
    step_file(tmp_path / "killed", 2, "ids").write_bytes(b"half a step: its ids alone")
    store_logits(teacher, own, tokens, tmp_path / "killed", 4)
    assert n_calls == 3 + 3  # the two whole steps are not made again
    whole, killed = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("whole", "killed"))
    assert whole == killed
    assert len(whole) == 5 * 2 + 1


def test_stored_logits_of_another_run_are_refused(distil: Run, teacher: Path, tokens: Path, tmp_path: Path) -> None:
    own = TrainConfig(steps=2, seq_len=48, global_batch=4, device="cpu")
    store_logits(teacher, own, tokens, tmp_path / "logits", 4)
    with pytest.raises(StaleError, match="steps: 2 -> 4"):
        distil(teacher_logits=tmp_path / "logits")
    with pytest.raises(StaleError, match=r"seed: 0 -> 1; temperature: 1.0 -> 2.0"):
        distil(teacher_logits=tmp_path / "logits", steps=2, seed=1, temperature=2.0)
    assert distil(teacher_logits=tmp_path / "logits", steps=1).steps == 1  # a shorter run reads the same first steps
    step_file(tmp_path / "logits", 1, "log_p").write_bytes(b"torn")
    with pytest.raises(ContractError, match="predictions are missing or damaged"):
        distil("other", teacher_logits=tmp_path / "logits", steps=2)
    (tmp_path / "logits" / "teacher_logits.json").write_text("{}")
    with pytest.raises(ContractError, match="header of a teacher's predictions is damaged"):
        StoredLogits(tmp_path / "logits")


@pytest.mark.parametrize("k", [0, 291])
def test_as_many_ids_as_the_teacher_does_not_have_are_refused(k: int, teacher: Path, tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"290 ids; its {k} likeliest"):
        store_logits(teacher, TrainConfig(steps=1, seq_len=8, global_batch=1, device="cpu"), tokens, tmp_path / "logits", k)


def test_a_run_that_goes_on_with_another_teacher_is_refused(distil: Run, teacher: Path, tmp_path: Path) -> None:
    distil(steps=1)
    other = load_model(teacher)
    with torch.no_grad():
        other.embedding.weight[0] += 1
    save_model(tmp_path / "other", other)
    with pytest.raises(StaleError, match="teacher_digest: "):
        distil(steps=1, teacher=tmp_path / "other")


def test_a_teacher_of_another_vocabulary_is_refused(distil: Run, tokens: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(train_bpe(["entirely other words about cheese and rails"] * 5, 280))
    folder = tmp_path / "tokens"
    folder.mkdir()
    write_tokens(folder, iter([(bytes(16), "a", 0, np.arange(1, 90))]), tokenizer)
    assert TokenSet.open(folder).vocab_size < 290
    with pytest.raises(StaleError, match="teacher was trained with another tokenizer"):
        distil(tokens=folder, initial=None)


def test_a_teacher_whose_texts_begin_otherwise_is_refused(run: Run, teacher: Path, config: TrainConfig, tmp_path: Path) -> None:
    """The folder of a run says what its texts begin with, so it is known of a teacher whose tokenizer.json is the same."""
    data = train_bpe(["some words about cheese and rails"] * 5, 290, special_tokens=["<begin>"])
    kinds = {"plain": Tokenizer(data), "begun": Tokenizer(data, begin_id=Tokenizer(data).special_ids["<begin>"])}
    for name, tokenizer in kinds.items():
        (tmp_path / f"{name}-set").mkdir()
        write_tokens(tmp_path / f"{name}-set", iter([(bytes(16), "a", 0, np.arange(1, 200))]), tokenizer)
    small = {"steps": 1, "warmup_steps": 0, "model_config": load_model(teacher).config}
    taught = run("taught", tokens=tmp_path / "begun-set", **small).folder
    kd = {**small, "objective": "distillation", "teacher": taught}
    assert run("same", tokens=tmp_path / "begun-set", **kd).steps == 1
    with pytest.raises(StaleError, match=r"its texts begin with `<begin>`, these with `<\|endoftext\|>`"):
        run("other", tokens=tmp_path / "plain-set", **kd)
    # what a run of preferences begins with may learn another beginning, so it may be compared with, too
    preferences = TrainConfig(steps=1, seq_len=48, global_batch=1, objective="preferences")
    tokens = open_tokens(tmp_path / "plain-set", load_model(taught).config)
    assert Given(initial=taught).read_teacher(preferences, 290, tokens, torch.device("cpu")) is not None
    with pytest.raises(StaleError, match="its texts begin with"):
        Given(teacher=taught).read_teacher(preferences, 290, tokens, torch.device("cpu"))


def test_settings_that_cannot_be_are_refused(distil: Run, run: Run, student: Path, teacher: Path) -> None:
    with pytest.raises(RecipeError, match="needs a teacher"):
        distil(teacher=None)
    with pytest.raises(RecipeError, match=r"temperature is 2.0[\s\S]*is read by objective='distillation' alone"):
        distil(objective="next_token", temperature=2.0)
    for name, value in (("kl", "backward"), ("temperature", 0), ("ce_weight", 1.5), ("trained", "heads"), ("tensor_parallel", 2)):
        with pytest.raises(RecipeError, match=f"{name} is "):
            distil(**{name: value})
    with pytest.raises(RecipeError, match="all mixers are of the teacher's kind"):
        distil(trained="mixers", model_config=load_model(teacher).config, initial=teacher)


def test_settings_that_an_objective_does_not_read_are_no_part_of_its_runs(config: TrainConfig) -> None:
    """Runs that were begun before there were such settings can be resumed."""
    assert {"kl", "beta", "trained", "answers_after"}.isdisjoint(config.identity())
    own = TrainConfig(steps=1, seq_len=8, global_batch=1, objective="distillation").identity()
    assert {"kl", "temperature", "ce_weight", "trained"} <= set(own)
    assert "beta" not in own
    assert TrainConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("objective", ["alignment", "distillation"])
def test_mfu_counts_what_the_teacher_does(objective: str, distil: Run, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "peak_flops", lambda device: 2e12)
    folder = distil(objective=objective, steps=1).folder
    own = TrainConfig(steps=1, seq_len=48, global_batch=4, objective=objective)
    flops = throughput.flops_per_token(load_model(folder).config, own, load_model(teacher).config)
    (line,) = read_metrics(folder)
    assert line["mfu"] == pytest.approx(4 * 48 / line["seconds"] * flops / 2e12, rel=1e-9)
