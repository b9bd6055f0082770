"""Loading, unloading and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tilth.errors import DeltaError, NotFoundError, RecipeError
from tilth.inference.tenants.bank import TenantBank
from tilth.inference.tenants.weights import ChangedRows, LowRankTerm, SignTerm, TenantWeights, WholeTerm

Make = Callable[..., Any]
MATRIX = "blocks.0.mixer.in_proj.weight"  # (148, 32) of make_model's sizes


def test_slots_and_digests(make_model: Make, make_tenant: Make) -> None:
    model = make_model("M")
    bank = TenantBank(model, "of the base")
    assert (bank.slot(None), bank.digest(None), bank.size_bytes) == (-1, "of the base", 0)
    for name in "abc":
        bank.load(name, make_tenant(model, "rank1")[0])
    assert [bank.slot(name) for name in "abc"] == [0, 1, 2]
    assert bank.digest("b") == "digest of rank1"
    with pytest.raises(DeltaError, match="loaded already"):
        bank.load("b", make_tenant(model, "rank1")[0])
    bank.unload("b")
    with pytest.raises(NotFoundError, match="no tenant is called b"):
        bank.slot("b")
    with pytest.raises(NotFoundError):
        bank.unload("b")
    size = bank.size_bytes
    bank.load("d", make_tenant(model, "rank1")[0])
    assert bank.slot("d") == 1
    bank.unload("d")
    assert bank.size_bytes == size  # its place in the stacks was free


def test_a_matrix_of_signs_takes_a_bit_a_weight(make_model: Make, make_tenant: Make) -> None:
    model = make_model("MA", d_model=256, ssm_head_dim=64, d_ff=512)
    bank = TenantBank(model, "base")
    for name in "abcd":
        bank.load(name, make_tenant(model, "rank1", vectors=False, tables=False)[0])
    n_weights = sum(weight.numel() for name, weight in model.named_parameters() if "proj" in name)
    assert bank.size_bytes < 4 * n_weights / 8 * 1.35  # rows and columns have scales


def test_a_model_that_keeps_no_states_is_refused(make_model: Make) -> None:
    with pytest.raises(RecipeError, match="keeps no states"):
        TenantBank(make_model("M", bidirectional=True), "base")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown matrix": ({"products": {"blocks.0.mixer.in_proj.weigth": []}}, "Did you mean `blocks.0.mixer.in_proj.weight`"),
    "a vector as a matrix": ({"products": {"norm.weight": []}}, "no parameter norm.weight"),
    "a matrix as a vector": ({"vectors": {MATRIX: torch.zeros(148, 32)}}, "no parameter"),
    "a table that the base has not": ({"tables": {"head.weight": ChangedRows(torch.tensor([1]), torch.zeros(1, 32))}}, "head"),
    "signs of another shape": ({"products": {MATRIX: [SignTerm(torch.zeros(2, 148, dtype=torch.int32))]}}, "shape"),
    "signs that are no words": ({"products": {MATRIX: [SignTerm(torch.zeros(1, 148))]}}, "int32"),
    "a row's scale of another shape": (
        {"products": {MATRIX: [SignTerm(torch.zeros(1, 148, dtype=torch.int32), row_scale_N=torch.ones(32))]}},
        "row_scale_N",
    ),
    "a scale that is no number": (
        {"products": {MATRIX: [SignTerm(torch.zeros(1, 148, dtype=torch.int32), scale=torch.tensor(float("nan")))]}},
        "finite",
    ),
    "ranks that differ": ({"products": {MATRIX: [LowRankTerm(torch.ones(148, 2), torch.ones(3, 32))]}}, "up"),
    "rank 0": ({"products": {MATRIX: [LowRankTerm(torch.ones(148, 0), torch.ones(0, 32))]}}, "rank 0"),
    "a low rank of another width": ({"products": {MATRIX: [LowRankTerm(torch.ones(148, 2), torch.ones(2, 33))]}}, "down"),
    "a whole matrix of another width": ({"products": {MATRIX: [WholeTerm(torch.ones(148, 33))]}}, "shape"),
    "a whole matrix and more": (
        {"products": {MATRIX: [WholeTerm(torch.ones(148, 32)), LowRankTerm(torch.ones(148, 2), torch.ones(2, 32))]}},
        "other terms",
    ),
    "rows beyond the table": ({"tables": {"embedding.weight": ChangedRows(torch.tensor([48]), torch.zeros(1, 32))}}, "below 48"),
    "rows twice": ({"tables": {"embedding.weight": ChangedRows(torch.tensor([1, 1]), torch.zeros(2, 32))}}, "rise"),
    "rows of int32": ({"tables": {"embedding.weight": ChangedRows(torch.tensor([1]).int(), torch.zeros(1, 32))}}, "int64"),
    "values of another width": ({"tables": {"embedding.weight": ChangedRows(torch.tensor([1]), torch.zeros(1, 31))}}, "shape"),
    "a vector of another shape": ({"vectors": {"norm.weight": torch.ones(33)}}, "shape"),
    "without a digest": ({"digest": ""}, "no digest"),
    "infinite": ({"vectors": {"norm.weight": torch.full((32,), float("inf"))}}, "finite"),
}


@pytest.mark.parametrize(("change", "named"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_named_and_leaves_nothing(
    make_model: Make, make_tenant: Make, change: dict[str, Any], named: str
) -> None:
    model = make_model("M")
    bank = TenantBank(model, "base")
    good = make_tenant(model, "rank1")[0]
    with pytest.raises(DeltaError, match=named):
        bank.load("bad", dataclasses.replace(good, **change))
    assert bank.size_bytes == 0
    bank.load("bad", good)
    assert bank.slot("bad") == 0


def test_a_tenant_that_changes_nothing_is_the_base(make_model: Make) -> None:
    model = make_model("M")
    bank = TenantBank(model, "base")
    bank.load("same", TenantWeights("same"))
    ids = torch.randint(0, 43, (2, 5))
    with bank.rows(torch.tensor([0, 0])):
        assert torch.equal(model(ids), model(ids))
        inside = model(ids)
    assert torch.equal(inside, model(ids))
