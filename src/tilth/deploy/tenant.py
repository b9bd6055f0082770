"""A delta as the pass over many tenants uses it: products for the matrices, changed rows of the tables, vectors whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields

import torch
from torch import Tensor

from tilth.deploy.codecs import MatrixCodec, find_codec
from tilth.deploy.codecs.rows import changed_rows
from tilth.deploy.delta import Delta, check_base, check_fits, rebuild
from tilth.inference.tenants.weights import ChangedRows, TenantWeights, Term, WholeTerm
from tilth.models.weights import weights_digest


@torch.no_grad()
def tenant_weights(delta: Delta, base_state: Mapping[str, Tensor], base_digest: str | None = None) -> TenantWeights:
    """What the delta changes of the base, ready to be served over it; packed signs stay packed.

    base_digest is weights_digest(base_state), for one who has it already: it is most of the work. Raises DeltaError for
    another base, or for parts that do not fit it.
    """
    check_base(delta, base_digest or weights_digest(base_state))
    check_fits(delta, base_state)
    products = {name: _terms(delta, name, base_state[name]) for name in delta.of_kind("matrices")}
    tables = {name: _rows(delta, name, base_state[name]) for name in delta.of_kind("tables")}
    vectors = {name: rebuild(delta, name, base_state[name].detach().cpu()) for name in delta.of_kind("other")}
    held = [tensor for terms in products.values() for term in terms for tensor in _tensors(term)]
    held += [tensor for table in tables.values() for tensor in (table.rows_R, table.values_RD)]
    size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in (*held, *vectors.values()))
    return TenantWeights(content_digest(delta), products, tables, vectors, size_bytes)


def content_digest(delta: Delta) -> str:
    """sha256 (hex) of what the delta does: its base, and every part with the codec that reads it."""
    codecs = "\n".join(f"{name} {own.codec}" for name, own in sorted(delta.encoded.items()))
    words = "\n".join((delta.base_digest, codecs, weights_digest(delta.tensors())))
    return hashlib.sha256(words.encode()).hexdigest()


def _terms(delta: Delta, name: str, base_NK: Tensor) -> list[Term]:
    own = delta.encoded[name]
    codec = find_codec(own.codec)
    n_outputs, n_inputs = own.shape
    if isinstance(codec, MatrixCodec):
        return codec.terms(own.parts, (n_outputs, n_inputs))
    return [WholeTerm(rebuild(delta, name, base_NK.detach().cpu()))]


def _rows(delta: Delta, name: str, base_VD: Tensor) -> ChangedRows:
    base_VD = base_VD.detach().cpu()
    own = delta.encoded[name]
    rebuilt_VD = rebuild(delta, name, base_VD)
    rows_R = own.parts["rows"].long() if "rows" in own.parts else changed_rows(base_VD, rebuilt_VD)
    return ChangedRows(rows_R, rebuilt_VD[rows_R])


def _tensors(term: Term) -> list[Tensor]:
    values = (getattr(term, field.name) for field in fields(term))
    return [value for value in values if isinstance(value, Tensor)]
