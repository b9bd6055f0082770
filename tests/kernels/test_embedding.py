"""embedding: rows by id, and gradients that are sums in the order of the tokens, whatever the ids are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tilth.kernels import embedding
from tilth.kernels.accuracy import outputs_and_gradients

Inputs = dict[str, Any]
Check = Callable[..., None]


def make(
    n_tokens: int, n_rows: int, size: int, dtype: torch.dtype = torch.float32, index_dtype: torch.dtype = torch.int64
) -> Inputs:
    """Ids of which the low ones are frequent, and some rows have none."""
    generator = torch.Generator().manual_seed(0)
    share = torch.rand(n_tokens, generator=generator, dtype=torch.float64)
    ids = (share**3 * (n_rows - n_rows // 4)).to(index_dtype)
    return {"ids": ids, "weight_VD": (torch.rand(n_rows, size, generator=generator, dtype=torch.float64) * 4 - 2).to(dtype)}


# Tokens, rows, channels: rows without tokens, one row for all, spans of one row beside spans of many.
SIZES = [(1, 1, 1), (257, 9, 17), (129, 300, 3), (200, 1, 5), (65, 5, 257), (0, 4, 8)]


def test_the_reference_is_a_loop() -> None:
    inputs = make(50, 9, 4, dtype=torch.float64)
    found = outputs_and_gradients(embedding, inputs, scale=1.5, padding_index=1, backend="reference")
    dy = torch.randn(50, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).numpy()
    dweight = np.zeros((9, 4))
    for token, row in enumerate(inputs["ids"].tolist()):
        assert np.array_equal(found["output 0"][token].numpy(), 1.5 * inputs["weight_VD"][row].numpy())
        dweight[row] += 1.5 * dy[token] if row != 1 else 0.0
    assert np.abs(found["dweight_VD"].numpy() - dweight).max() < 1e-14
    assert dweight[0].any()


def test_it_is_torchs_own() -> None:
    inputs = make(257, 9, 17)
    ours = outputs_and_gradients(embedding, inputs, padding_index=2)
    torchs = outputs_and_gradients(lambda ids, weight_VD: torch.nn.functional.embedding(ids, weight_VD, padding_idx=2), inputs)
    torch.testing.assert_close(ours, torchs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_gradcheck(backend: str) -> None:
    inputs = make(12, 5, 3, dtype=torch.float64)
    weight = inputs["weight_VD"].requires_grad_()
    assert torch.autograd.gradcheck(lambda w: embedding(inputs["ids"], w, scale=0.5, backend=backend), weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"scale": 1.7, "padding_index": 0}])
def test_cpu(hold_to_rule: Check, dtype: torch.dtype, options: Inputs) -> None:
    for sizes in SIZES:
        hold_to_rule(embedding, "cpu", make(*sizes, dtype=dtype), **options)


def test_cpu_in_float64() -> None:
    inputs = make(257, 9, 17, dtype=torch.float64)
    found = [outputs_and_gradients(embedding, inputs, scale=1.7, backend=b) for b in ("cpu", "reference")]
    torch.testing.assert_close(*found, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("options", [{}, {"scale": 1.7, "padding_index": 0}])
def test_triton(hold_to_rule: Check, dtype: torch.dtype, options: Inputs) -> None:
    for sizes in SIZES:
        hold_to_rule(embedding, "triton", make(*sizes, dtype=dtype), **options)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_a_sum_of_many_tokens_in_16_bits_is_exact(backend: str) -> None:
    """A sum of ones in float16 stays at 2048, whose next number is 2050."""
    ids = torch.zeros(4000, dtype=torch.int64)
    weight = torch.zeros(2, 3, dtype=torch.float16, requires_grad=True)
    embedding(ids, weight, backend=backend).sum().backward()
    assert weight.grad.tolist() == [[4000.0] * 3, [0.0] * 3]


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(0, 150), min_size=1, max_size=6), seed=st.integers(0, 9))
def test_spans_of_any_distribution(lengths: list[int], seed: int) -> None:
    """Whole numbers, whose sums are exact in any order: the spans miss no token and take none twice."""
    ids = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    generator = torch.Generator().manual_seed(seed)
    ids = ids[torch.randperm(len(ids), generator=generator)]
    dy = torch.randint(-50, 50, (len(ids), 2), generator=generator).float()
    weight = torch.zeros(len(lengths), 2, requires_grad=True)
    embedding(ids, weight, backend="triton").backward(dy)
    assert torch.equal(weight.grad, torch.zeros(len(lengths), 2).index_add(0, ids, dy))


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_ids_of_any_shape_type_and_layout(backend: str) -> None:
    inputs = make(24, 9, 5)
    expected = outputs_and_gradients(embedding, inputs, backend=backend)
    for ids in (inputs["ids"].int(), inputs["ids"].reshape(2, 3, 4), torch.stack([inputs["ids"]] * 2, dim=1)[:, 0]):
        weight = torch.cat([inputs["weight_VD"]] * 2, dim=1)[:, :5].requires_grad_()
        y = embedding(ids, weight, backend=backend)
        dy = torch.randn(24, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).float()
        y.backward(dy.T.contiguous().T.reshape(y.shape))
        assert y.shape == (*ids.shape, 5)
        assert torch.equal(y.reshape(24, 5), expected["output 0"])
        assert torch.equal(weight.grad, expected["dweight_VD"])
    assert embedding(torch.tensor(3), inputs["weight_VD"], backend=backend).shape == (5,)


@pytest.mark.parametrize("wrong", [-1, 9, 2**40])
def test_an_id_that_is_not_in_the_table(wrong: int) -> None:
    inputs = make(100, 9, 5)
    inputs["ids"][7] = wrong
    for backend in ("reference", "cpu"):
        with pytest.raises(ValueError, match=r"ids reach from .* expected 0 to 8"):
            embedding(**inputs, backend=backend)
    # What a GPU does, which is not asked to wait: the token is lost visibly, and its gradient reaches no row.
    found = outputs_and_gradients(embedding, inputs, backend="triton")
    assert torch.isnan(found["output 0"]).nonzero()[:, 0].tolist() == [7] * 5
    kept = torch.arange(100) != 7
    dy = torch.randn(100, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).float()
    expected = torch.zeros(9, 5).index_add(0, inputs["ids"][kept], dy[kept])
    torch.testing.assert_close(found["dweight_VD"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_two_runs_give_the_same_bits(backend: str) -> None:
    first, second = (outputs_and_gradients(embedding, make(500, 7, 33), backend=backend) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore::UserWarning:torch.*")
@pytest.mark.parametrize("padding_index", [None, 1])
def test_torch_contracts(padding_index: int | None) -> None:
    inputs = make(24, 9, 5)
    ids, weight = inputs["ids"].reshape(4, 6), inputs["weight_VD"].requires_grad_()
    for backend in ("reference", "cpu"):
        torch.library.opcheck(torch.ops.tilth.embedding.default, (ids, weight, padding_index, 0.5, backend))
    compiled = torch.compile(embedding, fullgraph=True, backend="aot_eager")
    expected = outputs_and_gradients(embedding, inputs, padding_index=padding_index)
    torch.testing.assert_close(outputs_and_gradients(compiled, inputs, padding_index=padding_index), expected)


IDS, WEIGHT = torch.zeros(3, dtype=torch.int64), torch.ones(4, 2)


@pytest.mark.parametrize(
    ("ids", "weight", "options", "message"),
    [
        (IDS.float(), WEIGHT, {}, "ids is torch.float32; expected int32 or int64"),
        (IDS, WEIGHT.int(), {}, "weight_VD is torch.int32"),
        (IDS, torch.ones(4), {}, "weight_VD has shape"),
        (IDS, torch.ones(0, 4), {}, "weight_VD has shape"),
        (IDS, WEIGHT, {"padding_index": 4}, "padding_index is 4; expected 0 to 3"),
        (IDS, WEIGHT, {"padding_index": -1}, "padding_index is -1"),
        (IDS.to("meta"), WEIGHT, {}, "ids is on meta"),
    ],
)
def test_bad_inputs_say_what_is_wrong(ids: Tensor, weight: Tensor, options: Inputs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        embedding(ids, weight, **options)
