"""Random tenants of a decoder, and the decoder that each of them is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tilth.inference.tenants.weights import ChangedRows, LowRankTerm, SignTerm, TenantWeights, Term, WholeTerm
from tilth.kernels.sign_matmul import pack, unpack
from tilth.models.decoder import Decoder
from tilth.models.linear import Linear

SIZE = 0.02  # of a difference: large enough that a term left out shows in the logits


def signs(weight_NK: Tensor, *scales: str) -> SignTerm:
    n_outputs, n_inputs = weight_NK.shape
    shapes = {"scale": (), "row_scale_N": (n_outputs,), "column_scale_K": (n_inputs,)}
    drawn = {name: torch.rand(shapes[name]) + 0.5 for name in scales}
    drawn[scales[0]] *= SIZE
    return SignTerm(pack(torch.randn(n_inputs, n_outputs)), **drawn)


def low_rank(weight_NK: Tensor, rank: int) -> LowRankTerm:
    n_outputs, n_inputs = weight_NK.shape
    return LowRankTerm(SIZE * torch.randn(n_outputs, rank), torch.randn(rank, n_inputs))


TERMS: dict[str, Callable[[Tensor], list[Term]]] = {
    "bitdelta": lambda w: [signs(w, "scale")],
    "rank1": lambda w: [signs(w, "row_scale_N", "column_scale_K")],
    "residual": lambda w: [signs(w, "scale", "row_scale_N", "column_scale_K"), signs(w, "scale")],
    "lora": lambda w: [low_rank(w, 3)],
    "mixed": lambda w: [low_rank(w, 2), signs(w, "row_scale_N", "column_scale_K"), low_rank(w, 5), low_rank(w, 2)],
    "wide": lambda w: [low_rank(w, 48)],
    "whole": lambda w: [WholeTerm(w.detach() + SIZE * torch.randn_like(w))],
    "none": lambda w: [],
}


def dense(term: Term, weight_NK: Tensor) -> Tensor:
    """weight + term."""
    if isinstance(term, WholeTerm):
        return term.weight_NK.clone()
    if isinstance(term, LowRankTerm):
        return weight_NK + term.up_NR.to(weight_NK) @ term.down_RK.to(weight_NK)
    found = unpack(term.signs_PN, weight_NK.shape[1], weight_NK.dtype).T
    for scale, shape in ((term.scale, (1, 1)), (term.row_scale_N, (-1, 1)), (term.column_scale_K, (1, -1))):
        found = found if scale is None else found * scale.view(shape)
    return weight_NK + found


@pytest.fixture
def make_tenant() -> Callable[..., Any]:
    """make(model, kind, vectors=True, tables=True): the weights of a random tenant, and base + weights as its own decoder."""

    def make(model: Decoder, kind: str, *, vectors: bool = True, tables: bool = True) -> tuple[TenantWeights, Decoder]:
        own = copy.deepcopy(model)
        products, changed_vectors, changed_tables = {}, {}, {}
        matrices = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Linear)}
        for name, weight in own.named_parameters():
            if name in ("embedding.weight", "head.weight"):
                if tables:
                    rows = torch.randperm(len(weight))[:7].sort().values
                    changed_tables[name] = ChangedRows(
                        rows, weight.detach()[rows] + 0.3 * torch.randn(7, weight.shape[1]).to(weight)
                    )
                    weight.data[rows] = changed_tables[name].values_RD
            elif name in matrices:
                products[name] = TERMS[kind](weight)
                for term in products[name]:
                    weight.data = dense(term, weight.data)
            elif vectors:
                changed_vectors[name] = weight.detach() + 0.2 * torch.randn_like(weight)
                weight.data = changed_vectors[name].clone()
        return TenantWeights(f"digest of {kind}", products, changed_tables, changed_vectors), own

    return make
