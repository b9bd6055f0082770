"""The packed bits against NumPy's own bit unpacking."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.deploy.signs import check_padding, n_words, pack_signs, unpack_signs

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


def test_bits_past_the_last_input_are_found() -> None:
    words = pack_signs(torch.ones(3, 40))
    assert check_padding(words, 40) is None
    for stray in (1 << 8, -(1 << 31)):
        assert "past its last input" in (check_padding(words | torch.tensor([[0], [stray]], dtype=torch.int32), 40) or "")


def test_full_words_have_no_padding_to_check() -> None:
    words = pack_signs(torch.ones(2, 64))
    assert (words == -1).all()
    assert n_words(64) == 2
    assert check_padding(words, 64) is None
