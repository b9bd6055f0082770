"""The operators keep torch's contracts: opcheck passes, and torch.compile traces them without a break."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tilth.kernels import attention, rms_norm, ssd_scan, use_backend

Inputs = dict[str, Any]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore::UserWarning:torch.*")


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("operator", ["rms_norm", "attention"])
def test_opcheck(
    operator: str,
    backend: str,
    rms_norm_inputs: Callable[..., Inputs],
    attention_inputs: Callable[..., Inputs],
) -> None:
    inputs, options = {
        "rms_norm": (rms_norm_inputs(2, 7, 8), (1e-5,)),
        "attention": (attention_inputs(2, 7, 7, 4, 2, 8, packed=True), (True, 0.35)),
    }[operator]
    names = {
        "rms_norm": ("x_D", "weight_D"),
        "attention": ("q_BTHD", "k_BTGD", "v_BTGD", "segments_BT"),
    }[operator]
    tensors = [inputs[name].requires_grad_(inputs[name].is_floating_point()) for name in names]
    torch.library.opcheck(getattr(torch.ops.tilth, operator).default, (*tensors, *options, backend))


def _block(x_BTD: Tensor, weight_D: Tensor, A_H: Tensor, segments_BT: Tensor) -> Tensor:
    """All three operators in a row, as a model would call them."""
    n_batch, n_tokens, d_model = x_BTD.shape
    x_BTD = rms_norm(x_BTD, weight_D)
    heads = x_BTD.reshape(n_batch, n_tokens, 2, d_model // 2)
    x_BTD = attention(heads, heads, heads, segments_BT=segments_BT).reshape(x_BTD.shape) + x_BTD
    heads = x_BTD.reshape(n_batch, n_tokens, 2, d_model // 2)
    dt_BTH = torch.nn.functional.softplus(heads[..., 0])
    y, final = ssd_scan(heads, dt_BTH, A_H, heads[:, :, :1], heads[:, :, 1:], segments_BT=segments_BT, chunk_size=4)
    return y.square().mean() + final.square().mean()


def _check_compiled(compiler: str) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(2, 9, 8), torch.randn(8), -torch.rand(2))
    segments = torch.tensor([[0] * 4 + [1] * 5] * 2, dtype=torch.int32)
    found = []
    for call in (_block, torch.compile(_block, fullgraph=True, backend=compiler)):
        leaves = [value.clone().requires_grad_() for value in inputs]
        loss = call(*leaves, segments)
        loss.backward()
        found.append([loss.detach(), *[leaf.grad for leaf in leaves]])
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-6)


def test_torch_compile_traces_all_three_without_a_break() -> None:
    _check_compiled("aot_eager")


def test_a_compiled_function_follows_a_change_of_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    from tilth.kernels.rms_norm import reference

    calls: list[int] = []
    original = reference.forward
    monkeypatch.setattr(reference, "forward", lambda *a: calls.append(1) or original(*a))
    torch._dynamo.reset()
    compiled = torch.compile(rms_norm, fullgraph=True, backend="eager")
    x, weight = torch.randn(2, 8), torch.ones(8)
    expected = compiled(x, weight)
    assert not calls
    with use_backend("reference"):
        torch.testing.assert_close(compiled(x, weight), expected)
    assert calls == [1]
    compiled(x, weight)
    assert calls == [1]


@pytest.mark.slow
def test_torch_compile_with_the_real_compiler() -> None:
    _check_compiled("inductor")
