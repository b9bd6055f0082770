"""One call goes wrong, or many come: each is told what the API promises, and the others do not notice."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tilth.deploy.server.limits import Limits

PROMPT = "the quick brown fox jumps over "
GOOD = {"model": "base", "prompt": PROMPT, "max_tokens": 5, "seed": 1}
ENDLESS = GOOD | {"max_tokens": 3000, "ignore_eos": True}
FAULT = 200  # a token whose prompt fails


def raw_request(body: str) -> bytes:
    return f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


def is_idle(engine: Any) -> bool:
    return not engine.running and not engine.waiting


@pytest.fixture
def answers_well(serve: Any) -> Any:
    """check(server): a plain call is answered, so the server is unharmed."""

    def check(server: Any) -> None:
        answer = server.post("/v1/completions", GOOD)
        assert (answer.status_code, answer.json()["choices"][0]["finish_reason"]) == (200, "length")

    return check


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("error", [MemoryError("out of memory"), ValueError("a defect\nwith a second line")])
def test_a_prompt_that_the_engine_cannot_read(serve: Any, answers_well: Any, error: Exception, is_stream: bool) -> None:
    server = serve()
    server.engine.faults[FAULT] = error
    server.engine.hold()
    with ThreadPoolExecutor() as threads:
        others = [threads.submit(server.post, "/v1/completions", GOOD) for _ in range(3)]
        failing = threads.submit(server.post, "/v1/completions", GOOD | {"prompt": [5, FAULT], "stream": is_stream})
        server.engine.wait_for(lambda: len(server.engine.waiting) == 4)
        server.engine.go_on()
        # nothing of a stream had been sent: it fails with a status, too
        assert failing.result().status_code == 500
        said = failing.result().json()["error"]
        assert (said["type"], said["code"]) == ("server_error", "engine_error")
        assert type(error).__name__ in said["message"]
        assert "\n" not in said["message"]
        assert [other.result().status_code for other in others] == [200] * 3
    answers_well(server)


def test_one_bad_prompt_of_a_call_gives_the_others_up(serve: Any, answers_well: Any) -> None:
    server = serve()
    server.engine.faults[FAULT] = ValueError("no")
    answer = server.post("/v1/completions", ENDLESS | {"prompt": [[5, 6], [FAULT]]})
    assert answer.status_code == 500
    server.engine.wait_for(lambda: is_idle(server.engine))
    answers_well(server)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_engines_thread_dies(serve: Any) -> None:
    server = serve()
    server.engine.fatal.add(FAULT)
    server.engine.hold()
    with ThreadPoolExecutor() as threads:
        others = [threads.submit(server.post, "/v1/completions", GOOD) for _ in range(2)]
        server.engine.wait_for(lambda: len(server.engine.waiting) == 2)
        fatal = threads.submit(server.post, "/v1/completions", GOOD | {"prompt": [FAULT]})
        server.engine.wait_for(lambda: len(server.engine.waiting) == 3)
        server.engine.go_on()
        for answer in (*others, fatal):
            assert answer.result().status_code in (200, 500)
        assert fatal.result().json()["error"]["code"] == "engine_stopped"
    # whoever started the server is told
    assert server.join() == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_engines_thread_dies_while_a_reader_takes_nothing(serve: Any) -> None:
    """Nobody waits for that reader: newcomers are told what happened, and the process ends long before the drain's time."""
    server = serve(limits=Limits(drain_seconds=600, write_seconds=600, max_pending_events=10**7, max_context_tokens=2**20))
    server.engine.fatal.add(FAULT)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.sendall(raw_request(json.dumps(ENDLESS | {"max_tokens": 1_000_000, "stream": True, "logprobs": 20})))
        server.engine.wait_for(lambda: server.engine.counts["new"] > 20_000)
        said = server.post("/v1/completions", GOOD | {"prompt": [FAULT]})
        assert (said.status_code, said.json()["error"]["code"]) == (500, "engine_stopped")
        late = server.post("/v1/completions", GOOD)
        assert (late.status_code, late.json()["error"]["code"]) == (503, "engine_stopped")
        assert server.join() == 1


def test_too_many_at_once(serve: Any, stub: Any, answers_well: Any) -> None:
    """Ten times what may wait: the first are answered, the others told when to come again, and nothing of them is kept."""
    server = serve(stub.StubEngine(max_waiting=10, max_rows=2))
    server.engine.hold()
    with ThreadPoolExecutor(100) as threads:
        asked = [threads.submit(server.post, "/v1/completions", GOOD) for _ in range(100)]
        server.engine.wait_for(lambda: len(server.engine.waiting) == 10)
        refused: list[Any] = []
        while len(refused) < 90:
            refused = [each.result() for each in asked if each.done()]
        server.engine.go_on()
        answers = [each.result() for each in asked]
    assert {answer.status_code for answer in refused} == {429}
    assert {answer.headers["retry-after"] for answer in refused} == {"3"}
    assert {answer.json()["error"]["code"] for answer in refused} == {"queue_full"}
    assert sorted(answer.status_code for answer in answers) == [200] * 10 + [429] * 90
    assert len(server.engine.seen) == 10
    answers_well(server)


def test_a_call_whose_second_prompt_is_refused_leaves_nothing(serve: Any, stub: Any, answers_well: Any) -> None:
    server = serve(stub.StubEngine(max_waiting=2))
    server.engine.hold()
    with pytest.raises(openai.RateLimitError):
        server.client().completions.create(model="base", prompt=["a", "b", "c"], max_tokens=3)
    server.engine.wait_for(lambda: is_idle(server.engine))
    server.engine.go_on()
    answers_well(server)


