"""Cross entropy as its definition with the whole matrix of logits, the truth that the other backends are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.backend import compute_dtype
from tilth.kernels.linear_cross_entropy.targets import check_range
from tilth.kernels.linear_cross_entropy.terms import Terms


def row_losses(logits_SV: Tensor, targets_S: Tensor, terms: Terms) -> tuple[Tensor, Tensor]:
    """Return the loss of every token and the log of its sum of exponentials, both 0 where it is ignored: (S,), (S,)."""
    check_range(targets_S, logits_SV.shape[1], terms.ignore_index)
    x_SV = logits_SV.to(compute_dtype(logits_SV))
    if terms.softcap:
        x_SV = terms.softcap * torch.tanh(x_SV / terms.softcap)
    kept_S = targets_S != terms.ignore_index
    lse_S = torch.logsumexp(x_SV, dim=-1)
    target_S = x_SV.gather(1, torch.where(kept_S, targets_S, 0).unsqueeze(1)).squeeze(1)
    loss_S = lse_S - (1 - terms.label_smoothing) * target_S + terms.z_loss * lse_S.square()
    if terms.label_smoothing:
        loss_S = loss_S - terms.label_smoothing * x_SV.mean(dim=-1)
    zero = loss_S.new_zeros(())
    dtype = torch.promote_types(logits_SV.dtype, torch.float32)
    return torch.where(kept_S, loss_S, zero).to(dtype), torch.where(kept_S, lse_S, zero).to(dtype)


def row_gradients(dloss_S: Tensor, logits_SV: Tensor, targets_S: Tensor, lse_S: Tensor, terms: Terms) -> Tensor:
    """Return the gradient of the logits by differentiating the reference itself."""
    _, differentiate = torch.func.vjp(lambda x: row_losses(x, targets_S, terms)[0], logits_SV)
    return differentiate(dloss_S)[0].contiguous()


def forward(
    hidden_SD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_S: Tensor,
    token_weights_S: Tensor | None,
    terms: Terms,
    dtype: torch.dtype,
    chunk_tokens: int,
    gradients: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return loss_S, lse_S and the gradients of sum(token_weights * loss) that `gradients` (hidden, weight and bias) asks for."""

    def losses(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        compute = compute_dtype(hidden)
        logits_SV = hidden.to(dtype).to(compute) @ weight.to(dtype).to(compute).T
        return row_losses(logits_SV if bias is None else logits_SV + bias.to(compute), targets_S, terms)

    if not any(gradients):
        return *losses(hidden_SD, weight_VD, bias_V), None, None, None
    if bias_V is None:
        loss_S, differentiate, lse_S = torch.func.vjp(lambda h, w: losses(h, w, None), hidden_SD, weight_VD, has_aux=True)
    else:
        loss_S, differentiate, lse_S = torch.func.vjp(losses, hidden_SD, weight_VD, bias_V, has_aux=True)
    dhidden, dweight, *dbias = differentiate(torch.ones_like(loss_S) if token_weights_S is None else token_weights_S.to(loss_S))
    return (
        loss_S,
        lse_S,
        dhidden.contiguous() if gradients[0] else None,
        dweight.contiguous() if gradients[1] else None,
        dbias[0].contiguous() if gradients[1] and dbias else None,
    )
