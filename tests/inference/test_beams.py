"""beam_search(): with enough beams it is an exhaustive search, with one it is greedy."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from tilth.errors import UserError
from tilth.inference.beams import Beam, beam_search
from tilth.inference.generate import generate
from tilth.models.decoder import Decoder

PROMPT, BASES, STOP = [3, 1, 4], (7, 8, 9, 10), 2


def _log_p(model: Decoder, ids: tuple[int, ...]) -> float:
    log_p = model(torch.tensor([[*PROMPT, *ids]])).double().log_softmax(-1)[0, len(PROMPT) - 1 : -1]
    return float(log_p[torch.arange(len(ids)), list(ids)].sum().detach())


def _check(found: list[Beam], wanted: list[tuple[tuple[int, ...], float]]) -> None:
    assert [beam.ids for beam in found] == [ids for ids, _ in wanted]
    assert max(abs(beam.log_p - log_p) for beam, (_, log_p) in zip(found, wanted, strict=True)) < 1e-5


def test_enough_beams_find_what_an_exhaustive_search_finds(make_model: Callable[..., Decoder]) -> None:
    model = make_model("MA", tie_embeddings=False)
    every = [(ids, _log_p(model, ids)) for ids in itertools.product(BASES, repeat=3)]
    wanted = sorted(every, key=lambda pair: -pair[1])[:16]
    # 16 beams hold every prefix of two bases
    _check(beam_search(model, PROMPT, 16, 3, allowed_ids=BASES), wanted)


def test_ended_beams_compete_with_those_that_go_on(make_model: Callable[..., Decoder]) -> None:
    model = make_model("MA", tie_embeddings=False)
    every = [(ids, _log_p(model, ids)) for ids in itertools.product(BASES, repeat=3)]
    for n_before in range(3):
        every += [(ids, _log_p(model, (*ids, STOP))) for ids in itertools.product(BASES, repeat=n_before)]
    wanted = sorted(every, key=lambda pair: -pair[1])[:30]
    assert {len(ids) for ids, _ in wanted} > {3}
    _check(beam_search(model, PROMPT, 30, 3, allowed_ids=BASES, stop_id=STOP), wanted)


def test_one_beam_is_greedy(make_model: Callable[..., Decoder]) -> None:
    model = make_model("MMA", tie_embeddings=False)
    assert list(beam_search(model, PROMPT, 1, 12)[0].ids) == generate(model, PROMPT, 12)


def test_more_beams_find_likelier_continuations_than_greedy(make_model: Callable[..., Decoder]) -> None:
    model = make_model("MMA", tie_embeddings=False)
    found = beam_search(model, PROMPT, 8, 10)
    assert [beam.log_p for beam in found] == sorted((beam.log_p for beam in found), reverse=True)
    assert len({beam.ids for beam in found}) == 8
    assert found[0].log_p > beam_search(model, PROMPT, 1, 10)[0].log_p


def test_fewer_continuations_than_beams_are_all_there_is(make_model: Callable[..., Decoder]) -> None:
    assert len(beam_search(make_model("M"), PROMPT, 50, 2, allowed_ids=(7, 8))) == 4
    assert beam_search(make_model("M"), PROMPT, 3, 0) == [Beam((), 0.0)]


def test_bad_input_is_refused(make_model: Callable[..., Decoder]) -> None:
    for prompt, n_beams, allowed in (([], 2, None), ([43], 2, None), ([1], 0, None), ([1], 2, (99,))):
        with pytest.raises(UserError):
            beam_search(make_model("M"), prompt, n_beams, 3, allowed)
