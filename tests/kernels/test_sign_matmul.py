"""Products with packed signs against dense ones, the published layout bit by bit, and tenants in any order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tilth.deploy.signs import pack_signs
from tilth.kernels import sign_matmul, sign_matmul_grouped, use_backend
from tilth.kernels.sign_matmul import _sign_matmul, pack, unpack

Hold = Callable[..., None]
Given = dict[str, Any]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
INTERPRETED = [torch.float32, torch.float16]
BACKENDS = [*(("cpu", dtype) for dtype in DTYPES), *(("triton", dtype) for dtype in INTERPRETED)]
PLAIN = ["x_MK", "packed_PN"]
# Of one number, what torch gets wrong may be 0 by luck, and so the allowance: its gradient is held to the rule among tenants.
BUT_SCALE = ("scale",)
ALL = [*PLAIN, "scale", "row_scale_N", "column_scale_K", "add_to_MN"]


def single(m: int, k: int, n: int, dtype: torch.dtype = torch.float32, names: list[str] = ALL) -> Given:
    draw = torch.Generator().manual_seed(m * 7 + k * 3 + n)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    found = {
        "x_MK": normal(m, k).to(dtype),
        "packed_PN": pack(normal(k, n)),
        "scale": normal().abs().add(0.5).to(dtype),
        "row_scale_N": normal(n).to(dtype),
        "column_scale_K": normal(k).to(dtype),
        "add_to_MN": normal(m, n).to(dtype),
    }
    return {name: value for name, value in found.items() if name in names}


def grouped(m: int, k: int, n: int, n_tenants: int, dtype: torch.dtype = torch.float32, *, scales: bool = True) -> Given:
    one = single(m, k, n, dtype)
    draw = torch.Generator().manual_seed(n_tenants)
    signs = torch.randn(n_tenants, k, n, generator=draw)
    found: Given = {
        "x_MK": one["x_MK"],
        "packed_EPN": torch.stack([pack(of) for of in signs]),
        "tenants_M": torch.randint(-1, n_tenants, (m,), generator=draw, dtype=torch.int32),
    }
    if scales:
        found["scale_E"] = torch.rand(n_tenants, generator=draw).add(0.5).to(dtype)
        found["row_scale_EN"] = torch.randn(n_tenants, n, generator=draw).to(dtype)
        found["column_scale_EK"] = torch.randn(n_tenants, k, generator=draw).to(dtype)
        found["add_to_MN"] = one["add_to_MN"]
    return found


def test_the_layout_is_the_published_one_bit_by_bit() -> None:
    signs_KN = np.random.default_rng(0).random((96, 5)) < 0.5
    words = np.zeros((3, 5), np.uint32)
    for row, col in np.argwhere(signs_KN):
        words[row // 32, col] |= np.uint32(1) << np.uint32(row % 32)
    packed = pack(torch.from_numpy(signs_KN))
    assert packed.dtype == torch.int32
    assert packed.numpy().tobytes() == words.tobytes()
    assert torch.equal(pack(torch.from_numpy(signs_KN) * 2.0 - 1), packed)
    assert torch.equal(unpack(packed, 96, torch.float32) > 0, torch.from_numpy(signs_KN))


@pytest.mark.parametrize("k", [1, 31, 32, 33, 100])
def test_deploy_packs_to_the_same_words(k: int) -> None:
    difference_NK = torch.randn(7, k)
    difference_NK[0, 0] = 0.0
    assert torch.equal(pack(difference_NK.T), pack_signs(difference_NK))
    assert torch.equal(unpack(pack(difference_NK.T), k, torch.float64), torch.where(difference_NK.T >= 0, 1.0, -1.0).double())


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_it_is_the_dense_product(backend: str) -> None:
    given = single(5, 70, 9, torch.float64)
    leaves = [given[name].requires_grad_() for name in ("x_MK", "scale", "row_scale_N", "column_scale_K", "add_to_MN")]
    x, scale, row, column, add = leaves
    signs_KN = (
        2.0 * torch.tensor([[int(given["packed_PN"][k // 32, n]) >> (k % 32) & 1 for n in range(9)] for k in range(70)]) - 1
    )
    wanted = x @ (scale * row * column[:, None] * signs_KN.double()) + add
    found = sign_matmul(**given, backend=backend)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)
    dy = torch.randn_like(wanted)
    theirs = torch.autograd.grad(wanted, leaves, dy)
    torch.testing.assert_close(torch.autograd.grad(found, leaves, dy), theirs, rtol=1e-11, atol=1e-12)


def test_gradients_of_the_reference_match_finite_differences() -> None:
    given = grouped(5, 34, 3, 2, torch.float64)
    names = ("x_MK", "scale_E", "row_scale_EN", "column_scale_EK", "add_to_MN")
    leaves = tuple(given[name].requires_grad_() for name in names)
    fixed = {name: value for name, value in given.items() if name not in names}

    def run(*tensors: Tensor) -> Tensor:
        return sign_matmul_grouped(**fixed, **dict(zip(names, tensors, strict=True)), backend="reference")

    assert torch.autograd.gradcheck(run, leaves)


@pytest.mark.parametrize(("backend", "dtype"), BACKENDS, ids=str)
@pytest.mark.parametrize("names", [PLAIN, [*PLAIN, "scale"], ALL], ids=["plain", "scale", "all"])
def test_one_matrix_keeps_the_rule(hold_to_rule: Hold, backend: str, dtype: torch.dtype, names: list[str]) -> None:
    hold_to_rule(sign_matmul, backend, single(13, 96, 70, dtype, names), without_gradient=BUT_SCALE)


@pytest.mark.parametrize(("backend", "dtype"), BACKENDS, ids=str)
@pytest.mark.parametrize("scales", [False, True])
def test_tenants_keep_the_rule(hold_to_rule: Hold, backend: str, dtype: torch.dtype, scales: bool) -> None:
    hold_to_rule(sign_matmul_grouped, backend, grouped(24, 40, 33, 7, dtype, scales=scales))


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize(
    ("m", "k", "n"), [(1, 1, 64), (64, 33, 1), (2, 31, 3), (17, 33, 65), (1, 257, 5), (65, 64, 31), (129, 5, 129), (3, 129, 257)]
)
def test_odd_sizes(hold_to_rule: Hold, backend: str, m: int, k: int, n: int) -> None:
    hold_to_rule(sign_matmul, backend, single(m, k, n), without_gradient=BUT_SCALE)


@pytest.mark.parametrize(("m", "k"), [(3, 2100), (20, 1030)])
def test_a_long_k_is_split_and_added_up(hold_to_rule: Hold, m: int, k: int) -> None:
    hold_to_rule(sign_matmul, "triton", single(m, k, 5, torch.float16), without_gradient=BUT_SCALE)
    hold_to_rule(sign_matmul_grouped, "triton", grouped(m, k, 5, 2, torch.float32))


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_inputs_that_lie_apart(hold_to_rule: Hold, backend: str) -> None:
    given = single(6, 50, 20)
    apart = {
        "x_MK": given["x_MK"].T.contiguous().T,
        "packed_PN": given["packed_PN"].repeat(1, 2)[:, ::2],
        "scale": given["scale"],
        "row_scale_N": given["row_scale_N"].repeat_interleave(2)[::2],
        "column_scale_K": given["column_scale_K"].repeat_interleave(3)[::3],
        "add_to_MN": given["add_to_MN"].T.contiguous().T,
    }
    hold_to_rule(sign_matmul, backend, apart, without_gradient=BUT_SCALE)


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_a_row_is_that_of_its_tenant_alone(backend: str, poisoned_memory: None) -> None:
    given = grouped(23, 45, 37, 4)
    given["tenants_M"][:3] = torch.tensor([-1, 3, 0])
    with use_backend(backend):
        y = sign_matmul_grouped(**given)
        plain = sign_matmul_grouped(**{name: value for name, value in given.items() if name != "add_to_MN"})
    assert torch.count_nonzero(plain[given["tenants_M"] == -1]) == 0
    for row, tenant in enumerate(given["tenants_M"].tolist()):
        if tenant == -1:
            wanted = given["add_to_MN"][row]
        else:
            scales = {"scale": "scale_E", "row_scale_N": "row_scale_EN", "column_scale_K": "column_scale_EK"}
            alone: Given = {name: given[of][tenant] for name, of in scales.items()}
            alone |= {"x_MK": given["x_MK"][row : row + 1], "packed_PN": given["packed_EPN"][tenant]}
            wanted = sign_matmul(**alone, add_to_MN=given["add_to_MN"][row : row + 1], backend=backend)[0]
        torch.testing.assert_close(y[row], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
@pytest.mark.parametrize(("m", "n"), [(0, 4), (3, 0)])
def test_nothing_in_nothing_out(backend: str, m: int, n: int) -> None:
    given = single(m, 40, n)
    leaves = [given[name].requires_grad_() for name in ("x_MK", "scale", "row_scale_N", "column_scale_K")]
    y = sign_matmul(**given, backend=backend)
    assert y.shape == (m, n)
    y.sum().backward()
    assert all(leaf.grad is not None and torch.count_nonzero(leaf.grad) == 0 for leaf in leaves)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_bits_past_k_are_not_read(backend: str) -> None:
    given = single(4, 37, 6)
    changed = given | {"packed_PN": given["packed_PN"].clone()}
    changed["packed_PN"][1] ^= -32  # all bits but the five that are used
    y, other = (sign_matmul(**of, backend=backend) for of in (given, changed))
    assert torch.equal(y, other)


def test_a_number_is_a_scale_and_one_is_none() -> None:
    given = single(3, 32, 5, names=PLAIN)
    plain = sign_matmul(**given)
    assert torch.equal(sign_matmul(**given, scale=0.5), plain / 2)
    assert torch.equal(sign_matmul(**given, scale=torch.tensor([[0.5]])), plain / 2)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_extreme_values_stay_finite_and_nan_stays_in_its_row(backend: str) -> None:
    given = single(4, 64, 8, names=PLAIN)
    given["x_MK"][0], given["x_MK"][1], given["x_MK"][2, 5] = 1e30, 1e-30, float("nan")
    y = sign_matmul(**given, backend=backend)
    assert y.isnan().any(dim=1).tolist() == [False, False, True, False]
    assert y[0].abs().max() >= 1e30
    assert y[1].isfinite().all()


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_a_repeated_call_gives_equal_bits(backend: str) -> None:
    given = grouped(9, 300, 20, 3, torch.float16)
    leaves = [given[name].requires_grad_() for name in ("x_MK", "scale_E", "row_scale_EN", "column_scale_EK")]
    runs = []
    for _ in range(2):
        y = sign_matmul_grouped(**given, backend=backend)
        runs.append((y, *torch.autograd.grad(y.sum(), leaves)))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_the_operator_is_registered_rightly(backend: str) -> None:
    given = grouped(5, 33, 6, 2)
    tensors = [value.requires_grad_() if value.is_floating_point() else value for value in given.values()]
    torch.library.opcheck(_sign_matmul, (*tensors, backend))
    torch.library.opcheck(_sign_matmul, (*tensors[:3], None, None, None, None, backend))


def test_compiled_is_as_eager() -> None:
    given = grouped(6, 40, 7, 2)
    leaves = [given[name].requires_grad_() for name in ("x_MK", "scale_E", "row_scale_EN")]

    def run(**tensors: Tensor) -> Tensor:
        y = sign_matmul_grouped(**tensors)
        return y + sign_matmul(tensors["x_MK"], tensors["packed_EPN"][0], scale=0.5)

    results = []
    for call in (run, torch.compile(run, fullgraph=True, backend="aot_eager")):
        y = call(**given)
        results.append((y, *torch.autograd.grad(y.sum(), leaves)))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


BAD: list[tuple[Given, str]] = [
    ({"x_MK": torch.randn(4)}, "x_MK"),
    ({"x_MK": torch.randn(4, 0)}, "x_MK"),
    ({"x_MK": torch.ones(4, 40, dtype=torch.int32)}, "x_MK"),
    ({"packed_EPN": torch.zeros(2, 2, 6)}, "packed_EPN"),
    ({"packed_EPN": torch.zeros(2, 1, 6, dtype=torch.int32)}, "packed_EPN"),
    ({"packed_EPN": torch.zeros(0, 2, 6, dtype=torch.int32)}, "packed_EPN"),
    ({"packed_EPN": torch.zeros(2, 6, dtype=torch.int32)}, "packed_EPN"),
    ({"packed_EPN": torch.zeros(2, 2, 6, dtype=torch.int32, device="meta")}, "packed_EPN"),
    ({"tenants_M": torch.zeros(3, dtype=torch.int32)}, "tenants_M"),
    ({"tenants_M": torch.zeros(4, dtype=torch.int64)}, "tenants_M"),
    ({"tenants_M": torch.tensor([0, 1, 2, 0], dtype=torch.int32)}, r"tenants_M\[2\]"),
    ({"tenants_M": torch.tensor([0, -2, 1, 0], dtype=torch.int32)}, r"tenants_M\[1\]"),
    ({"scale_E": torch.ones(3)}, "scale_E"),
    ({"scale_E": torch.ones(2, dtype=torch.int64)}, "scale_E"),
    ({"row_scale_EN": torch.ones(6)}, "row_scale_EN"),
    ({"column_scale_EK": torch.ones(2, 64)}, "column_scale_EK"),
    ({"add_to_MN": torch.ones(4, 5)}, "add_to_MN"),
    ({"add_to_MN": torch.ones(4, 6, dtype=torch.float16)}, "add_to_MN"),
    ({"backend": "cuda"}, "cuda"),
]


@pytest.mark.parametrize(("change", "named"), BAD, ids=[f"{i} {named}" for i, (_, named) in enumerate(BAD)])
def test_bad_inputs_are_named(change: Given, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        sign_matmul_grouped(**{**grouped(4, 40, 6, 2), **change})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"packed_PN": torch.zeros(1, 2, 6, dtype=torch.int32)}, "packed_PN"),
        ({"scale": torch.ones(2)}, "scale"),
        ({"row_scale_N": torch.ones(1, 6)}, "row_scale_N"),
        ({"column_scale_K": torch.ones(41)}, "column_scale_K"),
    ],
)
def test_bad_inputs_of_one_matrix_are_named(change: Given, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        sign_matmul(**{**single(4, 40, 6), **change})
    with pytest.raises(ValueError, match="signs_KN"):
        pack(torch.randn(3))


def test_a_tenant_that_does_not_exist_makes_nan_in_the_kernel() -> None:
    given = grouped(4, 40, 6, 2) | {"tenants_M": torch.tensor([0, 2, -1, -5], dtype=torch.int32)}
    y = sign_matmul_grouped(**given, backend="triton")
    assert y.isnan().all(dim=1).tolist() == [False, True, False, True]
    assert y[[0, 2]].isfinite().all()
