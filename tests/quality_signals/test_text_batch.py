"""The kernels' contract: which arrays they take, what they refuse, and that compiled code is cached and shared safely."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tilth.errors import ContractError
from tilth.quality_signals.fused import code_points
from tilth.quality_signals.fused.kernels import raw, words
from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.registry import compute_family, get_family
from tilth.quality_signals.text_view import TextView

TEXTS = ["", "One. Two…\nthree\n", "ΟΔΟΣ", "naïve café\r\n", "", "a\u0307\u0323 x", "last"]
WORDS = [[], ["one", "two…", "three"], ["οδος"], ["nai\u0308ve", "cafe\u0301"], [], ["a\u0323\u0307", "x"], ["last"]]


def test_kernels_know_the_same_bits() -> None:
    """They hold copies, since compiled code is cached by its own file."""
    for kernel in (raw, words):
        shared = {name for name in vars(kernel).keys() & vars(code_points).keys() if name.isupper()}
        assert shared >= {raw: {"UPPER", "BULLET"}, words: {"MAPPED", "NUMERIC", "WORD"}}[kernel]
        for name in shared:
            assert getattr(kernel, name) == getattr(code_points, name), name


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize(("start", "length"), [(0, 7), (1, 4), (3, 4), (6, 1), (7, 0)])
def test_slices_of_both_kinds_of_strings(kind: pa.DataType, start: int, length: int) -> None:
    batch = TextBatch(pa.array(TEXTS, kind).slice(start, length))
    words = batch.words
    for index, text in enumerate(TEXTS[start : start + length]):
        found = words.spans[words.ends[index] : words.ends[index + 1]]
        data = words.data.tobytes()
        assert [data[a:b].decode() for a, b in found] == WORDS[start + index]
        assert list(np.diff(batch.first_lines))[index] == len(TextView(text).lines)


def test_nulls_and_bytes_that_are_no_utf8_are_refused() -> None:
    with pytest.raises(ContractError, match="null"):
        TextBatch(pa.array(["a", None]))
    for broken in (b"\xff", b"ab\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"):  # the third is a lone surrogate
        texts = pa.array([b"fine", broken], pa.large_binary()).view(pa.large_string())
        with pytest.raises(ContractError, match="UTF-8"):
            TextBatch(texts)


def test_texts_that_are_no_strings_are_refused() -> None:
    documents = pa.table({"shard": ["s"], "row": pa.array([0], pa.int32()), "text": [b"bytes"]})
    with pytest.raises(ContractError, match="not strings"):
        compute_family(get_family("lines"), documents)


def test_lone_surrogates_cannot_be_in_arrow() -> None:
    with pytest.raises(UnicodeEncodeError):
        pa.array(["\ud800"], pa.large_string())


def test_a_batch_may_hold_no_buffers() -> None:
    assert len(TextBatch(pa.array([], pa.large_string())).words.ids) == 0
    assert TextBatch(pa.array(["", ""], pa.large_string())).raw_counts.tolist() == [[0] * 9] * 2


def test_memory_is_a_small_multiple_of_a_piece(documents: Callable[..., pa.Table]) -> None:
    table = documents(["Words of a line, and more of them.\n" * 3000] * 200)  # 21 MB
    compute_family(get_family("repetition"), documents(["warm up"]))
    tracemalloc.start()
    compute_family(get_family("repetition"), table)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120_000_000


_SCORE = """
import pyarrow as pa
from tilth.quality_signals.registry import compute_family, get_family
documents = pa.table({"shard": ["s"], "row": pa.array([0], pa.int32()), "text": ["a b a b\\n"]})
print(compute_family(get_family("repetition"), documents).column("rps_doc_frac_chars_top_2gram")[0])
"""


@pytest.mark.slow
def test_processes_that_start_at_once_share_the_cache(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", _SCORE]
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert {process.communicate()[0].strip() for process in started} == {"1.0"}
    files = sorted(path.name for path in (tmp_path / "cache").rglob("*.nb?"))
    assert any(name.startswith("ngrams.repeated_chars") for name in files)
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert again.stdout.strip() == "1.0"
    assert sorted(path.name for path in (tmp_path / "cache").rglob("*.nb?")) == files  # nothing was compiled again
