"""Tells languages apart: a model trained here on texts of known language, or any published fastText model from a file.

The method is fastText's (Joulin et al., arXiv:1607.01759): a linear classifier on words and character n-grams. Training uses
floret on one thread, so that the same texts, parameters and seed give the same bytes; files such as lid.176.bin and
lid.176.ftz are read by fasttext-predict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from tilth.errors import RecipeError, SourceError
from tilth.quality_signals.models.classifier import LABEL, Predict, load_classifier, one_line, predictor, train_classifier
from tilth.quality_signals.models.container import Container

_CONTAINER = Container("a language identifier", "train_language_identifier")
_TABLE = pa.schema(
    [
        pa.field("languages", pa.list_(pa.string())),
        pa.field("probabilities", pa.list_(pa.float64())),
        pa.field("undefined", pa.string()),
    ]
)


@dataclass(frozen=True)
class LanguageIdentifierParameters:
    """How the classifier is trained; see fastText's documentation for the terms. Character n-grams have 1 to `max_chars`."""

    seed: int = 0
    epochs: int = 40
    learning_rate: float = 0.5
    dim: int = 32
    max_chars: int = 4
    n_buckets: int = 200_000
    min_count: int = 2


class LanguageIdentifier:
    """Gives the likeliest languages of texts. `n_languages` is how many there are, None where the file does not say."""

    def __init__(self, predict: Predict, one_line: Callable[[str], str]) -> None:
        self._predict, self._one_line = predict, one_line

    def identify(self, texts: Iterable[str], k: int = 1) -> pa.Table:
        """The k likeliest languages of each text, best first, with their probabilities from 0 to 1; row-aligned.

        Columns `languages`, `probabilities` (lists of up to k) and `undefined`: without letters the lists are null, since
        the model would only repeat its prior. Raises RecipeError unless k is positive.
        """
        if k < 1:
            raise RecipeError("`k` must be at least 1", where=f"k={k}")
        languages: list[list[str] | None] = []
        probabilities: list[list[float] | None] = []
        for text in texts:
            found = self._predict(self._one_line(text), k) if any(map(str.isalpha, text)) else None
            languages.append(None if found is None else [label.removeprefix(LABEL) for _, label in found])
            probabilities.append(None if found is None else [probability for probability, _ in found])
        reasons = ["no letters" if found is None else None for found in languages]
        columns = (languages, probabilities, reasons)
        return pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, _TABLE)], schema=_TABLE)


def train_language_identifier(
    texts: Mapping[str, Iterable[str]], parameters: LanguageIdentifierParameters | None = None
) -> bytes:
    """Train on texts by language, a paragraph or so each; the bytes are the model with its manifest.

    The order of languages and texts does not matter; all are held in memory. Raises RecipeError for fewer than two
    languages, a language without words, or a name with white space.
    """
    parameters = parameters or LanguageIdentifierParameters()
    lines = {language: [line for text in found if (line := _own_line(text))] for language, found in texts.items()}
    if len(lines) < 2:
        raise RecipeError("languages are told apart from two on", where=", ".join(lines), fix="give texts of more languages")
    for language, found in lines.items():
        if not found or language.split() != [language]:
            raise RecipeError(f"`{language}` has no text with words, or a name with spaces", where=language)
    payload, digest = train_classifier(
        [f"{LABEL}{language} {line}\n".encode() for language, found in lines.items() for line in found],
        parameters.seed, epoch=parameters.epochs, lr=parameters.learning_rate, dim=parameters.dim,
        minn=1, maxn=parameters.max_chars, bucket=parameters.n_buckets, minCount=parameters.min_count,
    )  # fmt: skip
    counts = {language: len(found) for language, found in lines.items()}
    return _CONTAINER.pack({"parameters": asdict(parameters), "data_sha256": digest, "n_texts": counts}, payload)


def language_identifier_manifest(model: bytes) -> dict[str, Any]:
    """What a model was trained on and how: parameters, data_sha256, n_texts by language."""
    return _CONTAINER.split(model)[0]


@lru_cache(maxsize=4)
def load_language_identifier(model: bytes) -> LanguageIdentifier:
    """The identifier in these bytes; loaded once for each. Raises SourceError if the bytes are something else."""
    return LanguageIdentifier(load_classifier(_CONTAINER.split(model)[1], threshold=0.0), _own_line)


def load_fasttext_identifier(path: Path) -> LanguageIdentifier:
    """A published fastText model such as lid.176.bin or lid.176.ftz. Raises SourceError if the file is no such model.

    Texts keep their capitals; line feeds become spaces (CCNet deletes them, which joins words).
    """
    import fasttext  # type: ignore[import-untyped]

    if not path.is_file():
        raise SourceError("there is no such model file", where=str(path), fix="download one of fastText's lid.176 files")
    try:
        loaded = fasttext.load_model(str(path))
    except (ValueError, RuntimeError, MemoryError) as error:
        raise SourceError(f"this is not a fastText model: {error}", where=str(path)) from error
    return LanguageIdentifier(predictor(loaded, threshold=0.0), _plain_line)


def accuracy_by_language(identifier: LanguageIdentifier, texts: Mapping[str, Iterable[str]]) -> pa.Table:
    """How well texts of known language, kept from training, are recognised: a row for each language, worst first.

    Columns `language`, `n_texts` (those with letters), `accuracy` (share named rightly, null without texts) and
    `confused_with` (what the others are taken for most often, null if none).
    """
    rows: list[tuple[str, int, float | None, str | None]] = []
    for language, found in texts.items():
        guesses = Counter(guess[0] for guess in identifier.identify(found).column("languages").to_pylist() if guess)
        n_texts, n_right = guesses.total(), guesses.pop(language, 0)
        # Of equally frequent ones the first by name, so that the table does not depend on the order of texts.
        wrong = min(guesses, key=lambda name: (-guesses[name], name), default=None)
        rows.append((language, n_texts, n_right / n_texts if n_texts else None, wrong))
    rows.sort(key=lambda row: (-1.0 if row[2] is None else row[2], row[0]))
    kinds = {"language": pa.string(), "n_texts": pa.int64(), "accuracy": pa.float64(), "confused_with": pa.string()}
    return pa.table({name: pa.array([row[i] for row in rows], kind) for i, (name, kind) in enumerate(kinds.items())})


def _plain_line(text: str) -> str:
    """Words on one line, with nothing in it that fastText would take for the end."""
    # NUL separates words for fastText but is no space for Python.
    return " ".join(text.replace("\0", " ").replace("</s>", " ").split())


def _own_line(text: str) -> str:
    return one_line(text.lower())
