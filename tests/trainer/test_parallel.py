"""Two processes compute what one computes, and one that fails takes the other down with a word."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from tilth.trainer.metrics import read_metrics

RunTiny = Callable[..., subprocess.Popen[str]]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def start_pair(run_tiny: RunTiny, work_dir: Path, **options: object) -> list[subprocess.Popen[str]]:
    """Two processes without torchrun, so that nothing but themselves can stop them."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [run_tiny(work_dir, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, **options) for rank in range(2)]


def test_two_processes_give_the_curve_of_one(run_tiny: RunTiny, uninterrupted: Path, tmp_path: Path) -> None:
    process = run_tiny(tmp_path / "run", launcher=TORCHRUN, times=2)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    results = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert [result["resumed_from"] for result in results] == [None, None, 20, 20]
    assert len({result["digest"] for result in results}) == 1
    one, two = read_metrics(uninterrupted), read_metrics(tmp_path / "run")
    for name in ("loss", "grad_norm", "n_tokens", "lr"):
        np.testing.assert_allclose([line[name] for line in two], [line[name] for line in one], rtol=1e-5)
    evaluated = [[line["validation_loss"] for line in lines if "validation_loss" in line] for lines in (one, two)]
    np.testing.assert_allclose(*evaluated, rtol=1e-5)
    wanted = load_file(uninterrupted / "model.safetensors")
    for name, value in load_file(tmp_path / "run" / "model.safetensors").items():
        np.testing.assert_allclose(value, wanted[name], atol=1e-4)


@pytest.mark.slow
def test_two_processes_resume_to_the_bit(run_tiny: RunTiny, tmp_path: Path) -> None:
    digests = []
    for name, interruption in (("whole", {}), ("halved", {"act": "interrupt", "where": "step:9", "rank": 1})):
        for options in [interruption, {}] if interruption else [{}]:
            pair = start_pair(run_tiny, tmp_path / name, **options)
            ends = [process.communicate(timeout=120) for process in pair]
            expected = -signal.SIGINT if options else 0
            assert [process.returncode for process in pair] == [expected] * 2, ends
        digests.append(json.loads(ends[0][0])["digest"])
    assert json.loads(ends[0][0])["resumed_from"] == 9
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("act", "rank"),
    [("fail", 1), pytest.param("fail", 0, marks=pytest.mark.slow), pytest.param("die", 1, marks=pytest.mark.slow)],
)
def test_a_process_that_fails_stops_the_other(act: str, rank: int, run_tiny: RunTiny, tmp_path: Path) -> None:
    began = time.monotonic()
    pair = start_pair(run_tiny, tmp_path / "run", act=act, where="step:8", rank=rank)
    ends = [process.communicate(timeout=60) for process in pair]
    assert time.monotonic() - began < 40
    survivor = 1 - rank
    assert pair[survivor].returncode == 1
    assert "TrainError: training stopped: " in ends[survivor][1]
    said = f"process {rank} failed with ValueError: boom" if act == "fail" else "another process died"
    assert said in ends[survivor][1]
    assert f"process {survivor} of 2" in ends[survivor][1]


def test_a_refusal_of_the_first_process_is_heard_by_all(
    run_tiny: RunTiny, uninterrupted: Path, setup: dict[str, object], tmp_path: Path
) -> None:
    train = {**setup["train"], "lr": 0.7}  # type: ignore[dict-item]
    (tmp_path / "run").symlink_to(uninterrupted)
    pair = start_pair(run_tiny, tmp_path / "run", train=train)
    ends = [process.communicate(timeout=60) for process in pair]
    assert all("StaleError: this run was begun with other inputs: train.lr: 0.003 -> 0.7" in err for _, err in ends), ends


def test_a_batch_that_cannot_be_shared_is_refused(run_tiny: RunTiny, setup: dict[str, object], tmp_path: Path) -> None:
    train = {**setup["train"], "global_batch": 3}  # type: ignore[dict-item]
    pair = start_pair(run_tiny, tmp_path / "run", train=train)
    ends = [process.communicate(timeout=60) for process in pair]
    assert all("a global batch of 3 cannot be shared equally by 2 processes" in err for _, err in ends), ends
