"""The order of a run: a pure function from (document lengths, sequence length, batch, seed) to every sequence of every step.

All documents of an epoch, shuffled by (seed, epoch), follow one another as one stream; epoch follows epoch without
a gap. Window n is the stream's tokens n*T to n*T+T inclusive: T inputs, and one more token that is only a target.
The windows that begin in an epoch are read in an order shuffled by (seed, epoch), as Megatron-LM does: a document
of many windows would else fill whole batches, and the model would learn it by heart and forget the rest.
Thus the inputs are disjoint, each token is an input once per epoch, and neither the world size nor where a run was
interrupted plays a part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from tilth.errors import ContractError, RecipeError, SubsetError

_WINDOWS = 1  # `of` of `shuffled`; the documents' is 0, that of the sources of a mixture 2


class Piece(NamedTuple):
    """A run of consecutive tokens of one document."""

    document: int  # index into the token set
    start: int  # in tokens, within the document
    length: int  # in tokens


@dataclass(frozen=True)
class SequencePlan:
    """The pieces of one sequence, T+1 tokens in all; `epochs[i]` is the epoch of `pieces[i]`, `source` that of a mixture,
    and `number` the sequence's in its step.

    Where `is_turned`, they are read from the other strand: from the last token to the first, each as the one that pairs with it.
    """

    pieces: tuple[Piece, ...]
    epochs: tuple[int, ...]
    source: int = 0
    is_turned: bool = False
    number: int = 0

    def __iter__(self) -> Iterator[Piece]:
        return iter(self.pieces)

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def read_order(self) -> tuple[Piece, ...]:
        """The pieces as a model meets them: from the last when the sequence is turned."""
        return self.pieces[::-1] if self.is_turned else self.pieces

    @property
    def epochs_read(self) -> tuple[int, ...]:
        """The epoch of each piece of `read_order`."""
        return self.epochs[::-1] if self.is_turned else self.epochs

    @property
    def n_targets(self) -> int:
        """Positions: each has the next token as its target."""
        return sum(piece.length for piece in self.pieces) - 1


class Location(NamedTuple):
    """Where a token of a run comes from."""

    document: int
    offset: int  # in tokens, within the document
    epoch: int


class Use(NamedTuple):
    """A sequence that read a document."""

    step: int
    sequence: int
    epoch: int


class RunOrder:
    """The order in which a run reads its documents.

    `n_tokens_by_document` (n_documents,) counts the separator; documents of no tokens are never met.
    The table of an epoch costs O(n log n) once, 16 bytes a document and 8 a window; a step, and a token, is then O(log n).
    Raises SubsetError when there are no tokens, RecipeError for a length or batch below 1.
    """

    def __init__(self, n_tokens_by_document: np.ndarray, seq_len: int, global_batch: int, seed: int) -> None:
        self.lengths = np.asarray(n_tokens_by_document, dtype=np.int64)
        if seq_len < 1 or global_batch < 1:
            raise RecipeError(
                f"sequence length {seq_len} and global batch {global_batch} must be 1 or more", where="seq_len, global_batch"
            )
        if self.lengths.ndim != 1 or (self.lengths < 0).any():
            raise ContractError("document lengths must be one row of numbers, none below 0")
        self.n_tokens = int(self.lengths.sum())
        if self.n_tokens == 0:
            raise SubsetError("there are no tokens to train on", fix="Choose a subset that holds text.")
        self.seq_len, self.global_batch, self.seed = seq_len, global_batch, seed
        self._tables: dict[int, _Epoch] = {}

    def sequences(self, step: int) -> list[SequencePlan]:
        """The `global_batch` sequences of `step` (counted from 0)."""
        return [self.sequence(step, i) for i in range(self.global_batch)]

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> list[SequencePlan]:
        """The share of one process: ranks in turn hold equal, consecutive parts of `sequences(step)`.

        Raises RecipeError when the batch cannot be shared equally.
        """
        return [self.sequence(step, i) for i in share_of(self.global_batch, rank, world_size)]

    def sequence(self, step: int, sequence: int) -> SequencePlan:
        """The plan of one sequence: pieces of seq_len + 1 tokens in all."""
        at = self._stream_position(step, sequence, 0)
        missing = self.seq_len + 1
        pieces, epochs = [], []
        while missing:
            epoch, within = divmod(at, self.n_tokens)
            for piece in self._epoch(epoch).pieces(within, missing):
                pieces.append(piece)
                epochs.append(epoch)
                missing -= piece.length
                at += piece.length
        return SequencePlan(tuple(pieces), tuple(epochs), number=sequence)

    def locate(self, step: int, sequence: int, position: int) -> Location:
        """The document, the offset in it and the epoch of a token; position `seq_len` is the last target."""
        if not 0 <= position <= self.seq_len:
            raise RecipeError(f"position {position} lies outside a sequence of {self.seq_len} tokens", where="position")
        epoch, within = divmod(self._stream_position(step, sequence, position), self.n_tokens)
        return Location(*self._epoch(epoch).find(within), epoch)

    def uses(self, document: int, n_steps: int) -> Iterator[Use]:
        """The sequences of the first `n_steps` steps that read tokens of `document`, in order."""
        n_sequences = n_steps * self.global_batch
        if not n_sequences or not self.lengths[document]:
            return
        n_begun = (n_sequences - 1) * self.seq_len // self.n_tokens + 1
        # The last windows of an epoch may reach into the next.
        n_touched = -(-self._first_window(n_begun) * self.seq_len // self.n_tokens)
        found = []
        for epoch in range(n_touched):
            begin, end = self._epoch(epoch).span(document)
            first, last = (epoch * self.n_tokens + at for at in (begin, end - 1))
            for window in range(first // self.seq_len, last // self.seq_len + 1):
                home = window * self.seq_len // self.n_tokens
                slot = self._first_window(home) + self._epoch(home).slot_of(window - self._first_window(home))
                if slot < n_sequences:
                    found.append(Use(*divmod(slot, self.global_batch), epoch))
        yield from sorted(found)

    def epoch_of(self, step: int) -> float:
        """Epochs read before `step` begins."""
        return step * self.global_batch * self.seq_len / self.n_tokens

    def _stream_position(self, step: int, sequence: int, position: int) -> int:
        slot = slot_of(self.global_batch, step, sequence)
        epoch = slot * self.seq_len // self.n_tokens
        first = self._first_window(epoch)
        return (first + self._epoch(epoch).window_at(slot - first)) * self.seq_len + int(position)

    def _first_window(self, epoch: int) -> int:
        """The first window that begins in `epoch`."""
        return -(-epoch * self.n_tokens // self.seq_len)

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._tables:
            # A batch rarely spans more than two epochs; keeping all of them would grow with the run.
            while len(self._tables) >= 2:
                del self._tables[min(self._tables)]
            documents = shuffled(len(self.lengths), self.seed, epoch)
            n_windows = self._first_window(epoch + 1) - self._first_window(epoch)
            self._tables[epoch] = _Epoch(self.lengths, documents, shuffled(n_windows, self.seed, epoch, of=_WINDOWS))
        return self._tables[epoch]


class _Epoch:
    """The documents of one epoch in order, with where each ends in the epoch's stream, and the order of its windows."""

    def __init__(self, lengths: np.ndarray, permutation: np.ndarray, windows: np.ndarray) -> None:
        self.lengths, self.permutation, self.windows = lengths, permutation, windows
        self.ends = np.cumsum(lengths[permutation])

    def window_at(self, slot: int) -> int:
        return int(self.windows[slot])

    def slot_of(self, window: int) -> int:
        return int(self._slots[window])

    @cached_property
    def _slots(self) -> np.ndarray:
        """Where each window is read, (n_windows,) int64: only those who ask for a document's uses need it."""
        slots = np.empty_like(self.windows)
        slots[self.windows] = np.arange(len(self.windows))
        return slots

    def find(self, within: int) -> tuple[int, int]:
        place = int(np.searchsorted(self.ends, within, side="right"))
        document = int(self.permutation[place])
        return document, within - int(self.ends[place]) + int(self.lengths[document])

    def span(self, document: int) -> tuple[int, int]:
        end = int(self.ends[np.flatnonzero(self.permutation == document)[0]])
        return end - int(self.lengths[document]), end

    def pieces(self, within: int, n_tokens: int) -> Iterator[Piece]:
        """Pieces from `within` on, until `n_tokens` are reached or the epoch ends."""
        place = int(np.searchsorted(self.ends, within, side="right"))
        document, start = self.find(within)
        while n_tokens and place < len(self.permutation):
            document = int(self.permutation[place])
            length = min(int(self.lengths[document]) - start, n_tokens)
            if length:
                yield Piece(document, start, length)
            n_tokens -= length
            place, start = place + 1, 0


