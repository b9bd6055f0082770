"""Calls of linear_cross_entropy and of cross_entropy on logits that exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kernel_calls.call import Call
from tilth.kernels import cross_entropy, linear_cross_entropy


def loss_and_z(**given: Any) -> tuple[Tensor, Tensor]:
    """Loss and z part: the count is an integer and has no gradient."""
    loss, _, z = linear_cross_entropy(**given)
    return loss, z


def losses_of_logits(**given: Any) -> Tensor:
    """The loss of every token."""
    return cross_entropy(**given, reduction="none")[0]


def gate_calls(dtype: torch.dtype) -> Iterator[Call]:
    """Both blocks; every term at once and none; gradients made in the forward, and of logits that exist."""
    every_term = {"z_loss": 1e-4, "softcap": 30.0, "label_smoothing": 0.1}
    for n_classes in (48, 4096):
        tensors = _inputs(16, n_classes, 16, dtype, "cpu") | {"token_weights_S": torch.rand(16, dtype=dtype)}
        yield Call(f"V={n_classes} every term", loss_and_z, tensors, every_term)
    tensors = _inputs(16, 4096, 16, dtype, "cpu")
    yield Call("V=4096", loss_and_z, tensors)
    logits = torch.randn(16, 4096, dtype=dtype)
    yield Call("V=4096 logits", losses_of_logits, {"logits_SV": logits, "targets_S": tensors["targets_S"]})


def check_calls(dtype: torch.dtype, device: str) -> Iterator[Call]:
    """Odd vocabularies and numbers of tokens, one block and many, each term, ignored targets."""
    for n_tokens, n_classes, size in ((1, 1, 8), (17, 257, 64), (130, 2049, 64), (700, 50257, 128), (64, 256000, 64)):
        tensors = _inputs(n_tokens, n_classes, size, dtype, device, ignored=0.2)
        yield Call(f"S={n_tokens} V={n_classes}", loss_and_z, tensors)
        yield Call(f"S={n_tokens} V={n_classes} z", loss_and_z, tensors, {"z_loss": 1e-4})
    tensors = _inputs(300, 8193, 64, dtype, device, ignored=0.2)
    tensors |= {"token_weights_S": torch.rand(300, dtype=dtype, device=device)}
    for options in ({"softcap": 30.0}, {"label_smoothing": 0.1}, {"reduction": "none"}, {"chunk_tokens": 37}):
        yield Call(f"S=300 V=8193 weights {options}", loss_and_z, tensors, options)
    logits = torch.randn(300, 8200, dtype=dtype, device=device)[:, :8193]
    yield Call("logits that lie apart", losses_of_logits, {"logits_SV": logits, "targets_S": tensors["targets_S"]})


def bench_calls(device: str) -> Iterator[Call]:
    """A head of 128k and of 32k words in bf16: three products are what must be done, forward and backward together."""
    for n_tokens, n_classes, size in ((16384, 32000, 2048), (32768, 128256, 4096)):
        tensors = _inputs(n_tokens, n_classes, size, torch.bfloat16, device)
        peers: dict[str, Callable[..., Any]] = {"three torch.mm": three_products, "liger": liger}
        if n_tokens * n_classes < 2**30:  # whole logits in float32, and their gradient
            peers["torch.compile of F.cross_entropy on whole logits"] = whole_logits
        product = 2.0 * n_tokens * n_classes * size
        yield Call(
            f"S={n_tokens} V={n_classes} D={size}",
            loss_and_z,
            tensors,
            forward_flops=3 * product,
            backward_bytes=2.0 * 2 * (n_tokens + n_classes) * size,
            peers=peers,
        )
    tensors = _inputs(8192, 128256, 8, torch.bfloat16, device)
    logits = {"logits_SV": torch.randn(8192, 128256, dtype=torch.bfloat16, device=device), "targets_S": tensors["targets_S"]}
    n_bytes = 2.0 * 8192 * 128256
    yield Call(
        "logits S=8192 V=128256",
        losses_of_logits,
        logits,
        forward_bytes=n_bytes,
        backward_bytes=2 * n_bytes,
        peers={"torch.compile of F.cross_entropy": compiled_of_logits},
    )


def three_products(hidden_SD: Tensor, weight_VD: Tensor, targets_S: Tensor, **_: Any) -> Tensor:
    """What no head can do without: logits, gradient of hidden, gradient of the weight; at most a GiB of logits at a time."""
    n_tokens = min(len(hidden_SD), 2**29 // len(weight_VD))
    total = None
    for start in range(0, len(hidden_SD), n_tokens):
        hidden = hidden_SD.detach()[start : start + n_tokens]
        logits = torch.mm(hidden, weight_VD.detach().T)
        torch.mm(logits, weight_VD.detach())
        total = torch.mm(logits.T, hidden)
    assert total is not None
    return total


def liger(hidden_SD: Tensor, weight_VD: Tensor, targets_S: Tensor, **_: Any) -> Tensor:
    """Liger's fused linear cross entropy, where it is installed."""
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

    found = LigerFusedLinearCrossEntropyFunction.apply(hidden_SD, weight_VD, targets_S)
    loss: Tensor = found[0] if isinstance(found, tuple) else found
    return loss


@torch.compile(dynamic=False)
def whole_logits(hidden_SD: Tensor, weight_VD: Tensor, targets_S: Tensor, **_: Any) -> Tensor:
    """The plain head under torch.compile."""
    return functional.cross_entropy(functional.linear(hidden_SD, weight_VD).float(), targets_S, reduction="sum")


@torch.compile(dynamic=False)
def compiled_of_logits(logits_SV: Tensor, targets_S: Tensor, **_: Any) -> Tensor:
    """torch's own loss of every token, compiled."""
    return functional.cross_entropy(logits_SV.float(), targets_S, reduction="none")


def _inputs(
    n_tokens: int, n_classes: int, size: int, dtype: torch.dtype, device: str, ignored: float = 0.0
) -> dict[str, Tensor | None]:
    hidden = torch.randn(n_tokens, size, dtype=dtype, device=device)
    weight = torch.randn(n_classes, size, dtype=dtype, device=device) / size**0.5
    targets = torch.randint(0, n_classes, (n_tokens,), device=device)
    targets[torch.rand(n_tokens, device=device) < ignored] = -100
    return {"hidden_SD": hidden, "weight_VD": weight, "targets_S": targets}
