"""A call ends in time whatever it does, in any thread or process, and takes nothing else down with it."""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilth.corpus import time_limit
from tilth.corpus.extract.html import Extractor
from tilth.corpus.sources.warc import Warc
from tilth.corpus.time_limit import DiedError, TooSlowError, call_limited, end_children
from tilth.corpus.web_pages import READ_PAGE

# A backtracking regular expression is C code that neither returns nor lets other threads of its process run.
ENDLESS = ("re:match", b"(a+)+$", b"a" * 60 + b"b")


def test_it_returns_and_raises_what_the_function_does() -> None:
    assert call_limited("zlib:crc32", b"abc", max_seconds=5) == 891568578
    page, encoding = call_limited(READ_PAGE, b"<p>Gr\xfc\xdfe</p>", "latin-1", Extractor("resiliparse_all"), max_seconds=5)
    assert (page.text, encoding) == ("Grüße", "cp1252")
    with pytest.raises(ValueError, match="invalid literal"):
        call_limited("builtins:int", b"x", max_seconds=5)
    with pytest.raises(AttributeError):
        call_limited("zlib:nothing", b"", max_seconds=5)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 9 << 20])
def test_data_of_any_size_arrives(size: int) -> None:
    assert call_limited("builtins:len", bytes(size), max_seconds=5) == size
    assert call_limited("builtins:bytes", b"x" * size, max_seconds=5) == b"x" * size


def test_c_code_that_does_not_return() -> None:
    started = time.monotonic()
    with pytest.raises(TooSlowError, match=r"more than 0.3 s of processor time"):
        call_limited(*ENDLESS, max_seconds=0.3)
    assert time.monotonic() - started < 20
    assert call_limited("builtins:len", b"abc", max_seconds=5) == 3


def test_a_call_that_sleeps() -> None:
    call_limited("builtins:len", b"", max_seconds=5)
    started = time.monotonic()
    with pytest.raises(TooSlowError, match="by the clock"):
        call_limited("select:select", b"", [], [], 1000, max_seconds=0.05)
    assert 0.4 < time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("call", "says"), [(("ctypes:memset", b"", 1, 1 << 40), "SIGSEGV"), (("operator:mul", b"x", 1 << 33), "memory")]
)
def test_a_crash_is_not_ours(call: tuple[Any, ...], says: str) -> None:
    with pytest.raises(DiedError, match=says):
        call_limited(*call, max_seconds=5)
    assert call_limited("builtins:len", b"ab", max_seconds=5) == 2


def test_in_threads() -> None:
    outcomes: list[int] = []

    def work(number: int) -> None:
        try:
            call_limited(*ENDLESS, max_seconds=0.1)
        except TooSlowError:
            outcomes.append(call_limited("builtins:len", bytes(number), max_seconds=5))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes) == [0, 1, 2]


def _length(data: bytes) -> None:
    sys.exit(call_limited("builtins:len", data, max_seconds=5))


def test_in_a_daemonic_process() -> None:
    """Which may have no children by multiprocessing: Dask's workers are such."""
    call_limited("builtins:len", b"", max_seconds=5)
    process = multiprocessing.get_context("fork").Process(target=_length, args=(b"abc",), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == 3
    assert call_limited("builtins:len", b"ab", max_seconds=5) == 2


def test_children_are_used_again_and_end() -> None:
    end_children()
    for _ in range(20):
        call_limited("builtins:len", b"", max_seconds=5)
    (child,) = time_limit._idle
    end_children()
    assert child.process.returncode is not None
    assert not time_limit._idle
    call_limited("builtins:len", b"", max_seconds=5)
    time_limit._idle[0].process.kill()
    time_limit._idle[0].process.wait()
    assert call_limited("builtins:len", b"abcd", max_seconds=5) == 4


def test_a_slow_page_is_a_reject(
    tmp_path: Path, rows: Callable[..., Any], warc_record: Callable[..., bytes], http_response: Callable[..., bytes]
) -> None:
    slow = http_response(b"<html><body>" + b"<p>One of many paragraphs.</p>" * 300_000)
    quick = http_response(b"<html><body><p>A page that takes no time.</p>")
    (tmp_path / "a.warc").write_bytes(warc_record(quick) + warc_record(slow) + warc_record(quick))
    found = rows(Warc("web", str(tmp_path / "a.warc"), max_seconds=0.3))
    assert found.texts == ["A page that takes no time."] * 2
    assert found.reasons == ["too_slow"]
    assert "processor time" in found.rejects[0]["detail"]
    assert len(rows(Warc("web", str(tmp_path / "a.warc"), max_seconds=0)).documents) == 3
