"""Each codec against the algebra of its error, its own file of parts, and NumPy's or torch's independent answer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tilth.deploy.codecs import CODECS, MatrixCodec, find_codec, parse_codec
from tilth.deploy.codecs.codec import Parts
from tilth.deploy.codecs.low_rank import leading_vectors
from tilth.errors import DeltaError

shapes = st.tuples(st.integers(1, 9), st.integers(1, 100))
seeds = st.integers(0, 2**31)
MATRICES = ["bitdelta", "rank1", "residual", "residual:3", "low-rank", "low-rank:2"]
ROWS = ["rows", "rows-int", "rows-sign"]


def difference(shape: tuple[int, int], seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    values[np.random.default_rng(seed + 1).random(shape) < 0.1] = 0.0
    return values


def matrix_codec(words: str) -> MatrixCodec:
    codec = parse_codec(words)
    assert isinstance(codec, MatrixCodec)
    return codec


@settings(max_examples=30, deadline=None)
@given(shapes, seeds)
def test_bitdelta_loses_what_theory_says_and_no_other_scale_does_better(shape: tuple[int, int], seed: int) -> None:
    values, codec = difference(shape, seed), matrix_codec("bitdelta")
    parts = codec.encode_difference(torch.from_numpy(values))
    exact = values.astype(np.float64)
    mean = np.abs(exact).mean()
    np.testing.assert_allclose(parts["scale"].item(), mean, rtol=1e-6)
    # |D - a S|^2 = |D|^2 - N K a^2 at a = mean |D|: the cross term is a sum of |D|
    error = ((exact - codec.decode(parts, shape).numpy()) ** 2).sum()
    np.testing.assert_allclose(error, (exact**2).sum() - exact.size * mean**2, rtol=1e-5, atol=1e-9)
    signs = np.where(exact >= 0, 1.0, -1.0)
    # a least-squares solver that knows nothing of the mean finds the same scale
    solved = np.linalg.lstsq(signs.reshape(-1, 1), exact.reshape(-1), rcond=None)[0][0]
    np.testing.assert_allclose(parts["scale"].item(), solved, rtol=1e-5, atol=1e-12)
    for other in (0.9 * mean, 1.1 * mean):
        assert ((exact - other * signs) ** 2).sum() >= error


@settings(max_examples=30, deadline=None)
@given(shapes, seeds)
def test_rank1_is_the_best_outer_product_of_the_magnitudes(shape: tuple[int, int], seed: int) -> None:
    values, codec = difference(shape, seed), matrix_codec("rank1")
    decoded = codec.decode(codec.encode_difference(torch.from_numpy(values)), shape).numpy().astype(np.float64)
    exact = values.astype(np.float64)
    np.testing.assert_array_equal(decoded[exact < 0] <= 0, True)
    np.testing.assert_array_equal(decoded[exact >= 0] >= 0, True)
    # Eckart-Young: the least error is what the other singular values of |D| hold; two power steps come within 2 %
    singular = np.linalg.svd(np.abs(exact), compute_uv=False)
    error, least = ((exact - decoded) ** 2).sum(), (singular[1:] ** 2).sum()
    assert least - 1e-6 <= error <= 1.02 * least + 2e-3 * singular[0] ** 2


def test_rank1_gives_back_what_is_signs_times_an_outer_product() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, columns = 0.1 + torch.rand(24, generator=generator), 0.1 + torch.rand(70, generator=generator)
    values = torch.randn(24, 70, generator=generator).sign() * rows[:, None] * columns * 1e-4
    codec = matrix_codec("rank1")
    decoded = codec.decode(codec.encode_difference(values), (24, 70))
    # the scales are fp16: two roundings of 2^-11
    torch.testing.assert_close(decoded, values, rtol=2**-10 + 1e-5, atol=0)


@settings(max_examples=20, deadline=None)
@given(shapes, seeds)
def test_each_residual_bit_loses_less(shape: tuple[int, int], seed: int) -> None:
    values = torch.from_numpy(difference(shape, seed))
    errors = []
    for n in (1, 2, 3, 4):
        codec = matrix_codec(f"residual:{n}")
        parts = codec.encode_difference(values)
        assert len(parts) == 4 * n
        errors.append((codec.decode(parts, shape) - values).square().sum().item())
    norm = values.square().sum().item()
    assert all(after <= before + 1e-5 * norm for before, after in itertools.pairwise(errors))
    one = matrix_codec("rank1")
    first = (one.decode(one.encode_difference(values), shape) - values).square().sum().item()
    assert errors[0] == pytest.approx(first, rel=1e-6, abs=1e-9)


def test_low_rank_keeps_the_largest_singular_values() -> None:
    values = torch.from_numpy(difference((30, 70), 3))
    codec = matrix_codec("low-rank:5")
    parts = codec.encode_difference(values)
    singular = np.linalg.svd(values.numpy().astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(parts["scale"].numpy(), singular[:5], rtol=1e-5)
    error = (codec.decode(parts, (30, 70)) - values).double().square().sum().item()
    assert error == pytest.approx((singular[5:] ** 2).sum(), rel=1e-3)


def test_low_rank_without_a_rank_costs_at_most_a_bit_a_weight() -> None:
    parts = matrix_codec("low-rank").encode_difference(torch.randn(300, 600, generator=torch.Generator().manual_seed(0)))
    assert parts["up"].nbytes + parts["down"].nbytes <= 300 * 600 / 8
    assert parts["scale"].shape == (300 * 600 // (16 * 900),)


def test_large_matrices_give_their_leading_vectors_without_a_whole_decomposition() -> None:
    generator = torch.Generator().manual_seed(1)
    wanted = torch.randn(700, 6, generator=generator) @ torch.randn(6, 600, generator=generator)
    noisy = wanted + 0.01 * torch.randn(700, 600, generator=generator)
    up, values, down = leading_vectors(noisy, 6)
    torch.testing.assert_close(values, torch.linalg.svdvals(noisy)[:6], rtol=1e-4, atol=0)
    assert ((up * values) @ down - wanted).norm() < 0.02 * wanted.norm()
    assert torch.equal(leading_vectors(noisy, 6)[0], up)


@pytest.mark.parametrize("words", MATRICES)
@settings(max_examples=15, deadline=None)
@given(shape=shapes, seed=seeds)
def test_parts_are_sound_and_scales_carry_gradients(words: str, shape: tuple[int, int], seed: int) -> None:
    codec = matrix_codec(words)
    values = torch.from_numpy(difference(shape, seed))
    parts = codec.encode_difference(values)
    assert codec.check(parts, shape, torch.float32) is None
    again = codec.encode_difference(values)
    assert all(torch.equal(again[name], part) for name, part in parts.items())
    scales = {name: parts[name].float().requires_grad_() for name in codec.scales(parts)}
    decoded = codec.decode(parts | scales, shape)
    torch.testing.assert_close(decoded.detach(), codec.decode(parts, shape), rtol=0, atol=0)
    # decode is linear in each scale, so the gradient times the scale is the decoded sum itself
    gradients = torch.autograd.grad(decoded.sum(), list(scales.values()))
    first = {name: (scales[name] * gradient).sum().item() for name, gradient in zip(scales, gradients, strict=True)}
    tensor_wise = sum(value for name, value in first.items() if name.partition(".")[0] == "scale")
    assert tensor_wise == pytest.approx(decoded.sum().item(), rel=1e-3, abs=1e-3)


def test_an_adapter_is_the_sum_of_its_bands() -> None:
    generator = torch.Generator().manual_seed(0)
    codec = find_codec("lora")
    assert isinstance(codec, MatrixCodec)
    parts: Parts = {
        "up.0": torch.randn(4, 2, generator=generator),
        "down.0": torch.randn(2, 6, generator=generator),
        "up.1": torch.randn(3, 1, generator=generator).bfloat16(),
        "down.1": torch.randn(1, 6, generator=generator).bfloat16(),
        "first_rows": torch.tensor([0, 7], dtype=torch.int32),
        "scale": torch.tensor([2.0, 0.5]),
    }
    assert codec.check(parts, (10, 6), torch.float32) is None
    wanted = torch.zeros(10, 6)
    wanted[:4] = 2 * parts["up.0"] @ parts["down.0"]
    wanted[7:] = 0.5 * parts["up.1"].float() @ parts["down.1"].float()
    torch.testing.assert_close(codec.decode(parts, (10, 6)), wanted)
    assert "outside its rows" in (codec.check(parts, (9, 6), torch.float32) or "")
    assert "outside its rows" in (codec.check(parts | {"first_rows": parts["first_rows"].flip(0)}, (10, 6), torch.float32) or "")
    assert "no whole band" in (codec.check({n: p for n, p in parts.items() if n != "down.1"}, (10, 6), torch.float32) or "")
    with pytest.raises(DeltaError, match="as they were trained"):
        codec.encode_difference(wanted)


def table(dtype: torch.dtype, seed: int, n_rows: int = 11, n_columns: int = 37) -> tuple[Tensor, Tensor]:
    """A table, and one of which a third of the rows changed."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(n_rows, n_columns, generator=generator)
    change = 0.01 * torch.randn(n_rows, n_columns, generator=generator)
    change[torch.arange(n_rows) % 3 != 1] = 0
    return base.to(dtype), (base + change).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("words", "bits"), [("rows", 16), ("rows-int", 8), ("rows-int", 4), ("rows-sign", 1)])
