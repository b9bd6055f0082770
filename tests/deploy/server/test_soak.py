"""The short form of benchmarks/soak.py: mixed use of a real server, with tenants that come and go and clients that hang up.

20 seconds, for the sake of `make test`: nothing may be wrong. Memory is then still settling, so that 5 % may be gained; the full
20 minutes hold it under 1 %.
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
        found, memory = asyncio.run(soak.run(server, 20, 3))
    assert found.wrong == []
    kinds = {"whole", "stream", "hung up", "fixed", "turn", "look", "load_delta", "unload_delta", "guest 200", "guest 404"}
    assert found.counts.keys() >= kinds
    assert soak.growth_percent(memory) < 5
