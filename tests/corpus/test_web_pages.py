"""Pages go to the extracting process many at a time: in their order, each with its own limit, none with another's fate."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilth.corpus import web_pages
from tilth.corpus.extract.html import Extractor
from tilth.corpus.sources.warc import Warc
from tilth.corpus.time_limit import DiedError, TooSlowError, calls_limited, end_children

TEXT = "Page {} of a crawl, with a sentence that is long enough for a main text."
PAGE = f"<html><body><p>{TEXT}</p></body></html>"


def test_outcomes_are_in_order_and_their_own() -> None:
    endless = (b"(a+)+$", (b"a" * 60 + b"b",))
    outcomes = calls_limited("re:match", [(b"a", (b"a",)), endless, (b"(", (b"a",)), endless, (b"b", (b"a",))], max_seconds=0.2)
    assert isinstance(outcomes[1].error, TooSlowError)
    assert isinstance(outcomes[3].error, TooSlowError)
    with pytest.raises(Exception, match="missing"):
        outcomes[2].get()
    assert outcomes[4].get() is None
    assert "cannot pickle" in str(outcomes[0].error)  # a match cannot come back


def test_a_crash_takes_no_other_call_with_it() -> None:
    outcomes = calls_limited("operator:mul", [(b"a", (3,)), (b"x", (1 << 33,)), (b"b", (2,))], max_seconds=5)
    assert [outcome.value for outcome in outcomes] == [b"aaa", None, b"bb"]
    assert isinstance(outcomes[1].error, DiedError)
    assert calls_limited("builtins:len", [], max_seconds=5) == []


@pytest.mark.parametrize("max_seconds", [0, 20.0])
@pytest.mark.parametrize("rows_a_batch", [1, 7, 64])
def test_rows_come_in_order_whatever_the_batch(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: Callable[..., Any],
    warc_record: Callable[..., bytes],
    http_response: Callable[..., bytes],
    max_seconds: float,
    rows_a_batch: int,
) -> None:
    monkeypatch.setattr(web_pages, "BATCH_ROWS", rows_a_batch)
    records = []
    for i in range(40):
        body = b"" if i % 10 == 3 else b"<html><body><p>" if i % 10 == 6 else PAGE.format(i).encode()
        records.append(warc_record(http_response(body), number=i))
    (tmp_path / "a.warc").write_bytes(b"".join(records) + b"WARC/1.0\r\nbroken")
    found = rows(Warc("web", str(tmp_path / "a.warc"), max_seconds=max_seconds))
    good = [i for i in range(40) if i % 10 not in (3, 6)]
    assert found.texts == [TEXT.format(i) for i in good]
    assert [row["url"] for row in found.documents] == [f"http://example.org/{i}" for i in good]
    assert found.reasons[:-1] == ["empty"] * 8
    assert len(found.rejects) == 9


def test_a_slow_page_among_others(
    tmp_path: Path, rows: Callable[..., Any], warc_record: Callable[..., bytes], http_response: Callable[..., bytes]
) -> None:
    slow = b"<html><body>" + b"<p>One of many paragraphs.</p>" * 300_000
    bodies = [slow if i in (2, 3) else PAGE.format(i).encode() for i in range(6)]
    (tmp_path / "a.warc").write_bytes(b"".join(warc_record(http_response(body)) for body in bodies))
    end_children()
    found = rows(Warc("web", str(tmp_path / "a.warc"), max_seconds=0.05))
    assert found.texts == [TEXT.format(i) for i in (0, 1, 4, 5)]
    assert found.reasons == ["too_slow"] * 2


def test_an_extractor_brings_its_library() -> None:
    program = (
        "import pickle, sys; pickle.loads(bytes.fromhex(sys.argv[1])); print('trafilatura' in sys.modules)"  # before any page
    )
    for mode, there in (("both", "True"), ("resiliparse", "False")):
        data = pickle.dumps(Extractor(mode)).hex()
        told = subprocess.run([sys.executable, "-c", program, data], capture_output=True, text=True, check=True)
        assert told.stdout.strip() == there
