"""The Triton kernels are right (in the interpreter, and on a GPU where there is one) and compile for sm_90 without one."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

HERE = Path(__file__).parent
Inputs = dict[str, Any]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}


def test_the_kernels_equal_the_references_in_the_interpreter(tmp_path: Path) -> None:
    # A process of its own: Triton reads TRITON_INTERPRET while it is imported, and torch may have imported it already.
    report = tmp_path / "report.xml"
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", str(HERE / "interpreted.py"), "-q", "-x", f"--junitxml={report}"],
        cwd=HERE.parents[1],
        env={**_environment(), "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-2000:]
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    assert int(suite.attrib["tests"]) > 20
    assert int(suite.attrib["skipped"]) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n_tokens", [1, 17, 64, 129, 257, 1000])
def test_the_kernels_equal_the_references_on_a_gpu(
    ssd_inputs: Callable[..., Inputs],
    attention_inputs: Callable[..., Inputs],
    rms_norm_inputs: Callable[..., Inputs],
    run: Callable[..., dict[str, Tensor]],
    worst_error: Callable[..., tuple[float, str]],
    n_tokens: int,
    dtype: torch.dtype,
) -> None:
    limit = {torch.float32: 2e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}[dtype]
    cases = [("rms_norm", rms_norm_inputs(n_tokens, 384, dtype=dtype), {})]
    for packed in (False, True):
        cases.append(("ssd_scan", ssd_inputs(2, n_tokens, 4, 2, 64, 64, dtype=dtype, packed=packed), {}))
        cases += [
            ("attention", attention_inputs(2, n_tokens, n_tokens, 4, 2, 64, dtype=dtype, packed=packed), {"causal": causal})
            for causal in (True, False)
        ]
    for operator, inputs, options in cases:
        on_gpu = {name: value.cuda() if isinstance(value, Tensor) else value for name, value in inputs.items()}
        found = {name: value.cpu() for name, value in run(operator, "triton", on_gpu, **options).items()}
        precise = {n: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for n, v in inputs.items()}
        error, where = worst_error(found, run(operator, "reference", precise, **options))
        assert error < limit, (operator, where)
