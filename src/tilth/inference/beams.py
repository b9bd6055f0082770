"""Beam search: the likeliest continuations of a prompt, one prefill and one batch of states for all beams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tilth.errors import UserError
from tilth.inference.generate import check_prompt
from tilth.inference.sampling import Sampling, restrict
from tilth.inference.states import select_rows
from tilth.models.decoder import Decoder


@dataclass(frozen=True)
class Beam:
    """A continuation without its stop token, and the sum of log p of its tokens (nats), the stop token included."""

    ids: tuple[int, ...]
    log_p: float


@torch.inference_mode()
def beam_search(
    model: Decoder,
    prompt: Sequence[int],
    n_beams: int,
    n_new_tokens: int,
    allowed_ids: Sequence[int] | None = None,
    stop_id: int | None = None,
) -> list[Beam]:
    """Up to n_beams continuations of n_new_tokens, or of fewer before stop_id, the likeliest first.

    After each token the n_beams likeliest prefixes stay. Log p is the model's own over its whole vocabulary; allowed_ids only
    forbids the other ids (of which stop_id, where given, is none). It is not divided by the length: with stop_id short
    continuations have an advantage. Raises UserError as generate_batch does, and for n_beams below 1.
    """
    sampling = Sampling(allowed_ids=None if allowed_ids is None else (*allowed_ids, *(() if stop_id is None else (stop_id,))))
    sampling.check_ids(model.config.vocab_size)
    check_prompt(model, prompt)
    if n_beams < 1 or n_new_tokens < 0:
        raise UserError(f"n_beams is {n_beams} and n_new_tokens {n_new_tokens}", fix="ask for 1 beam and 0 tokens or more")
    device = model.embedding.weight.device
    states = model.empty_states(1, device, len(prompt) + n_new_tokens)
    logits_KV = model.prefill(torch.tensor([list(prompt)], device=device), states)
    ended: list[Beam] = []
    living = [Beam((), 0.0)]
    for n_done in range(n_new_tokens):
        if n_done:
            logits_KV = model.step(torch.tensor([beam.ids[-1] for beam in living], device=device), states)
        parents, candidates = _best(_totals(logits_KV, living, sampling), living, n_beams)
        ended += [Beam(beam.ids[:-1], beam.log_p) for beam in candidates if beam.ids[-1] == stop_id]
        ended = sorted(ended, key=lambda beam: -beam.log_p)[:n_beams]
        goes_on = [i for i, beam in enumerate(candidates) if beam.ids[-1] != stop_id]
        living = [candidates[i] for i in goes_on]
        # log p only falls, so no living beam can still overtake
        if not living or (len(ended) == n_beams and living[0].log_p <= ended[-1].log_p):
            break
        states = select_rows(states, torch.tensor([parents[i] for i in goes_on], device=device))
    return sorted(ended + living, key=lambda beam: -beam.log_p)[:n_beams]


def _totals(logits_KV: Tensor, living: list[Beam], sampling: Sampling) -> Tensor:
    """log p (fp64) of each living beam with each token after it, -inf where it is not allowed."""
    log_p_K1 = torch.tensor([[beam.log_p] for beam in living], dtype=torch.float64, device=logits_KV.device)
    return restrict(log_p_K1 + logits_KV.double().log_softmax(-1), sampling.allowed_ids)


def _best(totals_KV: Tensor, living: list[Beam], n_beams: int) -> tuple[list[int], list[Beam]]:
    """The n_beams likeliest prefixes, and the row that each continues."""
    n_possible = int(totals_KV.isfinite().sum())
    found, places = totals_KV.flatten().topk(min(n_beams, n_possible))
    parents = (places // totals_KV.shape[1]).tolist()
    tokens = (places % totals_KV.shape[1]).tolist()
    beams = [Beam((*living[i].ids, token), log_p) for i, token, log_p in zip(parents, tokens, found.tolist(), strict=True)]
    return parents, beams
