"""Whether what a tenant changes fits the base: names, shapes, and numbers that are finite."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from tilth.errors import DeltaError, did_you_mean
from tilth.inference.tenants.weights import ChangedRows, LowRankTerm, SignTerm, TenantWeights, Term, WholeTerm
from tilth.kernels.sign_matmul.packing import n_words

Parameters = dict[str, Tensor]


def check_fit(weights: TenantWeights, matrices: Parameters, tables: Parameters, vectors: Parameters) -> None:
    """Raise DeltaError unless every change is of one of the base's matrices, tables or vectors, and of its shape.

    And unless there is a digest: without it states of other weights under the same name would be taken for its own.
    """
    if not weights.digest:
        raise DeltaError("the tenant's weights have no digest", where="digest", fix="Give a hash of what they hold.")
    for name, terms in weights.products.items():
        _check_known("products", name, matrices)
        if len(terms) > 1 and any(isinstance(term, WholeTerm) for term in terms):
            raise DeltaError("a whole matrix has other terms beside it", where=name, fix="Give the one or the others.")
        for number, term in enumerate(terms):
            _check_term(f"{name}, term {number}", term, matrices[name])
    for name, changed in weights.tables.items():
        _check_known("tables", name, tables)
        _check_rows(name, changed, tables[name])
    for name, value in weights.vectors.items():
        _check_known("vectors", name, vectors)
        _check_tensor(name, value, tuple(vectors[name].shape))


def _check_known(what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise DeltaError(f"the base has no parameter {name} among its {what}", where=name, fix=did_you_mean(name, known))


def _check_term(where: str, term: Term, weight_NK: Tensor) -> None:
    n_outputs, n_inputs = weight_NK.shape
    if isinstance(term, LowRankTerm):
        rank = term.down_RK.shape[0]
        if rank == 0:
            raise DeltaError("a term of rank 0", where=where, fix="Leave it out.")
        _check_tensor(f"{where}, up", term.up_NR, (n_outputs, rank))
        _check_tensor(f"{where}, down", term.down_RK, (rank, n_inputs))
    elif isinstance(term, WholeTerm):
        _check_tensor(where, term.weight_NK, (n_outputs, n_inputs))
    else:
        _check_signs(where, term, n_outputs, n_inputs)


def _check_signs(where: str, term: SignTerm, n_outputs: int, n_inputs: int) -> None:
    if term.signs_PN.dtype != torch.int32:
        raise DeltaError(f"the signs are {term.signs_PN.dtype}, not words of int32", where=where, fix=_AGAIN)
    _check_shape(f"{where}, signs", term.signs_PN, (n_words(n_inputs), n_outputs))
    shapes = {"scale": (), "row_scale_N": (n_outputs,), "column_scale_K": (n_inputs,)}
    for name, shape in shapes.items():
        if (value := getattr(term, name)) is not None:
            _check_tensor(f"{where}, {name}", value, shape)


def _check_rows(name: str, changed: ChangedRows, table_VD: Tensor) -> None:
    rows_R = changed.rows_R
    if rows_R.dtype != torch.int64 or rows_R.dim() != 1:
        raise DeltaError(f"the rows are {rows_R.dtype} {tuple(rows_R.shape)}, not a list of int64", where=name, fix=_AGAIN)
    is_rising = bool((rows_R[1:] > rows_R[:-1]).all())
    if len(rows_R) and not (is_rising and int(rows_R[0]) >= 0 and int(rows_R[-1]) < len(table_VD)):
        raise DeltaError(f"the changed rows do not rise from 0 to below {len(table_VD)}", where=name, fix=_AGAIN)
    _check_tensor(f"{name}, values", changed.values_RD, (len(rows_R), table_VD.shape[1]))


def _check_tensor(where: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    _check_shape(where, tensor, shape)
    if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
        raise DeltaError("it holds what is no finite number", where=where, fix=_AGAIN)


def _check_shape(where: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise DeltaError(f"it has shape {tuple(tensor.shape)}, and the base asks for {shape}", where=where, fix=_AGAIN)


_AGAIN = "Make the delta again, from this base."
