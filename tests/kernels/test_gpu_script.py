"""benchmarks/gpu.py is run where few can try it: here its parts run on the CPU, with the kernels in Triton's interpreter."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from tilth.kernels import launches, swiglu

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is not there where a GPU is")


@pytest.fixture
def scripts(repository: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import gpu_bench
    import gpu_check
    import gpu_tune
    import kernel_calls
    import results

    monkeypatch.setattr(results, "RESULTS", results.RESULTS)
    return SimpleNamespace(bench=gpu_bench, check=gpu_check, tune=gpu_tune, calls=kernel_calls)


def operator_module(calls: Any, function: Any) -> Any:
    """Return a module of calls, as in benchmarks/kernel_calls, of one small call."""

    def make(dtype: torch.dtype, device: str) -> Iterator[Any]:
        gate_up = torch.randn(5, 64, dtype=dtype, device=device)
        peers = {"torch": lambda gate_up: function(gate_up), "absent": lambda gate_up: 1 / 0}
        yield calls.Call("5 x 64", function, {"gate_up": gate_up}, forward_bytes=1e3, backward_bytes=2e3, peers=peers)

    return SimpleNamespace(check_calls=make, bench_calls=lambda device: make(torch.float32, device))


def deadline(is_over: bool = False) -> Any:
    return SimpleNamespace(take=list, missed=[], is_over=is_over)


def torch_swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    return swiglu(gate_up)


def test_a_right_kernel_passes_and_a_wrong_one_does_not(scripts: SimpleNamespace, tmp_path: Path) -> None:
    def wrong(gate_up: torch.Tensor) -> torch.Tensor:
        from tilth.kernels import choose_backend

        return swiglu(gate_up) * (1.0 if choose_backend(gate_up) == "reference" else 1.01)

    for function, n_problems in ((torch_swiglu, 0), (wrong, 4)):
        modules: dict[str, ModuleType] = {"swiglu": operator_module(scripts.calls, function)}
        found = scripts.check.check(modules, "cpu", "triton", tmp_path, deadline())
        assert len(found) == n_problems


def test_results_that_change_from_run_to_run_are_a_problem(scripts: SimpleNamespace) -> None:
    noise = iter(range(100))

    def unsteady(gate_up: torch.Tensor) -> torch.Tensor:
        return swiglu(gate_up) + 1e-9 * next(noise)

    call = next(operator_module(scripts.calls, unsteady).check_calls(torch.float32, "cpu"))
    assert scripts.check.changed_bits(call, "triton", repeats=3) == ["output 0 changes from run to run"]


def test_rows_name_the_peer_and_say_which_peer_was_missing(
    scripts: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    modules = {"swiglu": operator_module(scripts.calls, torch_swiglu)}
    assert scripts.bench.bench(modules, "cpu", "triton", tmp_path, deadline()) == []
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["what"] for row in rows] == ["GPU swiglu forward", "GPU swiglu backward"]
    assert all(row["notes"].startswith("peer: torch") and float(row["ratio"]) > 0 for row in rows)
    assert "PEER MISSING: swiglu 5 x 64 forward: absent: ZeroDivisionError" in capsys.readouterr().out


def test_a_wrong_operator_is_not_timed(scripts: SimpleNamespace, tmp_path: Path) -> None:
    def broken(gate_up: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such kernel")

    modules = {"swiglu": operator_module(scripts.calls, broken)}
    (problem,) = scripts.bench.bench(modules, "cpu", "triton", tmp_path, deadline())
    assert "no such kernel" in problem
    assert not (tmp_path / "results.csv").exists()


def test_a_faster_launch_is_written_into_the_table_and_a_slower_one_is_not(
    scripts: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = json.loads(json.dumps(launches.table("swiglu")))
    before = json.loads(json.dumps(table))
    monkeypatch.setattr(launches, "table", lambda operator: table)
    monkeypatch.setattr(scripts.tune, "write", lambda operator, out: None)
    key = "sm_80 32-bit narrow"
    # A clock to which fewer columns are faster, down to 64, and which does not know the backward.
    monkeypatch.setattr(scripts.tune, "timed", lambda *_: max(table["forward"][key]["COLS"], 64))
    modules = {"swiglu": operator_module(scripts.calls, torch_swiglu)}
    assert scripts.tune.tune(modules, "cpu", "triton", tmp_path, deadline()) == []
    assert table["forward"].pop(key) == {**before["forward"].pop(key), "COLS": 64}
    assert table == before
