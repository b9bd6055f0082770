"""A tiny model behind the server: every answer is what the model, or its fine-tune, says alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tilth.deploy.delta import compress
from tilth.deploy.delta_file import apply_delta, save_delta
from tilth.deploy.server import serve as serving
from tilth.deploy.server.limits import Limits
from tilth.deploy.server.serve import ServeOptions, end_of_text, open_served
from tilth.deploy.server.state_room import StateRoom
from tilth.errors import UserError
from tilth.inference.engine.limits import EngineLimits
from tilth.inference.generate import generate
from tilth.models.decoder import Decoder
from tilth.models.weights import load_model, save_model
from tilth.tokenize.bpe import Tokenizer

TENANTS = ("poet", "clerk")
PROMPT = "the quick brown fox jumps over the lazy dog "
ENGINE = EngineLimits(max_rows=8, max_waiting=64, max_tokens=512, chunk_tokens=32)


@dataclass
class World:
    """A base and two fine-tunes on disk, and the whole models that they stand for."""

    options: ServeOptions
    models: dict[str, Decoder]
    tokenizer: Tokenizer

    def says(self, model: str, prompt: str, n: int) -> str:
        """The greedy text of one model alone."""
        ids = [self.tokenizer.separator_id, *self.tokenizer.encode(prompt).tolist()]
        return self.tokenizer.decode(generate(self.models[model], ids, n, stop_id=self.tokenizer.separator_id))


@pytest.fixture(scope="module")
def world(make_model: Any, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("served")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        base = make_model("MMA", vocab_size=tokenizer.vocab_size)
        save_model(folder / "base", base, tokenizer.data)
        state = {name: tensor.clone() for name, tensor in base.state_dict().items()}
        for name in TENANTS:
            tuned = {
                key: tensor + 0.1 * torch.randn_like(tensor) if tensor.ndim == 2 else tensor for key, tensor in state.items()
            }
            delta = compress(state, tuned)
            save_delta(folder / f"{name}.safetensors", delta, delta.base_digest)
    models = {name: apply_delta(folder / f"{name}.safetensors", folder / "base").eval() for name in TENANTS}
    files = {name: folder / f"{name}.safetensors" for name in TENANTS}
    options = ServeOptions(base=folder / "base", deltas=files, delta_folder=folder, engine=ENGINE)
    return World(options, models | {"base": load_model(folder / "base").eval()}, tokenizer)


def same(texts: list[str], expected: list[str]) -> bool:
    """Equal, but for half a character at an end, which the server leaves out."""
    pairs = zip(texts, expected, strict=True)
    return all(whole.startswith(text) and whole[len(text) :] in ("", "\ufffd") for text, whole in pairs)


def start(serve: Any, world: World, limits: Limits | None = None, **engine: Any) -> Any:
    options = replace(world.options, engine=replace(ENGINE, **engine))
    served, store = open_served(options, load_model(options.base))
    return serve(
        served=served, store=store, tenants=options.deltas, limits=limits or Limits(max_context_tokens=options.engine.max_tokens)
    )


@pytest.fixture(scope="module")
def real(serve_module: Any, world: World, one_thread: None) -> Any:
    """One server over the engine for the tests that leave it as it was."""
    return start(serve_module, world)


def ask(server: Any, model: str, prompt: str, max_tokens: int = 12, **extra: Any) -> Any:
    extra_body = {name: extra.pop(name) for name in ("cache_salt", "uses_cache", "ignore_eos") if name in extra}
    options = {"temperature": 0.0, **extra}
    return server.client().completions.create(model=model, prompt=prompt, max_tokens=max_tokens, extra_body=extra_body, **options)


@pytest.mark.parametrize("model", ["base", *TENANTS])
def test_each_model_says_what_it_says_alone(real: Any, world: World, model: str) -> None:
    texts = [ask(real, model, PROMPT, uses_cache=uses_cache).choices[0].text for uses_cache in (False, True, True)]
    assert same(texts, [world.says(model, PROMPT, 12)] * 3)


def test_the_models_differ(world: World) -> None:
    assert len({world.says(model, PROMPT, 12) for model in world.models}) == 3


def test_many_tenants_at_once(real: Any, world: World) -> None:
    asked = [(model, f"{number} {PROMPT}") for number in range(4) for model in world.models]

    async def ask_all() -> list[str]:
        async with real.async_client() as client:
            calls = (
                client.completions.create(model=model, prompt=prompt, max_tokens=8, temperature=0) for model, prompt in asked
            )
            return [answer.choices[0].text for answer in await asyncio.gather(*calls)]

    assert same(asyncio.run(ask_all()), [world.says(model, prompt, 8) for model, prompt in asked])


def test_a_conversation_is_read_once(real: Any, world: World) -> None:
    first = ask(real, "base", f"once {PROMPT}", 10)
    prompt = f"once {PROMPT}{first.choices[0].text} and then"
    again = ask(real, "base", prompt, 10)
    cached = again.usage.prompt_tokens_details.cached_tokens
    # what was said is not always tokenised as it was said, what was asked is
    assert cached >= first.usage.prompt_tokens - 1 or world.tokenizer.encode(prompt)[:cached].size == cached > 0
    assert same([again.choices[0].text], [world.says("base", prompt, 10)])


def test_a_turn_after_a_stop_string_is_read_from_there(real: Any, world: World) -> None:
    """The states that a branch leaves at a stop string are those of its text, not of what it would have said behind it."""
    ids = real.post("/tokenize", {"prompt": f"halt {PROMPT}"}).json()["tokens"]
    said = list(generate(world.models["base"], ids, 40))
    names = [world.tokenizer.decode([token]) for token in said]
    at = next(i for i, name in enumerate(names) if i > 8 and "\ufffd" not in name and name not in "".join(names[:i]))
    body = {"model": "base", "temperature": 0, "ignore_eos": True}
    first = real.post("/v1/completions", body | {"prompt": ids, "max_tokens": 400, "stop": names[at]}).json()
    assert first["choices"][0]["finish_reason"] == "stop"
    assert first["usage"]["completion_tokens"] == at + 1
    again = real.post("/v1/completions", body | {"prompt": [*ids, *said[: at + 1], 5, 6, 7], "max_tokens": 4}).json()
    # the token that completed the stop string was said and not read
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == len(ids) + at


def test_tenants_and_salts_share_nothing(real: Any) -> None:
    # no separator before it: nothing else begins so
    ids = real.post("/tokenize", {"prompt": f"secret {PROMPT}", "add_special_tokens": False}).json()["tokens"]
    n = len(ids)

    def cached(model: str, **extra: Any) -> int:
        body = {"model": model, "prompt": ids, "max_tokens": 4, "temperature": 0, **extra}
        return real.post("/v1/completions", body).json()["usage"]["prompt_tokens_details"]["cached_tokens"]

    # a third meeting of one prompt is the first that may find its states: the second cut them
    seen = [cached("base") for _ in range(3)]
    assert seen[0] == 0
    assert 0 < seen[2] < n
    assert [cached("poet"), cached("clerk"), cached("base", cache_salt="mine"), cached("base", uses_cache=False)] == [0, 0, 0, 0]


def test_samples_of_one_prompt_draw_as_requests_of_their_own(real: Any) -> None:
    options = {"temperature": 1.0, "top_p": 0.95}
    together = ask(real, "poet", PROMPT, 8, n=4, seed=100, **options)
    alone = [ask(real, "poet", PROMPT, 8, seed=100 + i, **options).choices[0].text for i in range(4)]
    assert [choice.text for choice in together.choices] == alone
    assert len(set(alone)) > 1


def test_samples_of_a_chat_without_a_length_fit_into_the_memory(serve: Any, world: World, one_thread: None) -> None:
    config = world.models["base"].config
    room = StateRoom.of(config, 4, ENGINE)
    server = start(serve, world, capacity_bytes=5 * room.row_bytes + 80 * room.kv_bytes, max_tokens=80)
    chat = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "n": 2, "ignore_eos": True}
    answer = server.post("/v1/chat/completions", chat)
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] in (79, 80)


def test_logprobs_are_of_the_model(real: Any, world: World) -> None:
    answer = ask(real, "base", PROMPT, 1, logprobs=3)
    ids = [world.tokenizer.separator_id, *world.tokenizer.encode(PROMPT).tolist()]
    with torch.inference_mode():
        logits_V = world.models["base"].prefill(torch.tensor([ids]), world.models["base"].empty_states(1, capacity=len(ids)))[0]
    log_p = torch.log_softmax(logits_V[: world.tokenizer.vocab_size].float(), -1)
    assert answer.choices[0].logprobs.token_logprobs[0] == pytest.approx(log_p.max().item(), abs=1e-4)
    assert sorted(answer.choices[0].logprobs.top_logprobs[0].values(), reverse=True) == pytest.approx(
        log_p.topk(3).values.tolist(), abs=1e-4
    )


def test_memory_runs_out_while_one_prompt_is_read(
    serve: Any, world: World, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    from tilth.inference.engine import engine

    read = engine.read_chunk

    def without_memory(model: Any, pool: Any, reading: Any, end: int) -> Any:
        if len(reading.tokens) > 100:
            raise MemoryError("no memory for the states")
        return read(model, pool, reading, end)

    monkeypatch.setattr(engine, "read_chunk", without_memory)
    server = start(serve, world)
    with ThreadPoolExecutor() as threads:
        failing = threads.submit(server.post, "/v1/completions", {"model": "poet", "prompt": PROMPT * 12, "max_tokens": 4})
        others = [threads.submit(ask, server, model, PROMPT, 6) for model in world.models]
        assert failing.result().status_code == 500
        assert "MemoryError: no memory for the states" in failing.result().json()["error"]["message"]
        said = [other.result().choices[0].text for other in others]
        assert same(said, [world.says(model, PROMPT, 6) for model in world.models])
    assert server.engine.stats().reserved_bytes == 0


def test_a_tenant_leaves_while_it_speaks(serve: Any, world: World, one_thread: None) -> None:
    server = start(serve, world)
    stream = ask(server, "poet", PROMPT, 300, stream=True, ignore_eos=True)
    first = next(iter(stream)).choices[0].text
    assert server.admin("/v1/unload_delta", {"model": "poet", "timeout_seconds": 0}).status_code in (200, 202)
    assert server.post("/v1/completions", {"model": "poet", "prompt": "x"}).status_code == 404
    rest = "".join(chunk.choices[0].text for chunk in stream)
    alone = generate(world.models["poet"], [world.tokenizer.separator_id, *world.tokenizer.encode(PROMPT).tolist()], 300)
    assert len(first + rest) > 100
    assert world.tokenizer.decode([token for token in alone if token]).startswith((first + rest)[:60])
    while server.admin("/v1/load_delta", {"model": "poet"}).status_code == 409:
        pass  # its last request has just ended
    assert same([ask(server, "poet", PROMPT, 6).choices[0].text], [world.says("poet", PROMPT, 6)])


def test_a_client_that_hangs_up_frees_its_bytes(serve: Any, world: World, one_thread: None) -> None:
    server = start(serve, world)
    with ask(server, "base", PROMPT, 400, stream=True, ignore_eos=True) as stream:
        next(iter(stream))
        assert server.engine.stats().reserved_bytes > 0
    for _ in range(10_000):
        stats = server.engine.stats()
        if not stats.n_decoding and not stats.reserved_bytes:
            break
        server.get("/health")
    else:
        pytest.fail("the request of a client that hung up still holds memory")
    assert same([ask(server, "base", PROMPT, 6).choices[0].text], [world.says("base", PROMPT, 6)])


def test_more_than_the_engine_takes(serve: Any, world: World, one_thread: None) -> None:
    server = start(serve, world, max_rows=2, max_waiting=4)
    with ThreadPoolExecutor(30) as threads:
        calls = [
            threads.submit(
                server.post, "/v1/completions", {"model": "base", "prompt": PROMPT, "max_tokens": 30, "temperature": 0}
            )
            for _ in range(60)
        ]
        answers = [call.result() for call in calls]
    assert {answer.status_code for answer in answers} <= {200, 429}
    good = [answer.json()["choices"][0]["text"] for answer in answers if answer.status_code == 200]
    assert len(good) >= 4
    assert same(good, [world.says("base", PROMPT, 30)] * len(good))
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 429)


def test_how_long_a_text_may_be(world: World) -> None:
    model = world.models["base"]
    assert StateRoom.of(model.config, 4, ENGINE).new_tokens(0, 1) == 512
    room = StateRoom.of(model.config, 4, replace(ENGINE, capacity_bytes=200_000, max_tokens=1 << 20)).new_tokens(0, 1)
    assert 2 <= room < 10_000
    with pytest.raises(UserError, match="one request needs") as refusal:
        StateRoom.of(model.config, 4, replace(ENGINE, capacity_bytes=1000))
    assert refusal.value.where == "--memory"


def test_the_end_of_text_of_an_imported_model(tmp_path: Path) -> None:
    assert end_of_text(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "</s>"}}')
    assert end_of_text(tmp_path) == "</s>"


def test_a_served_model_is_opened_while_its_device_is_current(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now: list[torch.device] = []
    opened: list[list[torch.device]] = []

    @contextmanager
    def current(device: torch.device) -> Iterator[None]:
        now.append(device)
        yield
        now.pop()

    def opens(*words: Any) -> Any:
        opened.append(list(now))
        return open_served(*words)

    monkeypatch.setattr(serving, "current_device", current)
    monkeypatch.setattr(serving, "open_served", opens)
    monkeypatch.setattr(serving, "run_process", lambda *words, **options: 0)
    assert serving.serve(world.options) == 0
    assert opened == [[torch.device("cpu")]]
