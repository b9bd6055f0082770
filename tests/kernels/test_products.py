"""Products by oneDNN: the values and gradients of torch's own, and torch's own where oneDNN would not do."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tilth.kernels import linear, products

SHAPES = [((3, 130, 96), 200), ((700, 64), 48), ((48, 300), 1000)]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the first factors that oneDNN gets."""
    if not products._HAS_ONEDNN:
        pytest.skip("this torch was built without oneDNN")
    found: list[tuple[int, ...]] = []
    by_onednn = products._by_onednn

    def record(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        found.append(tuple(x.shape))
        return by_onednn(x, weight)

    monkeypatch.setattr(products, "_by_onednn", record)
    return found


@pytest.mark.parametrize(("shape", "n_rows"), SHAPES)
def test_linear_and_its_gradients_are_those_of_float64(shape: tuple[int, ...], n_rows: int, calls: list[tuple[int, ...]]) -> None:
    x, weight = torch.randn(shape, requires_grad=True), torch.randn(n_rows, shape[-1], requires_grad=True)
    y = linear(x, weight)
    dy = torch.randn_like(y)
    found = [y, *torch.autograd.grad(y, (x, weight), dy)]
    assert len(calls) == 3
    wide = [t.detach().double().requires_grad_() for t in (x, weight)]
    true = functional.linear(*wide)
    wanted = [true, *torch.autograd.grad(true, wide, dy.double())]
    for ours, exact in zip(found, wanted, strict=True):
        assert ours.dtype == torch.float32
        assert ours.is_contiguous()
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5 * float(exact.detach().abs().max()))


def test_slices_and_transposes_are_read_where_they_lie(calls: list[tuple[int, ...]]) -> None:
    wide, weight = torch.randn(200, 150), torch.randn(120, 90).T.contiguous().T
    with torch.no_grad():
        assert (linear(wide[:, 30:120], weight) - wide[:, 30:120] @ weight.T).abs().max() < 1e-4
        assert (products.product(wide.T, torch.randn(200, 100).fill_(0.5)) - 0.5 * wide.sum(0)[:, None]).abs().max() < 1e-4
        out = torch.empty(200, 120)
        assert products.product(wide[:, 30:120], weight.T, out=out) is out
        assert (out - wide[:, 30:120] @ weight.T).abs().max() < 1e-4
    assert len(calls) == 3


@pytest.mark.parametrize(("n_left", "n_right"), [(400, 64), (64, 400)])
def test_outer_products_sum_over_rows(n_left: int, n_right: int, calls: list[tuple[int, ...]]) -> None:
    left, right = torch.randn(100, n_left), torch.randn(100, n_right)
    found = products.outer_product(left, right)
    assert len(calls) == 1
    assert found.is_contiguous()
    assert (found - left.T @ right).abs().max() < 1e-4


def test_what_onednn_would_not_speed_up_goes_to_torch(calls: list[tuple[int, ...]]) -> None:
    weight = torch.randn(300, 128)
    assert torch.equal(linear(torch.ones(2, 128), weight), functional.linear(torch.ones(2, 128), weight))
    x = torch.randn(64, 128)
    assert linear(x.double(), weight.double()).dtype == torch.float64
    assert linear(x.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    assert linear(x.to("meta"), weight.to("meta")).shape == (64, 300)
    assert not calls
    linear(x, weight)
    assert calls == [(64, 128)]


def test_a_compiled_function_keeps_the_product(calls: list[tuple[int, ...]]) -> None:
    x, weight = torch.randn(64, 128, requires_grad=True), torch.randn(300, 128, requires_grad=True)
    compiled = torch.compile(lambda x, weight: linear(x, weight).square().sum(), backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(x, weight), (x, weight))
    wanted = torch.autograd.grad(functional.linear(x, weight).square().sum(), (x, weight))
    for ours, exact in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("width", "n_columns"), [(32, 43), (96, 200), (256, 1096), (512, 4096)])
def test_rows_apart_have_the_bits_that_they_have_among_others(width: int, n_columns: int, dtype: torch.dtype) -> None:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    x, weight = torch.randn(1, 33, width, dtype=dtype), torch.randn(n_columns, width, dtype=dtype)
    try:
        with torch.no_grad(), products.rows_apart():
            together = linear(x, weight)
            for start, end in ((0, 1), (7, 8), (0, 2), (30, 33), (1, 5), (0, 16), (9, 32)):
                assert torch.equal(linear(x[:, start:end], weight), together[:, start:end])
    finally:
        torch.set_num_threads(n_threads)
    wanted = functional.linear(x.double(), weight.double())
    assert (together.double() - wanted).abs().max() <= torch.finfo(dtype).eps * 8 * wanted.abs().max()
    assert not products._rows_are_apart
