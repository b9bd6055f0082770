"""attention_fp8 and quantize_blocks: roundings within half a step, the rule of accuracy, and the error that its paper reports."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tilth.errors import BackendError
from tilth.kernels import attention, attention_fp8, attention_fp8_blocks, quantize_blocks, use_backend
from tilth.kernels.attention_fp8.blocks import default_signs, dequantize_blocks, hadamard_matrix, rotated
from tilth.kernels.attention_fp8.error import fp8_errors, with_outliers
from tilth.kernels.backend import compiling_for, computing_in

BACKENDS = ("reference", "cpu", "triton")
Inputs = dict[str, Any]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def values(n_queries: int, n_keys: int, heads: int = 2, groups: int = 1, head_dim: int = 64, n_batch: int = 1) -> Inputs:
    """Scores of about 2 in size, so that some weights are large and some small; a few rows of other sizes."""
    q = 2 * normal(n_batch, n_queries, heads, head_dim)
    k, v = (normal(n_batch, n_keys, groups, head_dim, seed=seed) for seed in (1, 2))
    v[:, ::40] *= 10
    return {"q_BTHD": q, "k_BTGD": k, "v_BTGD": v}


def blocks(inputs: Inputs, block_size: int, backend: str = "reference") -> Inputs:
    q, k = (quantize_blocks(inputs[name], block_size=block_size, hadamard=True, backend=backend) for name in ("q_BTHD", "k_BTGD"))
    v = quantize_blocks(inputs["v_BTGD"], block_size=block_size, tokens_last=True, backend=backend)
    names = ("q8_BTHD", "q_scales_BNH", "k8_BTGD", "k_scales_BNG", "v8_BTGD", "v_scales_BNG")
    return dict(zip(names, (*q, *k, *v), strict=True)) | {"block_size": block_size}


def rms(difference: Tensor) -> float:
    return difference.double().square().mean().sqrt().item()


@pytest.mark.parametrize("size", [64, 128, 256])
def test_rotation_is_orthogonal_and_leaves_products(size: int) -> None:
    bits = np.array([[(i & j).bit_count() for j in range(size)] for i in range(size)])
    assert torch.equal(hadamard_matrix(size), torch.from_numpy((-1.0) ** bits).float())
    assert default_signs(size).abs().eq(1).all()
    assert size / 4 < default_signs(size).eq(1).sum() < 3 * size / 4
    q, k = (normal(1, 5, 2, size, seed=seed, dtype=torch.float64) for seed in (0, 1))
    turned_q, turned_k = (rotated(x, True, None, torch.float64) for x in (q, k))
    product = torch.einsum("bthd,bshd->bhts", turned_q, turned_k)
    torch.testing.assert_close(product, torch.einsum("bthd,bshd->bhts", q, k))
    outlier = torch.zeros(1, 1, 1, size)
    outlier[..., 3] = 100.0
    torch.testing.assert_close(rotated(outlier, True, None, torch.float32).abs(), torch.full((1, 1, 1, size), 100 / size**0.5))


@pytest.mark.parametrize("hadamard", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("sizes", "block_size", "dtype"),
    [
        ((2, 70, 2, 64), 32, torch.float32),
        ((1, 129, 1, 128), 128, torch.float16),
        ((1, 65, 2, 256), 64, torch.float32),
        ((1, 1, 1, 64), 64, torch.float16),
    ],
)
def test_rounds_to_half_a_step(
    poisoned_memory: None, sizes: tuple[int, ...], block_size: int, dtype: torch.dtype, backend: str, hadamard: bool
) -> None:
    x = normal(*sizes, dtype=dtype) * torch.logspace(-3, 3, sizes[1])[None, :, None, None].to(dtype)
    x8, scales = quantize_blocks(x, block_size=block_size, hadamard=hadamard, tokens_last=not hadamard, backend=backend)
    exact = rotated(x, hadamard, None, torch.float64)
    for n in range(scales.shape[1]):
        rows = slice(n * block_size, (n + 1) * block_size)
        torch.testing.assert_close(scales[:, n].double() * 448, exact[:, rows].abs().amax((1, 3)), rtol=1e-6, atol=0)
    error = (dequantize_blocks(x8, scales, block_size, torch.float64) - exact).abs()
    scale_of_rows = scales.double().repeat_interleave(block_size, dim=1)[:, : sizes[1], :, None]
    # Three bits behind the first one, and steps of 2**-9 below the normal numbers.
    half_step = torch.maximum(exact.abs() / 16, scale_of_rows * 2**-10)
    assert (error <= half_step * (1 + 1e-5)).all()
    assert rms(error / exact.abs().clamp(min=1e-9)) > 0.01, "nothing was rounded"
    assert x8.stride(1 if not hadamard else 3) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_e4m3_holds_is_kept(backend: str) -> None:
    """All its values, to the smallest below the normal ones, in a block whose scale is 1; blocks of zeros; given signs."""
    held = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    held = held[held.isfinite()]
    x = torch.nn.functional.pad(held, (0, 256 - len(held))).view(1, 4, 1, 64)
    x8, scales = quantize_blocks(x, block_size=32, backend=backend)
    assert scales.item() == 1
    assert torch.equal(x8.float(), x)
    x8, scales = quantize_blocks(torch.zeros(1, 4, 1, 64), block_size=32, hadamard=True, backend=backend)
    assert not x8.float().any()
    assert 0 < scales.item() < 1e-30
    signs = torch.ones(64).index_fill_(0, torch.tensor([1, 5]), -1.0)
    once = torch.zeros(1, 1, 1, 64)
    once[..., 5] = 8.0
    x8, scales = quantize_blocks(once, block_size=32, hadamard=True, signs_D=signs, backend=backend)
    torch.testing.assert_close(dequantize_blocks(x8, scales, 32)[0, 0, 0], -hadamard_matrix(64)[5])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_any_size_is_quantised(backend: str, size: float) -> None:
    x = normal(1, 40, 1, 64)
    x8, scales = quantize_blocks(x * size, block_size=32, backend=backend)
    same, _ = quantize_blocks(x, block_size=32, backend=backend)
    differs = x8.float() != same.float()
    assert differs.float().mean() < 0.01, "the scale takes the size away, but for ties"
    assert scales.isfinite().all()


CASES: dict[str, tuple[tuple[int, ...], int, dict[str, Any]]] = {
    "causal": ((70, 70, 4, 2, 64), 32, {}),
    "all": ((33, 130, 2, 2, 64), 64, {"causal": False}),
    "window": ((150, 150, 2, 1, 64), 32, {"window": 20}),
    "wide window": ((257, 257, 1, 1, 64), 32, {"window": 180}),
    "two-sided window": ((70, 70, 2, 1, 64), 64, {"causal": False, "window": (10, 3)}),
    "head of 128": ((40, 200, 2, 1, 128), 128, {"scale": 0.05}),
    "head of 256": ((20, 100, 1, 1, 256), 64, {}),
    "one token": ((1, 1, 2, 1, 64), 128, {}),
    "one query": ((1, 257, 2, 1, 64), 128, {}),
    "batch": ((20, 40, 2, 2, 64, 2), 32, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_reference_equals_torch_on_what_the_blocks_stand_for(name: str) -> None:
    sizes, block_size, options = CASES[name]
    made = blocks(values(*sizes), block_size)
    with computing_in(torch.float64):
        found = attention_fp8_blocks(**made, **options, dtype=torch.float64, backend="reference")
    q, k, v = (
        dequantize_blocks(made[x8], made[scales], block_size, torch.float64).transpose(1, 2)
        for x8, scales in (("q8_BTHD", "q_scales_BNH"), ("k8_BTGD", "k_scales_BNG"), ("v8_BTGD", "v_scales_BNG"))
    )
    place = torch.arange(k.shape[2] - q.shape[2], k.shape[2])[:, None] - torch.arange(k.shape[2])
    seen = place >= 0 if options.get("causal", True) else torch.ones_like(place, dtype=torch.bool)
    if window := options.get("window"):
        left, right = (window, 0) if isinstance(window, int) else window
        seen &= (place <= left) & (place >= -right)
    scale = options.get("scale")
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=True)
    torch.testing.assert_close(found, expected.transpose(1, 2))


def errors(made: Inputs, backend: str, dtype: torch.dtype, **options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the error of the output of `backend` and that of rounding the weights alone, and the same of the log-sum-exp."""
    with computing_in(torch.float64):
        truth = attention_fp8_blocks(**made, **options, dtype=torch.float64, return_lse=True, backend="reference")
    with computing_in(torch.float8_e4m3fn):
        plain = attention_fp8_blocks(**made, **options, dtype=dtype, return_lse=True, backend="reference")
    found = attention_fp8_blocks(**made, **options, dtype=dtype, return_lse=True, backend=backend)
    assert found[0].dtype == dtype
    assert found[0].is_contiguous()
    (o, lse), (plain_o, plain_lse) = ([x.double() - y for x, y in zip(pair, truth, strict=True)] for pair in (found, plain))
    return o, plain_o, lse, plain_lse


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        ("cpu", torch.float32),
        ("cpu", torch.bfloat16),
        ("cpu", torch.float16),
        ("triton", torch.float32),
        ("triton", torch.float16),
    ],
    ids=str,
)
def test_keeps_to_the_rule(poisoned_memory: None, name: str, backend: str, dtype: torch.dtype) -> None:
    """At most twice the error of weights in e4m3 and two ulps; on average no larger than theirs; the log-sum-exp as in float32."""
    sizes, block_size, options = CASES[name]
    o, plain_o, lse, plain_lse = errors(blocks(values(*sizes), block_size), backend, dtype, **options)
    ulp = 4 * torch.finfo(dtype).eps
    assert o.abs().max() <= 2 * plain_o.abs().max() + 2 * ulp
    assert rms(o) <= 1.1 * rms(plain_o) + ulp
    assert lse.abs().max() <= 2 * plain_lse.abs().max() + 2e-6


