"""Generation with states: one prefill of the prompt, then one step per token."""

from __future__ import annotations

import torch

from tilth.errors import UserError
from tilth.inference.sampling import check_sampling, sample
from tilth.models.decoder import Decoder


@torch.inference_mode()
def generate(
    model: Decoder,
    prompt_ids: list[int],
    n_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
    stop_id: int | None = None,
) -> list[int]:
    """The tokens that follow prompt_ids: at most n_new_tokens, without the prompt and without stop_id.

    Greedy at temperature 0; else drawn with a generator of its own, so equal arguments give equal
    tokens on the same machine. Raises UserError for an empty prompt or ids beyond the vocabulary.
    """
    check_sampling(temperature, top_k)
    _check_prompt(model, prompt_ids, n_new_tokens)
    device = model.embedding.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    states = model.empty_states(1, device, capacity=len(prompt_ids) + n_new_tokens)
    new_ids: list[int] = []
    if n_new_tokens == 0:
        return new_ids
    logits_BV = model.prefill(torch.tensor([prompt_ids], device=device), states)
    while True:
        ids_B = sample(logits_BV, generator, temperature, top_k)
        token = int(ids_B)
        if token == stop_id:
            return new_ids
        new_ids.append(token)
        # checked before the step, whose logits nobody would read
        if len(new_ids) == n_new_tokens:
            return new_ids
        logits_BV = model.step(ids_B, states)


def _check_prompt(model: Decoder, prompt_ids: list[int], n_new_tokens: int) -> None:
    if not prompt_ids:
        raise UserError("the prompt is empty", fix="give at least one token, such as the separator")
    if n_new_tokens < 0:
        raise UserError(f"n_new_tokens is {n_new_tokens}", fix="ask for 0 tokens or more")
    vocab_size = model.config.vocab_size
    for token in prompt_ids:
        if not 0 <= token < vocab_size:
            raise UserError(
                f"the prompt has token {token}, but the model knows 0 to {vocab_size - 1}",
                fix="encode the prompt with the tokenizer that was saved with the model",
            )
