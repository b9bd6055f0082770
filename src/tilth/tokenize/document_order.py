"""The order of a run that reads whole documents, one a sequence: to tell what a document is, it must be seen whole."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tilth.errors import NotFoundError
from tilth.tokenize.order import Location, Piece, RunOrder, SequencePlan, Use


class DocumentOrder:
    """As `RunOrder`, of documents instead of windows: each is read once an epoch, cut off after `seq_len` + 1 tokens.
    Empty ones are never read.

    It is the order of a stream in which every document is one token.
    """

    def __init__(self, n_tokens_by_document: np.ndarray, seq_len: int, global_batch: int, seed: int) -> None:
        self.lengths = np.asarray(n_tokens_by_document, np.int64)
        self.seq_len = seq_len
        self.known = np.flatnonzero(self.lengths > 1)  # what is not a separator alone
        self._documents = RunOrder(np.ones_like(self.known), 1, global_batch, seed)

    @property
    def n_tokens(self) -> int:
        """Of the stream, that is, documents."""
        return self._documents.n_tokens

    def sequence(self, step: int, sequence: int) -> SequencePlan:
        """One document from its start."""
        plan = self._documents.sequence(step, sequence)
        document = int(self.known[plan.pieces[0].document])
        length = min(int(self.lengths[document]), self.seq_len + 1)
        return SequencePlan((Piece(document, 0, length),), plan.epochs[:1])

    def locate(self, step: int, sequence: int, position: int) -> Location:
        """The document and the offset in it. Raises NotFoundError behind the document's end."""
        plan = self.sequence(step, sequence)
        if not 0 <= position < plan.pieces[0].length:
            n_tokens = plan.pieces[0].length
            raise NotFoundError(f"the document has no token {position}", "position", f"Positions go from 0 to {n_tokens - 1}.")
        return Location(plan.pieces[0].document, position, plan.epochs[0])

    def uses(self, document: int, n_steps: int) -> Iterator[Use]:
        """The sequences of the first `n_steps` steps that read `document`, in order."""
        place = int(np.searchsorted(self.known, document))
        if place == len(self.known) or self.known[place] != document:
            return
        for use in self._documents.uses(place, n_steps):
            if self.sequence(use.step, use.sequence).pieces[0].document == document:
                yield use
