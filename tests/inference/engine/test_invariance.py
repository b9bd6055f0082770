"""What a request gets does not depend on what else is in the batch: not its tokens, and not its logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tilth.inference.engine.requests import NewToken
from tilth.inference.sampling import Sampling
from tilth.models.decoder import Decoder

# Widths that are multiples of 32, so that no row of an activation ends inside a vector.
SIZES = {"d_state": 16, "n_groups": 1, "ssm_head_dim": 16, "vocab_size": 64, "d_ff": 64}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layers", ["M", "A", "S", "MMA"])
def test_a_request_alone_and_in_a_batch_that_changes(
    layers: str, dtype: torch.dtype, make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any
) -> None:
    model = make_model(layers, tie_embeddings=False, **SIZES).to(dtype)
    prompts = draw_prompts(5, 1, 9, 33, 17, 2, 40, 8, 23)
    options = [{"sampling": Sampling(temperature=1.0), "seed": seed, "n_logprobs": 64} for seed in range(len(prompts))]
    driver = drive(model, uses_cache=False)
    together = []
    for number, (prompt, option) in enumerate(zip(prompts, options, strict=True)):
        together.append(driver.submit(prompt, 6 + number, **option))
        driver.engine.step()
    driver.finish()
    for number, (prompt, option) in enumerate(zip(prompts, options, strict=True)):
        driver = drive(model, uses_cache=False)
        alone = driver.submit(prompt, 6 + number, **option)
        driver.finish()
        assert alone.ids() == together[number].ids()
        assert alone.likeliest == together[number].likeliest  # all of the vocabulary, to the bit


def test_chunks_end_where_they_would_end_alone(make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any) -> None:
    model = make_model("MMA", tie_embeddings=False, **SIZES)
    prompts = draw_prompts(37, 3, 21, 50)
    driver = drive(model, uses_cache=False, chunk_tokens=8)
    together = [driver.submit(prompt, 1, n_logprobs=64) for prompt in prompts]
    driver.finish()
    for told, prompt in zip(together, prompts, strict=True):
        driver = drive(model, uses_cache=False, chunk_tokens=8)
        alone = driver.submit(prompt, 1, n_logprobs=64)
        driver.finish()
        assert [event for event in alone.events if isinstance(event, NewToken)] == [
            event for event in told.events if isinstance(event, NewToken)
        ]
