"""The policies against each other on small traces: what each is worth shows, and none passes its bytes."""

from __future__ import annotations

import pytest

from tilth.errors import UserError
from tilth.inference.replay.contenders import CONTENDERS, chosen_policies, contender
from tilth.inference.replay.geometries import GEOMETRIES
from tilth.inference.replay.sweep import sweep
from tilth.inference.replay.synthetic import synthetic_trace

GIGABYTE = 10**9


def test_states_where_requests_end_beat_states_in_every_block() -> None:
    requests = synthetic_trace("lmsys", n_sessions=20)
    cells = sweep(requests, GEOMETRIES["marconi-7b"], [GIGABYTE], ["vllm+", "block-lru", "marconi", "tilth"], is_instant=True)
    rates = {cell.policy: cell.token_hit_rate for cell in cells}
    assert rates["tilth"] > 5 * rates["vllm+"]
    assert rates["tilth"] > rates["block-lru"]
    assert rates["tilth"] >= rates["marconi"]
    assert all(cell.high_water_bytes <= GIGABYTE for cell in cells)


def test_with_room_for_everything_all_orders_are_one() -> None:
    requests = synthetic_trace("swebench", n_sessions=3)
    # what differs between these is who finds branch points among evicted prefixes, and nothing is evicted here
    names = [name for name in CONTENDERS if name not in ("vllm+", "block-lru")]
    cells = sweep(requests, GEOMETRIES["marconi-7b"], [10_000 * GIGABYTE], names, is_instant=True)
    assert len({cell.token_hit_rate for cell in cells}) == 1
    assert {cell.n_evictions for cell in cells} == {0}


@pytest.mark.parametrize("name", CONTENDERS)
def test_a_replay_repeats_itself_under_its_cap(name: str) -> None:
    requests = synthetic_trace("sharegpt", n_sessions=5)
    for is_instant in (True, False):
        one, again = (sweep(requests, GEOMETRIES["modern"], [GIGABYTE], [name], is_instant=is_instant)[0] for _ in range(2))
        assert (one.token_hit_rate, one.n_evictions) == (again.token_hit_rate, again.n_evictions)
        assert 0 < one.high_water_bytes <= GIGABYTE


def test_eight_bits_leave_room_for_more() -> None:
    requests = synthetic_trace("lmsys", n_sessions=20)
    plain, int8 = sweep(requests, GEOMETRIES["modern"], [GIGABYTE], ["tilth", "tilth+int8"], is_instant=True)
    assert int8.token_hit_rate > 1.1 * plain.token_hit_rate


def test_policies_are_chosen_by_name() -> None:
    assert chosen_policies(None, with_int8=False) == list(CONTENDERS)
    assert chosen_policies(["lru", " tilth", "lru"], with_int8=True) == ["lru", "tilth", "lru+int8", "tilth+int8"]
    assert contender("tilth+int8") is CONTENDERS["tilth"]
    for refused in ("tilt", "marconi+int8"):
        with pytest.raises(UserError):
            contender(refused)
