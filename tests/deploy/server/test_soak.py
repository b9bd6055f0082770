"""The short form of benchmarks/soak.py: mixed use of a real server, with tenants that come and go and clients that hang up.

Two minutes: nothing may be wrong, and once half of them have passed memory may grow by less than 1 %, as it may in the full form
after a third of twenty minutes.
"""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path

import pytest


@pytest.mark.slow
def test_mixed_use_leaves_no_error_and_little_memory(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    soak, served = importlib.import_module("soak"), importlib.import_module("served_model")
    with served.serving(capacity_bytes=2 << 20) as server:
        found, memory = asyncio.run(soak.run(server, 120, 3))
    assert found.wrong == []
    kinds = {"whole", "stream", "hung up", "fixed", "turn", "look", "load_delta", "unload_delta", "guest 200", "guest 404"}
    assert found.counts.keys() >= kinds
    assert soak.growth_percent(memory, warm_up=1 / 2) < soak.BAR
