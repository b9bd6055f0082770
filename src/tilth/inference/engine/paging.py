"""Keys and values of all requests in one pool for each attention layer, a slot a token; and states that lie in it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tilth.inference.engine.slots import SlotRuns, Slots
from tilth.models.config import ModelConfig

FEWEST_SLOTS = 4096


@dataclass
class LayerPages:
    """Keys and values (n_slots, 1, G, D) of one layer: pages of one token, as kernels.attention_decode takes them."""

    keys: Tensor
    values: Tensor


class KeyValuePool:
    """Slots for up to most_slots tokens. Memory is taken in doublings, as slots are asked for, and halved again when the last
    three quarters are free; while that is done, one tensor of one layer is there twice.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device, most_slots: int) -> None:
        self.most_slots = most_slots if "A" in config.pattern else 0
        self.runs = SlotRuns(min(FEWEST_SLOTS, self.most_slots))
        shape = (self.runs.n_slots, 1, config.kv_heads, config.attention_head_dim)
        self.layers = {
            number: LayerPages(*(torch.zeros(shape, dtype=dtype, device=device) for _ in range(2)))
            for number, letter in enumerate(config.pattern)
            if letter == "A"
        }

    def take(self, n_slots: int, after: int = -2) -> Slots:
        """n_slots free slots, behind the slot `after` where they can be. Raises ValueError beyond most_slots, MemoryError."""
        missing = n_slots - self.runs.n_free
        if missing > 0:
            self._grow(min(self.most_slots, max(2 * self.runs.n_slots, self.runs.n_slots + missing)))
        return self.runs.take(n_slots, after)

    def free(self, slots: Slots) -> None:
        """Give slots back."""
        self.runs.free(slots)
        n_slots = self.runs.n_slots
        while n_slots >= 2 * FEWEST_SLOTS and self.runs.n_in_use <= n_slots // 4:
            n_slots //= 2
        if n_slots < self.runs.n_slots:
            self._shrink(n_slots)

    def are_finite(self, slots: Slots) -> bool:
        """Whether the keys and values in these slots are."""
        found = torch.from_numpy(slots)
        held = (pages for layer in self.layers.values() for pages in (layer.keys, layer.values))
        return all(bool(pages.index_select(0, found.to(pages.device)).isfinite().all()) for pages in held)

    def _grow(self, n_slots: int) -> None:
        if n_slots == self.runs.n_slots:
            return
        for pages in self.layers.values():
            pages.keys = _longer(pages.keys, n_slots)
            pages.values = _longer(pages.values, n_slots)
        self.runs.grow(n_slots)

    def _shrink(self, n_slots: int) -> None:
        self.runs.shrink(n_slots)
        for pages in self.layers.values():
            pages.keys = pages.keys[:n_slots].clone()
            pages.values = pages.values[:n_slots].clone()


def _longer(pages: Tensor, n_slots: int) -> Tensor:
    if len(pages) >= n_slots:  # an earlier attempt ran out of memory half way
        return pages
    longer = pages.new_zeros(n_slots, *pages.shape[1:])
    longer[: len(pages)] = pages
    return longer


@dataclass
class PagedState:
    """What an attention layer asks of its state (models.states.AttentionState), for rows whose tokens lie in slots.

    slots_BN (int32) has the slots of each row's tokens, those of this pass included. One row may read several tokens
    (`append`); several rows read one token each (`append_one`).
    """

    pages: LayerPages
    slots_BN: Tensor
    n_tokens: int = 0

    def append(self, k_BTGD: Tensor, v_BTGD: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values of the one row; returns all of its own, (1, n_tokens, G, D) each, a view if it can be."""
        start, self.n_tokens = self.n_tokens, self.n_tokens + k_BTGD.shape[1]
        slots_N = self.slots_BN[0, : self.n_tokens]
        new_T = slots_N[start:].long()
        self.pages.keys[new_T, 0], self.pages.values[new_T, 0] = k_BTGD[0], v_BTGD[0]
        first = int(slots_N[0])
        if bool((slots_N == torch.arange(first, first + self.n_tokens, device=slots_N.device)).all()):
            run = slice(first, first + self.n_tokens)
            return self.pages.keys[run].transpose(0, 1), self.pages.values[run].transpose(0, 1)
        keys, values = (t.index_select(0, slots_N).transpose(0, 1) for t in (self.pages.keys, self.pages.values))
        return keys, values

    def append_one(self, k_B1GD: Tensor, v_B1GD: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Store one token as the last of the lengths_B (int32) of each row; returns the pool's keys and values, and the slots."""
        new_B = self.slots_BN.gather(1, (lengths_B - 1).long().unsqueeze(1)).squeeze(1).long()
        self.pages.keys[new_B, 0], self.pages.values[new_B, 0] = k_B1GD[:, 0], v_B1GD[:, 0]
        return self.pages.keys, self.pages.values, self.slots_BN
