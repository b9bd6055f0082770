"""docs/serving.md names what a program may compare: the codes of refusals and the metrics."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tilth.deploy.server
from tilth.deploy.server.schemas import ChatCall, CompletionCall
from tilth.inference.engine.requests import MissReason

ROOM = Path(tilth.deploy.server.__file__).parent
SOURCE = "".join(path.read_text() for path in sorted(ROOM.glob("*.py")))


@pytest.fixture(scope="module")
def documented(request: pytest.FixtureRequest) -> str:
    return (request.config.rootpath / "docs" / "serving.md").read_text()


def test_codes(documented: str) -> None:
    codes = set(re.findall(r'code="([a-z_]+)"', SOURCE)) | {"unsupported_parameter"}
    assert len(codes) > 20
    assert not {code for code in codes if f"`{code}`" not in documented}


def test_metrics(documented: str) -> None:
    made = re.findall(r'(?:gauge|counter|_seconds|_by_tenant|Counter|Gauge|Family)\("(?:tilth_)?([a-z_0-9]+)"', SOURCE)
    assert len(made) > 20
    # the hits are named with the queries
    missing = {name for name in made if not re.search(rf"`{name}(_total)?(\{{[a-z,]+\}})?`", documented)}
    assert missing == {"prefix_cache_hits"}
    assert not {reason for reason in MissReason if reason != MissReason.NONE and f"`{reason}`" not in documented}


def test_parameters(documented: str) -> None:
    known = {*CompletionCall.model_fields, *ChatCall.model_fields} - {"stream_options"}
    assert not {name for name in known if f"`{name}`" not in documented}
