"""Documents packed into one row are computed as if each had a row of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tilth.models.decoder import Decoder

TOLERANCES = {torch.float32: 1e-6, torch.float64: 1e-12}
PATTERNS = ["M", "A", "MMA", "AM*2"]


def _segments(lengths: list[int], ids: list[int] | None = None) -> Tensor:
    numbers = torch.tensor(ids or list(range(len(lengths))), dtype=torch.int32)
    return numbers.repeat_interleave(torch.tensor(lengths))[None]


def _gradients(model: Decoder, losses: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    model.zero_grad()
    total = sum(loss for loss, _ in losses) / sum(int(count) for _, count in losses)
    assert isinstance(total, Tensor)
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _assert_packed_is_separate(model: Decoder, lengths: list[int], segments: Tensor, *, is_tiny: bool = False) -> None:
    tolerance = TOLERANCES[model.embedding.weight.dtype]
    ids = torch.randint(0, 43, (1, sum(lengths)))
    targets = torch.randint(0, 43, (1, sum(lengths)))
    parts = list(zip(ids.split(lengths, 1), targets.split(lengths, 1), strict=True))
    separate = torch.cat([model(part) for part, _ in parts], dim=1)
    rounding = _rounding(model, parts) if is_tiny else None
    scale = max(1.0, float(separate.detach().abs().max()))
    assert (model(ids, segments) - separate).abs().max() < tolerance * scale
    packed_grads = _gradients(model, [model.loss(ids, targets, segments)])
    separate_grads = _gradients(model, [model.loss(*part) for part in parts])
    assert packed_grads.keys() == dict(model.named_parameters()).keys()
    for name, grad in separate_grads.items():
        allowed = tolerance * max(1.0, float(grad.abs().max()))
        assert (packed_grads[name] - grad).abs().max() < allowed + (0 if rounding is None else rounding[name]), name


def _rounding(model: Decoder, parts: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """How far separate gradients are from the truth, and from those of the same documents in batches of two equal rows.

    No packing plays a part in it: products of another number of rows are summed in another order. With a loss over a
    handful of tokens that is up to 7e-6 in the embedding, whose norm multiplies it by 1 / 0.02.
    """
    precise, separate = copy.deepcopy(model).double(), _gradients(model, [model.loss(*part) for part in parts])
    true = _gradients(precise, [precise.loss(*part) for part in parts])
    doubled = _gradients(model, [model.loss(ids.repeat(2, 1), targets.repeat(2, 1)) for ids, targets in parts])
    return {name: 2 * (grad - true[name]).abs().max() + (grad - doubled[name]).abs().max() for name, grad in separate.items()}


@pytest.mark.parametrize("layers", PATTERNS)
@given(lengths=st.lists(st.integers(6, 40), min_size=2, max_size=6))
@settings(max_examples=12, deadline=None)
def test_packed_equals_separate(layers: str, make_model: Callable[..., Decoder], lengths: list[int]) -> None:
    torch.manual_seed(sum(lengths))
    _assert_packed_is_separate(make_model(layers, scale=1.0), lengths, _segments(lengths))


@pytest.mark.parametrize("layers", PATTERNS)
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4))
@settings(max_examples=12, deadline=None)
def test_a_handful_of_tokens_is_packed_as_well_as_it_is_rounded(
    layers: str, make_model: Callable[..., Decoder], lengths: list[int]
) -> None:
    torch.manual_seed(sum(lengths))
    _assert_packed_is_separate(make_model(layers, scale=1.0), lengths, _segments(lengths), is_tiny=True)


@pytest.mark.parametrize("layers", PATTERNS)
@given(lengths=st.lists(st.integers(1, 13), min_size=1, max_size=6))
@settings(max_examples=8, deadline=None)
def test_packed_equals_separate_to_the_last_digits(layers: str, make_model: Callable[..., Decoder], lengths: list[int]) -> None:
    """In fp64, with layers that weigh as much as the embedding: a leak has nowhere to hide."""
    torch.manual_seed(sum(lengths))
    _assert_packed_is_separate(make_model(layers).double(), lengths, _segments(lengths))


@pytest.mark.parametrize("layers", ["M", "A"])
def test_an_id_that_comes_back_is_another_document(layers: str, make_model: Callable[..., Decoder]) -> None:
    lengths = [5, 1, 2, 9]
    _assert_packed_is_separate(make_model(layers), lengths, _segments(lengths, [3, 0, 3, 0]))


@pytest.mark.parametrize("layers", ["M", "A"])
def test_without_segments_documents_do_see_each_other(layers: str, make_model: Callable[..., Decoder]) -> None:
    """The control of the tests above: the leak that they must not find is visible."""
    model, ids = make_model(layers), torch.randint(0, 43, (1, 20))
    packed = model(ids, _segments([11, 9]))
    assert (model(ids)[:, 11:] - packed[:, 11:]).abs().max() > 1e-2


def test_rows_have_their_own_layouts(make_model: Callable[..., Decoder]) -> None:
    model, ids = make_model("MA"), torch.randint(0, 43, (2, 17))
    first, second = _segments([3, 14]), _segments([16, 1])
    both = model(ids, torch.cat([first, second]))
    assert (both[:1] - model(ids[:1], first)).abs().max() < 1e-6
    assert (both[1:] - model(ids[1:], second)).abs().max() < 1e-6


def test_segments_of_another_shape_are_refused(make_model: Callable[..., Decoder]) -> None:
    with pytest.raises(ValueError, match="shape"):
        make_model("M")(torch.zeros(1, 4, dtype=torch.long), _segments([3]))
