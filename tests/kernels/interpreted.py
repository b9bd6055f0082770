"""The Triton kernels against the references in Triton's interpreter.

Not collected by itself: test_triton.py runs it in a process where TRITON_INTERPRET=1 is set before Triton is imported.
The interpreter runs programs one after the other on the CPU: it shows wrong arithmetic, masks and offsets, no races.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tilth.kernels import similarity_sketch, use_backend
from tilth.kernels.ssd_scan import triton_ as ssd_triton

Inputs = dict[str, Any]
Run = Callable[..., dict[str, Tensor]]
Worst = Callable[..., tuple[float, str]]
LIMIT = {torch.float32: 1e-5, torch.float16: 5e-3}
pytestmark = pytest.mark.usefixtures("poisoned_memory")
both_types = pytest.mark.parametrize("dtype", [torch.float32, torch.float16])


def test_triton_is_interpreted() -> None:
    assert os.environ["TRITON_INTERPRET"] == "1"
    assert type(ssd_triton._pass_kernel).__name__ == "InterpretedFunction"


@both_types
@pytest.mark.parametrize("shape", [(1, 1), (3, 5, 17), (9, 64), (0, 8)])
def test_rms_norm(
    rms_norm_inputs: Callable[..., Inputs], run: Run, worst_error: Worst, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    inputs = rms_norm_inputs(*shape, dtype=dtype)
    error, where = worst_error(run("rms_norm", "triton", inputs), run("rms_norm", "reference", inputs))
    assert error < LIMIT[dtype], where


def test_rms_norm_with_more_rows_than_programs(rms_norm_inputs: Callable[..., Inputs], run: Run, worst_error: Worst) -> None:
    inputs = rms_norm_inputs(259, 4)
    error, where = worst_error(run("rms_norm", "triton", inputs), run("rms_norm", "reference", inputs))
    assert error < 1e-5, where


@both_types
@pytest.mark.parametrize("n_tokens", [1, 2, 15, 16, 17, 33, 65])
def test_ssd_scan(ssd_inputs: Callable[..., Inputs], run: Run, worst_error: Worst, n_tokens: int, dtype: torch.dtype) -> None:
    inputs = ssd_inputs(2, n_tokens, 2, 1 + n_tokens % 2, dtype=dtype, packed=n_tokens % 3 != 0)
    options = {"chunk_size": 16}
    error, where = worst_error(run("ssd_scan", "triton", inputs, **options), run("ssd_scan", "reference", inputs, **options))
    assert error < LIMIT[dtype], where


@pytest.mark.parametrize(
    ("batch", "n_tokens", "chunk_size", "head_dim", "d_state", "options"),
    [
        (1, 257, 64, 16, 32, {"packed": True}),
        (1, 50, 64, 5, 40, {"initial": False}),  # a state wider than one slice, sizes that are no powers of two
        (2, 40, 12, 8, 16, {"skip": False, "packed": True}),
        (0, 5, 16, 8, 16, {"packed": True}),
    ],
)
def test_ssd_scan_of_other_sizes(
    ssd_inputs: Callable[..., Inputs],
    run: Run,
    worst_error: Worst,
    batch: int,
    n_tokens: int,
    chunk_size: int,
    head_dim: int,
    d_state: int,
    options: dict[str, bool],
) -> None:
    inputs = ssd_inputs(batch, n_tokens, 2, 1, head_dim, d_state, **options)
    inputs = {name: value for name, value in inputs.items() if value is not None}
    error, where = worst_error(run("ssd_scan", "triton", inputs, chunk_size=chunk_size), run("ssd_scan", "reference", inputs))
    assert error < 1e-5, where


def test_ssd_scan_with_very_large_steps(ssd_inputs: Callable[..., Inputs], run: Run, worst_error: Worst) -> None:
    inputs = ssd_inputs(1, 40, 2, 1)
    inputs["A_H"] = torch.tensor([-16.0, -1.0])
    inputs["dt_BTH"][:, 20] = 1e3
    precise = {name: value.double() if isinstance(value, Tensor) else value for name, value in inputs.items()}
    error, where = worst_error(run("ssd_scan", "triton", inputs), run("ssd_scan", "reference", precise))
    assert error < 1e-5, where
    inputs["dt_BTH"] = inputs["dt_BTH"] * 1e3 / inputs["dt_BTH"].max(dim=1, keepdim=True).values
    for name, value in run("ssd_scan", "triton", inputs).items():
        assert torch.isfinite(value).all(), name


def test_ssd_scan_refuses_what_does_not_fit(ssd_inputs: Callable[..., Inputs], run: Run) -> None:
    with pytest.raises(ValueError, match="chunk_size <= 128"):
        run("ssd_scan", "triton", ssd_inputs(1, 4, 1, 1), chunk_size=256)


@pytest.mark.parametrize(
    ("lengths", "n_bins"),
    [([0], 1), ([], 4), ([1, 0, 31, 32, 33, 100], 6), ([70, 3], 16), ([1, 40], 112), ([300, 0, 65], 192), ([600], 250)],
)
def test_similarity_sketch(sketch_inputs: Callable[..., Inputs], lengths: list[int], n_bins: int) -> None:
    inputs = sketch_inputs(lengths, n_bins)
    found = {}
    for backend in ("triton", "reference"):
        with use_backend(backend):
            found[backend] = similarity_sketch(**inputs).tolist()
    assert found["triton"] == found["reference"]


def test_the_largest_image_fills_its_bin(sketch_of_the_largest_image: tuple[Inputs, list[int]]) -> None:
    inputs, wanted = sketch_of_the_largest_image
    with use_backend("triton"):
        assert similarity_sketch(**inputs).tolist() == [wanted]


def test_two_runs_give_the_same_bits(ssd_inputs: Callable[..., Inputs], run: Run) -> None:
    for operator, inputs in (("ssd_scan", ssd_inputs(1, 40, 2, 1, packed=True)),):
        first, second = run(operator, "triton", inputs), run(operator, "triton", inputs)
        assert all(torch.equal(value, second[name]) for name, value in first.items())
