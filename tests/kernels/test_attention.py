"""Attention: the reference against rows computed one by one, the intervals against the reference, the CPU path by the rule."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tilth.errors import BackendError
from tilth.kernels import attention, attention_varlen, use_backend
from tilth.kernels.accuracy import outputs_and_gradients
from tilth.kernels.attention import _attention, pieces
from tilth.kernels.attention.reference import seen_pairs
from tilth.kernels.attention.visible import Mask, Visible
from tilth.kernels.softmax_options import window_limits

Inputs = dict[str, Any]
CPU = torch.device("cpu")
WINDOWS = (None, 5, (3, None), (70, 2), (None, 9))
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore::UserWarning:torch.*")


def draw(batch: int, n_queries: int, n_keys: int, heads: int, groups: int, head_dim: int, **options: Any) -> Inputs:
    """Inputs of `attention`; with packed=p a document begins at a token with probability p."""
    generator = torch.Generator().manual_seed(options.get("seed", 0))
    shapes = {"q_BTHD": (batch, n_queries, heads, head_dim)} | dict.fromkeys(
        ("k_BTGD", "v_BTGD"), (batch, n_keys, groups, head_dim)
    )
    found: Inputs = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(options.get("dtype", torch.float32))
        for name, shape in shapes.items()
    }
    if "packed" in options:
        starts = torch.rand(batch, n_keys, generator=generator) < options["packed"]
        found["segments_BT"] = (starts.cumsum(dim=1) + 7).to(torch.int32)
    return found


def draw_varlen(q_lengths: list[int], k_lengths: list[int], heads: int, groups: int, head_dim: int, **options: Any) -> Inputs:
    inputs = draw(1, sum(q_lengths), sum(k_lengths), heads, groups, head_dim, **options)
    tensors = {name.replace("B", ""): inputs[name].squeeze(0) for name in ("q_BTHD", "k_BTGD", "v_BTGD")}
    return tensors | {"cu_seqlens_q": bounds(q_lengths), "cu_seqlens_k": bounds(k_lengths)}


def bounds(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


def with_finite_lse(**arguments: Any) -> tuple[Tensor, Tensor]:
    """Both outputs; the rule cannot compare the -inf of rows that see nothing."""
    function = attention_varlen if "q_THD" in arguments else attention
    o, lse = function(**arguments, return_lse=True)
    return o, torch.where(lse == float("-inf"), 0.0, lse)


def hold_to_torch(inputs: Inputs, **options: Any) -> None:
    """The rule in float32, where torch is F.scaled_dot_product_attention: the CPU path is made of its kernel.

    That kernel's exponential has 20 good bits, so it is not held to the error of the formula itself.
    """
    mask = Mask(*window_limits(options.get("window"), options.get("causal", True)), inputs.get("segments_BT"))
    seen = seen_pairs(mask, inputs["q_BTHD"].shape[1], inputs["k_BTGD"].shape[1], CPU)

    def by_torch(q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor) -> Tensor:
        heads_first = (tensor.transpose(1, 2) for tensor in (q_BTHD, k_BTGD, v_BTGD))
        return functional.scaled_dot_product_attention(*heads_first, attn_mask=seen, enable_gqa=True).transpose(1, 2)

    found = outputs_and_gradients(attention, inputs, backend="cpu", **options)
    precise = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    truth = outputs_and_gradients(attention, precise, backend="reference", **options)
    plain = outputs_and_gradients(by_torch, {name: inputs[name] for name in ("q_BTHD", "k_BTGD", "v_BTGD")})
    for name, value in truth.items():
        rounded = value.float()
        ulp = ((rounded + 0.3 - 0.3) - rounded).abs().max()
        assert (found[name] - value).abs().max() <= 2 * (plain[name] - value).abs().max() + 2 * ulp, name


# The reference.


@pytest.mark.parametrize("packed", [0.0, 0.2])
@pytest.mark.parametrize(("causal", "n_queries"), [(True, 19), (True, 4), (True, 1), (False, 19), (False, 4)])
@pytest.mark.parametrize(("window", "softcap"), [(None, 0.0), ((4, 1), 0.0), (None, 1.5)])
def test_the_reference_is_a_softmax_row_by_row(
    causal: bool, n_queries: int, packed: float, window: tuple[int, int] | None, softcap: float
) -> None:
    inputs = draw(2, n_queries, 19, 4, 2, 8, dtype=torch.float64, packed=packed)
    o, lse = attention(**inputs, causal=causal, window=window, softcap=softcap, scale=0.3, return_lse=True, backend="reference")
    q, k, v, ids = (inputs[name].numpy() for name in ("q_BTHD", "k_BTGD", "v_BTGD", "segments_BT"))
    left, right = window or (19, 19)
    for b, row, h in np.ndindex(2, n_queries, 4):
        at = 19 - n_queries + row
        seen = [
            s
            for s in range(max(0, at - left), min(19, at + (0 if causal else right) + 1))
            if len({*ids[b, min(s, at) : max(s, at) + 1]}) == 1
        ]
        scores = np.array([0.3 * (q[b, row, h] @ k[b, s, h // 2]) for s in seen])
        weights = np.exp(softcap * np.tanh(scores / softcap) if softcap else scores)
        expected = sum(w * v[b, s, h // 2] for w, s in zip(weights / weights.sum(), seen, strict=True))
        assert np.abs(o[b, row, h].numpy() - expected).max() < 1e-12
        assert abs(lse[b, h, row].item() - np.log(weights.sum())) < 1e-12


def test_varlen_is_each_document_apart_with_its_last_query_at_its_last_key() -> None:
    q_lengths, k_lengths = [3, 0, 5, 1, 4, 2], [3, 4, 2, 6, 0, 3]
    inputs = draw_varlen(q_lengths, k_lengths, 4, 2, 8, dtype=torch.float64)
    for causal, window in itertools.product((True, False), (None, (1, 2))):
        options: Inputs = {"causal": causal, "window": window, "return_lse": True, "backend": "reference"}
        o, lse = attention_varlen(**inputs, **options)
        q_bounds, k_bounds = inputs["cu_seqlens_q"].tolist(), inputs["cu_seqlens_k"].tolist()
        for i in range(len(q_lengths)):
            q_part, k_part = slice(*q_bounds[i : i + 2]), slice(*k_bounds[i : i + 2])
            apart = (inputs["q_THD"][None, q_part], inputs["k_TGD"][None, k_part], inputs["v_TGD"][None, k_part])
            o_apart, lse_apart = attention(*apart, **options)
            assert torch.allclose(o[q_part], o_apart[0], atol=1e-12)
            assert torch.allclose(lse[:, q_part], lse_apart[0], atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_row_that_sees_no_key_gives_zero_and_passes_no_gradient(backend: str) -> None:
    inputs = draw(1, 5, 3, 2, 1, 8, dtype=torch.float64)  # the first two queries lie before every key
    found = outputs_and_gradients(attention, inputs, return_lse=True, backend=backend)
    assert found["output 0"][:, :2].abs().max() == 0
    assert (found["output 1"][:, :, :2] == float("-inf")).all()
    assert torch.isfinite(found["output 1"][:, :, 2:]).all()
    assert found["dq_BTHD"][:, :2].abs().max() == 0
    assert all(torch.isfinite(found[name]).all() for name in ("dq_BTHD", "dk_BTGD", "dv_BTGD"))
    empty = {**inputs, "k_BTGD": inputs["k_BTGD"][:, :0], "v_BTGD": inputs["v_BTGD"][:, :0]}
    found = outputs_and_gradients(attention, empty, backend=backend)
    assert found["output 0"].abs().max() == 0
    assert found["dq_BTHD"].abs().max() == 0


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": False},
        {"window": (2, 1), "causal": False},
        {"softcap": 2.0},
        {"segments_BT": torch.tensor([[0, 0, 1, 1, 1, 2]]).int()},
    ],
)
def test_gradcheck_of_the_output_and_the_log_sum_exp(backend: str, options: Inputs) -> None:
    inputs = draw(1, 5, 6, 2, 1, 3, dtype=torch.float64)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Any:
        return attention(q, k, v, return_lse=True, backend=backend, **options)

    assert torch.autograd.gradcheck(call, [tensor.requires_grad_() for tensor in inputs.values()])


def test_an_id_that_comes_back_begins_a_new_document() -> None:
    ids = torch.tensor([[0, 0, 1, 0, 0]], dtype=torch.int32)
    zero, v = torch.zeros(1, 5, 1, 1, dtype=torch.float64), torch.arange(5, dtype=torch.float64).reshape(1, 5, 1, 1)
    for backend in ("reference", "cpu"):
        o = attention(zero, zero, v, segments_BT=ids, backend=backend)
        assert torch.allclose(o.flatten(), torch.tensor([0, 0.5, 2, 3, 3.5], dtype=torch.float64))


# The intervals.


def masks() -> Iterator[tuple[Mask, int, int]]:
    generator = np.random.default_rng(0)
    for left, right in itertools.product((-1, 0, 1, 3, 50), repeat=2):
        for n_queries, n_keys in ((1, 1), (7, 7), (3, 11), (11, 3), (5, 0)):
            yield Mask(left, right), n_queries, n_keys
        for n_queries in (13, 4):
            yield Mask(left, right, torch.tensor(generator.integers(0, 2, (2, 13)), dtype=torch.int32)), n_queries, 13
        for _ in range(3):
            q_bounds, k_bounds = (bounds(generator.choice([0, 0, 1, 4], 6).tolist()) for _ in range(2))
            yield Mask(left, right, None, q_bounds, k_bounds), int(q_bounds[-1]), int(k_bounds[-1])


def test_the_intervals_are_what_the_reference_sees_and_only_move_forward() -> None:
    for mask, n_queries, n_keys in masks():
        seen = seen_pairs(mask, n_queries, n_keys, CPU).squeeze(1)
        visible = Visible.under(mask, n_queries, n_keys, CPU)
        query, key = torch.arange(n_queries), torch.arange(n_keys)
        of_query = (key >= visible.first_key_BT[..., None]) & (key <= visible.last_key_BT[..., None])
        of_key = (query >= visible.first_query_BS[..., None]) & (query <= visible.last_query_BS[..., None])
        assert torch.equal(of_query, seen), mask
        assert torch.equal(of_key.mT, seen), mask
        assert visible.n_pairs == seen.sum()
        for ends in (visible.first_key_BT, visible.last_key_BT, visible.first_query_BS, visible.last_query_BS):
            assert ends.dtype == torch.int32
            assert (ends.diff(dim=1) >= 0).all(), mask


def test_the_pieces_of_the_cpu_path_are_what_the_reference_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "FEWEST_ROWS", 4)
    n_causal = 0
    for mask, n_queries, n_keys in masks():
        seen = seen_pairs(mask, n_queries, n_keys, CPU).squeeze(1)
        for most_rows in (None, 3):
            covered, n_covered = torch.zeros_like(seen), torch.zeros(seen.shape[:2], dtype=torch.int32)
            for piece in pieces.cut(mask, n_queries, n_keys, CPU, most_rows):
                shape = covered[piece.rows, piece.queries, piece.keys].shape
                sees = torch.ones(shape, dtype=torch.bool) if piece.hidden is None else ~piece.hidden.expand(shape)
                covered[piece.rows, piece.queries, piece.keys] |= sees.tril() if piece.is_causal else sees
                n_covered[piece.rows, piece.queries] += 1
                n_causal += piece.is_causal
            assert torch.equal(covered, seen), mask
            assert (n_covered == 1).all()
    assert n_causal > 10


# The CPU path.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n_tokens", [2, 15, 16, 17, 63, 64, 65, 127, 129, 257])
def test_cpu(hold_to_rule: Callable[..., None], n_tokens: int, dtype: torch.dtype) -> None:
    ids = draw(2, 1, n_tokens, 1, 1, 1, packed=0.05)["segments_BT"]
    for options in ({}, {"causal": False}, {"window": 20}, {"window": (3, 9), "causal": False}):
        for groups, segments in ((4, {}), (2, {"segments_BT": ids})):
            inputs = draw(2, n_tokens, n_tokens, 4, groups, 32, dtype=dtype) | segments
            if dtype == torch.float32:
                hold_to_torch(inputs, **options)
            else:
                hold_to_rule(attention, "cpu", inputs, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", WINDOWS)
def test_cpu_with_soft_caps_and_the_log_sum_exp(hold_to_rule: Callable[..., None], window: Any, dtype: torch.dtype) -> None:
    for causal, n_queries, n_keys in ((True, 150, 150), (False, 90, 130), (False, 130, 90)):
        inputs = draw(2, n_queries, n_keys, 4, 2, 32, dtype=dtype)
        hold_to_rule(with_finite_lse, "cpu", inputs, causal=causal, window=window, softcap=3.0)
    inputs = draw(2, 150, 150, 4, 2, 32, dtype=dtype, packed=0.05)
    hold_to_rule(with_finite_lse, "cpu", inputs, window=window, softcap=3.0)
    if dtype == torch.bfloat16:
        hold_to_rule(with_finite_lse, "cpu", inputs, window=window)


def test_cpu_in_float64_for_every_mask() -> None:
    for i, (window, causal, softcap) in enumerate(itertools.product(WINDOWS, (True, False), (0.0, 3.0))):
        options: Inputs = {"window": window, "causal": causal, "softcap": softcap}
        cases = [
            draw(2, n_queries, n_keys, 4, 2, 5, dtype=torch.float64, **packed)
            for n_queries, n_keys in ((1, 1), (1, 40), (33, 70), (90, 90))
            for packed in ({}, {"packed": 0.1})
        ]
        cases.append(draw(1, 90, 40, 2, 1, 5, dtype=torch.float64))
        cases.append(draw_varlen([1, 0, 80, 5, 3], [5, 4, 80, 0, 9], 2, 1, 5, dtype=torch.float64))
        for inputs in cases:
            function = with_finite_lse if i % 2 else (attention_varlen if "q_THD" in inputs else attention)
            found = outputs_and_gradients(function, inputs, backend="cpu", **options)
            expected = outputs_and_gradients(function, inputs, backend="reference", **options)
            for name, value in expected.items():
                assert (found[name] - value).abs().max() < 1e-12, (name, options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [True, False])
def test_cpu_with_packed_documents_of_other_lengths(hold_to_rule: Callable[..., None], causal: bool, dtype: torch.dtype) -> None:
    inputs = draw_varlen([70, 0, 9, 1, 30, 6], [90, 3, 9, 40, 12, 0], 4, 2, 16, dtype=dtype)
    hold_to_rule(attention_varlen, "cpu", inputs, causal=causal)
    hold_to_rule(with_finite_lse, "cpu", inputs, causal=causal, window=(8, 3))


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (8, 2), (6, 1)])
def test_cpu_decoding(hold_to_rule: Callable[..., None], heads: int, groups: int) -> None:
    for options in ({}, {"window": 20}):
        hold_to_torch(draw(8, 1, 200, heads, groups, 64), **options)
        hold_to_rule(attention, "cpu", draw(3, 1, 200, heads, groups, 32, dtype=torch.bfloat16), **options)


@pytest.mark.parametrize("shape", [(0, 3, 5, 4, 2, 8), (2, 0, 5, 4, 2, 8), (2, 3, 5, 0, 2, 8)])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_empty_inputs(shape: tuple[int, ...], backend: str) -> None:
    found = outputs_and_gradients(attention, draw(*shape), backend=backend)
    assert found["output 0"].shape == (shape[0], shape[1], shape[3], shape[5])
    assert found["dk_BTGD"].abs().sum() == 0


def test_cpu_of_inputs_that_are_not_contiguous(hold_to_rule: Callable[..., None]) -> None:
    inputs = draw(2, 37, 37, 4, 2, 8)
    loose = {}
    for name, value in inputs.items():
        wide = torch.stack([value, torch.full_like(value, 77)], dim=-1)
        loose[name] = wide.transpose(0, 1).contiguous().transpose(0, 1)[..., 0]
        assert not loose[name].is_contiguous()
    for options in ({}, {"window": 9}, {"softcap": 2.0}):
        for name, value in outputs_and_gradients(attention, inputs, backend="cpu", **options).items():
            if name.startswith("output"):
                assert torch.equal(attention(**loose, backend="cpu", **options), value)


def test_cpu_of_very_large_scores_is_finite() -> None:
    inputs = {name: value * 100 for name, value in draw(1, 40, 40, 2, 1, 16).items()}
    for options in ({}, {"window": 5}, {"softcap": 50.0}):
        found = outputs_and_gradients(attention, inputs, backend="cpu", return_lse=True, **options)
        assert all(torch.isfinite(value).all() for value in found.values())


def test_two_runs_give_the_same_bits() -> None:
    for inputs, options in ((draw(2, 100, 100, 4, 2, 16, packed=0.05), {}), (draw(2, 100, 100, 4, 2, 16), {"softcap": 2.0})):
        first, second = (outputs_and_gradients(with_finite_lse, inputs, backend="cpu", **options) for _ in range(2))
        assert all(torch.equal(value, second[name]) for name, value in first.items())


# The contracts of torch, and what is refused.


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("limits", [(-1, 0, "segments"), (3, 2, None), (-1, -1, "bounds")])
def test_opcheck(limits: tuple[int, int, str | None], backend: str) -> None:
    inputs = draw(1, 7, 7, 4, 2, 8, packed=0.3)
    tensors = [inputs[name].requires_grad_() for name in ("q_BTHD", "k_BTGD", "v_BTGD")]
    segments = inputs["segments_BT"] if limits[2] == "segments" else None
    packed = bounds([3, 0, 4]) if limits[2] == "bounds" else None
    arguments = (*tensors, *limits[:2], segments, packed, packed, 0.0, 0.35, backend)
    torch.library.opcheck(_attention, arguments)
    if backend == "reference":
        return  # its gradient is torch.func.vjp, into which the check of the schema cannot look
    o, lse = (tensor.detach() for tensor in _attention(*arguments))
    detached = [tensor.detach() for tensor in tensors]
    gradients = (torch.randn_like(o), torch.randn_like(lse), *detached, o, lse)
    torch.library.opcheck(torch.ops.tilth.attention_backward.default, (*gradients, *arguments[3:]))


@pytest.mark.parametrize(
    "options", [{}, {"window": 4, "softcap": 2.0}, {"segments_BT": torch.tensor([[0] * 4 + [1] * 5] * 2).int()}]
)
def test_torch_compile_agrees_with_eager(options: Inputs) -> None:
    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        o, lse = attention(q, k, v, **options, return_lse=True)
        return o.square().sum() + lse.sum() + attention(q, k, v, **options).sum()

    found = []
    for function in (call, torch.compile(call, fullgraph=True, backend="aot_eager")):
        leaves = [value.requires_grad_() for value in draw(2, 9, 9, 4, 2, 8).values()]
        loss = function(*leaves)
        loss.backward()
        found.append([loss.detach(), *[leaf.grad for leaf in leaves]])
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q_BTHD": torch.ones(2, 5, 3, 8)}, "q_BTHD: 3 heads cannot share 2 groups"),
        ({"q_BTHD": torch.ones(2, 6, 4, 8), "segments_BT": torch.zeros(2, 5).int()}, "q_BTHD has 6 tokens and k_BTGD 5"),
        ({"q_BTHD": torch.ones(2, 5, 4, 8).half()}, "they must be the same"),
        ({"q_BTHD": torch.ones(2, 5, 4, 8).int()}, "q_BTHD is torch.int32"),
        ({"q_BTHD": torch.ones(5, 4, 8)}, "q_BTHD has shape .* expected 4 dimensions"),
        ({"q_BTHD": torch.ones(2, 5, 4, 9)}, "k_BTGD has heads of size 8"),
        ({"k_BTGD": torch.ones(2, 5, 1, 8)}, "they must be equal"),
        ({"q_BTHD": torch.ones(1, 5, 4, 8)}, "expected batch 1"),
        ({"v_BTGD": torch.ones(2, 5, 2, 8, device="meta")}, "v_BTGD is on meta"),
        ({"segments_BT": torch.zeros(2, 5, dtype=torch.int64)}, "segments_BT .* expected int32"),
        ({"segments_BT": torch.zeros(2, 4, dtype=torch.int32)}, r"segments_BT .* expected \(2, 5\)"),
        ({"window": (1, 2, 3)}, "window is"),
        ({"window": -2}, "window is -2"),
        ({"window": (0.5, 1)}, "window is"),
        ({"softcap": -1.0}, "softcap is -1.0"),
        ({"scale": 0.0}, "scale is 0.0"),
    ],
)
def test_attention_says_what_is_wrong(changes: Inputs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention(**(draw(2, 5, 5, 4, 2, 8) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cu_seqlens_q": torch.tensor([0, 3, 2, 5]).int()}, r"cu_seqlens_q must begin with 0, never fall .* \[0, 3, 2, 5\]"),
        ({"cu_seqlens_k": bounds([2, 2, 0])}, "cu_seqlens_k must .* number of tokens, 5"),
        ({"cu_seqlens_q": torch.tensor([1, 3, 4, 5]).int()}, "cu_seqlens_q must begin with 0"),
        ({"cu_seqlens_q": torch.tensor([0, 1, 3, 5])}, "cu_seqlens_q is torch.int64"),
        ({"cu_seqlens_q": bounds([5])}, "cu_seqlens_k has 4 bounds and cu_seqlens_q 2"),
        ({"k_TGD": torch.ones(4, 2, 8), "v_TGD": torch.ones(4, 2, 8), "cu_seqlens_k": None}, "k_TGD has 4 tokens and q_THD 5"),
        ({"q_THD": torch.ones(1, 5, 4, 8)}, "q_THD has shape .* expected 3 dimensions"),
    ],
)
def test_attention_varlen_says_what_is_wrong(changes: Inputs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention_varlen(**(draw_varlen([2, 1, 2], [2, 1, 2], 4, 2, 8) | changes))


def test_gluon_is_not_chosen_for_a_call_that_it_does_not_hold() -> None:
    with use_backend("gluon"), pytest.raises(BackendError, match="no Gluon kernel for these inputs"):
        attention(**draw(1, 4, 4, 2, 1, 64, dtype=torch.float16), softcap=2.0)
