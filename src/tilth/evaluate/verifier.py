"""An outcome verifier: a model with classes that was trained to tell right solutions from wrong ones, as probabilities.

Outcome reward models as Cobbe et al. 2021 (arXiv:2110.14168) have them for whole solutions. Training data: documents of the form
that `Verifier.document` gives, of right and of wrong samples, each a subset of a `classify` run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tilth.errors import RecipeError
from tilth.models.decoder import Decoder
from tilth.tokenize.bpe import Tokenizer
from tilth.tokenize.question_form import prompt_of

TOKENS_AT_ONCE = 1 << 15


@dataclass(frozen=True)
class Verifier:
    """correct_class is the number of the class of right solutions. A text counts up to seq_len tokens, as in training.

    tokens_at_once bounds the memory of a pass, unless one text is longer. Raises RecipeError for a model without such a class.
    """

    model: Decoder
    tokenizer: Tokenizer
    correct_class: int = 0
    seq_len: int | None = None
    tokens_at_once: int = TOKENS_AT_ONCE

    def __post_init__(self) -> None:
        n_classes = self.model.config.n_classes
        if not 0 <= self.correct_class < n_classes or n_classes < 2:
            what = f"the model has {n_classes or 'no'} classes, and a verifier needs a right one and a wrong one"
            raise RecipeError(what, "ModelConfig.n_classes", 'Train it with `objective="classify"` on right and wrong samples.')

    @staticmethod
    def document(question: str, text: str) -> str:
        """A question and what was answered, as the verifier reads it: without the examples that the model was shown."""
        return prompt_of(question) + text

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        """The probability that each of some answers to a question is right."""
        return self.score_documents([self.document(question, text) for text in texts]).tolist()

    @torch.no_grad()
    def score_documents(self, documents: Sequence[str]) -> NDArray[np.float64]:
        """The same (N,) for whole documents, of whatever lengths; the longest of a pass says how wide the others are padded."""
        ids = [found[: self.seq_len] for found in self.tokenizer.encode_batch(documents)]
        scores = np.zeros(len(ids))
        for places in self._passes([len(each) for each in ids]):
            width = 1 << (max(1, *(len(ids[place]) for place in places), 1) - 1).bit_length()
            ids_BT = torch.zeros(len(places), width, dtype=torch.int64)
            for row, place in enumerate(places):
                ids_BT[row, : len(ids[place])] = torch.from_numpy(ids[place].astype(np.int64))
            # an empty text is one token of padding: classes are pooled over at least one
            lengths_B = torch.tensor([max(1, len(ids[place])) for place in places])
            device = self.model.embedding.weight.device
            logits_BC = self.model.classify(ids_BT.to(device), lengths_B.to(device)).double()
            scores[places] = logits_BC.softmax(-1)[:, self.correct_class].cpu().numpy()
        return scores

    def _passes(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Places of documents that are read together, the shortest first."""
        places: list[int] = []
        for place in np.argsort(lengths, kind="stable").tolist():
            width = 1 << (max(1, lengths[place]) - 1).bit_length()
            if places and (len(places) + 1) * width > self.tokens_at_once:
                yield places
                places = []
            places.append(place)
        if places:
            yield places