def share_of(global_batch: int, rank: int, world_size: int) -> range:
    """The sequences of one process. Raises RecipeError when the batch cannot be shared equally."""
    if global_batch % world_size or not 0 <= rank < world_size:
        raise RecipeError(
            f"a global batch of {global_batch} cannot be shared equally by {world_size} processes (rank {rank})",
            where="global_batch",
            fix="Use a multiple of the number of processes.",
        )
    share = global_batch // world_size
    return range(rank * share, (rank + 1) * share)


def slot_of(global_batch: int, step: int, sequence: int) -> int:
    """The number of a sequence among all of the run. Raises RecipeError when the step has no such sequence."""
    if step < 0 or not 0 <= sequence < global_batch:
        raise RecipeError(f"there is no sequence {sequence} of step {step}", where=f"a global batch of {global_batch}")
    return int(step) * global_batch + int(sequence)


def shuffled(n: int, seed: int, epoch: int, of: int = 0) -> np.ndarray:
    """A permutation (n,) int64 of range(n) that depends on its arguments alone; another `of` is another permutation.

    NumPy does not promise the same random stream in every version, and a run must stay traceable for years; so
    the numbers are sorted by a hash of themselves. The hash is one to one on 64 bits, thus without ties.
    Source: the finaliser of SplitMix64 (Steele, Lea and Flood 2014).
    """
    with np.errstate(over="ignore"):
        key = mix64(mix64(np.array([seed % 2**64], dtype=np.uint64)) + np.uint64(epoch + (of << 32)))
        # Without ties all kinds of sorting give the same; this one is the fastest.
        return np.argsort(mix64(mix64(np.arange(n, dtype=np.uint64) + key)), kind="quicksort")


def hash_of(*numbers: int) -> np.ndarray:
    """One uint64 (1,) that depends on all `numbers`, 0 or more each, and on their order."""
    key = np.zeros(1, dtype=np.uint64)
    for number in numbers:
        key = mix64(key + np.uint64(number))
    return key


def mix64(x: np.ndarray) -> np.ndarray:
    """The hash of each uint64 of `x`; one to one."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