@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_rows_that_did_not_change_cost_nothing_and_stay(words: str, bits: int, dtype: torch.dtype, seed: int) -> None:
    codec = type(CODECS[words])(bits) if words == "rows-int" else CODECS[words]  # type: ignore[call-arg]
    base, tuned = table(dtype, seed)
    parts = codec.encode(base, tuned)
    assert codec.check(parts, tuple(base.shape), dtype) is None
    assert parts["rows"].tolist() == [1, 4, 7, 10]
    rebuilt = codec.rebuild(parts, base)
    same = torch.arange(11) % 3 != 1
    assert torch.equal(rebuilt[same], base[same])
    assert sum(part.nbytes for part in parts.values()) <= 4 * (37 * bits / 8 + 4 + 4 + 16) + 2 * 37 + 4
    wanted, found = (t.double() - base.double() for t in (tuned, rebuilt))
    # half a step of each code, and half a step of the sum's own type
    half_a_step = torch.finfo(dtype).eps * base.double().abs().max()
    largest = {16: 2**-8, 8: 0.5 / 127, 4: 1.0, 1: 3.0}[bits] * wanted.abs().max()
    assert ((found - wanted).abs() <= largest + half_a_step).all()
    if bits == 16 and dtype != torch.float32:
        assert torch.equal(rebuilt, tuned)
    if dtype == torch.float32:
        assert (found - wanted).norm() <= {16: 2**-8, 8: 0.01, 4: 0.2, 1: 0.8}[bits] * wanted.norm()


