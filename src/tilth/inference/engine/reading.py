"""Reading a text in chunks whose ends do not depend on what else the engine does."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from tilth.inference.engine.jobs import Reading
from tilth.inference.engine.paging import KeyValuePool, PagedState
from tilth.inference.engine.recurrent import layers_of, tensors_of
from tilth.models.decoder import Decoder
from tilth.models.states import DecoderStates, MixerState


def next_end(reading: Reading, chunk_tokens: int) -> int:
    """Where the next chunk ends: at a multiple of chunk_tokens, at the reading's cut, or with the text."""
    ends = [(reading.n_read // chunk_tokens + 1) * chunk_tokens, len(reading.tokens)]
    if reading.cut is not None and reading.cut > reading.n_read:
        ends.append(reading.cut)
    return min(ends)


def read_chunk(model: Decoder, pool: KeyValuePool, reading: Reading, end: int) -> Tensor | None:
    """Read up to `end`; logits (1, V) after the last token of the text, None before. It raises at its own states' cost alone."""
    assert reading.states is not None
    assert reading.prefix is not None
    device, start = model.embedding.weight.device, reading.n_read
    recurrent = layers_of(model.config.pattern, reading.states)
    slots_1N = torch.from_numpy(reading.prefix.slots).unsqueeze(0).to(device)
    layers: list[object] = [
        recurrent[number] if letter != "A" else PagedState(pool.layers[number], slots_1N, start)
        for number, letter in enumerate(model.config.pattern)
    ]
    states = DecoderStates(cast(list[MixerState], layers), start)
    ids_1T = torch.from_numpy(reading.tokens[start:end]).long().unsqueeze(0).to(device)
    is_last = end == len(reading.tokens)
    found = model.prefill(ids_1T, states) if is_last else model.hidden(ids_1T, states=states)
    reading.states = [tensor for number in sorted(recurrent) for tensor in tensors_of(recurrent[number])]
    reading.n_read = end
    return found if is_last else None
