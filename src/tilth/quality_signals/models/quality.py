"""A trained quality score: a linear classifier on words and word pairs that tells the texts you want from the others.

The method is fastText's, as RedPajama-V2 and DCLM use it; its family of signals is `quality`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from tilth.errors import RecipeError
from tilth.quality_signals.models.classifier import LABEL, Predict, load_classifier, one_line, train_classifier
from tilth.quality_signals.models.container import Container

POSITIVE, NEGATIVE = f"{LABEL}positive", f"{LABEL}negative"
_CONTAINER = Container("a quality model", "train_quality_model")


@dataclass(frozen=True)
class QualityParameters:
    """How the classifier is trained; see fastText's documentation for the terms."""

    seed: int = 0
    epochs: int = 10
    learning_rate: float = 0.5
    dim: int = 16
    word_ngrams: int = 2
    n_buckets: int = 50_000
    min_count: int = 2


def train_quality_model(
    positive: Iterable[str], negative: Iterable[str], seed: int = 0, parameters: QualityParameters | None = None
) -> bytes:
    """Train on texts that are wanted and texts that are not; the bytes are the model with its manifest.

    The order of the texts does not matter. Both sides are held in memory. `seed` counts where no `parameters` are
    given. Raises RecipeError if a side has no text with words.
    """
    parameters = parameters or QualityParameters(seed=seed)
    sides = {"positive": _lines(POSITIVE, positive), "negative": _lines(NEGATIVE, negative)}
    for side, found in sides.items():
        if not found:
            raise RecipeError(f"no {side} text with words to train the quality model on", fix="give examples of both")
    payload, digest = train_classifier(
        [*sides["positive"], *sides["negative"]], parameters.seed, epoch=parameters.epochs, lr=parameters.learning_rate,
        dim=parameters.dim, wordNgrams=parameters.word_ngrams, bucket=parameters.n_buckets, minCount=parameters.min_count,
    )  # fmt: skip
    counts = {side: len(found) for side, found in sides.items()}
    return _CONTAINER.pack({"parameters": asdict(parameters), "data_sha256": digest, "n_texts": counts}, payload)


def quality_manifest(model: bytes) -> dict[str, Any]:
    """What a model was trained on and how: parameters, data_sha256, n_texts by side."""
    return _CONTAINER.split(model)[0]


class QualityClassifier:
    """Tells how likely a text is one of those that were wanted."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict

    def score(self, text: str) -> float | None:
        """Probability, from 0 to 1, that a text is of the positive side; None for a text without words."""
        line = one_line(text.lower())
        return next(p for p, label in self._predict(line, 2) if label == POSITIVE) if line else None


@lru_cache(maxsize=4)
def load_quality_model(model: bytes) -> QualityClassifier:
    """The classifier in a model's bytes; loaded once for each model. Raises SourceError if the bytes are something else."""
    return QualityClassifier(load_classifier(_CONTAINER.split(model)[1], threshold=-1.0))


def _lines(label: str, texts: Iterable[str]) -> list[bytes]:
    return [f"{label} {line}\n".encode() for text in texts if (line := one_line(text.lower()))]
