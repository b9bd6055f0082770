"""The convolution: against conv1d per document, its gradients, and poison that must not spread."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad, silu

from tilth.models.config import ModelConfig
from tilth.models.layout import SequenceLayout, lay_out
from tilth.models.mixers.causal_conv import causal_conv_silu

LENGTHS = [3, 1, 2, 7, 1, 1, 5]


def _layout(n_taps: int, lengths: list[int], *, packed: bool = True) -> SequenceLayout:
    config = ModelConfig(vocab_size=8, d_model=64, layers="M", d_conv=n_taps)
    segments = torch.arange(len(lengths), dtype=torch.int32).repeat_interleave(torch.tensor(lengths))[None]
    ids = torch.zeros_like(segments, dtype=torch.long)
    return lay_out(config, ids, segments if packed else None, 0)


def _by_conv1d(x_BTC: Tensor, weight_CK: Tensor, bias_C: Tensor, lengths: list[int]) -> Tensor:
    outputs = []
    for document in x_BTC.split(lengths, dim=1):
        padded = pad(document.transpose(1, 2), (weight_CK.shape[1] - 1, 0))
        outputs.append(conv1d(padded, weight_CK[:, None], bias_C, groups=len(bias_C)).transpose(1, 2))
    return silu(torch.cat(outputs, dim=1))


def _inputs(n_taps: int, n_tokens: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    x, weight, bias = (torch.randn(size, dtype=dtype, requires_grad=True) for size in [(1, n_tokens, 5), (5, n_taps), (5,)])
    return x, weight, bias


@pytest.mark.parametrize("n_taps", [1, 2, 4, 6])
@pytest.mark.parametrize("lengths", [LENGTHS, [2], [1], [40]])
def test_values_and_gradients_are_those_of_conv1d(n_taps: int, lengths: list[int]) -> None:
    inputs = _inputs(n_taps, sum(lengths))
    upstream = torch.randn(1, sum(lengths), 5, dtype=torch.float64)
    ours = causal_conv_silu(*inputs, _layout(n_taps, lengths))
    theirs = _by_conv1d(*inputs, lengths)
    assert (ours - theirs).abs().max() < 1e-12
    wanted = torch.autograd.grad(theirs, inputs, upstream)
    for ours_grad, theirs_grad in zip(torch.autograd.grad(ours, inputs, upstream), wanted, strict=True):
        assert (ours_grad - theirs_grad).abs().max() < 1e-11


def test_gradients_match_finite_differences() -> None:
    layout = _layout(3, [2, 1, 4])
    assert torch.autograd.gradcheck(lambda x, w, b: causal_conv_silu(x, w, b, layout), _inputs(3, 7))


def test_a_nan_stays_in_its_document() -> None:
    x, weight, bias = _inputs(4, sum(LENGTHS))
    with torch.no_grad():
        x[0, 5] = torch.nan
    output = causal_conv_silu(x, weight, bias, _layout(4, LENGTHS))
    assert output[0, 5].isnan().all()
    assert not output[0, 6:].isnan().any()
    assert not output[0, :4].isnan().any()
    grad_x, _, _ = torch.autograd.grad(output[:, 6:].sum(), (x, weight, bias), retain_graph=True)
    assert not grad_x[0, 6:].isnan().any()


@pytest.mark.parametrize("cut", [1, 2, 3, 10])
def test_history_continues_a_row(cut: int) -> None:
    x, weight, bias = (t.detach() for t in _inputs(4, 20))
    whole = causal_conv_silu(x, weight, bias, _layout(4, [20], packed=False))
    history = pad(x[:, :cut], (0, 0, 3, 0))[:, -3:]
    rest = causal_conv_silu(x[:, cut:], weight, bias, _layout(4, [20 - cut], packed=False), history)
    assert (rest - whole[:, cut:]).abs().max() < 1e-12


def test_low_precision_input_is_summed_in_fp32() -> None:
    x, weight, bias = (t.detach() for t in _inputs(4, 30, torch.float32))
    layout = _layout(4, [30])
    rough = causal_conv_silu(x.bfloat16(), weight, bias, layout)
    assert rough.dtype == torch.bfloat16
    exact = causal_conv_silu(x.bfloat16().float(), weight, bias, layout)
    assert torch.equal(rough, exact.bfloat16())
