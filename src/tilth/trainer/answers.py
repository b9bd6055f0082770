"""Supervised fine-tuning: predict the answer of a document, and nothing of what comes before it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from tilth.models.decoder import Decoder
from tilth.tokenize.answer_places import NOWHERE, answer_places
from tilth.tokenize.mixture import TokenMixture
from tilth.tokenize.order import SequencePlan
from tilth.tokenize.shards import IGNORED
from tilth.trainer.data import Batch, Row
from tilth.trainer.documents import loss_of_documents, refuse_documents

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answers:
    """Cross entropy of the tokens behind the first `mark` of each document and of the separator that ends it.

    `begin_id` comes first, as it does before every prompt when a model is sampled from. A document is one row, cut off
    after `seq_len` tokens; `places` says for each source where in each document the answer begins.
    """

    seq_len: int
    mark: str
    begin_id: int
    places: tuple[np.ndarray, ...]
    reads_whole_documents: ClassVar[bool] = True
    scores: ClassVar[tuple[str, ...]] = ("loss",)

    @classmethod
    def of(cls, seq_len: int, mark: str, tokens: TokenMixture) -> Answers:
        """On all documents of `tokens`. Raises RecipeError where one has no answer, or none before it is cut off."""
        places = tuple(answer_places(own, mark) for own in tokens.sets)
        for name, own, found in zip(tokens.names, tokens.sets, places, strict=True):
            read = own.lengths > 1  # a separator alone is never read
            fix = f"Pick documents that have it: --where \"contains(text, '{mark.strip()}')\", or set `answers_after`."
            refuse_documents(tokens, name, read & (found == NOWHERE), f"have no answer: no {mark!r} is in them", fix)
            late = read & (found >= seq_len)
            fix = f"Set seq_len to {int(found.max(initial=0)) + 1} or more, or pick documents with n_tokens <= {seq_len}."
            refuse_documents(tokens, name, late, f"begin their answer behind seq_len={seq_len} tokens", fix)
            if n_cut := int((own.lengths > seq_len).sum()):
                log.info("%d of %d documents of `%s` are cut off after %d tokens", n_cut, len(found), name, seq_len)
        return cls(seq_len, mark, tokens.sets[0].begin_id, places)

    def for_validation(self, tokens: TokenMixture) -> Answers:
        """The same of other documents."""
        return Answers.of(self.seq_len, self.mark, tokens)

    def arrange(self, row: Row, plan: SequencePlan, step: int, sequence: int) -> Row:
        """`begin_id` and the document, padded; each asks for the next token of the document from its answer on."""
        tokens_T = np.append(row[0][:1], row[1])[: self.seq_len]
        n, first = len(tokens_T), int(self.places[plan.source][plan.pieces[0].document])
        ids_T, targets_T = np.zeros(self.seq_len, np.int64), np.full(self.seq_len, IGNORED, np.int64)
        ids_T[:n] = np.append(self.begin_id, tokens_T[:-1])
        targets_T[first:n] = tokens_T[first:]
        return ids_T, targets_T, (np.arange(self.seq_len) >= n).astype(np.int32)

    def loss(self, model: Decoder, batch: Batch, each_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Cross entropy of the answers' tokens."""
        return loss_of_documents(model, batch, each_BT)

    def score(self, model: Decoder, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The loss alone."""
        loss, count = self.loss(model, batch)
        return {"loss": loss}, count
