"""Trains the classifier of tilth.corpus.languages on every second of linguist's samples of a language."""

from __future__ import annotations

from collections import Counter, defaultdict
from math import log
from pathlib import Path
from typing import Any

from tilth.corpus.languages.classifier import UNIT, token_weights

SMOOTHING = 0.003
TOKENS_OF_A_LANGUAGE = 2000


def training_files(folder: Path) -> list[Path]:
    """Every second file below a language's folder of samples, in the order of paths, from the first on."""
    return sorted(path for path in folder.rglob("*") if path.is_file())[0::2]


def trained(files: dict[str, list[Path]]) -> dict[str, Any]:
    """What Classifier takes, from the files of each language.

    Kept are tokens of more than one file, and the 2000 heaviest of a language.
    """
    weights: dict[str, Counter[str]] = {}
    documents: Counter[str] = Counter()
    for name, paths in files.items():
        weights[name] = Counter()
        for path in paths:
            found = token_weights(path.read_bytes())
            documents.update(found.keys())
            for token, weight in found.items():
                weights[name][token] += weight  # type: ignore[assignment]
    unseen: dict[str, int] = {}
    tokens: dict[str, list[int]] = defaultdict(list)
    for number, (name, of_language) in enumerate(weights.items()):
        unseen[name] = round(UNIT * log(SMOOTHING / (sum(of_language.values()) + SMOOTHING * len(documents))))
        kept = [(token, weight) for token, weight in of_language.items() if documents[token] > 1]
        for token, weight in sorted(kept, key=lambda pair: (-pair[1], pair[0]))[:TOKENS_OF_A_LANGUAGE]:
            tokens[token] += [number, round(UNIT * log(weight / SMOOTHING + 1))]
    return {"names": list(files), "unseen": unseen, "tokens": tokens}
