"""What cannot be answered is refused with 400 to 431, in the API's form, and never reaches the engine."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tilth.deploy.server.limits import Limits

GOOD = {"model": "base", "prompt": "the quick fox", "max_tokens": 3}
CHAT = {"model": "base", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}


def refused(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The error object of an answer that must be one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert "Traceback" not in answer.text
    return body["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b'"x"', b'{"model": "base", "prompt": "x"', b"\xff\xfe{}", b'{"prompt": "\\ud800", "model": "base"}',
        b'{"model": "base", "prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"a":' * 5000 + b"1" + b"}" * 5000,
    ],
    ids=["empty", "cut", "null", "list", "string", "open", "utf16", "surrogate", "deep prompt", "deep object"],
)  # fmt: skip
def test_bodies_that_are_no_call(server: Any, body: bytes) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
        refused(server.post(path, content=body, headers={"content-type": "application/json"}))
    assert not server.engine.seen


def as_json(changes: dict[str, Any], base: dict[str, Any]) -> bytes:
    return json.dumps(base | changes).encode()  # Python writes NaN and Infinity as they are


BAD_VALUES: list[tuple[str, list[Any]]] = [
    ("temperature", [float("nan"), float("inf"), -0.1, "hot", [1], True, 1e300]),
    ("top_p", [float("nan"), 0, 1.1, -1, "x"]),
    ("min_p", [float("nan"), -0.1, 1.1]),
    ("top_k", [-2, 1.5, float("nan"), "all", 10**30]),
    ("max_tokens", [0, -1, 1.5, float("nan"), "5", 10**30]),
    ("n", [0, -1, 1.0e9, 10**9, "2", float("nan")]),
    ("seed", [1.5, "x", 2**70, -(2**70), float("inf")]),
    ("stop", [[""], "", 5, [5], ["x"] * 17, "y" * 2000]),
    ("stream", [1, "yes"]),
    ("stream_options", [{"include_usage": True}, {"other": 1}, 1]),
    ("user", [5, "x" * 2000]),
    ("cache_salt", [5, "x" * 2000]),
    ("model", [5, None]),
    ("logit_bias", [{"1": 5}]),
    ("presence_penalty", [1, -1, "x", False]),
    ("frequency_penalty", [float("nan")]),
    ("tools", [[{"type": "function"}]]),
    ("tool_choice", ["auto"]),
    ("response_format", [{"type": "json_object"}]),
    ("metadata", [5, {"a": 1}, {str(i): "x" for i in range(17)}]),
    ("store", [True]),
    ("no_such_thing", [1, None]),
]


@pytest.mark.parametrize(("name", "values"), BAD_VALUES, ids=[name for name, _ in BAD_VALUES])
def test_bad_values(server: Any, name: str, values: list[Any]) -> None:
    for path, base in (("/v1/completions", GOOD), ("/v1/chat/completions", CHAT)):
        for value in values:
            error = refused(server.post(path, content=as_json({name: value}, base)))
            assert (error["param"] or "").split(".")[0] == name, (value, error)
    assert not server.engine.seen


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": None}, {"prompt": []}, {"prompt": {}}, {"prompt": 5}, {"prompt": ["a", 5]}, {"prompt": [["a"]]}, {"prompt": [[]]},
        {"prompt": [1, 2.5]}, {"prompt": [True]}, {"prompt": [-1]}, {"prompt": [10**9]}, {"prompt": [[1], "a"]}, {"prompt": [1, float("nan")]},
        {"prompt": ["x"] * 1000}, {"best_of": 0}, {"best_of": 1, "n": 2}, {"best_of": 2, "stream": True}, {"logprobs": -1}, {"logprobs": 21},
        {"logprobs": True}, {"echo": 1}, {"echo": True, "logprobs": 1}, {"suffix": "x"},
    ],
)  # fmt: skip
def test_bad_completions(server: Any, changes: dict[str, Any]) -> None:
    refused(server.post("/v1/completions", content=as_json(changes, GOOD)))
    assert not server.engine.seen


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": []}, {"messages": None}, {"messages": "x"}, {"messages": [{"role": "user"}, 5]}, {"messages": [{"role": "wizard", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, {"messages": [{"content": "x"}]},
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]}, {"messages": [{"role": "user", "content": "x"}] * 5000},
        {"top_logprobs": 3}, {"logprobs": 3}, {"logprobs": True, "top_logprobs": 21}, {"max_completion_tokens": 0}, {"prompt": "x"},
    ],
)  # fmt: skip
def test_bad_chats(server: Any, changes: dict[str, Any]) -> None:
    refused(server.post("/v1/chat/completions", content=as_json(changes, CHAT)))
    assert not server.engine.seen


def test_too_many_choices_are_refused_by_what_asks_for_them(server: Any) -> None:
    for changes, param, what in (
        ({"n": 65}, "n", "`n` is 65; one prompt may have 64 samples."),
        ({"best_of": 128}, "best_of", "`best_of` is 128; one prompt may have 64 samples."),
        ({"prompt": ["x"] * 129}, "n", "129 prompts with 1 sample each would be 129 choices; one call may ask for 128."),
        ({"prompt": ["x"] * 3, "n": 50}, "n", "3 prompts with 50 samples each would be 150 choices; one call may ask for 128."),
    ):
        error = refused(server.post("/v1/completions", GOOD | changes))
        assert (error["code"], error["param"], error["message"]) == ("too_many_choices", param, what)
    assert refused(server.post("/v1/chat/completions", CHAT | {"n": 65}))["code"] == "too_many_choices"


@pytest.mark.parametrize(
    ("content", "code", "what"),
    [
        ([{"type": "image_url", "image_url": {"url": "x"}}], "unsupported_parameter", "A part of the type `image_url` is not supported"),
        ([{"type": "text", "text": "x"}, {"type": "input_audio"}], "unsupported_parameter", "A part of the type `input_audio`"),
        ([{"type": "text"}], "invalid_value", "Each part is"),
        ([{"type": "text", "text": 5}], "invalid_value", "Each part is"),
        ([5], "invalid_value", "Each part is"),
        (5, "invalid_value", "It is a string or a list of parts"),
    ],
)  # fmt: skip
def test_what_a_turn_may_hold(server: Any, content: Any, code: str, what: str) -> None:
    error = refused(server.post("/v1/chat/completions", CHAT | {"messages": [{"role": "user", "content": content}]}))
    assert (error["param"], error["code"]) == ("messages.0.content", code)
    assert what in error["message"]


def test_a_stop_string_that_is_none(server: Any) -> None:
    error = refused(server.post("/v1/completions", GOOD | {"stop": 5}))
    assert (error["param"], error["message"]) == ("stop", "`stop`: It is a string or a list of strings.")
    assert refused(server.post("/v1/completions", GOOD | {"stop": ["a", 5]}))["param"] == "stop.1"


def test_what_is_missing_is_named(server: Any) -> None:
    error = refused(server.post("/v1/completions", {"prompt": "x"}))
    assert (error["param"], error["code"]) == ("model", "missing_parameter")


def test_unknown_models_and_paths(server: Any) -> None:
    error = refused(server.post("/v1/completions", GOOD | {"model": "x" * 10_000}), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert len(error["message"]) < 500
    assert refused(server.get("/v1/models/other"), 404)["code"] == "model_not_found"
    assert "/v1/nothing" in refused(server.get("/v1/nothing"), 404)["message"]
    refused(server.get("/v1/completions"), 405)


def test_a_body_over_the_limit_is_not_read(serve: Any) -> None:
    server = serve(limits=Limits(max_body_bytes=1000))
    declared = server.post("/v1/completions", GOOD | {"prompt": "x" * 2000})
    assert refused(declared, 413)["code"] == "body_too_large"

    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 100

    # without a length the body is counted as it comes
    assert refused(server.post("/v1/completions", content=parts()), 413)["code"] == "body_too_large"
    assert server.post("/v1/completions", GOOD).status_code == 200


def test_a_body_that_does_not_come(serve: Any) -> None:
    server = serve(limits=Limits(body_seconds=1.0))
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as slow:
        slow.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert b" 408 " in slow.recv(1000)
    assert server.post("/v1/completions", GOOD).status_code == 200


def test_prompts_longer_than_the_model(serve: Any) -> None:
    server = serve(limits=Limits(max_context_tokens=50))
    over = refused(server.post("/v1/completions", GOOD | {"prompt": "zq" * 40}))
    assert (over["code"], over["param"]) == ("context_length_exceeded", "prompt")
    # far beyond: refused without being tokenised
    assert refused(server.post("/v1/completions", GOOD | {"prompt": "z" * 1_000_000}))["code"] == "context_length_exceeded"
    assert refused(server.post("/v1/completions", GOOD | {"prompt": [5] * 60}))["code"] == "context_length_exceeded"
    assert refused(server.post("/v1/completions", GOOD | {"max_tokens": 60}))["code"] == "context_length_exceeded"
    over = refused(server.post("/detokenize", {"tokens": [5] * 60}))
    assert (over["code"], over["param"]) == ("context_length_exceeded", "tokens")
    long_chat = [{"role": "user", "content": "zq" * 40}]
    assert refused(server.post("/v1/chat/completions", CHAT | {"messages": long_chat}))["code"] == "context_length_exceeded"
    assert not server.engine.seen


def test_too_long_for_the_engine_alone(serve: Any, stub: Any) -> None:
    server = serve(stub.StubEngine(max_tokens=10))
    assert refused(server.post("/v1/completions", GOOD | {"max_tokens": 20}))["code"] == "context_length_exceeded"


def test_the_admin_routes_are_not_on_the_public_port(server: Any) -> None:
    refused(server.post("/v1/load_delta", {"model": "x"}), 404)
    refused(server.post("/v1/cache/clear", {}), 404)
