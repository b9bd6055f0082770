"""Every test of the room runs on one thread, from the same seed."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _repeatable(one_thread: None, fixed_seed: None) -> None:
    pass
