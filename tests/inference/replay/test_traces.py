"""Published traces become requests: equal blocks equal tokens, lengths as told, and a bad line is named by its number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilth.errors import UserError
from tilth.inference.replay.request import TraceRequest
from tilth.inference.replay.traces import mooncake
from tilth.inference.replay.traces.read import form_of, read_trace

MOONCAKE = {"timestamp": 1500, "input_length": 700, "output_length": 3, "hash_ids": [10**18, 7]}
MARCONI = {"session_id": 0, "turn_id": 0, "ts": 2.5, "input_tokens": [5, 6, 7], "output_tokens": [8]}
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"


def written(folder: Path, *lines: Any) -> Path:
    path = folder / "trace"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def shared(first: TraceRequest, second: TraceRequest) -> int:
    """Tokens that two inputs begin with alike."""
    n = min(len(first.input_N), len(second.input_N))
    differ = np.flatnonzero(first.input_N[:n] != second.input_N[:n])
    return int(differ[0]) if len(differ) else n


def test_equal_blocks_of_mooncake_are_equal_tokens_and_no_others(tmp_path: Path) -> None:
    second = {**MOONCAKE, "timestamp": 2000, "input_length": 1500, "hash_ids": [10**18, 8, 9]}
    first, longer = read_trace(written(tmp_path, MOONCAKE, "", second))
    assert (first.arrival, longer.arrival) == (1.5, 2.0)
    assert (len(first.input_N), len(longer.input_N), len(first.output_M)) == (700, 1500, 3)
    assert shared(first, longer) == 512
    everything = np.concatenate([first.all_tokens(), longer.all_tokens()[512:]])
    assert len(set(everything.tolist())) == len(everything)


def turn(timestamp: int, n_input: int, *hashes: int, n_output: int = 100) -> dict[str, Any]:
    return {"timestamp": timestamp, "input_length": n_input, "output_length": n_output, "hash_ids": list(hashes)}


def test_a_request_that_goes_on_after_the_full_blocks_of_another_begins_with_all_of_it(tmp_path: Path) -> None:
    first, second = turn(0, 1100, 1, 2, 3), turn(1, 1700, 1, 2, 4, 5)
    path = written(tmp_path, first, second, turn(2, 1600, 1, 2, 4, 6), turn(3, 1150, 1, 2, 7), turn(4, 600, 8, 9))
    before, after, branch, too_short, other = read_trace(path)
    assert np.array_equal(after.input_N[:1200], before.all_tokens())
    assert shared(after, branch) == 1536, "equal hashes stay equal tokens"
    assert shared(before, too_short) == 1024
    assert shared(before, other) == 0


def test_turns_need_not_be_joined(tmp_path: Path) -> None:
    path = written(tmp_path, turn(0, 1100, 1, 2, 3), turn(1, 1700, 1, 2, 4, 5))
    before, after = mooncake.read(path, joins_turns=False)
    assert shared(before, after) == 1024


def test_one_shared_block_is_no_conversation(tmp_path: Path) -> None:
    before, after = read_trace(written(tmp_path, turn(0, 600, 1, 2), turn(1, 1700, 1, 3, 4, 5)))
    assert shared(before, after) == 512


def test_the_same_file_is_always_the_same_tokens(tmp_path: Path) -> None:
    path = written(tmp_path, MOONCAKE, {**MOONCAKE, "timestamp": 0})
    for one, other in zip(read_trace(path), read_trace(path), strict=True):
        assert np.array_equal(one.all_tokens(), other.all_tokens())
    assert [request.arrival for request in read_trace(path)] == [0.0, 1.5], "by arrival, whatever the order of the file"


def test_requests_of_azure_have_their_lengths_and_share_nothing(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(AZURE)
    first, second = read_trace(path)
    assert first.arrival == 0.0
    assert second.arrival == pytest.approx(4.314579, abs=1e-6)
    assert (len(second.input_N), len(second.output_M)) == (396, 109)
    assert shared(first, second) == 0


def test_a_time_with_a_zone_is_read_as_well(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n")
    assert len(read_trace(path)[0].input_N) == 2162


def test_tokens_of_a_full_trace_are_kept(tmp_path: Path) -> None:
    (request,) = read_trace(written(tmp_path, MARCONI))
    assert (request.arrival, request.input_N.tolist(), request.output_M.tolist()) == (2.5, [5, 6, 7], [8])
    assert request.input_N.dtype == np.int32


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ({**MOONCAKE, "hash_ids": [1]}, "2 blocks of 512, but there are 1"),
        ({**MOONCAKE, "hash_ids": [1, -2]}, "whole numbers"),
        ({**MOONCAKE, "hash_ids": [1, True]}, "whole numbers"),
        ({**MOONCAKE, "input_length": 0}, "`input_length` is 0"),
        ({**MOONCAKE, "input_length": 10**12}, "`input_length` is 1000000000000"),
        ({**MOONCAKE, "output_length": 1.5}, "`output_length` is 1.5"),
        ({**MOONCAKE, "timestamp": float("nan")}, "`timestamp` is nan"),
        ({key: value for key, value in MOONCAKE.items() if key != "timestamp"}, "no `timestamp`"),
    ],
)
def test_a_bad_line_of_mooncake_is_named(tmp_path: Path, line: Any, problem: str) -> None:
    with pytest.raises(UserError) as refused:
        read_trace(written(tmp_path, MOONCAKE, line))
    assert problem in refused.value.what
    assert str(refused.value.where).endswith("trace:2")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"input_tokens": []}, "empty"),
        ({"input_tokens": [2**31]}, "beyond"),
        ({"num_output_tokens": 2}, "`num_output_tokens` is 2, but there are 1"),
        ({"ts": "soon"}, "`ts` is 'soon'"),
    ],
)
def test_a_bad_line_of_a_full_trace_is_named(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem) as refused:
        read_trace(written(tmp_path, MARCONI, {**MARCONI, **change}))
    assert str(refused.value.where).endswith("trace:2")


@pytest.mark.parametrize("row", ["yesterday,1,1", "2023-11-16 18:17:03,-4,1", "2023-11-16 18:17:03,12"])
def test_a_bad_row_of_azure_is_named(tmp_path: Path, row: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(AZURE + row + "\n")
    with pytest.raises(UserError) as refused:
        read_trace(path)
    assert str(refused.value.where).endswith("trace.csv:4")


def test_the_format_is_told_by_the_first_line(tmp_path: Path) -> None:
    assert form_of(written(tmp_path, MOONCAKE)) == "mooncake"
    assert form_of(written(tmp_path, MARCONI)) == "marconi"
    assert form_of(written(tmp_path, AZURE)) == "azure"
    with pytest.raises(UserError, match="no trace of a known format"):
        form_of(written(tmp_path, {"prompt": "hello"}))


def test_limits_and_what_is_not_there(tmp_path: Path) -> None:
    path = written(tmp_path, *[{**MOONCAKE, "timestamp": k} for k in range(5)])
    assert len(read_trace(path, limit=3)) == 3
    with pytest.raises(UserError, match="no request"):
        read_trace(path, max_input=100)
    with pytest.raises(UserError, match="no such trace"):
        read_trace(tmp_path / "nothing")
    with pytest.raises(UserError, match="no format `moncake`") as refused:
        read_trace(path, "moncake")
    assert "mooncake" in str(refused.value.fix)


@pytest.mark.data
def test_the_published_mooncake_trace_is_what_its_paper_says(test_data: Path) -> None:
    path = test_data / "mooncake_traces" / "FAST25-release" / "traces" / "conversation_trace.jsonl"
    requests = read_trace(path, limit=1200, max_input=32_768)
    assert np.mean([len(request.input_N) for request in requests]) == pytest.approx(9192, abs=1)
    assert all(shared(requests[0], request) >= 512 for request in requests[:50]), "all begin with the same block"


@pytest.mark.data
def test_the_published_azure_trace_is_read(test_data: Path) -> None:
    requests = read_trace(test_data / "azure_llm_2023" / "data" / "AzureLLMInferenceTrace_code.csv", limit=1000)
    assert len({int(request.input_N[0]) for request in requests}) == 1000
    assert requests[0].n_tokens == 4818
