"""Scores a few texts in tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from tilth.quality_signals.registry import compute_family, get_family


def _documents(texts: list[str]) -> pa.Table:
    rows = pa.array(range(len(texts)), pa.int32())
    return pa.table({"shard": pa.array(["s"] * len(texts), pa.string()), "row": rows, "text": pa.array(texts, pa.large_string())})


def _score(family: str, text: str, model: bytes | None = None) -> dict[str, Any]:
    return compute_family(get_family(family), _documents([text]), model).to_pylist()[0]


@pytest.fixture(scope="session")
def documents() -> Callable[[list[str]], pa.Table]:
    """Makes the columns of documents/1 that signals read."""
    return _documents


@pytest.fixture(scope="session")
def score() -> Callable[..., dict[str, Any]]:
    """Scores one text: score(family, text, model=None)."""
    return _score
