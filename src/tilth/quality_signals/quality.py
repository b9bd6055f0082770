"""A trained quality score: a linear classifier on words and word pairs that tells the texts you want from the others.

The method is fastText's (Joulin et al., arXiv:1607.01759), as RedPajama-V2 and DCLM use it; trained here with
floret on one thread, so that the same texts, parameters and seed give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from tilth.errors import RecipeError, SourceError
from tilth.quality_signals.registry import Undefined, signal
from tilth.quality_signals.text_view import TextView

FORMAT = b"tilth quality model 1\n"
POSITIVE, NEGATIVE = "__label__positive", "__label__negative"
NO_WORDS = Undefined("no words")


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
    data = b"".join(_shuffled([*sides["positive"], *sides["negative"]], parameters.seed))
    with tempfile.TemporaryDirectory(prefix="tilth-quality-") as folder:
        lines, model = Path(folder, "lines.txt"), Path(folder, "model.bin")
        lines.write_bytes(data)
        _train(lines, model, parameters)
        payload = model.read_bytes()
    counts = {side: len(found) for side, found in sides.items()}
    manifest = {"parameters": asdict(parameters), "data_sha256": hashlib.sha256(data).hexdigest(), "n_texts": counts}
    header = json.dumps(manifest, sort_keys=True).encode() + b"\n"
    return FORMAT + header + payload


def quality_manifest(model: bytes) -> dict[str, Any]:
    """What a model was trained on and how: parameters, data_sha256, n_texts by side."""
    return _split(model)[0]


@lru_cache(maxsize=4)
def load_quality_model(model: bytes) -> Any:
    """The classifier in a model's bytes; loaded once for each model. Raises SourceError if the bytes are something else."""
    import floret

    payload = _split(model)[1]
    with tempfile.NamedTemporaryFile(prefix="tilth-quality-", suffix=".bin") as file:
        file.write(payload)
        file.flush()
        return floret.load_model(file.name)


@signal("quality", version=1, columns={"quality_score": pa.float64()}, libraries=("floret",), load_model=load_quality_model)
def quality(view: TextView, classifier: Any) -> dict[str, Any]:
    """Probability, from 0 to 1, that a text is of the positive side. Undefined for a text without words."""
    line = _one_line(view.text)
    if not line:
        return {"quality_score": NO_WORDS}
    # floret's own predict() fails under NumPy 2, the method below it works.
    found = {label: probability for probability, label in classifier.f.predict(line + "\n", 2, -1.0, "strict")}
    # fastText adds 1e-5 to probabilities before it takes their logarithm.
    return {"quality_score": min(1.0, found[POSITIVE])}


def _train(lines: Path, model: Path, parameters: QualityParameters) -> None:
    import floret

    trained = floret.train_supervised(
        input=str(lines), thread=1, verbose=0, seed=parameters.seed, epoch=parameters.epochs, lr=parameters.learning_rate,
        dim=parameters.dim, wordNgrams=parameters.word_ngrams, bucket=parameters.n_buckets, minCount=parameters.min_count,
    )  # fmt: skip
    trained.save_model(str(model))


def _lines(label: str, texts: Iterable[str]) -> list[bytes]:
    return [f"{label} {line}\n".encode() for text in texts if (line := _one_line(text))]


def _shuffled(lines: list[bytes], seed: int) -> list[bytes]:
    """One order for a set of lines, whatever order they came in: fastText learns badly from one class after the other."""
    key = seed.to_bytes(8, "little", signed=True)
    return sorted(lines, key=lambda line: (hashlib.blake2b(line, digest_size=16, key=key).digest(), line))


def _one_line(text: str) -> str:
    """Lower-case words on one line, with nothing in it that fastText would take for a label or for the end."""
    # NUL separates words for fastText but is no space for Python.
    text = text.lower().replace("\0", " ").replace("__label__", "label").replace("</s>", " ")
    return " ".join(text.split())


def _split(model: bytes) -> tuple[dict[str, Any], bytes]:
    if not model.startswith(FORMAT):
        raise SourceError("these bytes are not a quality model", fix="make one with `train_quality_model`")
    header, _, payload = model[len(FORMAT) :].partition(b"\n")
    return json.loads(header), payload
