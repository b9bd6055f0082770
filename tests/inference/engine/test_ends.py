"""However a request ends, nothing of it stays: cancelled, too late, failed, pushed aside, or in an engine that stops."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tilth.inference.cache.policies.lru import LRU
from tilth.inference.engine.requests import DrainingError, FinishReason, NewToken, QueueFullError, Request
from tilth.inference.generate import generate, generate_batch
from tilth.inference.sampling import Sampling
from tilth.models.decoder import Decoder

DRAWN = Sampling(temperature=1.0)


def test_cancelled_at_any_moment(make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any) -> None:
    model = make_model("MA", tie_embeddings=False)
    victim, other = draw_prompts(20, 5)
    wanted = generate(model, other, 12)
    for n_steps in range(12):
        driver = drive(model, policy=LRU())
        first = driver.submit(victim, 6, n=3)
        second = driver.submit(other, 12)
        for _ in range(n_steps):
            driver.engine.step()
        had = first.ids()
        driver.engine.cancel(first.number)
        driver.finish()
        assert second.ids() == wanted
        assert first.ids() == had
        expected = FinishReason.CANCELLED if len(had) < 6 else FinishReason.LENGTH
        assert first.reasons == dict.fromkeys(range(3), expected)
        driver.engine.cancel(first.number)  # once more does nothing
        driver.engine.cancel(77)
        driver.engine.clear_cache()
        assert driver.engine.stats().used_bytes == 0


def test_a_deadline_ends_what_waits_and_what_runs(
    make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = drive(make_model("MA", tie_embeddings=False), max_rows=1)
    now = time.monotonic()
    clock = {"now": now}
    monkeypatch.setattr(time, "monotonic", lambda: clock["now"])
    running = driver.submit(draw_prompts(4)[0], 50, deadline=now + 10)
    waiting = driver.submit(draw_prompts(4)[0], 50, deadline=now + 5)
    patient = driver.submit(draw_prompts(4)[0], 3, deadline=now + 99)
    for _ in range(5):
        driver.engine.step()
    assert not waiting.has_ended
    clock["now"] = now + 6
    driver.engine.step()
    assert waiting.reasons == {0: FinishReason.CANCELLED}
    assert "deadline" in waiting.messages[0]
    assert not running.has_ended
    clock["now"] = now + 11
    driver.finish()
    assert running.reasons == {0: FinishReason.CANCELLED}
    assert 0 < len(running.ids()) < 50
    assert patient.reasons == {0: FinishReason.LENGTH}


def test_the_youngest_makes_room_and_loses_nothing(make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any) -> None:
    model, prompts = make_model("MA", tie_embeddings=False), draw_prompts(6, 7, 8, 9)
    wanted = generate_batch(model, prompts, 90, DRAWN, seeds=range(4))
    one_alone = drive(model).engine._memory.most_bytes(9, 90, 1)
    driver = drive(model, capacity_bytes=2 * one_alone, policy=LRU())
    told = [driver.submit(prompt, 90, sampling=DRAWN, seed=seed) for seed, prompt in enumerate(prompts)]
    driver.finish()
    assert driver.engine.stats().n_preempted > 0
    assert [each.ids() for each in told] == wanted
    assert driver.engine.stats().used_bytes <= 2 * one_alone


def test_a_prompt_that_fails_ends_alone(
    make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (bad, good) = make_model("MMA", tie_embeddings=False), draw_prompts(20, 21)
    hidden = Decoder.hidden

    def failing(self: Decoder, ids_BT: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if ids_BT.shape[1] > 1 and ids_BT[0, -1] == bad[15]:
            raise MemoryError("no memory for this chunk")
        return hidden(self, ids_BT, *arguments, **options)

    driver = drive(model)
    wanted = generate(model, good, 9)
    monkeypatch.setattr(Decoder, "hidden", failing)
    first, second = driver.submit(bad, 9, n=2), driver.submit(good, 9)
    driver.finish()
    assert first.reasons == {0: FinishReason.ERROR, 1: FinishReason.ERROR}
    assert first.messages[0] == "MemoryError: no memory for this chunk"
    assert second.ids() == wanted
    assert driver.engine.stats().n_faults == 1


@pytest.mark.parametrize("is_for_good", [True, False], ids=["for good", "once"])
def test_a_pass_that_fails_harms_only_its_cause(
    is_for_good: bool, make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompts = make_model("MA", tie_embeddings=False), draw_prompts(4, 9, 5)
    wanted = generate_batch(model, prompts, 20, DRAWN, seeds=range(3))
    step, poison, failures = Decoder.step, 42, []

    def failing(self: Decoder, ids_B: torch.Tensor, states: Any) -> torch.Tensor:
        logits_BV = step(self, ids_B, states)  # the states have changed when it fails
        if poison in ids_B.tolist() and (is_for_good or not failures):
            failures.append(len(ids_B))
            raise RuntimeError("bad row")
        return logits_BV

    monkeypatch.setattr(Decoder, "step", failing)
    driver = drive(model, policy=LRU())
    told = [driver.submit(prompt, 20, sampling=DRAWN, seed=seed) for seed, prompt in enumerate(prompts)]
    victim = driver.submit([1, 2, 3], 20, sampling=Sampling(allowed_ids=(poison,)))
    driver.finish()
    assert [each.ids() for each in told] == wanted
    assert failures == ([4, 1] if is_for_good else [4])
    if is_for_good:
        assert victim.reasons == {0: FinishReason.ERROR}
        assert victim.messages == ["RuntimeError: bad row"]
    else:
        assert victim.ids() == [poison] * 20


def test_logits_that_are_no_numbers_end_their_row(make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any) -> None:
    model = make_model("MA", tie_embeddings=False)
    good = [token % 42 for token in draw_prompts(7)[0]]
    allowed = Sampling(allowed_ids=tuple(range(42)))
    driver = drive(model)
    with torch.no_grad():
        model.embedding.weight[42] = float("nan")
    bad, fine = driver.submit([*good, 42], 5), driver.submit(good, 5, sampling=allowed)
    driver.finish()
    assert bad.reasons == {0: FinishReason.ERROR}
    assert "not finite" in bad.messages[0]
    assert fine.reasons == {0: FinishReason.LENGTH}
    follow_up = driver.submit(good, 5, sampling=allowed)  # nothing of the bad one is in the cache
    driver.finish()
    assert follow_up.ids() == fine.ids()


def test_slots_that_cannot_be_had_end_their_request(
    make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = drive(make_model("MA", tie_embeddings=False))
    take, calls = type(driver.engine._memory.pool).take, []

    def failing(self: Any, n_slots: int, after: int = -2) -> Any:
        calls.append(n_slots)
        if len(calls) in (2, 4):
            raise MemoryError("no memory for slots")
        return take(self, n_slots, after)

    monkeypatch.setattr(type(driver.engine._memory.pool), "take", failing)
    told = [driver.submit(prompt, 40) for prompt in draw_prompts(4, 5, 6)]
    driver.finish()
    assert sorted(each.reasons[0] for each in told) == [FinishReason.ERROR, FinishReason.ERROR, FinishReason.LENGTH]


def test_a_receiver_that_raises_loses_its_request(
    make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any, caplog: pytest.LogCaptureFixture
) -> None:
    driver = drive(make_model("MA", tie_embeddings=False))
    prompt, other = draw_prompts(3, 4)
    told = driver.submit(other, 10)

    def deaf(event: object) -> None:
        if isinstance(event, NewToken):
            raise ValueError("gone")

    driver.engine.submit(Request(prompt_ids=tuple(prompt), max_tokens=10), deaf)
    driver.finish()
    assert told.reasons == {0: FinishReason.LENGTH}
    assert "it is cancelled" in caplog.text
    assert driver.engine.stats().finished == {"length": 1, "cancelled": 1}


def test_a_full_queue_says_when_to_come_again(make_model: Callable[..., Decoder], drive: Any) -> None:
    driver = drive(make_model("M"), max_waiting=3)
    for _ in range(3):
        driver.submit([1], 2)
    with pytest.raises(QueueFullError, match="3 requests are waiting") as refusal:
        driver.submit([1], 2)
    assert 1 <= refusal.value.retry_after_seconds <= 60
    driver.finish()
    driver.submit([1], 2)
    driver.finish()


def test_a_draining_engine_finishes_what_it_has(make_model: Callable[..., Decoder], drive: Any) -> None:
    driver = drive(make_model("M"))
    told = driver.submit([1], 5)
    driver.engine.drain()
    with pytest.raises(DrainingError):
        driver.submit([1], 5)
    driver.finish()
    assert told.reasons == {0: FinishReason.LENGTH}


def test_threads_submit_and_cancel_while_it_runs(make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any) -> None:
    model, prompts = make_model("MA", tie_embeddings=False), draw_prompts(5, 9, 3, 12)
    wanted = [generate(model, prompt, 30) for prompt in prompts]
    driver, stop = drive(model), threading.Event()
    thread = threading.Thread(target=driver.engine.run, args=(stop,))
    thread.start()
    found: dict[int, Any] = {}

    def ask(number: int) -> None:
        ended = threading.Event()
        told: list[Any] = []

        def listen(event: Any) -> None:
            told.append(event)
            if not isinstance(event, NewToken) and hasattr(event, "n_new_tokens"):
                ended.set()

        for _ in range(3):
            told.clear()
            ended.clear()
            request = driver.engine.submit(Request(prompt_ids=tuple(prompts[number]), max_tokens=30), listen)
            if number == 3:
                driver.engine.cancel(request)
            assert ended.wait(60)
        found[number] = [event.token_id for event in told if isinstance(event, NewToken)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(120)
    stop.set()
    thread.join(60)
    assert not thread.is_alive()
    assert [found[number] for number in range(3)] == wanted[:3]
    assert found[3] == wanted[3][: len(found[3])]
    driver.check_empty()


def test_an_engine_that_stops_says_so_to_all(make_model: Callable[..., Decoder], drive: Any) -> None:
    driver = drive(make_model("M"), max_rows=1)
    told = [driver.submit([1], 1000), driver.submit([2], 1000)]
    stop = threading.Event()
    stop.set()
    driver.engine.run(stop)
    assert [each.reasons for each in told] == [{0: FinishReason.CANCELLED}] * 2
    driver.check_empty()


def test_an_error_that_nothing_caught_ends_what_runs_and_no_more(
    make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (prompt,) = make_model("MA", tie_embeddings=False), draw_prompts(9)
    wanted = generate(model, prompt, 8)
    driver, stop, ended = drive(model), threading.Event(), threading.Event()
    first, step, told = driver.submit(prompt, 30), driver.engine.step, []

    def failing() -> bool:
        worked: bool = step()
        if not first.has_ended and first.ids():
            raise KeyError("a bug")
        return worked

    def listen(event: Any) -> None:
        told.append(event)
        if hasattr(event, "n_new_tokens"):
            ended.set()

    monkeypatch.setattr(driver.engine, "step", failing)
    thread = threading.Thread(target=driver.engine.run, args=(stop,))
    thread.start()
    while not first.has_ended and thread.is_alive():
        time.sleep(0.01)
    driver.engine.submit(Request(prompt_ids=tuple(prompt), max_tokens=8), listen)
    assert ended.wait(60)
    stop.set()
    thread.join(60)
    assert first.reasons == {0: FinishReason.ERROR}
    assert first.messages == ["KeyError: 'a bug'"]
    assert [event.token_id for event in told if isinstance(event, NewToken)] == wanted
    driver.check_empty()
