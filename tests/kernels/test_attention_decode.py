"""attention_decode and write_pages: against loops, by the rule of accuracy, and that a row's bits are its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tilth.kernels import attention, attention_decode, use_backend, write_pages

Inputs = dict[str, Tensor]
BACKENDS = ("reference", "cpu", "triton")
NO_PAGE = 2**30


def make(
    lengths: list[int],
    n_tokens: int = 1,
    heads: int = 4,
    groups: int = 2,
    head_dim: int = 16,
    page_size: int = 16,
    **options: Any,
) -> Inputs:
    """Rows in pages that lie in any order; table entries beyond a length are no pages, slots beyond it hold NaN.

    `seed`, `dtype`, `extra` (the columns that the table has too many), `in_order` (a row's pages follow each other).
    """
    dtype, seed = options.get("dtype", torch.float32), options.get("seed", 0)
    generator = torch.Generator().manual_seed(seed)
    n_used = [-(-length // page_size) for length in lengths]
    table = torch.full((len(lengths), max(n_used, default=0) + options.get("extra", 1)), NO_PAGE, dtype=torch.int32)
    order = torch.arange(sum(n_used), dtype=torch.int32)
    if not options.get("in_order", False):
        order = order[torch.randperm(sum(n_used), generator=torch.Generator().manual_seed(1))]
    k_pages, v_pages = (torch.full((sum(n_used), page_size, groups, head_dim), math.nan, dtype=dtype) for _ in range(2))
    for row, (length, pages) in enumerate(zip(lengths, order.split(n_used), strict=True)):
        table[row, : len(pages)] = pages
        for cache in (k_pages, v_pages):
            values = torch.randn(length, groups, head_dim, generator=generator, dtype=torch.float64)
            place = torch.arange(length)
            cache[pages[place // page_size], place % page_size] = values.to(dtype)
    q = torch.randn(len(lengths), n_tokens, heads, head_dim, generator=generator, dtype=torch.float64).to(dtype)
    return {
        "q_BTHD": q,
        "k_pages": k_pages,
        "v_pages": v_pages,
        "block_table_BP": table,
        "lengths_B": torch.tensor(lengths, dtype=torch.int32),
    }


def rows_of(inputs: Inputs, name: str, row: int) -> Tensor:
    """The keys or values (N, G, D) of one row."""
    place = torch.arange(int(inputs["lengths_B"][row]))
    size = inputs[name].shape[1]
    return inputs[name][inputs["block_table_BP"][row, place // size], place % size]


def by_loops(inputs: Inputs, see: Callable[[int, int], bool], scale: float, softcap: float) -> tuple[np.ndarray, np.ndarray]:
    """One query, head and key after another in float64; `see(place of the query, place of the key)`."""
    q = inputs["q_BTHD"].double().numpy()
    n_batch, n_tokens, n_heads, _ = q.shape
    o, lse = np.zeros_like(q), np.full((n_batch, n_heads, n_tokens), -np.inf)
    for b in range(n_batch):
        k, v = (rows_of(inputs, name, b).double().numpy() for name in ("k_pages", "v_pages"))
        for t in range(n_tokens):
            for h in range(n_heads):
                g = h // (n_heads // k.shape[1])
                seen = [j for j in range(len(k)) if see(len(k) - n_tokens + t, j)]
                if seen:
                    scores = np.array([scale * q[b, t, h] @ k[j, g] for j in seen])
                    scores = softcap * np.tanh(scores / softcap) if softcap else scores
                    weights = np.exp(scores - scores.max())
                    o[b, t, h] = sum(weight * v[j, g] for weight, j in zip(weights, seen, strict=True)) / weights.sum()
                    lse[b, h, t] = scores.max() + math.log(weights.sum())
    return o, lse


SEE = {
    "causal": ({}, lambda i, j: j <= i),
    "all": ({"causal": False}, lambda i, j: True),
    "window": ({"window": 9}, lambda i, j: i - 9 <= j <= i),
    "two sides": ({"causal": False, "window": (9, 1)}, lambda i, j: i - 9 <= j <= i + 1),
    "no limit": ({"window": (-1, None), "softcap": 2.0}, lambda i, j: j <= i),
}


@pytest.mark.parametrize("name", SEE)
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_loops(backend: str, name: str) -> None:
    options, see = SEE[name]
    inputs = make([37, 0, 2, 16], n_tokens=3, page_size=8)
    inputs["q_BTHD"] *= 2
    o, lse = attention_decode(**inputs, scale=0.3, return_lse=True, backend=backend, **options)
    expected_o, expected_lse = by_loops(inputs, see, 0.3, options.get("softcap", 0.0))
    np.testing.assert_allclose(o.double(), expected_o, atol=2e-6)
    np.testing.assert_allclose(lse.double(), expected_lse, atol=2e-6)


CASES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "one token": (([100, 17, 65, 64], 1, 8, 2, 64, 16), {}),
    "one head a group, pages of a block": (([100, 17, 65], 3, 4, 4, 64, 64), {}),
    "odd head and page": (([70, 40], 2, 6, 2, 80, 24), {"window": 20}),
    "one group, many rows": (([60, 33], 16, 8, 1, 32, 32), {}),
    "large head, softcap": (([90, 21], 3, 4, 2, 256, 32), {"softcap": 5.0}),
    "two-sided window, large pages": (([257, 57], 3, 4, 2, 48, 256), {"causal": False, "window": (50, 1)}),
    "runs by count": (([257, 100], 2, 4, 2, 32, 16), {"n_splits": 4}),
    "runs by length": (([1100, 3], 1, 4, 1, 16, 16), {}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_cpu_keeps_to_the_rule(hold_to_rule: Callable[..., None], name: str, dtype: torch.dtype) -> None:
    sizes, options = CASES[name]
    hold_to_rule(attention_decode, "cpu", make(*sizes, dtype=dtype), gradients=False, return_lse=True, **options)


@pytest.mark.parametrize("name", CASES)
def test_cpu_equals_the_reference_in_float64(poisoned_memory: None, name: str) -> None:
    sizes, options = CASES[name]
    inputs = make(*sizes, dtype=torch.float64)
    found, expected = (
        attention_decode(**inputs, return_lse=True, backend=backend, **options) for backend in ("cpu", "reference")
    )
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=1e-14)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_triton_keeps_to_the_rule(hold_to_rule: Callable[..., None], name: str, dtype: torch.dtype) -> None:
    sizes, options = CASES[name]
    hold_to_rule(attention_decode, "triton", make(*sizes, dtype=dtype), gradients=False, return_lse=True, **options)


@pytest.mark.parametrize(("backend", "lengths"), [("cpu", range(1, 258)), ("triton", [*range(1, 258, 16), 64, 128, 256])])
def test_every_length(hold_to_rule: Callable[..., None], backend: str, lengths: Any) -> None:
    hold_to_rule(attention_decode, backend, make(list(lengths), 1, 2, 1), gradients=False, return_lse=True)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_large_scores_stay_finite(hold_to_rule: Callable[..., None], backend: str) -> None:
    inputs = make([70, 33], 2)
    inputs["q_BTHD"] *= 1e4
    hold_to_rule(attention_decode, backend, inputs, gradients=False, return_lse=True)
    inputs["q_BTHD"] *= 1e30
    assert attention_decode(**inputs, backend=backend, softcap=10.0).isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_keys_give_zeros(poisoned_memory: None, backend: str) -> None:
    o, lse = attention_decode(**make([0, 40, 2], 3), return_lse=True, backend=backend)
    assert not o[0].any()
    assert not o[2, 0].any(), "a length of 2 leaves the first of 3 queries without a place"
    assert lse[0].eq(-math.inf).all()
    assert lse[2, :, 0].eq(-math.inf).all()
    assert lse[1].isfinite().all()
    assert lse[2, :, 1:].isfinite().all()
    o, lse = attention_decode(**make([0, 0], extra=0), return_lse=True, backend=backend)
    assert not o.any()
    assert lse.eq(-math.inf).all()
    o, lse = attention_decode(**make([]), return_lse=True, backend=backend)
    assert o.shape == (0, 1, 4, 16)
    assert lse.shape == (0, 4, 1)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("n_tokens", [1, 3])
def test_bits_of_a_row_are_its_own(backend: str, n_tokens: int) -> None:
    """Alone or in a batch, in other pages of another size, under a wider table: the same bits."""
    lengths, heads, groups = [150, 530, 64, 0], 2, 1

    def rows(**options: Any) -> Inputs:
        return make(lengths, n_tokens, heads, groups, **options)

    def result(inputs: Inputs) -> tuple[Tensor, Tensor]:
        return attention_decode(**inputs, return_lse=True, backend=backend)

    together = result(rows())
    for inputs in (rows(page_size=64), rows(page_size=7), rows(extra=99), rows(in_order=True)):
        assert all(torch.equal(found, expected) for found, expected in zip(result(inputs), together, strict=True))
    for row in range(len(lengths)):
        alone = {name: value if "pages" in name else value[row : row + 1] for name, value in rows().items()}
        assert all(torch.equal(found[0], expected[row]) for found, expected in zip(result(alone), together, strict=True))
    again = result(rows())
    assert all(torch.equal(found, expected) for found, expected in zip(again, together, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_pages_before_the_window_may_be_gone(backend: str) -> None:
    inputs = make([200, 90], 2, page_size=16)
    expected = attention_decode(**inputs, window=40, backend=backend)
    for row, length in enumerate((200, 90)):
        n_gone = (length - 2 - 40) // 16
        inputs["k_pages"][inputs["block_table_BP"][row, :n_gone]] = math.nan
        inputs["block_table_BP"][row, :n_gone] = -1
    assert torch.equal(attention_decode(**inputs, window=40, backend=backend), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_with_strides(backend: str) -> None:
    inputs = make([70, 33], 2)
    expected = attention_decode(**inputs, backend=backend)
    both = torch.stack([inputs["k_pages"], inputs["v_pages"]], dim=1).transpose(2, 3).contiguous().transpose(2, 3)
    table = torch.stack([inputs["block_table_BP"], inputs["block_table_BP"] + 1], dim=2)[:, :, 0]
    lengths = inputs["lengths_B"].repeat_interleave(2)[::2]
    q = inputs["q_BTHD"].transpose(1, 2).contiguous().transpose(1, 2)
    found = attention_decode(q, both[:, 0], both[:, 1], block_table_BP=table, lengths_B=lengths, backend=backend)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_decoding_step_by_step_equals_attention_over_all(backend: str) -> None:
    """Pages filled by write_pages, some tokens at a time, give the rows of one causal attention."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 18, heads, 16, generator=generator) for heads in (4, 2, 2))
    table = torch.randperm(6, generator=generator).to(torch.int32).view(2, 3)
    k_pages, v_pages = (torch.full((6, 8, 2, 16), math.nan) for _ in range(2))
    found = []
    for start, end in ((0, 6), (6, 7), (7, 10), (10, 18)):
        pages = {
            "k_pages": k_pages,
            "v_pages": v_pages,
            "block_table_BP": table,
            "lengths_B": torch.full((2,), end, dtype=torch.int32),
        }
        write_pages(k[:, start:end], v[:, start:end], **pages, backend=backend)
        found.append(attention_decode(q[:, start:end], **pages, backend=backend))
    torch.testing.assert_close(torch.cat(found, dim=1), attention(q, k, v), atol=2e-6, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_write_pages_touches_only_its_slots(backend: str) -> None:
    inputs = make([33, 0, 2], groups=3, head_dim=24, page_size=16)
    generator = torch.Generator().manual_seed(5)
    new = {name: torch.randn(3, 24, 4, 3, generator=generator).permute(0, 2, 3, 1) for name in ("k_BTGD", "v_BTGD")}
    pages = {name: value.clone() for name, value in inputs.items() if name != "q_BTHD"}
    write_pages(**new, **pages, backend=backend)
    for cache, name in (("k_pages", "k_BTGD"), ("v_pages", "v_BTGD")):
        expected = inputs[cache].clone()
        for row, length in enumerate((33, 0, 2)):
            for t in range(4):
                place = length - 4 + t
                if place >= 0:
                    expected[inputs["block_table_BP"][row, place // 16], place % 16] = new[name][row, t]
        torch.testing.assert_close(pages[cache], expected, atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_custom_operators_are_sound(backend: str) -> None:
    inputs = make([20, 5], 2)
    tensors = tuple(inputs.values())
    torch.library.opcheck(torch.ops.tilth.attention_decode, (*tensors, 9, 0, 0.0, 0.25, 0, backend))
    new = torch.randn(2, 2, 2, 16)
    torch.library.opcheck(torch.ops.tilth.write_pages, (new, new.clone(), *tensors[1:], backend))


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_compiles_as_one_graph(backend: str) -> None:
    inputs = make([70, 33], 2)

    def step(q_BTHD: Tensor, new: Tensor, **pages: Tensor) -> Tensor:
        write_pages(new, 2 * new, **pages)
        return 2 * attention_decode(q_BTHD, **pages, window=30)

    new = torch.randn(2, 2, 2, 16)
    with use_backend(backend):
        expected = step(new=new, **{name: value.clone() for name, value in inputs.items()})
        torch._dynamo.reset()
        found = torch.compile(step, fullgraph=True, backend="aot_eager")(new=new, **inputs)
    assert torch.equal(found, expected)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "q of 3 dimensions": ({"q_BTHD": torch.randn(2, 4, 16)}, "q_BTHD has shape"),
    "q of another type": ({"q_BTHD": torch.randn(2, 1, 4, 16).half()}, "q_BTHD is torch.float16, but k_pages"),
    "integers": ({"k_pages": torch.zeros(4, 16, 2, 16, dtype=torch.int32)}, "k_pages is torch.int32"),
    "heads of another size": ({"q_BTHD": torch.randn(2, 1, 4, 8)}, "q_BTHD has heads of size 8"),
    "heads that do not divide": ({"q_BTHD": torch.randn(2, 1, 3, 16)}, "3 heads cannot share 2 groups"),
    "too many tokens": ({"q_BTHD": torch.randn(2, 17, 4, 16)}, "q_BTHD has 17 tokens"),
    "no tokens": ({"q_BTHD": torch.randn(2, 0, 4, 16)}, "q_BTHD has 0 tokens"),
    "pages of 3 dimensions": ({"k_pages": torch.randn(4, 16, 32)}, "k_pages has shape"),
    "values unlike keys": ({"v_pages": torch.randn(4, 16, 2, 8)}, "v_pages has shape"),
    "values of another type": ({"v_pages": torch.randn(4, 16, 2, 16).half()}, "v_pages is torch.float16"),
    "a strided D": ({"v_pages": torch.randn(4, 16, 2, 32)[..., ::2]}, "v_pages has stride 2"),
    "a table of one dimension": ({"block_table_BP": torch.zeros(2, dtype=torch.int32)}, "block_table_BP has shape"),
    "a table for other rows": ({"block_table_BP": torch.zeros(3, 2, dtype=torch.int32)}, "block_table_BP has shape"),
    "a table of int64": ({"block_table_BP": torch.zeros(2, 2, dtype=torch.int64)}, "block_table_BP is torch.int64"),
    "lengths for other rows": ({"lengths_B": torch.ones(3, dtype=torch.int32)}, "lengths_B has shape"),
    "lengths of int64": ({"lengths_B": torch.ones(2, dtype=torch.int64)}, "lengths_B is torch.int64"),
    "lengths beyond the table": ({"lengths_B": torch.tensor([33, 9999], dtype=torch.int32)}, r"lengths_B\[1\] is 9999"),
    "negative lengths": ({"lengths_B": torch.tensor([-1, 3], dtype=torch.int32)}, r"lengths_B\[0\] is -1"),
    "pages that are not there": (
        {"block_table_BP": torch.full((2, 4), 77, dtype=torch.int32)},
        r"block_table_BP\[0\] has pages 77 to 77",
    ),
    "a negative scale": ({"scale": -1.0}, "scale is -1.0"),
    "a softcap of infinity": ({"softcap": math.inf}, "softcap is inf"),
    "a window of three": ({"window": (1, 2, 3)}, "window is"),
    "no splits": ({"n_splits": 0}, "n_splits is 0"),
    "another device": ({"lengths_B": torch.ones(2, dtype=torch.int32, device="meta")}, "lengths_B is on meta"),
    "a gradient": ({"q_BTHD": torch.randn(2, 1, 4, 16, requires_grad=True)}, "q_BTHD requires a gradient"),
    "a gradient of the pages": ({"v_pages": torch.randn(4, 16, 2, 16, requires_grad=True)}, "v_pages requires a gradient"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_inputs_are_named(name: str) -> None:
    changes, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        attention_decode(**(make([33, 9]) | changes))


def test_bad_new_tokens_are_named() -> None:
    pages = {name: value for name, value in make([33, 9]).items() if name != "q_BTHD"}
    good, bad = torch.randn(2, 1, 2, 16), torch.randn(2, 1, 3, 16)
    with pytest.raises(ValueError, match="k_BTGD has shape"):
        write_pages(bad, good, **pages)
    with pytest.raises(ValueError, match="v_BTGD has shape"):
        write_pages(good, bad, **pages)
    with pytest.raises(ValueError, match=r"v_BTGD is torch\.float16"):
        write_pages(good, good.half(), **pages)
    with pytest.raises(ValueError, match="k_BTGD requires a gradient"):
        write_pages(good.clone().requires_grad_(), good, **pages)
    with pytest.raises(ValueError, match=r"block_table_BP\[0\] has pages"):
        write_pages(good, good, **(pages | {"lengths_B": torch.tensor([49, 9], dtype=torch.int32)}))
    write_pages(good, good, **pages)


def test_under_no_grad_weights_are_no_error() -> None:
    inputs = make([33, 9])
    with torch.no_grad():
        attention_decode(**(inputs | {"q_BTHD": inputs["q_BTHD"].requires_grad_()}))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_pages_of_one_token_give_the_bits_of_large_ones(backend: str) -> None:
    """Rows that are runs, that begin alike, that lie anywhere; the same keys in one page each are the oracle."""
    n_slots, generator = 300, torch.Generator().manual_seed(3)
    keys, values = (torch.randn(n_slots, 1, 2, 16, generator=generator) for _ in range(2))
    anywhere = torch.randperm(n_slots, generator=generator)[:60].int()
    rows = [
        torch.arange(40, 100).int(),
        anywhere,
        torch.cat([anywhere[:45], torch.arange(200, 212).int()]),
        torch.arange(7).int(),
        torch.cat([anywhere[:45], torch.arange(250, 260).int()]),
        anywhere[:3],
    ]
    lengths_B = torch.tensor([len(row) for row in rows], dtype=torch.int32)
    table = torch.full((len(rows), 64), NO_PAGE, dtype=torch.int32)
    whole = [torch.full((len(rows), 64, 2, 16), math.nan) for _ in range(2)]
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
        for cache, pages in zip((keys, values), whole, strict=True):
            pages[number, : len(row)] = cache[row.long(), 0]
    q = torch.randn(len(rows), 1, 4, 16, generator=generator)
    one_page = torch.arange(len(rows), dtype=torch.int32).unsqueeze(1)
    wanted = attention_decode(q, *whole, block_table_BP=one_page, lengths_B=lengths_B, return_lse=True, backend=backend)
    found = attention_decode(q, keys, values, block_table_BP=table, lengths_B=lengths_B, return_lse=True, backend=backend)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours, theirs) if backend == "cpu" else torch.allclose(ours, theirs, atol=1e-6)
    table[4, 9] = n_slots
    with pytest.raises(ValueError, match=r"block_table_BP\[4\] has pages"):
        attention_decode(q, keys, values, block_table_BP=table, lengths_B=lengths_B, backend="cpu")
    lengths_B[1] = 65
    with pytest.raises(ValueError, match=r"lengths_B\[1\] is 65"):
        attention_decode(q, keys, values, block_table_BP=table, lengths_B=lengths_B, backend="cpu")
