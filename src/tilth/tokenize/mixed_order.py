"""The order of a run over several sources, each with a share of the sequences: as pure a function as that of one source.

A sequence comes whole from one source. Of each block of 1,000 sequences every source has the number that its weight asks
for (largest remainders), in an order shuffled by (seed, block); so the shares are exact after each block, and the source of a
sequence, and how many it has had before, follow from its number alone. The k-th sequence of a source is the k-th of its
own `RunOrder`, with epochs and shuffles of its own. All sequences have as many tokens: shares are shares of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tilth.errors import RecipeError
from tilth.tokenize.document_order import DocumentOrder
from tilth.tokenize.order import Location, RunOrder, SequencePlan, Use, share_of, shuffled, slot_of

BLOCK = 1_000  # sequences after which every source has had its share
_SOURCES = 2  # `of` of `shuffled`


class _Pattern(NamedTuple):
    """A block of sequences: the source of each, and how many of that source come before it in the block."""

    sources: np.ndarray  # (BLOCK,) int64, as `ranks`
    ranks: np.ndarray


class MixedOrder:
    """The order in which a run reads several sources; with one it is `RunOrder`.

    `lengths` has a row of document lengths (n_documents,) for each source, `weights` a number above 0. A sequence costs
    what it costs in its own order; a block's pattern is made once. With `whole_documents` a sequence is a document, as
    `DocumentOrder` says. Raises RecipeError for weights that cannot be met in a block, and what RunOrder raises.
    """

    def __init__(
        self,
        lengths: Sequence[np.ndarray],
        weights: Sequence[float],
        seq_len: int,
        global_batch: int,
        seed: int,
        whole_documents: bool = False,
    ) -> None:
        if global_batch < 1:
            raise RecipeError(f"global batch {global_batch} must be 1 or more", where="global_batch")
        self.counts = sequences_of_block(weights)
        if len(self.counts) != len(lengths):
            raise RecipeError(f"there are {len(weights)} weights for {len(lengths)} sources", where="weights")
        kind = DocumentOrder if whole_documents else RunOrder
        self.orders = [kind(own, seq_len, 1, seed + number) for number, own in enumerate(lengths)]
        self.seq_len, self.global_batch, self.seed = seq_len, global_batch, seed
        self._n_read = 1 if whole_documents else seq_len  # of an order's n_tokens, by a sequence
        self._patterns: dict[int, _Pattern] = {}

    def sequences(self, step: int) -> list[SequencePlan]:
        """The `global_batch` sequences of `step` (counted from 0)."""
        return [self.sequence(step, i) for i in range(self.global_batch)]

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> list[SequencePlan]:
        """The share of one process, as `RunOrder.batch`. Raises RecipeError when the batch cannot be shared equally."""
        return [self.sequence(step, i) for i in share_of(self.global_batch, rank, world_size)]

    def sequence(self, step: int, sequence: int) -> SequencePlan:
        """The plan of one sequence: pieces of seq_len + 1 tokens in all, of one source."""
        source, number = self._place(slot_of(self.global_batch, step, sequence))
        plan = self.orders[source].sequence(number, 0)
        return SequencePlan(plan.pieces, plan.epochs, source, number=sequence)

    def locate(self, step: int, sequence: int, position: int) -> tuple[int, Location]:
        """The source of a token, and where in it the token lies; position `seq_len` is the last target."""
        source, number = self._place(slot_of(self.global_batch, step, sequence))
        return source, self.orders[source].locate(number, 0, position)

    def uses(self, source: int, document: int, n_steps: int) -> Iterator[Use]:
        """The sequences of the first `n_steps` steps that read tokens of a document of `source`, in order."""
        for use in self.orders[source].uses(document, self._n_before(source, n_steps * self.global_batch)):
            yield Use(*divmod(self._slot(source, use.step), self.global_batch), use.epoch)

    def epochs(self, n_steps: int) -> list[float]:
        """How often the first `n_steps` steps read each source."""
        n_slots = n_steps * self.global_batch
        return [self._n_before(source, n_slots) * self._n_read / order.n_tokens for source, order in enumerate(self.orders)]

    def n_steps_within(self, max_repeats: float) -> float:
        """How many whole steps read no source more often than `max_repeats` times; infinity where there is no such limit."""
        if math.isinf(max_repeats):
            return math.inf
        allowed = (int(max_repeats * order.n_tokens) // self._n_read for order in self.orders)
        return min(self._slot(source, n) for source, n in enumerate(allowed)) // self.global_batch

    def _place(self, slot: int) -> tuple[int, int]:
        """The source of a sequence, and its number among those of that source."""
        block, within = divmod(slot, BLOCK)
        pattern = self._pattern(block)
        source = int(pattern.sources[within])
        return source, block * self.counts[source] + int(pattern.ranks[within])

    def _slot(self, source: int, number: int) -> int:
        """The inverse of `_place`."""
        block, rank = divmod(number, self.counts[source])
        return block * BLOCK + int(np.flatnonzero(self._pattern(block).sources == source)[rank])

    def _n_before(self, source: int, slot: int) -> int:
        """How many sequences of `source` come before `slot`."""
        block, within = divmod(slot, BLOCK)
        return block * self.counts[source] + int((self._pattern(block).sources[:within] == source).sum())

    def _pattern(self, block: int) -> _Pattern:
        if block not in self._patterns:
            while len(self._patterns) >= 8:  # a batch spans few blocks; keeping all would grow with the run
                del self._patterns[next(iter(self._patterns))]
            sources = np.repeat(np.arange(len(self.counts)), self.counts)[shuffled(BLOCK, self.seed, block, of=_SOURCES)]
            ranks = np.empty_like(sources)
            for source, count in enumerate(self.counts):
                ranks[sources == source] = np.arange(count)
            self._patterns[block] = _Pattern(sources, ranks)
        return self._patterns[block]


def sequences_of_block(weights: Sequence[float]) -> list[int]:
    """How many of BLOCK sequences each source has: its share, the largest remainders rounded up.

    Raises RecipeError for weights that are not above 0, or of which one is too small to have a sequence.
    """
    if not weights or not all(0 < weight < math.inf for weight in weights):
        raise RecipeError(f"the weights of a mixture are {list(weights)}", where="weights", fix="Give numbers above 0.")
    shares = np.array(weights, np.float64) / math.fsum(weights) * BLOCK
    counts = np.floor(shares).astype(np.int64)
    # Rounded: a remainder of 1e-14 is an error of the division, and its order would follow the machine.
    by_remainder = np.argsort(-np.round(shares - counts, 9), kind="stable")
    counts[by_remainder[: BLOCK - int(counts.sum())]] += 1
    if not counts.all():
        raise RecipeError(
            f"a weight of {weights[int(counts.argmin())]:g} is less than a sequence in {BLOCK:,}",
            where="weights",
            fix="Give it more, or leave it out.",
        )
    return [int(count) for count in counts]
