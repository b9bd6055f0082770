"""A batch of rows of many tenants against each tenant's own decoder, base + terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tilth.inference.states import join
from tilth.inference.tenants.bank import TenantBank
from tilth.kernels.products import rows_apart
from tilth.models.decoder import Decoder
from tilth.models.states import DecoderStates

Make = Callable[..., Any]
KINDS = ("bitdelta", "rank1", "residual", "lora", "mixed", "none", "whole")
FAMILIES: dict[str, dict[str, Any]] = {
    "attention": {"layers": "AA"},
    "mamba2": {"layers": "MM", "n_groups": 2},
    "mamba1": {"layers": "SS"},
    "discrete": {"layers": "DD", "n_groups": 2},
    "hybrid": {"layers": "MASD", "tie_embeddings": False},
    "ladder": {"layers": "MA", "residual": "ladder"},
    "no taps": {"layers": "MD", "d_conv": 1, "d_ff": 0},
}
CLOSE = {torch.float32: {"rtol": 0.0, "atol": 1e-5}, torch.float64: {"rtol": 0.0, "atol": 1e-11}}


@pytest.fixture
def loaded(make_model: Make, make_tenant: Make) -> Callable[..., tuple[TenantBank, list[Decoder]]]:
    """make(changes, kinds): a bank with a tenant of each kind, in slots 0, 1, ..., and their decoders; the last is the base."""

    def make(
        changes: dict[str, Any], kinds: tuple[str, ...] = KINDS, dtype: torch.dtype = torch.float32
    ) -> tuple[TenantBank, list[Decoder]]:
        model = make_model(**changes, scale=1.0).to(dtype)
        bank = TenantBank(model, "base")
        tenants = [make_tenant(model, kind) for kind in kinds]
        for kind, (weights, _) in zip(kinds, tenants, strict=True):
            bank.load(kind, weights)
        return bank, [own for _, own in tenants] + [model]

    return make


def read(bank: TenantBank, slot: int, prompts_BT: Tensor) -> tuple[Tensor, DecoderStates]:
    states = bank.model.empty_states(len(prompts_BT))
    with bank.rows(torch.full((len(prompts_BT),), slot)):
        return bank.model.prefill(prompts_BT, states), states


def own_logits(model: Decoder, ids: Tensor) -> Tensor:
    """Logits after the last token by one pass over all."""
    with torch.no_grad():
        return model(ids.unsqueeze(0))[0, -1]


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES)
def test_prefill_and_steps_are_those_of_each_tenants_own_decoder(
    loaded: Make, changes: dict[str, Any], dtype: torch.dtype
) -> None:
    bank, models = loaded(changes, dtype=dtype)
    slots = [2, 0, 5, -1, 1, 3, 4, 6, 0, -1, 6]
    prompts = [torch.randint(0, 43, (1, 3 + i)) for i in range(len(slots))]
    parts = []
    for slot, prompt in zip(slots, prompts, strict=True):
        logits, states = read(bank, slot, prompt)
        torch.testing.assert_close(logits[0], own_logits(models[slot], prompt[0]), **CLOSE[dtype])
        parts.append(states)
    states = join(parts)
    so_far = [prompt[0] for prompt in prompts]
    for _ in range(3):
        ids_B = torch.randint(0, 43, (len(slots),))
        with bank.rows(torch.tensor(slots)):
            logits_BV = bank.model.step(ids_B, states)
        so_far = [torch.cat([ids, new.view(1)]) for ids, new in zip(so_far, ids_B, strict=True)]
        wanted = torch.stack([own_logits(models[slot], ids) for slot, ids in zip(slots, so_far, strict=True)])
        torch.testing.assert_close(logits_BV, wanted, **CLOSE[dtype])
        assert (wanted - torch.stack([own_logits(bank.model, ids) for ids in so_far])).abs().amax(1)[:3].min() > 0.01


def test_several_rows_of_one_tenant_are_read_together(loaded: Make) -> None:
    bank, models = loaded({"layers": "MASD"}, ("mixed",), torch.float64)
    prompts = torch.randint(0, 43, (3, 6))
    logits, _ = read(bank, 0, prompts)
    close = CLOSE[torch.float64]
    torch.testing.assert_close(logits, torch.stack([own_logits(models[0], ids) for ids in prompts]), **close)
    with bank.rows(torch.tensor([0, 0, 0])):
        all_logits = bank.model(prompts)
    torch.testing.assert_close(all_logits, models[0](prompts), **close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("layers", "own"), [("AM", "mixed"), ("SD", "mixed"), ("AM", "lora"), ("AM", "whole"), ("AM", "wide")])
def test_a_row_has_the_same_bits_whoever_else_is_there(
    make_model: Make, make_tenant: Make, layers: str, own: str, dtype: torch.dtype
) -> None:
    # widths of whole vectors, as real models have: torch's silu rounds otherwise in what is left of a vector
    model = make_model(layers, scale=1.0, d_model=96, ssm_head_dim=24, d_state=16, d_ff=64).to(dtype)
    bank = TenantBank(model, "base")
    bank.load("other", make_tenant(model, own)[0])
    bank.load("it", make_tenant(model, own)[0])
    ids_B = torch.randint(0, 43, (9,))

    def steps(slots: list[int]) -> Tensor:
        states = model.empty_states(len(slots))
        with rows_apart(), torch.inference_mode(), bank.rows(torch.tensor(slots)):
            return torch.stack([model.step(ids_B[: len(slots)], states) for _ in range(3)])

    it = bank.slot("it")
    alone = steps([it])
    of_base = steps([-1])
    for others in ([it], [0], [-1], [it, it, -1, 0, it, 0, -1, -1]):
        assert torch.equal(steps([it, *others])[:, :1], alone)
        assert torch.equal(steps([-1, *others])[:, :1], of_base)
    for kind in ("mixed", "bitdelta", "lora", "residual", "whole"):
        bank.load(kind, make_tenant(model, kind)[0])
        assert torch.equal(steps([it, bank.slot(kind), -1])[:, :1], alone)
    bank.unload("other")
    bank.unload("mixed")
    assert torch.equal(steps([it, bank.slot("lora"), -1])[:, :1], alone)


@pytest.mark.parametrize("kind", ["lora", "wide", "whole", "rank1"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_has_the_same_bits_read_alone_with_others_or_among_tenants(
    make_model: Make, make_tenant: Make, kind: str, dtype: torch.dtype
) -> None:
    bank = TenantBank(make_model("A", d_model=96, d_ff=64).to(dtype), "base")
    for name in "ab":
        bank.load(name, make_tenant(bank.model, kind)[0])
    name = "blocks.0.mlp.out_proj"
    x_BTK = torch.randn(1, 24, 64).to(dtype)
    layer = bank.model.get_submodule(name)
    with rows_apart(), torch.inference_mode():
        with bank.rows(torch.tensor([0])):
            together, alone = layer(x_BTK), layer(x_BTK[:, :1])
        with bank.rows(torch.tensor([0, 1, -1, 0])):
            mixed = layer(x_BTK[0, [0, 1, 2, 0], None])
    assert torch.equal(together[:, :1], alone)
    assert torch.equal(mixed[[0, 3]], alone.expand(2, 1, -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whole_matrices_are_served_bit_for_bit(make_model: Make, make_tenant: Make, dtype: torch.dtype) -> None:
    model = make_model("MA", scale=1.0).to(dtype)
    weights, own = make_tenant(model, "whole", tables=False)
    bank = TenantBank(model, "base")
    bank.load("it", weights)
    assert bank.size_bytes <= sum(weight.nbytes for weight in model.parameters())  # not a matrix more for each
    ids = torch.randint(0, 43, (1, 6))
    with rows_apart(), torch.inference_mode():
        wanted, states, own_states = own(ids), model.empty_states(1), own.empty_states(1)
        with bank.rows(torch.tensor([0])):
            assert torch.equal(model(ids), wanted)
            model.prefill(ids, states)
        own.prefill(ids, own_states)
        with bank.rows(torch.tensor([0])):
            assert torch.equal(model.step(ids[:, 0], states), own.step(ids[:, 0], own_states))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outside_rows_and_among_rows_of_the_base_the_model_is_the_base(loaded: Make, dtype: torch.dtype) -> None:
    bank, (*_, model) = loaded({"layers": "MASD"}, ("rank1", "lora"), dtype)
    ids = torch.randint(0, 43, (2, 5))
    before = model(ids)
    read(bank, 1, ids)
    with bank.rows(torch.tensor([-1, -1])):
        assert torch.equal(model(ids), before)
    with pytest.raises(RuntimeError, match="on purpose"), bank.rows(torch.tensor([0, 1])):
        raise RuntimeError("on purpose")
    assert torch.equal(model(ids), before)
    assert not [name for module in model.modules() for name in vars(module) if name in ("forward", "predict", "loss", "weight")]


@pytest.mark.parametrize("layers", ["A", "M", "S", "D"])
def test_bfloat16_is_as_near_as_its_own_decoder(make_model: Make, make_tenant: Make, layers: str) -> None:
    model = make_model(layers, scale=1.0)
    tenants = [make_tenant(model, kind) for kind in ("rank1", "mixed")]
    ids = torch.randint(0, 43, (2, 4))
    exact = torch.stack([own(row.unsqueeze(0))[0, -1] for (_, own), row in zip(tenants, ids, strict=True)])
    plain = torch.stack([own.bfloat16()(row.unsqueeze(0))[0, -1] for (_, own), row in zip(tenants, ids, strict=True)])
    model.bfloat16()
    bank = TenantBank(model, "base")
    for name, (weights, _) in zip("ab", tenants, strict=True):
        bank.load(name, weights)
    states = model.empty_states(2)
    for new in ids.T:
        with bank.rows(torch.tensor([0, 1])):
            found = model.step(new, states)
    assert found.dtype == torch.bfloat16
    assert (found - exact).abs().max() <= 3 * (plain - exact).abs().max()


def test_a_model_may_be_stepped_in_inference_mode_and_out_of_it(loaded: Make, make_tenant: Make) -> None:
    bank, models = loaded({"layers": "MS"}, ("mixed",))
    ids = torch.randint(0, 43, (1, 4))
    with torch.inference_mode():
        bank.load("second", make_tenant(bank.model, "mixed")[0])
        read(bank, 0, ids)
    bank.load("third", make_tenant(bank.model, "mixed")[0])
    with bank.rows(torch.tensor([0])):
        torch.testing.assert_close(bank.model(ids), models[0](ids), **CLOSE[torch.float32])


def test_what_would_be_wrong_is_refused(loaded: Make) -> None:
    bank, (*_, model) = loaded({"layers": "M"}, ("rank1", "lora"))
    ids = torch.randint(0, 43, (2, 3))
    with bank.rows(torch.tensor([0, 1])):
        with pytest.raises(ValueError, match="one token at a time"):
            model(ids)
        with pytest.raises(ValueError, match="3 rows"):
            model(torch.zeros(3, 1, dtype=torch.int64))
        with pytest.raises(ValueError, match="knows no tenants"):
            model.loss(ids, ids)
        with pytest.raises(ValueError, match="inside"), bank.rows(torch.tensor([0, 1])):
            pass
    with pytest.raises(ValueError, match="slot 2"), bank.rows(torch.tensor([2])):
        pass