@pytest.mark.parametrize(("backend", "lengths"), [("cpu", range(1, 258, 3)), ("triton", (1, 2, 31, 33, 127, 128, 129, 255))])
def test_every_length(poisoned_memory: None, backend: str, lengths: Any) -> None:
    for length in lengths:
        o, plain_o, *_ = errors(blocks(values(length, length, 1, 1), 64), backend, torch.float32)
        assert rms(o) <= 1.1 * rms(plain_o) + 1e-6, length


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_whole_operator_equals_its_parts(poisoned_memory: None, backend: str) -> None:
    inputs = values(70, 100, 4, 2)
    made = blocks(inputs, 64, backend)
    found = attention_fp8(**inputs, block_size=64, return_lse=True, backend=backend)
    expected = attention_fp8_blocks(**made, dtype=torch.float32, return_lse=True, backend=backend)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    again = attention_fp8(**inputs, block_size=64, return_lse=True, backend=backend)
    assert all(torch.equal(x, y) for x, y in zip(found, again, strict=True))
    truth = attention(**inputs)
    assert 0.01 < rms(found[0] - truth) / rms(truth) < 0.12
    without = attention_fp8(**inputs, block_size=64, hadamard=False, backend=backend)
    assert not torch.equal(without, found[0])
    assert rms(without - truth) / rms(truth) < 0.12
    with_d_last = attention_fp8_blocks(
        **(made | {"v8_BTGD": made["v8_BTGD"].clone(memory_format=torch.contiguous_format)}), dtype=torch.float32, backend=backend
    )
    assert torch.equal(with_d_last, found[0])


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_inputs_with_strides(backend: str) -> None:
    inputs = values(40, 50, 2, 2)
    strided = {name: value.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0) for name, value in inputs.items()}
    assert torch.equal(attention_fp8(**strided, backend=backend), attention_fp8(**inputs, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_queries_without_keys_give_zeros(poisoned_memory: None, backend: str) -> None:
    o, lse = attention_fp8(**values(50, 40), return_lse=True, backend=backend)
    assert not o[:, :10].any()
    assert lse[:, :, :10].eq(-math.inf).all()
    assert lse[:, :, 10:].isfinite().all()
    o, lse = attention_fp8(**values(3, 0), return_lse=True, backend=backend)
    assert not o.any()
    assert lse.eq(-math.inf).all()
    assert attention_fp8(**values(0, 3), backend=backend).shape == (1, 0, 2, 64)
    assert attention_fp8(**values(3, 3, n_batch=0), backend=backend).shape == (0, 3, 2, 64)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_large_and_small_blocks_beside_each_other(backend: str) -> None:
    """Sizes of values that differ by 1e20 between blocks, scores that leave one key, and scores of 0."""
    inputs = values(40, 128)
    inputs["v_BTGD"][:, 32:64] *= 1e20
    inputs["q_BTHD"][:, :10] *= 1e3
    inputs["q_BTHD"][:, 10:20] = 0.0
    o, plain_o, lse, plain_lse = errors(blocks(inputs, 32), backend, torch.float32, causal=False)
    assert o.isfinite().all()
    assert o.abs().max() <= 2 * plain_o.abs().max()
    assert lse.abs().max() <= 2 * plain_lse.abs().max() + 2e-6


def test_error_is_two_fifths_of_that_with_one_scale_a_tensor() -> None:
    """The paper's data at the size of our benchmarks, 16k keys of D = 128. Its table: 9.1e-3 beside 2.4e-2, 0.38.

    Few rows make most of the error, so the ratio differs between draws: 0.31 to 0.39 in the first four seeds.
    """
    generator = torch.Generator().manual_seed(0)
    q = with_outliers(1, 512, 4, 128, generator=generator)
    k, v = (with_outliers(1, 16_384, 4, 128, generator=generator) for _ in range(2))
    ours, one_scale = fp8_errors(q, k, v)
    assert ours <= 0.40 * one_scale
    assert 0.004 < ours < 0.02, "the size of the error that the paper reports"


@pytest.mark.parametrize("backend", BACKENDS)
def test_custom_operators_are_sound(backend: str) -> None:
    """The check of the schema adds up its tensors, which torch cannot in e4m3: it runs where float64 may stand for it."""
    inputs = values(20, 40)
    made = blocks(inputs, 32)
    names = ("q8_BTHD", "k8_BTGD", "v8_BTGD", "q_scales_BNH", "k_scales_BNG", "v_scales_BNG")
    checks = ("test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    options = (32, -1, 0, 0.1, torch.float32)
    torch.library.opcheck(torch.ops.tilth.attention_fp8, (*(made[name] for name in names), *options, backend), test_utils=checks)
    doubles = (made[name].double() for name in names)
    torch.library.opcheck(torch.ops.tilth.attention_fp8, (*doubles, *options, "reference"))
    for hadamard in (False, True):
        arguments = (inputs["k_BTGD"], 32, hadamard, None, not hadamard, backend)
        torch.library.opcheck(torch.ops.tilth.quantize_blocks, arguments, test_utils=checks)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_compiles_as_one_graph(backend: str) -> None:
    inputs = values(20, 40)
    with use_backend(backend):
        expected = attention_fp8(**inputs)
        torch._dynamo.reset()
        assert torch.equal(torch.compile(attention_fp8, fullgraph=True, backend="aot_eager")(**inputs), expected)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "q of 3 dimensions": ({"q_BTHD": normal(4, 2, 64)}, "q_BTHD has shape"),
    "integers": ({"k_BTGD": torch.zeros(1, 4, 1, 64, dtype=torch.int32)}, "k_BTGD is torch.int32"),
    "another type": ({"v_BTGD": normal(1, 4, 1, 64).half()}, "v_BTGD is torch.float16, but q_BTHD"),
    "a head of 80": ({"q_BTHD": normal(1, 4, 2, 80)}, "q_BTHD has heads of size 80"),
    "keys of another head": ({"k_BTGD": normal(1, 4, 1, 128)}, "k_BTGD has shape"),
    "another batch": ({name: normal(2, 4, 1, 64) for name in ("k_BTGD", "v_BTGD")}, "k_BTGD has shape"),
    "heads that do not divide": (
        {"q_BTHD": normal(1, 4, 3, 64), **{n: normal(1, 4, 2, 64) for n in ("k_BTGD", "v_BTGD")}},
        "3 heads",
    ),
    "a block of 48": ({"block_size": 48}, "block_size is 48"),
    "a scale of 0": ({"scale": 0.0}, "scale is 0"),
    "a window of one": ({"window": (1,)}, "window is"),
    "another device": ({name: normal(1, 4, 1, 64).to("meta") for name in ("k_BTGD", "v_BTGD")}, "is on meta"),
    "a gradient": ({"k_BTGD": normal(1, 4, 1, 64).requires_grad_()}, "k_BTGD requires a gradient"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_inputs_are_named(name: str) -> None:
    changes, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        attention_fp8(**(values(4, 4) | changes))


def test_bad_blocks_are_named() -> None:
    made = blocks(values(40, 40), 32)
    for changes, message in (
        ({"k8_BTGD": made["k8_BTGD"].half()}, r"k8_BTGD is torch\.float16"),
        ({"q_scales_BNH": made["q_scales_BNH"][:, :1]}, "q_scales_BNH has shape"),
        ({"v_scales_BNG": made["v_scales_BNG"].half()}, r"v_scales_BNG is torch\.float16"),
        ({"dtype": torch.int8}, r"dtype is torch\.int8"),
    ):
        with pytest.raises(ValueError, match=message):
            attention_fp8_blocks(**(made | changes))
    for options, message in (
        ({"signs_D": torch.ones(64)}, "signs_D are those of the Hadamard rotation"),
        ({"signs_D": torch.ones(32), "hadamard": True}, "signs_D has shape"),
        ({"signs_D": torch.full((64,), 2.0), "hadamard": True}, "signs_D has other values"),
    ):
        with pytest.raises(ValueError, match=message):
            quantize_blocks(normal(1, 4, 1, 64), **options)


def test_a_gpu_without_fp8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from tilth.kernels.attention_fp8 import triton_

    monkeypatch.setattr(triton_, "_INTERPRETED", False)
    with compiling_for(80), pytest.raises(BackendError, match=r"compute capability 8\.0; it needs 9\.0"):
        attention_fp8(**values(4, 4))
