"""Two processes compute what one computes, and one that fails takes the other down with a word."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def start_group(run_tiny: RunTiny, work_dir: Path, size: int = 2, **options: object) -> list[subprocess.Popen[str]]:
    """Processes without torchrun, so that nothing but themselves can stop them."""
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [run_tiny(work_dir, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, **options) for rank in range(size)]


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def assert_same_curve(found: Path, wanted: Path) -> None:
    """Within the rounding of sums in another order."""
    ours, theirs = read_metrics(found), read_metrics(wanted)
    for name in ("loss", "grad_norm", "n_tokens", "lr"):
        np.testing.assert_allclose([line[name] for line in ours], [line[name] for line in theirs], rtol=1e-5)
    evaluated = [[line["validation_loss"] for line in lines if "validation_loss" in line] for lines in (ours, theirs)]
    np.testing.assert_allclose(*evaluated, rtol=1e-5)
    weights = load_file(wanted / "model.safetensors")
    for name, value in load_file(found / "model.safetensors").items():
        np.testing.assert_allclose(value, weights[name], atol=1e-4)


def test_two_processes_give_the_curve_of_one(run_tiny: RunTiny, uninterrupted: Path, tmp_path: Path) -> None:
    process = run_tiny(tmp_path / "run", launcher=TORCHRUN, times=2)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    results = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert [result["resumed_from"] for result in results] == [None, None, 20, 20]
    assert len({result["digest"] for result in results}) == 1
    assert_same_curve(tmp_path / "run", uninterrupted)


def test_a_run_moves_between_one_process_and_two_with_shards(
    run_tiny: RunTiny, uninterrupted: Path, setup: dict[str, Any], tmp_path: Path
) -> None:
    """1 -> 2 -> 1: the checkpoint of whole tensors is read into shards, and that of shards into whole tensors."""
    sharded = {**setup["train"], "shard": True}
    code, _, err = finish(run_tiny(tmp_path / "run", act="interrupt", where="step:7"))
    assert code == -signal.SIGINT, err
    pair = start_group(run_tiny, tmp_path / "run", act="interrupt", where="step:7", train=sharded)
    ends = [finish(process) for process in pair]
    assert [code for code, _, _ in ends] == [-signal.SIGINT] * 2, ends
    assert all("world_size: 1 -> 2" in err and "shard: False -> True" in err for _, _, err in ends)
    code, out, err = finish(run_tiny(tmp_path / "run"))
    assert code == 0, err
    assert json.loads(out)["resumed_from"] == 14
    assert_same_curve(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize(
    ("residual", "size", "shard"),
    [
        ("ladder", 2, False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("standard", 2, False), ("ladder", 4, True))),
    ],
)
def test_slices_of_the_layers_give_the_curve_of_the_whole(
    residual: str, size: int, shard: bool, run_tiny: RunTiny, setup: dict[str, Any], tmp_path: Path
) -> None:
    """Tensor parallelism over 2, the other processes share the batch: interrupted, resumed, and published whole."""
    model = {**setup["model"], "n_groups": 2, "residual": residual}
    train = {**setup["train"], "steps": 12, "eval_every": 6}
    code, _, err = finish(run_tiny(tmp_path / "one", model=model, train=train))
    assert code == 0, err
    train |= {"tensor_parallel": 2, "shard": shard}
    for options, expected in (({"act": "interrupt", "where": "step:8"}, -signal.SIGINT), ({}, 0)):
        group = start_group(run_tiny, tmp_path / "cut", size, model=model, train=train, **options)
        ends = [finish(process) for process in group]
        assert [code for code, _, _ in ends] == [expected] * size, ends
    assert {json.loads(out)["resumed_from"] for _, out, _ in ends} == {8}
    assert_same_curve(tmp_path / "cut", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_resume_to_the_bit(shard: bool, run_tiny: RunTiny, setup: dict[str, Any], tmp_path: Path) -> None:
    train = {**setup["train"], "shard": shard}
    digests = []
    for name, interruption in (("whole", {}), ("halved", {"act": "interrupt", "where": "step:9", "rank": 1})):
        for options in [interruption, {}] if interruption else [{}]:
            pair = start_group(run_tiny, tmp_path / name, train=train, **options)
            ends = [process.communicate(timeout=120) for process in pair]
            expected = -signal.SIGINT if options else 0
            assert [process.returncode for process in pair] == [expected] * 2, ends
        digests.append(json.loads(ends[0][0])["digest"])
    assert json.loads(ends[0][0])["resumed_from"] == 9
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("act", "rank"),
    [("fail", 1), pytest.param("fail", 0, marks=pytest.mark.slow), ("die", 1), pytest.param("die", 0, marks=pytest.mark.slow)],
)
def test_a_process_that_fails_stops_the_other(act: str, rank: int, run_tiny: RunTiny, tmp_path: Path) -> None:
    began = time.monotonic()
    pair = start_group(run_tiny, tmp_path / "run", act=act, where="step:8", rank=rank)
    ends = [process.communicate(timeout=60) for process in pair]
    assert time.monotonic() - began < 40
    survivor = 1 - rank
    assert pair[survivor].returncode == 1
    assert "TrainError: training stopped: " in ends[survivor][1]
    died = "process 0 or the launcher, whichever held it, died" if rank == 0 else "process 1 died or stopped answering"
    said = f"process {rank} failed with ValueError: boom" if act == "fail" else died
    assert said in ends[survivor][1]
    assert f"process {survivor} of 2" in ends[survivor][1]


def test_a_process_that_is_stopped_is_named_and_not_waited_for(run_tiny: RunTiny, tmp_path: Path) -> None:
    pair = start_group(run_tiny, tmp_path / "run", act="stop", where="step:8", rank=1, silent_beats=5)
    code, _, err = finish(pair[0])
    pair[1].kill()
    finish(pair[1])
    assert code == 1
    assert "training stopped: process 1 has not answered for 6 s (process 0 of 2)" in err


def test_a_refusal_of_the_first_process_is_heard_by_all(
    run_tiny: RunTiny, uninterrupted: Path, setup: dict[str, object], tmp_path: Path
) -> None:
    train = {**setup["train"], "lr": 0.7}  # type: ignore[dict-item]
    (tmp_path / "run").symlink_to(uninterrupted)
    pair = start_group(run_tiny, tmp_path / "run", train=train)
    ends = [process.communicate(timeout=60) for process in pair]
    assert all("StaleError: this run was begun with other inputs: train.lr: 0.003 -> 0.7" in err for _, err in ends), ends


def test_a_batch_that_cannot_be_shared_is_refused(run_tiny: RunTiny, setup: dict[str, object], tmp_path: Path) -> None:
    train = {**setup["train"], "global_batch": 3}  # type: ignore[dict-item]
    pair = start_group(run_tiny, tmp_path / "run", train=train)
    ends = [process.communicate(timeout=60) for process in pair]
    assert all("a global batch of 3 cannot be shared equally by 2 processes" in err for _, err in ends), ends
