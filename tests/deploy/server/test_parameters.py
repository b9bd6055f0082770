"""What is asked reaches the engine as it was meant, and shapes the answer."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from tilth.deploy.server.prompts import PromptReader
from tilth.deploy.server.service import Served
from tilth.deploy.server.state_room import StateRoom
from tilth.inference.engine.requests import Request

PROMPT = "the quick brown fox jumps over "


def asked(server: Any, path: str = "/v1/completions", **body: Any) -> Request:
    """The engine's request for one call of one prompt."""
    before = len(server.engine.seen)
    given = {"messages": [{"role": "user", "content": "hi"}]} if "chat" in path else {"prompt": PROMPT}
    answer = server.post(path, {"model": "base", "max_tokens": 2, **given, **body})
    assert answer.status_code == 200, answer.text
    (request,) = server.engine.seen[before:]
    return request


def test_sampling(server: Any) -> None:
    request = asked(server, temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, seed=5, n=3)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 7, 0.1)
    assert (request.seed, request.n, request.n_logprobs) == (5, 3, None)


def test_defaults_are_openais(server: Any) -> None:
    request = asked(server)
    assert (request.sampling.temperature, request.sampling.top_p, request.sampling.top_k, request.n) == (1.0, 1.0, None, 1)
    assert asked(server, max_tokens=None).max_tokens == 16
    chat = asked(server, "/v1/chat/completions", max_tokens=None)
    assert chat.max_tokens + len(chat.prompt_ids) == 4096


def test_a_temperature_that_cannot_be_divided_by_is_greedy(server: Any) -> None:
    assert asked(server, temperature=1e-9).sampling.temperature == 0
    assert asked(server, temperature=0).sampling.temperature == 0


def test_samples_of_a_chat_are_as_long_as_fits_for_all_of_them(serve: Any, stub: Any, tokenizer: Any) -> None:
    room = StateRoom(max_tokens=4096, capacity_bytes=50_000, kv_bytes=10, row_bytes=1000)
    served = Served(engine=stub.StubEngine(), name="base", tokenizer=tokenizer, vocab_size=tokenizer.vocab_size, room=room)
    server = serve(served=served)
    for n, most in ((1, 4096), (3, 50_000)):
        request = asked(server, "/v1/chat/completions", max_tokens=None, n=n, stop=["h", "e", "a"])
        n_prompt = len(request.prompt_ids)
        n_bytes = [10 * (n_prompt + n * (request.max_tokens + more)) + 1000 * (n + 3) for more in (0, 1)]
        used = (n_prompt + request.max_tokens, n_prompt + request.max_tokens + 1) if n == 1 else n_bytes
        assert used[0] <= most < used[1]


def test_a_long_text_is_decoded_beside_the_event_loop() -> None:
    class Slow:
        separator_id, begin_id, special_ids, byte_lengths = 0, 0, {}, np.ones(1)

        def decode(self, ids: Any) -> str:
            return threading.current_thread().name

    async def decode(n: int) -> str:
        return await PromptReader(Slow(), None, 10, 10**6).decode([1] * n)  # type: ignore[arg-type]

    assert asyncio.run(decode(5)) == threading.current_thread().name
    assert asyncio.run(decode(100_000)).startswith("tokenise")


def test_labels_of_a_call_are_left_alone(server: Any) -> None:
    assert asked(server, user="me", metadata={"trace": "5"}, service_tier="auto", store=False).n == 1


def test_seeds(server: Any) -> None:
    assert asked(server).seed != asked(server).seed
    assert asked(server, seed=-1).seed == asked(server, seed=-1).seed >= 0


def test_salt_cache_and_end(server: Any, tokenizer: Any) -> None:
    request = asked(server, cache_salt="mine", uses_cache=False)
    assert (request.salt, request.uses_cache, request.stopping.stop_ids) == ("mine", False, (tokenizer.separator_id,))
    request = asked(server, ignore_eos=True)
    assert (request.salt, request.uses_cache, request.stopping.stop_ids) == ("", True, ())


def test_a_prompt_of_text_begins_as_in_training_and_ids_are_taken_as_they_are(server: Any, tokenizer: Any) -> None:
    assert asked(server).prompt_ids == (tokenizer.separator_id, *tokenizer.encode(PROMPT).tolist())
    assert asked(server, prompt=[5, 6, 7]).prompt_ids == (5, 6, 7)


