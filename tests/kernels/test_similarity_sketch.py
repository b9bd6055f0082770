"""Similarity sketches: the backends against Python's integers, each other and the compiled loop of `dedup`, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilth.errors import BackendError
from tilth.kernels import similarity_sketch, use_backend
from tilth.kernels.similarity_sketch import EMPTY, cpu

Inputs = dict[str, Any]
Make = Callable[..., Inputs]
REUSE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SIZES = [1, 6, 112, 192, 250]


def sketched(inputs: Inputs, backend: str) -> Any:
    with use_backend(backend):
        return similarity_sketch(**inputs).cpu().numpy()


def definition(inputs: Inputs) -> list[list[int]]:
    """The definition in Python's own integers."""
    values, bounds, maps, n_bins = (
        inputs["values_N"].tolist(),
        inputs["bounds"].tolist(),
        inputs["maps"].tolist(),
        inputs["n_bins"],
    )
    rows = []
    for begin, end in pairwise(bounds):
        kept: dict[int, int] = {}
        for turn, (factor, offset) in enumerate(maps):
            filled: dict[int, int] = {}
            for value in values[begin:end]:
                image = (factor * value + offset) % 2**64
                own = turn - n_bins if turn >= n_bins else image // 2**32 * n_bins // 2**32
                filled[own] = min(filled.get(own, 2**32), image % 2**32)
            kept = filled | kept
        rows.append([kept.get(own, EMPTY) for own in range(n_bins)])
    return rows


@REUSE
@given(lengths=st.lists(st.integers(0, 40), max_size=8), n_bins=st.integers(1, 12), seed=st.integers(0, 99))
def test_reference_and_cpu_are_the_definition(lengths: list[int], n_bins: int, seed: int, sketch_inputs: Make) -> None:
    inputs = sketch_inputs(lengths, n_bins, seed)
    wanted = definition(inputs)
    for backend in ("reference", "cpu"):
        found = sketched(inputs, backend)
        assert found.dtype == np.uint32
        assert found.shape == (len(lengths), n_bins)
        assert found.tolist() == wanted, backend


@pytest.mark.parametrize("n_bins", SIZES)
def test_the_operator_equals_the_loop_that_signs_on_a_cpu(n_bins: int, sketch_inputs: Make, poisoned_memory: None) -> None:
    from tilth.dedup.minhash.sketch import compute_sketches, maps  # not at the top: a GPU's machine need not have Numba

    inputs = sketch_inputs([0, 1, 2, 5, n_bins - 1, n_bins, 3000, 0, 64, 0], n_bins)
    for rounds in (inputs["maps"].numpy(), maps(7, n_bins)):
        inputs["maps"] = torch.from_numpy(rounds)
        wanted = compute_sketches(inputs["values_N"].numpy(), inputs["bounds"].numpy(), rounds, n_bins)
        for backend in ("reference", "cpu"):
            np.testing.assert_array_equal(sketched(inputs, backend), wanted)


@pytest.mark.parametrize("block", [1, 7, 300, 1 << 20])
@pytest.mark.parametrize("lengths", [[1000], [0, 0], [3, 700, 0, 1, 65, 64, 63] * 3, [1] * 500, [0, 5000, 1]])
def test_blocks_of_any_size_give_the_same_bits(
    lengths: Sequence[int], block: int, sketch_inputs: Make, monkeypatch: pytest.MonkeyPatch, poisoned_memory: None
) -> None:
    monkeypatch.setattr(cpu, "_BLOCK", block)
    inputs = sketch_inputs(lengths, 5)
    np.testing.assert_array_equal(sketched(inputs, "cpu"), sketched(inputs, "reference"))


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_the_largest_image_fills_its_bin(backend: str, sketch_of_the_largest_image: tuple[Inputs, list[int]]) -> None:
    inputs, wanted = sketch_of_the_largest_image
    assert sketched(inputs, backend).tolist() == [wanted]


@pytest.mark.parametrize(
    ("lengths", "n_bins"),
    [([0], 1), ([], 4), ([1, 0, 31, 32, 33, 100], 6), ([70, 3], 16), ([1, 40], 112), ([300, 0, 65], 192), ([600], 250)],
)
def test_the_kernel_equals_the_reference_in_the_interpreter(lengths: list[int], n_bins: int, sketch_inputs: Make) -> None:
    inputs = sketch_inputs(lengths, n_bins)
    assert sketched(inputs, "triton").tolist() == sketched(inputs, "reference").tolist()


def test_the_sketch_does_not_depend_on_order_or_repetition(sketch_inputs: Make) -> None:
    once = sketch_inputs([50], 16)
    again = {**once, "values_N": torch.cat([once["values_N"].view(torch.int64).flip(0)] * 2).view(torch.uint64)}
    again["bounds"] = torch.tensor([0, 100])
    assert similarity_sketch(**once).tolist() == similarity_sketch(**again).tolist()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore::UserWarning:torch.*")
def test_opcheck(backend: str, sketch_inputs: Make) -> None:
    values, bounds, maps, n_bins = sketch_inputs([3, 0, 9], 4).values()
    tensors = (values.view(torch.int64), bounds, maps.view(torch.int64))
    torch.library.opcheck(torch.ops.tilth.similarity_sketch.default, (*tensors, n_bins, backend))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_bins": 0}, "n_bins is 0; expected at least 1"),
        ({"n_bins": 3}, r"maps has shape \(8, 2\); expected \(6, 2\)"),
        ({"values_N": torch.zeros(12, dtype=torch.int64)}, "values_N is torch.int64"),
        ({"values_N": torch.zeros((3, 4), dtype=torch.uint64)}, "expected uint64 of one dimension"),
        ({"bounds": torch.tensor([0, 3], dtype=torch.int32)}, "bounds is torch.int32"),
        ({"bounds": torch.zeros(0, dtype=torch.int64)}, "expected int64"),
        ({"bounds": torch.tensor([0, 5, 3, 12])}, "never fall"),
        ({"bounds": torch.tensor([1, 3, 12])}, "begin with 0"),
        ({"bounds": torch.tensor([0, 3, 13])}, "end with 12"),
        ({"maps": torch.ones((8, 2), dtype=torch.int64)}, "maps is torch.int64; expected uint64"),
        ({"maps": torch.full((8, 2), 2).to(torch.uint64)}, "even factor"),
    ],
)
def test_inputs_that_do_not_fit(change: Inputs, message: str, sketch_inputs: Make) -> None:
    with pytest.raises(ValueError, match=message):
        similarity_sketch(**sketch_inputs([3, 0, 9], 4) | change)


def test_triton_does_not_run_on_the_cpu_by_itself(sketch_inputs: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match="cannot run on cpu"), use_backend("triton"):
        similarity_sketch(**sketch_inputs([3], 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("n_bins", [16, *SIZES])
def test_the_kernel_equals_the_cpu_path_on_a_gpu(n_bins: int, sketch_inputs: Make) -> None:
    inputs = sketch_inputs([300, 0, 1, 31, 32, 33, 5000] * 40, n_bins)
    on_gpu = {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    np.testing.assert_array_equal(sketched(on_gpu, "triton"), sketched(inputs, "cpu"))
