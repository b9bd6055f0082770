"""The pool of keys and values gives memory back when its end is free, and loses nothing of what is held."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tilth.inference.engine import paging
from tilth.inference.engine.paging import KeyValuePool
from tilth.inference.engine.slots import SlotRuns
from tilth.models.decoder import Decoder


def test_it_shrinks_when_its_end_is_free(make_model: Callable[..., Decoder], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "FEWEST_SLOTS", 8)
    pool = KeyValuePool(make_model("MA").config, torch.float32, torch.device("cpu"), 1000)
    held = pool.take(6)
    pages = pool.layers[1]
    pages.keys[held.astype(np.int64)], pages.values[held.astype(np.int64)] = 3.0, 4.0
    others = [pool.take(100) for _ in range(5)]
    most = len(pages.keys)
    assert most >= 506
    for other in others:
        pool.free(other)
    assert len(pages.keys) == len(pages.values) == pool.runs.n_slots <= 32 < most
    assert pool.runs.n_slots - pool.runs.n_free == 6
    assert (pages.keys[held.astype(np.int64)] == 3.0).all()
    assert (pages.values[held.astype(np.int64)] == 4.0).all()
    again = pool.take(300)
    assert not set(again.tolist()) & set(held.tolist())
    pool.free(again)
    pool.free(held)
    assert pool.runs.n_slots == pool.runs.n_free >= 8


def test_no_slot_that_is_taken_is_dropped() -> None:
    runs = SlotRuns(10)
    taken = runs.take(10)
    runs.free(taken[6:])
    assert runs.n_in_use == 6
    with pytest.raises(ValueError, match="slot 5 is taken"):
        runs.shrink(5)
    runs.shrink(6)
    assert (runs.n_slots, runs.n_free) == (6, 0)
    runs.grow(8)
    assert sorted(runs.take(2).tolist()) == [6, 7]
