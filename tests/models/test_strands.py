"""Models that treat both strands of DNA alike: Caduceus-PS by its parameters, Caduceus-PH by averaging afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tilth.errors import RecipeError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.strands import conjoined, reverse_complement

# A C G T are 7 8 9 10, as in Caduceus' vocabulary; the others pair with themselves
COMPLEMENT = (0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11, 12, 13, 14, 15)
DNA: dict[str, Any] = {"vocab_size": 16, "complement": COMPLEMENT, "bidirectional": True}


def _turned(logits_BTV: Tensor) -> Tensor:
    return logits_BTV.flip(1)[..., list(COMPLEMENT)]


def _ids(n_rows: int = 3, n_tokens: int = 26) -> Tensor:
    return torch.randint(0, 12, (n_rows, n_tokens))


@pytest.mark.parametrize("layers", ["S", "SS", "M", "MAM"])
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("dtype", "n_tokens", "tolerance"),
    # a matrix product may round a row by its place in a tile: of whole tiles all rows have the same places
    [(torch.float32, 64, 0.0), (torch.float64, 64, 0.0), (torch.float64, 26, 1e-12)],
)
def test_ps_gives_the_turned_logits_of_turned_dna(
    make_model: Callable[..., Decoder], layers: str, swap: bool, tied: bool, dtype: torch.dtype, n_tokens: int, tolerance: float
) -> None:
    model = make_model(layers, rcps=True, rcps_swap=swap, tie_embeddings=tied, **DNA).to(dtype)
    with torch.no_grad():
        model.norm.weight.uniform_(0.5, 2)
        ids = _ids(3, n_tokens)
        logits = model(ids)
        assert (model(reverse_complement(ids, model.config)) - _turned(logits)).abs().max() <= tolerance * logits.abs().max()


def test_ps_holds_for_packed_documents_and_in_the_loss(make_model: Callable[..., Decoder]) -> None:
    model = make_model("SM", rcps=True, **DNA).double()
    ids, targets = _ids(1), _ids(1)
    segments = torch.tensor([0] * 9 + [1] * 17)[None]
    turned = [reverse_complement(t, model.config) for t in (ids, targets)]
    loss, count = model.loss(ids, targets, segments)
    other, other_count = model.loss(turned[0], turned[1], segments.flip(1))
    assert abs(float(loss.detach() - other.detach())) < 1e-12
    assert count == other_count
    parts = torch.cat([model(ids[:, :9]), model(ids[:, 9:])], 1)
    assert (model(ids, segments) - parts).abs().max() < 1e-12


def test_the_swapped_form_is_another_function(make_model: Callable[..., Decoder]) -> None:
    model = make_model("SS", rcps=True, **DNA)
    ids = _ids()
    plain = model(ids)
    object.__setattr__(model.config, "rcps_swap", True)
    assert (model(ids) - plain).abs().max() > 1e-2


def test_ph_holds_after_conjoining_and_not_before(make_model: Callable[..., Decoder]) -> None:
    model = make_model("SM", **DNA)
    ids = _ids(3, 64)
    with torch.no_grad():
        turned = reverse_complement(ids, model.config)
        assert (model(turned) - _turned(model(ids))).abs().max() > 1e-2  # the control: one strand alone must fail
        assert torch.equal(conjoined(model, turned), _turned(conjoined(model, ids)))
        assert (conjoined(model, ids) - (model(ids) + _turned(model(turned))) / 2).abs().max() < 1e-6


def test_only_a_model_that_reads_both_ways_without_shared_strands_is_conjoined(make_model: Callable[..., Decoder]) -> None:
    for changes in ({"bidirectional": False}, {"complement": None}, {"rcps": True}):
        model = make_model("M", **{**DNA, **changes})
        with pytest.raises(RecipeError, match="conjoined"):
            conjoined(model, _ids())


@pytest.mark.parametrize(
    "settings",
    [
        {"rcps": True},
        {"rcps": True, "complement": COMPLEMENT},
        {"rcps": True, "complement": COMPLEMENT, "bidirectional": True, "pooling": "last", "n_classes": 2},
        {"rcps_swap": True},
        {"complement": [0, 1]},
        {"complement": [*range(1, 16), 0]},
        {"complement": [*range(15), 16]},
    ],
)
def test_strands_that_do_not_pair_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"complement|rcps|pooling"):
        ModelConfig.from_dict({"vocab_size": 16, "d_model": 32, "layers": "S", **settings})
