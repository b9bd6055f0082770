"""The one-bit code against NumPy's own bit unpacking and against the algebra of the L2 norm."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.deploy.signs import check_signs, decode_signs, encode_signs, n_words, pack_signs, unpack_signs

shapes = st.tuples(st.integers(1, 9), st.integers(1, 100))


def difference(shape: tuple[int, int], seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    values[np.random.default_rng(seed + 1).random(shape) < 0.1] = 0.0
    return values


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 2**31))
def test_packing_agrees_with_numpy_unpackbits(shape: tuple[int, int], seed: int) -> None:
    values = difference(shape, seed)
    words = pack_signs(torch.from_numpy(values))
    assert words.dtype == torch.int32
    assert words.shape == (-(-shape[1] // 32), shape[0])
    # a column of words, read as little-endian bytes, is the row's bits from the first input on
    row_bytes = np.ascontiguousarray(words.numpy().T).astype("<i4").view(np.uint8)
    bits = np.unpackbits(row_bytes, axis=1, bitorder="little")
    np.testing.assert_array_equal(bits[:, : shape[1]], values >= 0)
    assert not bits[:, shape[1] :].any()
    np.testing.assert_array_equal(unpack_signs(words, shape[1]).numpy(), np.where(values >= 0, 1.0, -1.0))


def test_words_are_contiguous_in_the_outputs_and_bits_run_from_the_lowest() -> None:
    values = -torch.ones(3, 64)
    values[1, 0] = values[2, 33] = 1.0
    words = pack_signs(values)
    assert words.tolist() == [[0, 1, 0], [0, 0, 2]]
    assert words.stride() == (3, 1)
    values[0, 31] = 1.0
    assert pack_signs(values)[0, 0] == -(2**31)


def test_both_zeros_count_as_positive() -> None:
    assert pack_signs(torch.tensor([[0.0, -0.0, -1.0, 1.0]])).item() == 0b1011


@settings(max_examples=30, deadline=None)
@given(shapes, st.integers(0, 2**31))
def test_the_error_is_what_theory_says_and_no_other_scale_does_better(shape: tuple[int, int], seed: int) -> None:
    values = difference(shape, seed)
    parts = encode_signs(torch.from_numpy(values))
    exact = values.astype(np.float64)
    mean = np.abs(exact).mean()
    np.testing.assert_allclose(parts["scale"].item(), mean, rtol=1e-6)
    # |D - a S|^2 = |D|^2 - N K a^2 at a = mean |D|: the cross term is a sum of |D|
    error = ((exact - decode_signs(parts, shape).numpy()) ** 2).sum()
    np.testing.assert_allclose(error, (exact**2).sum() - exact.size * mean**2, rtol=1e-5, atol=1e-9)
    signs = np.where(exact >= 0, 1.0, -1.0)
    # a least-squares solver that knows nothing of the mean finds the same scale
    solved = np.linalg.lstsq(signs.reshape(-1, 1), exact.reshape(-1), rcond=None)[0][0]
    np.testing.assert_allclose(parts["scale"].item(), solved, rtol=1e-5, atol=1e-12)
    for other in (0.9 * mean, 1.1 * mean):
        assert ((exact - other * signs) ** 2).sum() >= error


def test_the_scale_learns_the_gradient_of_its_signs() -> None:
    parts = encode_signs(torch.tensor([[1.0, -2.0, 3.0]]))
    parts["scale"].requires_grad_()
    (decode_signs(parts, (1, 3)) * torch.tensor([[10.0, 1.0, 5.0]])).sum().backward()
    assert parts["scale"].grad.item() == 10 - 1 + 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scale": torch.tensor(float("nan"))}, "scale nan"),
        ({"scale": torch.tensor(float("-inf"))}, "scale -inf"),
        ({"scale": torch.ones(1)}, "one fp32 number"),
        ({"scale": torch.tensor(1.0, dtype=torch.float64)}, "one fp32 number"),
        ({"signs": torch.zeros(2, 4, dtype=torch.int32)}, r"instead of int32 \(2, 3\)"),
        ({"signs": torch.zeros(2, 3, dtype=torch.int64)}, "instead of int32"),
        ({"signs": torch.full((2, 3), 1 << 8, dtype=torch.int32)}, "past its last input"),
        ({"signs": torch.full((2, 3), -(1 << 31), dtype=torch.int32)}, "past its last input"),
        ({"extra": torch.zeros(1)}, "instead of scale and signs"),
    ],
)
def test_parts_that_do_not_fit_are_named(change: dict[str, torch.Tensor], words: str) -> None:
    shape = (3, 40)
    parts = encode_signs(torch.from_numpy(difference(shape, 1)))
    assert check_signs(parts, shape) is None
    problem = check_signs(parts | change, shape)
    assert problem is not None
    assert re.search(words, problem)


def test_full_words_have_no_padding_to_check() -> None:
    parts = encode_signs(torch.ones(2, 64))
    assert (parts["signs"] == -1).all()
    assert n_words(64) == 2
    assert check_signs(parts, (2, 64)) is None