def test_many_prompts_and_samples_are_numbered_prompt_by_prompt(server: Any) -> None:
    body = {"model": "base", "prompt": [[5, 6, 7, 8], [50, 51, 52, 53]], "n": 2, "max_tokens": 2, "seed": 0}
    answer = server.post("/v1/completions", body).json()
    said = server.engine.seen[-2:]
    assert [request.prompt_ids for request in said] == [(5, 6, 7, 8), (50, 51, 52, 53)]
    assert [request.seed for request in said] == [0, 0]  # a prompt says the same alone and in a list
    decode = [server.post("/detokenize", {"tokens": ids}).json()["prompt"] for ids in ([5, 6], [6, 7], [50, 51], [51, 52])]
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == list(enumerate(decode))
    assert answer["usage"]["prompt_tokens"] == 8
    assert answer["usage"]["completion_tokens"] == 8


def test_echo(server: Any) -> None:
    options = {"model": "base", "prompt": PROMPT, "max_tokens": 3, "seed": 1}
    plain = server.post("/v1/completions", options).json()["choices"][0]["text"]
    echoed = server.post("/v1/completions", options | {"echo": True}).json()["choices"][0]["text"]
    assert echoed == PROMPT + plain
    ids = server.post("/v1/completions", options | {"echo": True, "prompt": [200, 201], "seed": 0}).json()["choices"][0]["text"]
    assert ids.startswith(server.post("/detokenize", {"tokens": [200, 201]}).json()["prompt"])
    with server.client().completions.create(**options, echo=True, stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream) == echoed


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("fox", "the quick brown "),
        (["jumps", "brown"], "the quick "),
        (["zebra"], PROMPT),
        ("k b", "the quic"),
        (["quick brown fox!", "fox jumps"], "the quick brown "),
    ],
)
def test_stop_strings(server: Any, tokenizer: Any, stop: Any, text: str, is_stream: bool) -> None:
    n = len(tokenizer.encode(PROMPT))
    options = {"model": "base", "prompt": PROMPT, "max_tokens": n, "seed": 1, "stop": stop, "stream": is_stream}
    answer = server.client().completions.create(**options)
    chunks = list(answer) if is_stream else [answer]
    assert "".join(chunk.choices[0].text for chunk in chunks) == text
    assert chunks[-1].choices[0].finish_reason == ("length" if text == PROMPT else "stop")
    server.engine.wait_for(lambda: not server.engine.running)  # what the text does not need is given up


def test_stop_strings_of_some_branches_leave_the_others(server: Any) -> None:
    # branch b begins at token b of the prompt: some say the stop string sooner, all say it once
    before = len(server.engine.given_up)
    options = {
        "model": "base",
        "prompt": PROMPT,
        "max_tokens": 10**3,
        "seed": 1,
        "n": 4,
        "stop": ["jumps"],
        "extra_body": {"ignore_eos": True},
    }
    answer = server.client().completions.create(**options)
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    assert all(choice.text == PROMPT[PROMPT.index(choice.text) :].partition("jumps")[0] for choice in answer.choices)
    assert answer.choices[0].text == "the quick brown fox "
    # each is given up when it has said it, whatever the others still say
    assert {branch for _, branch in server.engine.given_up[before:]} == {0, 1, 2, 3}


def test_characters_of_many_tokens_come_whole(server: Any) -> None:
    text = "日本語 ümlaut 🎉 done"
    options = {"model": "base", "prompt": text, "max_tokens": 100, "seed": 1, "stream": True}
    pieces = [chunk.choices[0].text for chunk in server.client().completions.create(**options)]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    # an answer that ends within a character ends before it
    cut = server.client().completions.create(**options | {"stream": False, "max_tokens": 4}).choices[0].text
    assert text.startswith(cut)
    assert "\ufffd" not in cut


def test_tokenize_and_back(server: Any, tokenizer: Any) -> None:
    answer = server.post("/tokenize", {"model": "base", "prompt": PROMPT}).json()
    assert answer == {
        "tokens": [tokenizer.separator_id, *tokenizer.encode(PROMPT).tolist()],
        "count": len(answer["tokens"]),
        "max_model_len": 4096,
    }
    assert server.post("/tokenize", {"prompt": PROMPT, "add_special_tokens": False}).json()["tokens"] == answer["tokens"][1:]
    assert server.post("/detokenize", {"tokens": answer["tokens"][1:]}).json() == {"prompt": PROMPT}
    assert server.post("/detokenize", {"tokens": [10**6]}).status_code == 400
    assert server.post("/tokenize", {"model": "other", "prompt": PROMPT}).status_code == 404
