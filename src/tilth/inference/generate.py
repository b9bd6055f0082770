"""Generation with states: each prompt is read once, then one step per token takes all rows on together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tilth.errors import UserError
from tilth.inference.sampling import Sampling, sample
from tilth.inference.states import join, select_rows
from tilth.inference.stopping import Stopping
from tilth.models.decoder import Decoder
from tilth.models.states import DecoderStates

CAPACITY_MULTIPLE = 64  # the decoding kernel is compiled for the room of a row
LIVING_SHARE = 0.75  # dropping ended rows copies the states of the others, so it waits until it saves as much


def generate(
    model: Decoder,
    prompt_ids: list[int],
    n_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
    stop_id: int | None = None,
) -> list[int]:
    """The tokens that follow prompt_ids: generate_batch for one prompt."""
    sampling = Sampling(temperature=temperature, top_k=top_k)
    stopping = Stopping(stop_ids=() if stop_id is None else (stop_id,))
    return generate_batch(model, [prompt_ids], n_new_tokens, sampling, stopping, [seed])[0]


@torch.inference_mode()
def generate_batch(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    n_new_tokens: int,
    sampling: Sampling | None = None,
    stopping: Stopping | None = None,
    seeds: Sequence[int] | None = None,
) -> list[list[int]]:
    """The tokens that follow each prompt, of whatever lengths: at most n_new_tokens, without the prompt and the stop token.

    Greedy unless sampling says otherwise; then row i draws with seeds[i] (default: i). A row's tokens are those that it would
    get alone, as far as the rounding of a product does not depend on the number of its rows. Rows that ended leave the batch.
    Raises UserError for an empty prompt, ids beyond the vocabulary, or seeds that are not one for each prompt.
    """
    sampling, stopping = sampling or Sampling(), stopping or Stopping()
    seeds = range(len(prompts)) if seeds is None else seeds
    _check(model, prompts, n_new_tokens, sampling, seeds)
    new_ids: list[list[int]] = [[] for _ in prompts]
    if not prompts or n_new_tokens == 0:
        return new_ids
    chances_BT = torch.stack([torch.rand(n_new_tokens, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    logits_BV, states, rows = _prefill(model, prompts, n_new_tokens)
    living = set(rows)
    while True:
        n_done = len(new_ids[next(row for row in rows if row in living)])
        ids_B = sample(logits_BV, chances_BT[rows, n_done].to(logits_BV.device), sampling)
        living -= {
            row for row, token in zip(rows, ids_B.tolist(), strict=True) if row in living and _ends(new_ids[row], token, stopping)
        }
        # checked before the step, whose logits nobody would read
        if not living or n_done + 1 == n_new_tokens:
            return new_ids
        if len(living) <= LIVING_SHARE * len(rows):
            kept = [i for i, row in enumerate(rows) if row in living]
            rows, kept_B = [rows[i] for i in kept], torch.tensor(kept, device=ids_B.device)
            states, ids_B = select_rows(states, kept_B), ids_B[kept_B]
        logits_BV = model.step(ids_B, states)


def _ends(ids: list[int], token: int, stopping: Stopping) -> bool:
    """Add the token to its row unless it stops it; returns whether the row has ended."""
    if token in stopping.stop_ids:
        return True
    ids.append(token)
    return stopping.goes_in_circles(ids)


def _prefill(model: Decoder, prompts: Sequence[Sequence[int]], n_new_tokens: int) -> tuple[Tensor, DecoderStates, list[int]]:
    """Logits (B, V) after each prompt, the states, and the numbers of the rows, which are sorted by length.

    Prompts of one length are read together: padding would enter the states of the mamba layers.
    """
    device = model.embedding.weight.device
    longest = max(map(len, prompts)) + n_new_tokens
    capacity = -(-longest // CAPACITY_MULTIPLE) * CAPACITY_MULTIPLE
    by_length: dict[int, list[int]] = {}
    for row in sorted(range(len(prompts)), key=lambda row: len(prompts[row])):
        by_length.setdefault(len(prompts[row]), []).append(row)
    logits, parts = [], []
    for group in by_length.values():
        states = model.empty_states(len(group), device, capacity)
        logits.append(model.prefill(torch.tensor([list(prompts[row]) for row in group], device=device), states))
        parts.append(states)
    states = parts[0] if len(parts) == 1 else join(parts)
    return torch.cat(logits), states, [row for group in by_length.values() for row in group]


def _check(model: Decoder, prompts: Sequence[Sequence[int]], n_new_tokens: int, sampling: Sampling, seeds: Sequence[int]) -> None:
    if n_new_tokens < 0:
        raise UserError(f"n_new_tokens is {n_new_tokens}", fix="ask for 0 tokens or more")
    if len(seeds) != len(prompts):
        raise UserError(f"there are {len(seeds)} seeds for {len(prompts)} prompts", fix="give one seed for each prompt, or none")
    for prompt in prompts:
        check_prompt(model, prompt)
    sampling.check_ids(model.config.vocab_size)


def check_prompt(model: Decoder, prompt: Sequence[int]) -> None:
    """Raise UserError for a prompt that is empty or has ids beyond the vocabulary."""
    if not prompt:
        raise UserError("the prompt is empty", fix="give at least one token, such as the separator")
    vocab_size = model.config.vocab_size
    for token in prompt:
        if not 0 <= token < vocab_size:
            raise UserError(
                f"the prompt has token {token}, but the model knows 0 to {vocab_size - 1}",
                fix="encode the prompt with the tokenizer that was saved with the model",
            )
