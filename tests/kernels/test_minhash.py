"""MinHash: the reference against Python's integers, the CPU path against the reference, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tilth.errors import BackendError
from tilth.kernels import minhash, use_backend
from tilth.kernels.minhash import EMPTY, cpu

Inputs = dict[str, Any]
Make = Callable[..., Inputs]
REUSE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def signed(inputs: Inputs, backend: str) -> Tensor:
    with use_backend(backend):
        return minhash(**inputs)


def plain(inputs: Inputs) -> list[list[int]]:
    """The definition in Python's own integers."""
    values, bounds, factors, offsets = (inputs[name].tolist() for name in ("values_N", "bounds", "factors_P", "offsets_P"))
    return [
        [min(((f * v + o) % 2**32 for v in values[begin:end]), default=EMPTY) for f, o in zip(factors, offsets, strict=True)]
        for begin, end in pairwise(bounds)
    ]


@REUSE
@given(lengths=st.lists(st.integers(0, 40), max_size=12), n_maps=st.integers(0, 9), seed=st.integers(0, 99))
def test_reference_and_cpu_are_the_definition(lengths: list[int], n_maps: int, seed: int, minhash_inputs: Make) -> None:
    inputs = minhash_inputs(lengths, n_maps, seed)
    wanted = plain(inputs)
    for backend in ("reference", "cpu"):
        found = signed(inputs, backend)
        assert found.dtype == torch.uint32
        assert found.shape == (len(lengths), n_maps)
        assert found.tolist() == wanted, backend


@pytest.mark.parametrize("block", [1, 7, 300, 1 << 20])
@pytest.mark.parametrize("lengths", [[1000], [0, 0], [3, 700, 0, 1, 65, 64, 63] * 3, [1] * 500, [0, 5000, 1]])
def test_blocks_of_any_size_give_the_same_bits(
    lengths: Sequence[int], block: int, minhash_inputs: Make, monkeypatch: pytest.MonkeyPatch, poisoned_memory: None
) -> None:
    monkeypatch.setattr(cpu, "_BLOCK", block)
    inputs = minhash_inputs(lengths, 5)
    np.testing.assert_array_equal(signed(inputs, "cpu").numpy(), signed(inputs, "reference").numpy())


def test_the_minimum_does_not_depend_on_order_or_repetition(minhash_inputs: Make) -> None:
    once = minhash_inputs([50], 16)
    again = {**once, "values_N": torch.cat([once["values_N"].view(torch.int32).flip(0)] * 2).view(torch.uint32)}
    again["bounds"] = torch.tensor([0, 100])
    assert minhash(**once).tolist() == minhash(**again).tolist()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore::UserWarning:torch.*")
def test_opcheck(backend: str, minhash_inputs: Make) -> None:
    inputs = minhash_inputs([3, 0, 9], 4)
    tensors = [inputs[name].view(torch.int32) if name != "bounds" else inputs[name] for name in inputs]
    torch.library.opcheck(torch.ops.tilth.minhash.default, (*tensors, backend))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values_N": torch.zeros(12, dtype=torch.int64)}, "values_N is torch.int64"),
        ({"bounds": torch.tensor([0, 3], dtype=torch.int32)}, "bounds is torch.int32"),
        ({"bounds": torch.zeros(0, dtype=torch.int64)}, "expected int64"),
        ({"bounds": torch.tensor([0, 5, 3, 12])}, "never fall"),
        ({"bounds": torch.tensor([1, 3, 12])}, "begin with 0"),
        ({"bounds": torch.tensor([0, 3, 13])}, "end with 12"),
        ({"factors_P": torch.tensor([1, 3, 5, 6]).to(torch.uint32)}, "even factor"),
        ({"offsets_P": torch.tensor([1, 3]).to(torch.uint32)}, "offsets_P has shape"),
    ],
)
def test_inputs_that_do_not_fit(change: Inputs, message: str, minhash_inputs: Make) -> None:
    with pytest.raises(ValueError, match=message):
        minhash(**minhash_inputs([3, 0, 9], 4) | change)


def test_triton_does_not_run_on_the_cpu_by_itself(minhash_inputs: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match="cannot run on cpu"), use_backend("triton"):
        minhash(**minhash_inputs([3], 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("n_maps", [1, 16, 100, 128, 256])
def test_the_kernel_equals_the_cpu_path_on_a_gpu(n_maps: int, minhash_inputs: Make) -> None:
    inputs = minhash_inputs([300, 0, 1, 31, 32, 33, 5000] * 40, n_maps)
    found = minhash(**{name: tensor.cuda() for name, tensor in inputs.items()}).cpu()
    np.testing.assert_array_equal(found.numpy(), signed(inputs, "cpu").numpy())
