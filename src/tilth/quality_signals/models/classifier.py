"""fastText's linear classifier (Joulin et al., arXiv:1607.01759): floret trains it, the same input gives the same bytes."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

LABEL = "__label__"
Predict = Callable[[str, int], list[tuple[float, str]]]


def train_classifier(lines: Iterable[bytes], seed: int, **parameters: Any) -> tuple[bytes, str]:
    """Train on labelled lines; returns the model's bytes and the SHA-256 of the data.

    The order of the lines does not matter. `parameters` are those of `train_supervised`. One thread: more would race.
    """
    import floret

    key = seed.to_bytes(8, "little", signed=True)
    # fastText learns badly from one class after the other; this order is the same whatever order they came in.
    data = b"".join(sorted(lines, key=lambda line: (hashlib.blake2b(line, digest_size=16, key=key).digest(), line)))
    with tempfile.TemporaryDirectory(prefix="tilth-classifier-") as folder:
        path, model = Path(folder, "lines.txt"), Path(folder, "model.bin")
        path.write_bytes(data)
        floret.train_supervised(input=str(path), thread=1, verbose=0, seed=seed, **parameters).save_model(str(model))
        return model.read_bytes(), hashlib.sha256(data).hexdigest()


def load_classifier(payload: bytes | memoryview, threshold: float) -> Predict:
    """The classifier in these bytes, as a function of one line without line feed and of how many labels are wanted.

    It gives (probability, label), the likeliest first, those above `threshold` alone.
    """
    import floret

    with tempfile.NamedTemporaryFile(prefix="tilth-classifier-", suffix=".bin") as file:
        file.write(payload)
        file.flush()
        return predictor(floret.load_model(file.name), threshold)


def predictor(loaded: Any, threshold: float) -> Predict:
    """The same function for a model that fasttext or floret has loaded."""

    def predict(line: str, k: int) -> list[tuple[float, str]]:
        # Their own predict() fails under NumPy 2, the method below it works.
        # fastText adds 1e-5 to probabilities before it takes their logarithm.
        return [(min(1.0, probability), label) for probability, label in loaded.f.predict(line + "\n", k, threshold, "strict")]

    return predict


def one_line(text: str) -> str:
    """Words on one line, with nothing in it that fastText would take for a label or for the end of a text."""
    # NUL separates words for fastText but is no space for Python.
    return " ".join(text.replace("\0", " ").replace(LABEL, "label").replace("</s>", " ").split())
