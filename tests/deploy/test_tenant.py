"""A delta as a server uses it: its terms, rows and vectors add up to the decoded model."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tilth.deploy.choice import Choice
from tilth.deploy.delta import Delta, Encoded, add_in_place, compress, decode
from tilth.deploy.store import DeltaStore
from tilth.deploy.tenant import content_digest, tenant_weights
from tilth.errors import DeltaError
from tilth.inference.tenants.bank import TenantBank
from tilth.inference.tenants.weights import LowRankTerm, SignTerm, Term
from tilth.kernels.sign_matmul import sign_matmul
from tilth.models.decoder import Decoder
from tilth.models.weights import load_model, weights_digest

MATRICES = ["bitdelta", "rank1", "residual:3", "low-rank:4", "whole"]


def applied(terms: list[Term], x_MK: Tensor) -> Tensor:
    """x @ difference.T, by the products that a server does."""
    total = torch.zeros(())
    for term in terms:
        if isinstance(term, LowRankTerm):
            total = total + (x_MK @ term.down_RK.T) @ term.up_NR.T
            continue
        assert isinstance(term, SignTerm)
        scale = 1.0 if term.scale is None else term.scale
        total = total + sign_matmul(
            x_MK, term.signs_PN, scale=scale, row_scale_N=term.row_scale_N, column_scale_K=term.column_scale_K
        )
    return total


@pytest.mark.parametrize("tables", ["auto", "16", "8", "4", "1", "whole"])
@pytest.mark.parametrize("matrices", MATRICES)
def test_products_rows_and_vectors_are_those_of_the_decoded_model(world: SimpleNamespace, matrices: str, tables: str) -> None:
    delta = compress(world.base_state, world.tuned_state, Choice(matrices, tables=tables))
    decoded = decode(delta, world.base_state)
    weights = tenant_weights(delta, world.base_state)
    changed = {name for name in decoded if not torch.equal(decoded[name], world.base_state[name])}
    assert weights.products.keys() | weights.tables.keys() | weights.vectors.keys() == changed
    generator = torch.Generator().manual_seed(0)
    for name, terms in weights.products.items():
        if matrices == "whole":
            assert torch.equal(terms[0].weight_NK, decoded[name])
            continue
        x_MK = torch.randn(5, decoded[name].shape[1], generator=generator)
        wanted = x_MK.double() @ (decoded[name] - world.base_state[name]).double().T
        torch.testing.assert_close(applied(terms, x_MK).double(), wanted, rtol=1e-4, atol=2e-5)
    for name, rows in weights.tables.items():
        table_VD = world.base_state[name].clone()
        table_VD[rows.rows_R] = rows.values_RD
        assert torch.equal(table_VD, decoded[name])
        assert bool((rows.rows_R.diff() > 0).all())
    for name, value in weights.vectors.items():
        assert torch.equal(value, decoded[name])


def test_signs_stay_packed(world: SimpleNamespace) -> None:
    delta = compress(world.base_state, world.tuned_state)
    weights = tenant_weights(delta, world.base_state)
    name = "blocks.0.mlp.out_proj.weight"
    (term,) = weights.products[name]
    assert isinstance(term, SignTerm)
    assert term.signs_PN is delta.encoded[name].parts["signs"]
    tables = sum(rows.rows_R.nbytes + rows.values_RD.nbytes for rows in weights.tables.values())
    vectors = sum(value.nbytes for value in weights.vectors.values())
    # a word holds 32 weights; the scales are float32
    shapes = [own.shape for own in delta.of_kind("matrices").values()]
    assert weights.size_bytes == tables + vectors + sum(4 * n * -(-k // 32) + 4 * (n + k) + 4 for n, k in shapes)


def test_the_digest_tells_deltas_apart(world: SimpleNamespace) -> None:
    delta = compress(world.base_state, world.tuned_state)
    digest = tenant_weights(delta, world.base_state).digest
    assert digest == content_digest(compress(world.base_state, world.tuned_state))
    name = "blocks.0.mlp.out_proj.weight"
    own = delta.encoded[name]
    scaled = replace(own, parts=own.parts | {"scale": own.parts["scale"] * 1.001})
    others = [
        replace(delta, encoded=delta.encoded | {name: scaled}),
        replace(delta, encoded={n: own for n, own in delta.encoded.items() if n != name}),
        replace(delta, base_digest="0" * 64),
        compress(world.base_state, world.tuned_state, Choice("bitdelta")),
    ]
    assert len({digest, *(content_digest(other) for other in others)}) == 5


def test_another_base_and_parts_that_do_not_fit_are_refused(world: SimpleNamespace) -> None:
    with pytest.raises(DeltaError, match="another base"):
        tenant_weights(world.delta, world.tuned_state)
    odd = Delta(world.delta.base_digest, "", {"blocks.9.mlp.out_proj.weight": Encoded("rank1", (1, 1), torch.float32, {})})
    with pytest.raises(DeltaError, match="the base has no tensor"):
        tenant_weights(odd, world.base_state)


def test_a_bank_takes_over_what_a_store_read(world: SimpleNamespace) -> None:
    store = DeltaStore(world.base_state, files={"tuned": world.path}, capacity_bytes=1 << 20)
    bank = TenantBank(load_model(world.base), world.delta.base_digest)
    weights = store.acquire("tuned")
    (term,) = weights.products["blocks.0.mlp.out_proj.weight"]
    assert isinstance(term, SignTerm)
    signs = weakref.ref(term.signs_PN)
    bank.load("tuned", weights)
    del weights, term
    assert signs() is None
    assert bank.size_bytes == pytest.approx(store.used_bytes, rel=0.01)


@pytest.mark.parametrize("matrices", ["rank1", "low-rank:8"])
def test_what_is_served_in_bf16_is_as_near_to_the_exact_model_as_what_is_verified(
    make_model: Callable[..., Decoder], matrices: str
) -> None:
    base = make_model("MA", d_model=128, d_ff=128, ssm_head_dim=32, d_state=16).eval().bfloat16()
    base_state = base.state_dict()
    tuned = {name: value + (0.02 * torch.randn_like(value) if "proj" in name else 0) for name, value in base_state.items()}
    delta = compress(base_state, tuned, Choice(matrices))
    verified, exact, bank = copy.deepcopy(base), copy.deepcopy(base).double(), TenantBank(base, delta.base_digest)
    add_in_place(delta, verified.state_dict())
    untyped = {name: replace(own, dtype=None) for name, own in delta.encoded.items()}
    add_in_place(Delta(weights_digest(exact.state_dict()), "", untyped), exact.state_dict())
    bank.load("it", tenant_weights(delta, base_state))
    ids_BT = torch.randint(0, 43, (4, 32))
    with torch.inference_mode():
        wanted_BTV = exact(ids_BT)
        with bank.rows(torch.zeros(4, dtype=torch.int64)):
            served = (base(ids_BT) - wanted_BTV).norm()
        assert served < 1.35 * (verified(ids_BT) - wanted_BTV).norm()
