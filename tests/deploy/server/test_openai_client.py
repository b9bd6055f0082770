"""The official client speaks to the server as it speaks to OpenAI."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from tilth.deploy.server.limits import Limits

PROMPT = "the quick brown fox jumps over "


def test_models_are_listed(server: Any) -> None:
    models = server.client().models.list().data
    assert [(model.id, model.owned_by, model.parent, model.bytes) for model in models] == [("base", "tilth", None, 4000)]
    assert server.client().models.retrieve("base").id == "base"


def test_a_completion(server: Any, tokenizer: Any) -> None:
    n = len(tokenizer.encode(PROMPT))
    answer = server.client().completions.create(model="base", prompt=PROMPT, max_tokens=n, seed=1)
    assert answer.object == "text_completion"
    assert [(choice.index, choice.text, choice.finish_reason) for choice in answer.choices] == [(0, PROMPT, "length")]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (n + 1, n, 2 * n + 1)


def test_cached_tokens_are_told(server: Any) -> None:
    client = server.client()
    first, second, salted = (
        client.completions.create(model="base", prompt="seen for the first time", max_tokens=1, extra_body=extra)
        for extra in ({}, {}, {"cache_salt": "mine"})
    )
    counts = [answer.usage.prompt_tokens_details.cached_tokens for answer in (first, second, salted)]
    assert counts == [0, first.usage.prompt_tokens - 1, 0]


def test_a_text_ends_at_the_models_own_end(server: Any, tokenizer: Any) -> None:
    n = len(tokenizer.encode(PROMPT))
    answer = server.client().completions.create(model="base", prompt=PROMPT, max_tokens=n + 5, seed=1)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (PROMPT, "stop")


def test_streamed_text_is_the_whole_text(server: Any, tokenizer: Any) -> None:
    options = {"model": "base", "prompt": [PROMPT, "lazy dog über 日本 "], "max_tokens": 40, "n": 2, "seed": 1}
    whole = server.client().completions.create(**options)
    texts, reasons, usage = {}, {}, None
    with server.client().completions.create(**options, stream=True, stream_options={"include_usage": True}) as stream:
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                texts[choice.index] = texts.get(choice.index, "") + choice.text
                reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    assert [(i, texts[i], reasons[i]) for i in range(4)] == [
        (choice.index, choice.text, choice.finish_reason) for choice in whole.choices
    ]
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens == whole.usage.prompt_tokens


def test_chat(server: Any) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    answer = server.client().chat.completions.create(model="base", messages=messages, max_completion_tokens=8, seed=1)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert "System: be brief\n\nUser: hello\n\nAssistant:".startswith(answer.choices[0].message.content)


def test_chat_as_a_stream(server: Any) -> None:
    options = {"model": "base", "messages": [{"role": "user", "content": "the quick brown fox"}], "max_tokens": 12, "seed": 1}
    whole = server.client().chat.completions.create(**options)
    chunks = list(server.client().chat.completions.create(**options, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert (text, chunks[-1].choices[0].finish_reason) == (whole.choices[0].message.content, whole.choices[0].finish_reason)


def test_many_at_once_with_the_async_client(server: Any, tokenizer: Any) -> None:
    async def ask() -> list[str]:
        async with server.async_client() as client:
            asked = [
                client.completions.create(model="base", prompt=f"{i} dogs", max_tokens=len(tokenizer.encode(f"{i} dogs")), seed=1)
                for i in range(20)
            ]
            return [answer.choices[0].text for answer in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == [f"{i} dogs" for i in range(20)]


def test_an_async_stream(server: Any) -> None:
    async def ask() -> str:
        async with server.async_client() as client:
            stream = await client.completions.create(model="base", prompt=PROMPT, max_tokens=5, seed=1, stream=True)
            return "".join([chunk.choices[0].text async for chunk in stream])

    assert PROMPT.startswith(asyncio.run(ask()))


def test_logprobs_of_completions(server: Any, tokenizer: Any) -> None:
    answer = server.client().completions.create(model="base", prompt=PROMPT, max_tokens=3, seed=1, logprobs=2)
    found = answer.choices[0].logprobs
    assert "".join(found.tokens) == answer.choices[0].text
    assert found.token_logprobs == [-1.0] * 3
    assert found.text_offset == [0, len(found.tokens[0]), len(found.tokens[0] + found.tokens[1])]
    assert [len(each) for each in found.top_logprobs] == [2] * 3
    assert all(each[token] == -1.0 for each, token in zip(found.top_logprobs, found.tokens, strict=True))


def test_logprobs_of_chats(server: Any) -> None:
    options = {"model": "base", "messages": [{"role": "user", "content": "日本"}], "max_tokens": 9, "seed": 4}
    answer = server.client().chat.completions.create(**options, logprobs=True, top_logprobs=3)
    found = answer.choices[0].logprobs.content
    assert len(found) == 9
    assert [len(each.top_logprobs) for each in found] == [3] * 9
    data = b"".join(bytes(each.bytes) for each in found)
    assert data.decode(errors="ignore") == answer.choices[0].message.content
    assert server.client().chat.completions.create(**options).choices[0].logprobs is None


def test_the_best_of_many(server: Any) -> None:
    # the stub's last branch has the highest log p
    every = server.client().completions.create(model="base", prompt=PROMPT, max_tokens=3, n=4, seed=1)
    best = server.client().completions.create(model="base", prompt=PROMPT, max_tokens=3, n=2, best_of=4, seed=1)
    assert [choice.text for choice in best.choices] == [every.choices[3].text, every.choices[2].text]
    assert [choice.index for choice in best.choices] == [0, 1]
    assert best.usage.completion_tokens == 12


@pytest.mark.parametrize(
    ("options", "kind", "param"),
    [
        ({"model": "bose"}, openai.NotFoundError, "model"),
        ({"temperature": -1.0}, openai.BadRequestError, "temperature"),
        ({"max_tokens": 10**6}, openai.BadRequestError, "prompt"),
        ({"suffix": "end"}, openai.BadRequestError, "suffix"),
        ({"logit_bias": {"5": 3}}, openai.BadRequestError, "logit_bias"),
        ({"frequency_penalty": 0.5}, openai.BadRequestError, "frequency_penalty"),
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError, "temprature"),
    ],
)
def test_refusals_are_the_clients_exceptions(
    server: Any, options: dict[str, Any], kind: type[openai.APIStatusError], param: str
) -> None:
    with pytest.raises(kind) as caught:
        server.client().completions.create(**{"model": "base", "prompt": PROMPT, **options})
    assert caught.value.param == param
    assert set(caught.value.body) == {"message", "type", "param", "code"}


def test_an_unknown_model_is_told_its_neighbour(server: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="Did you mean `base`"):
        server.client().completions.create(model="bases", prompt="x")


def test_parameters_that_ask_for_nothing_are_taken(server: Any) -> None:
    extra = {
        "logit_bias": {},
        "tools": None,
        "presence_penalty": 0,
        "top_k": -1,
        "min_p": 0.0,
        "response_format": {"type": "text"},
    }
    answer = server.client().completions.create(model="base", prompt=PROMPT, max_tokens=2, seed=1, user="me", extra_body=extra)
    assert answer.choices[0].finish_reason == "length"


def test_keys(serve: Any) -> None:
    server = serve(api_keys=("first", "second"))
    with pytest.raises(openai.AuthenticationError):
        server.client().models.list()
    assert server.client(api_key="second").models.list().data[0].id == "base"
    assert server.get("/metrics").status_code == 401
    assert [server.get(path).status_code for path in ("/health", "/ready")] == [200, 200]


def test_the_clients_own_assembly_of_a_streamed_chat(server: Any) -> None:
    options = {
        "model": "base",
        "messages": [{"role": "user", "content": "the quick brown fox"}],
        "max_tokens": 60,
        "seed": 1,
        "n": 2,
        "stop": "brown",
    }
    whole = server.client().chat.completions.create(**options, logprobs=True, top_logprobs=1)
    usage = {"include_usage": True}
    with server.client().chat.completions.stream(**options, logprobs=True, top_logprobs=1, stream_options=usage) as stream:
        assembled = stream.until_done().get_final_completion()
    assert [choice.message.content for choice in assembled.choices] == [choice.message.content for choice in whole.choices]
    assert [choice.logprobs.content for choice in assembled.choices] == [choice.logprobs.content for choice in whole.choices]
    assert assembled.usage.completion_tokens == whole.usage.completion_tokens > 0


def test_logprobs_of_a_streamed_completion(server: Any) -> None:
    options = {"model": "base", "prompt": "日本 the fox STOP it", "max_tokens": 40, "seed": 1, "logprobs": 1, "stop": ["STOP"]}
    whole = server.client().completions.create(**options).choices[0]
    chunks = [chunk.choices[0] for chunk in server.client().completions.create(**options, stream=True)]
    for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
        assert [each for chunk in chunks for each in getattr(chunk.logprobs, name)] == getattr(whole.logprobs, name)
    # tokens of the stop string are not told; a character's later bytes begin where it does
    assert whole.text == "日本 the fox "
    assert whole.logprobs.text_offset[:7] == [0, 0, 0, 1, 1, 1, 2]
    assert whole.logprobs.tokens[0].startswith("bytes:")


def test_an_error_within_a_stream_is_an_exception(serve: Any) -> None:
    server = serve(limits=Limits(request_seconds=1.0))
    server.engine.hold()
    server.engine.allow(1)
    stream = server.client().completions.create(model="base", prompt=PROMPT, max_tokens=40, seed=1, stream=True)
    with pytest.raises(openai.APIError, match="time limit"):
        list(stream)


def test_the_clients_retries_and_statuses(serve: Any, stub: Any) -> None:
    server = serve(stub.StubEngine(max_waiting=0))
    with pytest.raises(openai.RateLimitError) as caught:
        server.client().completions.create(model="base", prompt=PROMPT)
    assert caught.value.response.headers["retry-after"] == "3"
    server.engine.max_waiting = 5
    server.engine.faults[200] = MemoryError("none left")
    with pytest.raises(openai.InternalServerError):
        server.client().completions.create(model="base", prompt=[200])
    server.engine.is_draining = True
    with pytest.raises(openai.InternalServerError) as stopping:
        server.client().completions.create(model="base", prompt=PROMPT)
    assert stopping.value.status_code == 503
