"""What a document is, and documents of a kind: each subset of the run is a class, and a sequence is one whole document."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from tilth.errors import RecipeError
from tilth.kernels import cross_entropy
from tilth.models.decoder import Decoder
from tilth.tokenize.mixture import TokenMixture
from tilth.tokenize.order import SequencePlan
from tilth.tokenize.shards import IGNORED
from tilth.trainer.data import Batch, Row
from tilth.trainer.documents import loss_of_documents, trimmed


@dataclass(frozen=True)
class OfDocuments:
    """What both objectives share that read whole documents: `classes` are names of subsets, `numbers` those of the sources read.

    A document is cut off after `seq_len` tokens.
    """

    seq_len: int
    classes: tuple[str, ...]
    numbers: tuple[int, ...]
    reads_whole_documents: ClassVar[bool] = True

    @classmethod
    def of(cls, seq_len: int, tokens: TokenMixture) -> Self:
        """For the subsets of a run, each of which is a class."""
        return cls(seq_len, tuple(tokens.names), tuple(range(len(tokens.names))))

    def for_validation(self, tokens: TokenMixture) -> Self:
        """The same on other documents, whose subsets may be fewer. Raises RecipeError for one that is none of the classes."""
        if missing := sorted(set(tokens.names) - set(self.classes)):
            raise RecipeError(f"`{missing[0]}` is none of the classes {', '.join(self.classes)}", where=str(tokens.folder))
        return replace(self, numbers=tuple(self.classes.index(name) for name in tokens.names))


@dataclass(frozen=True)
class Classify(OfDocuments):
    """Predict which class a document is of. On DNA evaluation averages both strands' logits unless they are the same anyway.

    (Post-hoc conjoining, Schiff et al. 2024; it needs the model's complement.)
    """

    scores: ClassVar[tuple[str, ...]] = ("loss", "accuracy")

    def arrange(self, row: Row, plan: SequencePlan, step: int, sequence: int) -> Row:
        """The document without its separator, padded; the class is the target of its first place."""
        # the separator ends a document, and begins one that was turned round
        ids_T = row[1] if plan.is_turned else row[0]
        padded_T = np.zeros(self.seq_len, np.int64)
        padded_T[: len(ids_T)] = ids_T
        targets_T = np.full(self.seq_len, IGNORED, np.int64)
        targets_T[0] = self.numbers[plan.source]
        return padded_T, targets_T, (np.arange(self.seq_len) >= len(ids_T)).astype(np.int32)

    def loss(self, model: Decoder, batch: Batch, each_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Cross entropy of the classes; of several ranks each takes its share of the documents."""
        ids_BT, lengths_B = trimmed(batch)
        logits_BC = model.ranks.share(model.classify(ids_BT, lengths_B))
        loss_B, count, _ = cross_entropy(logits_BC.float(), model.ranks.share(batch[1][:, 0]), reduction="none")
        if each_BT is not None:
            each_BT.zero_()
            model.ranks.share(each_BT)[:, 0] = loss_B.detach()
        return loss_B.sum(), count

    def score(self, model: Decoder, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Of this rank's share of the documents the loss and how many are right, as sums, and their number."""
        ids_BT, lengths_B = trimmed(batch)
        logits_BC = model.classify(ids_BT, lengths_B).float()
        complement = model.config.complement
        if complement is not None and not model.config.rcps:
            other_BC = model.classify(_other_strand(ids_BT, lengths_B, complement), lengths_B)
            logits_BC = (logits_BC + other_BC.float()) / 2
        logits_BC, classes_B = model.ranks.share(logits_BC), model.ranks.share(batch[1][:, 0])
        loss, count, _ = cross_entropy(logits_BC, classes_B)
        return {"loss": loss, "accuracy": (logits_BC.argmax(-1) == classes_B).sum()}, count


@dataclass(frozen=True)
class Conditional(OfDocuments):
    """Predict the tokens of a document after a token for its class (HybriDNA's label prompts).

    The class of number c has the id `n_tokens` + c, and a prompt of it alone asks for a new document of that class.
    The separator of a document, where it fits, is its end.
    """

    n_tokens: int = 0
    scores: ClassVar[tuple[str, ...]] = ("loss",)

    def arrange(self, row: Row, plan: SequencePlan, step: int, sequence: int) -> Row:
        """The class and the document, padded; each asks for the next token of the document."""
        tokens_T = np.append(row[0][:1], row[1])
        if plan.is_turned:
            tokens_T = np.roll(tokens_T, -1)  # the separator, which turning brought to the front
        tokens_T = tokens_T[: self.seq_len]
        ids_T, targets_T = np.zeros(self.seq_len, np.int64), np.full(self.seq_len, IGNORED, np.int64)
        ids_T[: len(tokens_T)] = np.append(self.n_tokens + self.numbers[plan.source], tokens_T[:-1])
        targets_T[: len(tokens_T)] = tokens_T
        return ids_T, targets_T, (np.arange(self.seq_len) >= len(tokens_T)).astype(np.int32)

    def loss(self, model: Decoder, batch: Batch, each_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Cross entropy of the next token."""
        return loss_of_documents(model, batch, each_BT)

    def score(self, model: Decoder, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The loss alone."""
        loss, count = self.loss(model, batch)
        return {"loss": loss}, count


def _other_strand(ids_BT: Tensor, lengths_B: Tensor, complement: tuple[int, ...]) -> Tensor:
    """The reverse complement of the first lengths_B tokens of each row."""
    place_1T = torch.arange(ids_BT.shape[1], device=ids_BT.device).unsqueeze(0)
    turned_BT = (lengths_B.unsqueeze(1) - 1 - place_1T).clamp(min=0)
    return torch.tensor(complement, device=ids_BT.device)[ids_BT.gather(1, turned_BT)]