def test_whole_is_bit_for_bit() -> None:
    base, tuned = torch.zeros(3), torch.tensor([-0.0, 1e-45, 3.0])
    codec = find_codec("whole")
    parts = codec.encode(base, tuned)
    assert codec.rebuild(parts, base).numpy().tobytes() == tuned.numpy().tobytes()
    assert "has a values float32 (3,) instead of float64 (3,)" in (codec.check(parts, (3,), torch.float64) or "")


WRONG = [
    ("scale", torch.tensor(float("nan")), "scale that is not finite"),
    ("scale", torch.tensor(float("-inf")), "scale that is not finite"),
    ("scale", torch.ones(1), "instead of float32 ()"),
    ("scale", torch.tensor(1.0, dtype=torch.float64), "instead of float32 ()"),
    ("signs", torch.zeros(2, 4, dtype=torch.int32), "instead of int32 (2, 3)"),
    ("signs", torch.zeros(2, 3, dtype=torch.int64), "instead of int32"),
    ("signs", torch.full((2, 3), 1 << 8, dtype=torch.int32), "past its last input"),
    ("row_scale", torch.full((3,), float("inf"), dtype=torch.float16), "row_scale that is not finite"),
    ("row_scale", torch.ones(4, dtype=torch.float16), "instead of float16 or float32 (3,)"),
    ("column_scale", torch.full((40,), float("nan")), "column_scale that is not finite"),
    ("column_scale", torch.ones(40, dtype=torch.bfloat16), "instead of float16 or float32"),
    ("extra", torch.zeros(1), "has the parts"),
]


@pytest.mark.parametrize(("name", "value", "words"), WRONG)
def test_parts_that_do_not_fit_are_named(name: str, value: Tensor, words: str) -> None:
    shape = (3, 40)
    parts = matrix_codec("rank1").encode_difference(torch.from_numpy(difference(shape, 1)))
    assert words in (matrix_codec("rank1").check(parts | {name: value}, shape, torch.float32) or "")
    # the same mistake in a level of a residual
    levels = {f"{part}.0": tensor for part, tensor in (parts | {name: value}).items()}
    assert words.removeprefix("has the parts") in (matrix_codec("residual").check(levels, shape, torch.float32) or "")


@pytest.mark.parametrize("words", MATRICES)
@pytest.mark.parametrize("shape", [(), (40,), (3, 0), (3, 40, 1), (4, 40), (3, 41), (-3, 40)])
def test_parts_of_another_shape_are_refused(words: str, shape: tuple[int, ...]) -> None:
    codec = matrix_codec(words)
    parts = codec.encode_difference(torch.from_numpy(difference((3, 40), 1)))
    if shape == (3, 41) and words == "bitdelta":
        # 41 inputs fit the same words: what tells them apart is the base
        assert codec.check(parts, shape, torch.float32) is None
    else:
        assert codec.check(parts, shape, torch.float32) is not None
    assert codec.check({}, (3, 40), torch.float32) is not None


