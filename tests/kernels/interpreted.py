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
    assert type(ssd_triton._walk_kernel).__name__ == "InterpretedFunction"


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
@pytest.mark.parametrize("n_tokens", [1, 2, 31, 32, 33, 65, 129])
def test_attention(
    attention_inputs: Callable[..., Inputs], run: Run, worst_error: Worst, n_tokens: int, dtype: torch.dtype
) -> None:
    causal, packed = n_tokens % 3 != 0, n_tokens % 2 == 1
    inputs = attention_inputs(2, n_tokens, n_tokens, 2, 1, 16, dtype=dtype, packed=packed)
    error, where = worst_error(
        run("attention", "triton", inputs, causal=causal), run("attention", "reference", inputs, causal=causal)
    )
    assert error < LIMIT[dtype], where


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("batch", "n_queries", "n_keys", "head_dim"), [(2, 1, 40, 8), (1, 37, 70, 20), (0, 3, 3, 8)])
def test_attention_with_fewer_queries_than_keys(
    attention_inputs: Callable[..., Inputs],
    run: Run,
    worst_error: Worst,
    batch: int,
    n_queries: int,
    n_keys: int,
    head_dim: int,
    causal: bool,
    packed: bool,
) -> None:
    inputs = attention_inputs(batch, n_queries, n_keys, 4, 2, head_dim, packed=packed)
    error, where = worst_error(
        run("attention", "triton", inputs, causal=causal), run("attention", "reference", inputs, causal=causal)
    )
    assert error < 1e-5, where


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


def test_two_runs_give_the_same_bits(
    ssd_inputs: Callable[..., Inputs], attention_inputs: Callable[..., Inputs], run: Run
) -> None:
    for operator, inputs in (
        ("ssd_scan", ssd_inputs(1, 40, 2, 1, packed=True)),
        ("attention", attention_inputs(1, 40, 40, 2, 1, 16, packed=True)),
    ):
        first, second = run(operator, "triton", inputs), run(operator, "triton", inputs)
        assert all(torch.equal(value, second[name]) for name, value in first.items())