def test_too_many_open_calls_are_refused_before_their_bodies_are_read(serve: Any, answers_well: Any) -> None:
    server = serve(limits=Limits(max_open_requests=2))
    server.engine.hold()
    with ThreadPoolExecutor() as threads:
        held = [threads.submit(server.post, "/v1/completions", GOOD) for _ in range(2)]
        server.engine.wait_for(lambda: len(server.engine.waiting) == 2)
        refused = server.post("/v1/completions", content=b"not even JSON")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert server.get("/health").status_code == 200
        server.engine.go_on()
        assert [each.result().status_code for each in held] == [200, 200]
    answers_well(server)


def test_the_bodies_of_all_open_calls_are_bounded_together(serve: Any, answers_well: Any) -> None:
    server = serve(limits=Limits(max_open_bytes=3000, max_context_tokens=10**6))
    server.engine.hold()
    big = GOOD | {"user": "x" * 1000}
    with ThreadPoolExecutor() as threads:
        held = [threads.submit(server.post, "/v1/completions", big) for _ in range(2)]
        server.engine.wait_for(lambda: len(server.engine.waiting) == 2)
        refused = server.post("/v1/completions", big)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_requests")
        server.engine.go_on()
        assert [each.result().status_code for each in held] == [200, 200]
    assert server.post("/v1/completions", big).status_code == 200  # what was held is given back
    answers_well(server)


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_client_that_hangs_up_frees_its_state(serve: Any, answers_well: Any, is_stream: bool) -> None:
    server = serve()
    server.engine.hold()
    with ThreadPoolExecutor() as threads:
        other = threads.submit(server.post, "/v1/completions", GOOD)
        server.engine.wait_for(lambda: len(server.engine.waiting) == 1)
        body = json.dumps(ENDLESS | {"stream": is_stream})
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(raw_request(body))
            server.engine.wait_for(lambda: len(server.engine.waiting) == 2)
            server.engine.allow(2)
            if is_stream:
                received = b""
                while b"data: " not in received:
                    received += client.recv(100_000)
            server.engine.wait_for(lambda: len(server.engine.running) == 2)
        # nobody lets the engine go on: the hang-up alone ends it
        server.engine.wait_for(lambda: len(server.engine.running) == 1)
        server.engine.go_on()
        assert other.result().status_code == 200
    answers_well(server)


def test_a_client_that_hangs_up_while_it_waits_leaves_the_queue(serve: Any, stub: Any, answers_well: Any) -> None:
    server = serve(stub.StubEngine(max_rows=1))
    server.engine.hold()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(raw_request('{"model": "base", "prompt": "abc"}'))
        server.engine.wait_for(lambda: len(server.engine.waiting) == 1)
    server.engine.wait_for(lambda: is_idle(server.engine))
    server.engine.go_on()
    answers_well(server)


def test_a_reader_that_takes_nothing_is_given_up_and_blocks_nobody(serve: Any, answers_well: Any) -> None:
    """Its answer is longer than all buffers together; what waits for it is bounded."""
    server = serve(limits=Limits(max_pending_events=500, max_context_tokens=2**20))
    # wide tokens, and log p: some hundred bytes for each of a million tokens
    body = '{"model": "base", "prompt": "the quick brown", "max_tokens": 1000000, "ignore_eos": true, "stream": true, "logprobs": 20}'
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.sendall(raw_request(body))
        server.engine.wait_for(lambda: server.engine.counts["new"] > 0)
        answers_well(server)
        server.engine.wait_for(lambda: is_idle(server.engine))
        assert server.engine.counts["new"] < 100_000
    assert 'tilth_requests_given_up_total{reason="slow_reader"} 1.0' in server.get("/metrics").text
    answers_well(server)


def test_a_reader_that_stops_reading_is_left_after_a_time(serve: Any, answers_well: Any) -> None:
    server = serve(limits=Limits(write_seconds=0.2, max_pending_events=10**7, max_context_tokens=2**20))
    body = (
        '{"model": "base", "prompt": "the quick brown", "max_tokens": 20000, "ignore_eos": true, "stream": true, "logprobs": 20}'
    )
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.sendall(raw_request(body))
        server.engine.wait_for(lambda: server.engine.counts["new"] > 0)
        server.engine.wait_for(lambda: is_idle(server.engine))
        for _ in range(600):
            if "tilth_open_requests 0.0" in server.get("/metrics").text:
                break
        else:
            pytest.fail("the stream of a reader that reads nothing stays open")
    answers_well(server)


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_time_of_a_request_is_over(serve: Any, answers_well: Any, is_stream: bool) -> None:
    server = serve(limits=Limits(request_seconds=1.0))
    server.engine.hold()
    if is_stream:
        server.engine.allow(1)
    # then the engine is stuck: the server's own clock ends the call
    answer = server.post("/v1/completions", ENDLESS | {"stream": is_stream})
    server.engine.go_on()
    if is_stream:
        assert answer.status_code == 200
        assert '"code":"deadline"' in answer.text
        assert answer.text.endswith("data: [DONE]\n\n")
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline")
    server.engine.wait_for(lambda: is_idle(server.engine))


def test_the_engine_ends_what_is_late(serve: Any) -> None:
    server = serve(limits=Limits(request_seconds=0.2, max_context_tokens=10**7), engine=None)
    answer = server.post("/v1/completions", ENDLESS | {"max_tokens": 9_000_00})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline")


def test_a_silent_stream_is_kept_alive(serve: Any) -> None:
    server = serve(limits=Limits(keep_alive_seconds=0.05))
    server.engine.hold()
    with httpx.stream("POST", f"{server.url}/v1/completions", json=GOOD | {"stream": True}, timeout=60) as answer:
        lines = answer.iter_lines()
        assert next(line for line in lines if line) == ": keep-alive"
        server.engine.go_on()
        assert [line for line in lines if line][-1] == "data: [DONE]"
