"""A run that was killed ends with the bits of one that was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tilth.errors import NotFoundError, StaleError, StoreError, TrainError
from tilth.models.config import ModelConfig
from tilth.models.weights import load_model
from tilth.trainer import loop, saving
from tilth.trainer.checkpoint import latest_checkpoint, published
from tilth.trainer.config import TrainConfig
from tilth.trainer.given import Given
from tilth.trainer.loop import train
from tilth.trainer.metrics import read_metrics

# torch.utils.tensorboard still imports what Python 3.12 moved.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch.utils.tensorboard",
    "ignore::DeprecationWarning:tensorboard",
)
CLOCK = ("seconds", "tokens_per_second")
RunTiny = Callable[..., subprocess.Popen[str]]


def without_clock(work_dir: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in read_metrics(work_dir)]


def assert_same_run(found: Path, wanted: Path) -> None:
    assert without_clock(found) == without_clock(wanted)
    assert (found / "model.safetensors").read_bytes() == (wanted / "model.safetensors").read_bytes()
    last = published(wanted)[-1].name
    tensors, wanted_tensors = (folder / "checkpoints" / last / "__0_0.distcp" for folder in (found, wanted))
    assert tensors.read_bytes() == wanted_tensors.read_bytes()


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_an_undisturbed_run_learns_and_leaves_what_it_promises(
    uninterrupted: Path, setup: dict[str, Any], saved_tensors: Callable[[Path], dict[str, torch.Tensor]]
) -> None:
    lines = read_metrics(uninterrupted)
    assert [line["step"] for line in lines] == list(range(20))
    # Untrained, every token of the vocabulary is about as likely: ln 290 = 5.67.
    assert lines[0]["loss"] == pytest.approx(5.67, abs=0.15)
    assert lines[-1]["loss"] < lines[0]["loss"] - 1
    assert [line["step"] for line in lines if "validation_loss" in line] == [9, 19]
    assert lines[19]["validation_loss"] < lines[9]["validation_loss"] < 5.5
    assert [folder.name for folder in published(uninterrupted)] == ["step-00000015", "step-00000020"]
    assert not list((uninterrupted / "checkpoints").glob(".*"))
    assert list((uninterrupted / "tensorboard").glob("events.*"))
    final = load_model(uninterrupted).state_dict()
    saved = saved_tensors(uninterrupted)
    assert all(torch.equal(saved[f"model/{name}"], value) for name, value in final.items())
    assert (uninterrupted / "tokenizer.json").read_bytes() == (Path(setup["tokens"]) / "tokenizer.json").read_bytes()


def test_the_curves_are_in_tensorboard(uninterrupted: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(uninterrupted / "tensorboard"))
    events.Reload()
    written = [(event.step, pytest.approx(event.value, rel=1e-6)) for event in events.Scalars("loss")]
    assert written == [(line["step"], line["loss"]) for line in read_metrics(uninterrupted)]


def test_killed_at_random_moments_it_ends_with_the_same_bits(setup: dict[str, Any], uninterrupted: Path, tmp_path: Path) -> None:
    path, seed = tmp_path / "setup.json", time.time_ns()
    path.write_text(json.dumps({**setup, "work_dir": str(tmp_path)}))
    out = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("run_killed.py")), str(path), "10", str(seed)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert out.returncode == 0, f"seed {seed}: {out.stderr}"
    found = json.loads(out.stdout)
    print(found["moments"])
    assert len(found["moments"]) == 10
    for run in found["runs"]:
        assert_same_run(Path(run), uninterrupted)
        assert not list((Path(run) / "checkpoints").glob(".*")), f"seed {seed}"


@pytest.mark.parametrize(
    ("where", "resumed_from"),
    [
        pytest.param("step:8", 5, marks=pytest.mark.slow),  # between two checkpoints
        pytest.param("digest:4", 5, marks=pytest.mark.slow),  # the second's weights are written, no more
        ("rename:4", 5),  # all of the second is written, not yet published (each has a rename inside, too)
        pytest.param("rename:7", 15, marks=pytest.mark.slow),  # the third is published, the first not yet dropped
        ("rmtree:8", 15),  # the first is renamed, not yet removed
        pytest.param("publish:1", 20, marks=pytest.mark.slow),  # trained to the end, the model not yet published
    ],
)
def test_killed_in_the_middle_of_saving(
    where: str, resumed_from: int, run_tiny: RunTiny, uninterrupted: Path, tmp_path: Path
) -> None:
    code, _, _ = finish(run_tiny(tmp_path / "run", act="die", where=where))
    assert code == -signal.SIGKILL
    code, out, err = finish(run_tiny(tmp_path / "run"))
    assert code == 0, err
    assert json.loads(out)["resumed_from"] == resumed_from
    assert_same_run(tmp_path / "run", uninterrupted)
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


def test_interrupted_it_finishes_the_step_and_saves_it(run_tiny: RunTiny, uninterrupted: Path, tmp_path: Path) -> None:
    code, _, err = finish(run_tiny(tmp_path / "run", act="interrupt", where="step:8"))
    assert (code, err.strip().splitlines()[-1]) == (-signal.SIGINT, "KeyboardInterrupt")
    assert [folder.name for folder in published(tmp_path / "run")] == ["step-00000005", "step-00000008"]
    assert len(read_metrics(tmp_path / "run")) == 8
    code, out, err = finish(run_tiny(tmp_path / "run"))
    assert json.loads(out)["resumed_from"] == 8
    assert_same_run(tmp_path / "run", uninterrupted)


@pytest.fixture
def stopped(uninterrupted: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(uninterrupted, tmp_path / "copy"))


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_a_damaged_checkpoint_is_passed_over(name: str, damage: str, stopped: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = published(stopped)[-1] / name
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data[:-7] if damage == "cut" else data)
    found = latest_checkpoint(stopped)
    assert found is not None
    assert found.step == 15
    assert "step-00000020 is damaged" in caplog.text


def test_a_run_goes_on_from_the_checkpoint_before_the_damaged_one(run_tiny: RunTiny, uninterrupted: Path, stopped: Path) -> None:
    (published(stopped)[-1] / "__0_0.distcp").write_bytes(b"torn")
    code, out, err = finish(run_tiny(stopped))
    assert code == 0, err
    assert "step-00000020 is damaged" in err
    assert json.loads(out)["resumed_from"] == 15
    assert_same_run(stopped, uninterrupted)


def test_no_whole_checkpoint_is_an_error_and_not_a_new_beginning(stopped: Path) -> None:
    for folder in published(stopped):
        (folder / "state.json").write_text("{}")
    with pytest.raises(TrainError, match="no checkpoint is whole: step-00000020, step-00000015"):
        latest_checkpoint(stopped)


Train = Callable[..., loop.TrainResult]


@pytest.fixture
def resume(tokens: Path, validation: Path, model_config: ModelConfig, config: TrainConfig) -> Train:
    def call(work_dir: Path, **changed: Any) -> loop.TrainResult:
        values = {"model_config": model_config, "config": config, "tokens": tokens, "validation": validation, **changed}
        return train(work_dir=work_dir, **values)

    return call


def test_other_inputs_are_refused_with_the_difference(
    resume: Train, stopped: Path, config: TrainConfig, model_config: ModelConfig, validation: Path
) -> None:
    other = TrainConfig.from_dict({**config.to_dict(), "lr": 0.5, "seed": 3})
    with pytest.raises(StaleError, match=r"train\.lr: 0\.003 -> 0\.5; train\.seed: 0 -> 3"):
        resume(stopped, config=other)
    wider = ModelConfig.from_dict({**model_config.to_dict(), "d_ff": 128})
    with pytest.raises(StaleError, match=r"model\.d_ff: 64 -> 128"):
        resume(stopped, model_config=wider)
    with pytest.raises(StaleError, match=r"tokens\.train\.n_documents: 300 -> 21; tokens\.train\.n_tokens: "):
        resume(stopped, tokens=validation)
    with pytest.raises(StaleError, match="initial_digest: None -> "):
        resume(stopped, given=Given(stopped))


def test_a_finished_run_may_be_asked_again_and_may_look_more_often(resume: Train, stopped: Path, config: TrainConfig) -> None:
    before = (stopped / "model.safetensors").read_bytes()
    (stopped / "model.safetensors").unlink()
    result = resume(stopped, config=TrainConfig.from_dict({**config.to_dict(), "checkpoint_every": 7}))
    assert result.resumed_from == 20
    assert result.final_loss == read_metrics(stopped)[-1]["loss"]
    assert (stopped / "model.safetensors").read_bytes() == before


def test_another_number_of_threads_is_said(resume: Train, stopped: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        resume(stopped)
    finally:
        torch.set_num_threads(before)
    assert "n_threads: 1 -> 3" in caplog.text


def test_a_full_disk_keeps_the_checkpoint_before(resume: Train, tmp_path: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_disk(line: dict[str, Any]) -> None:
        if line["step"] == 7:
            while not published(tmp_path / "run"):
                time.sleep(0.01)
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))

    try:
        with pytest.raises(StoreError, match="disk is full"):
            resume(tmp_path / "run", on_step=fill_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [folder.name for folder in published(tmp_path / "run")] == ["step-00000005"]
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))
    result = resume(tmp_path / "run")
    assert result.resumed_from == 5
    whole = resume(tmp_path / "whole")
    assert result.weights_digest == whole.weights_digest
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_steps_go_on_while_a_checkpoint_is_written(resume: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, step_8_is_done, found = saving._publish, threading.Event(), []

    def publish(partial: Path, final: Path, state: dict[str, Any]) -> None:
        if final.name == "step-00000005":
            found.append((step_8_is_done.wait(30), final.exists(), threading.current_thread() is threading.main_thread()))
        real(partial, final, state)

    def note(line: dict[str, Any]) -> None:
        if line["step"] == 8:
            step_8_is_done.set()

    monkeypatch.setattr(saving, "_publish", publish)
    resume(tmp_path / "run", on_step=note)
    assert found == [(True, False, False)]
    assert [folder.name for folder in published(tmp_path / "run")] == ["step-00000015", "step-00000020"]


def test_a_save_waits_for_the_one_before(
    resume: Train, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a slow disk would let copies pile up, or publish out of order."""
    real, n_writing, most = saving.Checkpointer._write, 0, 0

    def write(self: saving.Checkpointer, folder: Path) -> dict[str, str]:
        nonlocal n_writing, most
        n_writing += 1
        most = max(most, n_writing)
        time.sleep(0.3)  # longer than a step
        digests = real(self, folder)
        n_writing -= 1
        return digests

    monkeypatch.setattr(saving.Checkpointer, "_write", write)
    resume(tmp_path / "run", config=TrainConfig.from_dict({**config.to_dict(), "steps": 5, "checkpoint_every": 1}))
    assert most == 1
    assert [folder.name for folder in published(tmp_path / "run")] == ["step-00000004", "step-00000005"]


def test_two_runs_do_not_share_a_folder(resume: Train, stopped: Path) -> None:
    from tilth.artifacts.atomic import locked

    with locked(stopped / ".lock"), pytest.raises(TrainError, match="another process is training here"):
        resume(stopped)


def test_a_loss_that_is_not_finite_names_the_step_and_the_last_checkpoint(
    resume: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tilth.models.decoder import Decoder

    real, n_calls = Decoder.loss, 0

    def spoilt(self: Decoder, *args: Any) -> Any:
        nonlocal n_calls
        n_calls += self.training
        loss, count = real(self, *args)
        # two micro-batches a step: the second of step 7
        return (loss * float("nan") if n_calls == 16 else loss), count

    monkeypatch.setattr(Decoder, "loss", spoilt)
    with pytest.raises(TrainError, match="the loss of step 7 is nan") as caught:
        resume(tmp_path / "run")
    assert "step-00000005" in str(caught.value)
    assert len(read_metrics(tmp_path / "run")) == 7
    with pytest.raises(NotFoundError):
        load_model(tmp_path / "run")
