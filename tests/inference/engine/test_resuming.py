"""What the cache gives back is what reading again would give: logits within 1e-5 of their scale, the same greedy tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tilth.inference.cache.policies.lru import LRU
from tilth.inference.engine import resumable
from tilth.inference.engine.requests import MissReason
from tilth.inference.generate import generate
from tilth.models.decoder import Decoder

FAMILIES: list[dict[str, Any]] = [{"layers": layers} for layers in ("M", "A", "MMA", "SA", "DA")] + [
    {"layers": "AM", "rope_theta": None},
    {"layers": "AMA", "residual": "ladder"},
    {"layers": "MAM", "n_kv_heads": 4},
    {"layers": "MA", "d_conv": 1},
]
N_LOGITS = 43


def error_of(told: Any, model: Decoder, prompt: list[int]) -> float:
    """The largest difference of log p from those of one forward over prompt and answer, as a part of the largest logit."""
    logits_TV = model(torch.tensor([prompt + told.ids()]))[0, len(prompt) - 1 : -1].detach()
    wanted_TV, scale = logits_TV.log_softmax(-1), max(1.0, float(logits_TV.abs().max()))
    found_TV = torch.tensor([[of_step[token] for token in range(N_LOGITS)] for of_step in told.likeliest])
    return float((found_TV - wanted_TV).abs().max()) / scale


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "chunk_tokens"), [*((changes, 8) for changes in FAMILIES), ({"layers": "MMA"}, 3), ({"layers": "SDA"}, 64)]
)
def test_every_cut_gives_the_logits_of_reading_all(
    changes: dict[str, Any], chunk_tokens: int, make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any
) -> None:
    model = make_model(**changes, tie_embeddings=False)
    (shared,) = draw_prompts(18)
    driver = drive(model, chunk_tokens=chunk_tokens, policy=LRU())
    driver.submit(shared, 1)
    driver.finish()
    for cut in range(1, len(shared)):
        other = (shared[cut] + 1) % N_LOGITS
        for number, tail in enumerate(draw_prompts(1, 9)):
            prompt = [*shared[:cut], other, *tail]
            told = driver.submit(prompt, 5, n_logprobs=N_LOGITS)
            driver.finish()
            has_states = "M" in model.config.pattern or "S" in model.config.pattern or "D" in model.config.pattern
            known = cut + 1 if number and not has_states else cut if number or not has_states else 0
            assert told.end.n_cached_tokens >= known  # the first that leaves the path at a cut makes the state there
            assert error_of(told, model, prompt) < 1e-5
            assert told.ids() == generate(model, prompt, 5)


@pytest.mark.parametrize("changes", FAMILIES)
def test_a_conversation_goes_on_from_its_last_token(
    changes: dict[str, Any], make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any
) -> None:
    model = make_model(**changes, tie_embeddings=False)
    driver = drive(model, policy=LRU())
    text: list[int] = []
    for turn, said in enumerate(draw_prompts(11, 3, 1, 20)):
        text += said
        told = driver.submit(text, 6, n_logprobs=N_LOGITS)
        driver.finish()
        assert told.end.n_cached_tokens == (len(text) - len(said) - 1 if turn else 0)
        assert told.end.miss_reason == (MissReason.NONE if turn else MissReason.NO_PREFIX)
        assert error_of(told, model, text) < 1e-5
        assert told.ids() == generate(model, text, 6)
        text += told.ids()


def test_requests_that_share_a_prefix_run_beside_each_other(
    make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any
) -> None:
    model = make_model("MMA", tie_embeddings=False)
    shared, *tails = draw_prompts(30, 4, 5, 6, 7, 8)
    driver = drive(model, policy=LRU())
    told = [driver.submit([*shared, *tail], 10, n=2) for tail in tails]
    driver.finish()
    for each, tail in zip(told, tails, strict=True):
        wanted = generate(model, [*shared, *tail], 10)
        assert [each.ids(0), each.ids(1)] == [wanted, wanted]
    assert [each.end.n_cached_tokens for each in told] == [0, 0, 30, 30, 30]
    assert told[1].end.miss_reason == MissReason.NO_STATE


@pytest.mark.slow
@pytest.mark.parametrize("changes", FAMILIES)
@pytest.mark.parametrize(("dtype", "in_8_bits"), [(torch.bfloat16, False), (torch.float32, True), (torch.bfloat16, True)])
def test_where_states_are_rounded_a_hit_is_as_near_as_that_lets_it(
    changes: dict[str, Any],
    dtype: torch.dtype,
    in_8_bits: bool,
    make_model: Callable[..., Decoder],
    drive: Any,
    draw_prompts: Any,
) -> None:
    """And the greedy tokens are the same until two logits are nearer to each other than the rounding."""
    model = make_model(**changes, tie_embeddings=False, scale=1.0).to(dtype)
    tolerance = resumable.TOLERANCES[dtype] + (resumable.ROUNDING_TOLERANCE if in_8_bits else 0)
    (shared,) = draw_prompts(18)
    cold, warm = drive(model, policy=LRU()), drive(model, policy=LRU(), checkpoints_in_8_bits=in_8_bits)
    assert warm.engine.stats().off_reason == ""
    warm.submit(shared, 1)
    warm.finish()
    for cut in (1, 3, 7, 8, 9, 15, 16, 17):  # about the taps of a convolution and the ends of chunks
        for tail in draw_prompts(1, 9):
            prompt = [*shared[:cut], (shared[cut] + 1) % N_LOGITS, *tail]
            said, wanted = (driver.submit(prompt, 5, n_logprobs=N_LOGITS) for driver in (warm, cold))
            warm.finish()
            cold.finish()
            scale = max(1.0, float(model(torch.tensor([prompt]))[0, -1].detach().abs().max()))
            for token, other, p, q in zip(said.ids(), wanted.ids(), said.likeliest, wanted.likeliest, strict=True):
                assert max(abs(p[token] - q[token]) for token in range(N_LOGITS)) < tolerance * scale
                if token != other:
                    assert q[other] - q[token] < tolerance * scale
                    break  # from here on the texts differ
    assert sum(warm.engine.stats().n_cached_tokens.values()) > 0


def test_salts_and_those_who_want_no_cache_share_nothing(
    make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any
) -> None:
    driver = drive(make_model("MA"), policy=LRU())
    (prompt,) = draw_prompts(20)
    options: list[dict[str, Any]] = [{}, {"salt": "a"}, {"salt": "b"}, {"uses_cache": False}, {"salt": "a"}]
    for option in options:
        told = driver.submit(prompt, 4, **option)
        driver.finish()
        again = driver.told.index(told) == 4
        assert told.end.n_cached_tokens == 0
        if option.get("uses_cache", True):
            assert told.end.miss_reason == (MissReason.NO_STATE if again else MissReason.NO_PREFIX)
        else:
            assert told.end.miss_reason == MissReason.OFF
    follow_up = [*prompt, *told.ids(), 1]
    for option, n_cached in zip([{"uses_cache": False}, {"salt": "c"}, {"salt": "b"}], [0, 0, 23], strict=True):
        told = driver.submit(follow_up, 4, **option)
        driver.finish()
        assert told.end.n_cached_tokens == n_cached


def test_a_model_that_cannot_go_on_is_served_without_a_cache(
    make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    model = make_model("MA")
    whole = Decoder.prefill

    def forgetful(self: Decoder, ids_BT: torch.Tensor, states: Any) -> torch.Tensor:
        if states.n_tokens:
            states.layers[0].conv_inputs = torch.zeros_like(states.layers[0].conv_inputs)
        return whole(self, ids_BT, states)

    monkeypatch.setattr(Decoder, "prefill", forgetful)
    driver = drive(model)
    assert "changes the model's logits by" in driver.engine.stats().off_reason
    assert "the prefix cache is off" in caplog.text
    monkeypatch.undo()
    (prompt,) = draw_prompts(20)
    for _ in range(2):
        told = driver.submit(prompt, 4)
        driver.finish()
        assert told.ids() == generate(model, prompt, 4)
        assert (told.end.n_cached_tokens, told.end.miss_reason) == (0, MissReason.OFF)
    assert driver.engine.stats().used_bytes == 0


def test_checkpoints_in_8_bits_where_the_model_bears_them(
    make_model: Callable[..., Decoder],
    drive: Any,
    draw_prompts: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shared, *tails = draw_prompts(40, 3, 7, 5)
    kind, errors = make_model("MMA", tie_embeddings=False, scale=1.0), []
    exact, small = drive(kind, policy=LRU()), drive(kind, policy=LRU(), checkpoints_in_8_bits=True)
    (note,) = small.engine.stats().notes
    assert note.startswith("checkpoints rest in 8 bits")
    for tail in tails:
        for driver in (exact, small):
            told = driver.submit([*shared, *tail], 4, n_logprobs=N_LOGITS)
            driver.finish()
            errors.append(error_of(told, kind, [*shared, *tail]))
    assert told.end.n_cached_tokens == 40
    assert errors[4] < 1e-5 < errors[5] < resumable.ROUNDING_TOLERANCE
    sizes = [driver.engine.stats().checkpoint_bytes for driver in (exact, small)]
    assert sizes[1] < 0.6 * sizes[0]
    monkeypatch.setattr(resumable, "ROUNDING_TOLERANCE", 1e-5)
    harsh = drive(kind, checkpoints_in_8_bits=True)
    assert "full precision: 8 bits would change the logits by" in harsh.engine.stats().notes[0]
    assert "full precision" in caplog.text
