"""Scores a few texts in tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pytest

from tilth.quality_signals.registry import compute_family, get_family

# For the families that take lists from the user.
RESOURCES = {
    "bad_words": b'{"en": ["darn", "oh dear"], "fr": ["zut"]}',
    "blocked_domains": b'{"casino.example": "gambling", "both.example": ["chat", "adult"], "id.example": 7}',
}


def _documents(texts: list[str], **fields: list[Any]) -> pa.Table:
    n = len(texts)
    return pa.table(
        {
            "shard": pa.array(["s"] * n, pa.string()),
            "row": pa.array(range(n), pa.int32()),
            "text": pa.array(texts, pa.large_string()),
            "url": pa.array(fields.get("url", ["http://casino.example/page"] * n), pa.string()),
            "language": pa.array(fields.get("language", ["en"] * n), pa.string()),
            "meta": pa.array(fields.get("meta", [[]] * n), pa.map_(pa.string(), pa.string())),
        }
    )


def _score(
    family: str, text: str, model: bytes | None = None, resources: Mapping[str, bytes] = RESOURCES, **fields: Any
) -> dict[str, Any]:
    documents = _documents([text], **{name: [value] for name, value in fields.items()})
    return compute_family(get_family(family), documents, model, resources).to_pylist()[0]


@pytest.fixture(scope="session")
def documents() -> Callable[..., pa.Table]:
    """Makes the columns of documents/1 that signals read."""
    return _documents


@pytest.fixture(scope="session")
def score() -> Callable[..., dict[str, Any]]:
    """Scores one text: score(family, text, model=None, resources=..., url=..., language=..., meta=...)."""
    return _score


@pytest.fixture(scope="session")
def resources() -> dict[str, bytes]:
    """Lists for the families that take some."""
    return RESOURCES
