"""Mixers that read both ways: the sum of one that reads from the start and one that reads from the end."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tilth.errors import RecipeError
from tilth.models.decoder import Decoder
from tilth.models.layout import lay_out


@pytest.mark.parametrize("letter", ["M", "S"])
def test_both_ways_is_the_sum_of_two_mixers_one_on_turned_rows(letter: str, make_model: Callable[..., Decoder]) -> None:
    model = make_model(letter, bidirectional=True).double()
    mixer: Any = model.blocks[0].mixer
    x_BTD = torch.randn(2, 17, 32, dtype=torch.float64)
    layout = lay_out(model.config, torch.zeros(2, 17, dtype=torch.int64), None, 0)
    backwards = copy.deepcopy(mixer.backwards)
    backwards.in_proj, backwards.out_proj = mixer.forwards.in_proj, mixer.forwards.out_proj
    expected = mixer.forwards(x_BTD, layout) + backwards(x_BTD.flip(1), layout).flip(1)
    assert (mixer(x_BTD, layout) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("layers", ["M", "S", "A", "MA"])
def test_a_token_sees_what_follows_in_its_document_alone(layers: str, make_model: Callable[..., Decoder]) -> None:
    model = make_model(layers, bidirectional=True)
    ids = torch.randint(0, 43, (1, 20))
    segments = torch.tensor([0] * 11 + [1] * 9)[None]
    changed = ids.clone()
    changed[0, 10] = (ids[0, 10] + 1) % 43
    moved = (model(ids, segments) - model(changed, segments)).abs().amax(-1)[0]
    assert moved[:11].min() > 1e-4
    assert moved[11:].max() == 0


def test_it_keeps_no_states(make_model: Callable[..., Decoder]) -> None:
    with pytest.raises(RecipeError, match="keeps no states"):
        make_model("M", bidirectional=True).empty_states(1)