def forged(**changes: Tensor) -> Parts:
    """Parts of an adapter for a (3, 40) matrix."""
    parts = {"first_rows": torch.zeros(1, dtype=torch.int32), "scale": torch.ones(1)}
    return parts | {"up.0": torch.ones(2, 1), "down.0": torch.ones(1, 40)} | changes


EMPTY: dict[str, tuple[str, Parts, str]] = {
    "no band": ("lora", {"first_rows": torch.zeros(0, dtype=torch.int32), "scale": torch.zeros(0)}, "no band"),
    "an adapter of rank 0": ("lora", forged(**{"up.0": torch.zeros(2, 0), "down.0": torch.zeros(0, 40)}), "of rank 0"),
    "a band of no row": ("lora", forged(**{"up.0": torch.zeros(0, 1)}), "without a row"),
    "rank 0": ("low-rank", {"up": torch.zeros(3, 0).half(), "down": torch.zeros(0, 40).half(), "scale": torch.ones(0)}, "rank 0"),
}


@pytest.mark.parametrize(("words", "parts", "said"), EMPTY.values(), ids=EMPTY)
def test_products_of_nothing_are_refused(words: str, parts: Parts, said: str) -> None:
    assert CODECS["lora"].check(forged(), (3, 40), torch.float32) is None
    assert said in (CODECS[words].check(parts, (3, 40), torch.float32) or "")


HUGE: dict[str, tuple[str, dict[str, Tensor]]] = {
    "rank1": ("rank1", {"scale": torch.tensor(3e38), "row_scale": torch.full((3,), 1e10)}),
    "rank1, rows and columns": ("rank1", {"row_scale": torch.full((3,), 1e20), "column_scale": torch.full((40,), -1e20)}),
    "low-rank": ("low-rank", {"scale": torch.tensor([3e38]), "up": torch.full((3, 1), 6e4).half()}),
    "lora": ("lora", forged(**{"up.0": torch.full((2, 1), 1e20), "down.0": torch.full((1, 40), 1e20)})),
    "lora, undone by a small one": ("lora", forged(**{"scale": torch.tensor([3e38]), "up.0": torch.full((2, 1), 1e10)})),
    "rows-int": ("rows-int", {"row_scale": torch.full((4,), 3e38)}),
    "rows-sign": ("rows-sign", {"scale": torch.tensor(3e38), "row_scale": torch.full((4,), 1e10)}),
}


@pytest.mark.parametrize(("words", "changes"), HUGE.values(), ids=HUGE)
def test_finite_parts_whose_product_is_not_are_refused(words: str, changes: dict[str, Tensor]) -> None:
    codec = CODECS[words]
    if words in ROWS:
        shape, parts = (11, 37), codec.encode(*table(torch.float32, 0))
    else:
        shape = (3, 40)
        parts = forged() if words == "lora" else matrix_codec(words).encode_difference(torch.from_numpy(difference(shape, 1)))
    assert codec.check(parts, shape, torch.float32) is None
    assert "product is not finite" in (codec.check(parts | changes, shape, torch.float32) or "")


@pytest.mark.parametrize("words", ROWS)
@pytest.mark.parametrize("rows", [[], [1, 1, 4, 7], [4, 1, 7, 10], [-1, 1, 4, 7], [1, 4, 7, 11]])
def test_rows_that_are_none_are_refused(words: str, rows: list[int]) -> None:
    base, tuned = table(torch.float32, 0)
    parts = CODECS[words].encode(base, tuned)
    assert CODECS[words].check(parts | {"rows": torch.tensor(rows, dtype=torch.int32)}, (11, 37), torch.float32) is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("bitdelto", "Did you mean `bitdelta`"),
        ("rows", "no codec of matrices"),
        ("lora", "no codec of matrices"),
        ("rank1:2", "codec rank1 has no `:2`"),
        ("residual:0", "does not say how many"),
        ("residual:", "does not say how many"),
        ("residual:two", "does not say how many"),
        ("low-rank:-1", "does not say how many"),
    ],
)
def test_words_that_are_no_codec_are_refused(words: str, said: str) -> None:
    with pytest.raises(DeltaError, match=said):
        parse_codec(words)


def test_an_unknown_name_or_version_is_refused() -> None:
    with pytest.raises(DeltaError, match="no codec is called 'gptq'"):
        find_codec("gptq")
    with pytest.raises(DeltaError, match="has version 1 here, and the delta was made by version 2"):
        find_codec("rank1", 2)
