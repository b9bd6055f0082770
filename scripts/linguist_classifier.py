"""Trains the classifier of tilth.corpus.languages on every second of linguist's samples of a language."""

from __future__ import annotations

from collections import Counter, defaultdict
from math import log
from pathlib import Path
from typing import Any

from tilth.corpus.languages.classifier import UNIT, token_weights

SMOOTHING = 0.003
TOKENS_OF_A_LANGUAGE = 2000


def trained(samples: Path, folders: dict[str, str], languages: set[str]) -> dict[str, Any]:
    """Languages, tokens as {token: [language's number, score, ...]}, and the score of a token never seen."""
    weights: dict[str, Counter[str]] = {}
    documents: Counter[str] = Counter()
    for folder in sorted(path for path in samples.iterdir() if folders.get(path.name) in languages):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        of_language: Counter[str] = Counter()
        for path in files[0::2]:
            found = token_weights(path.read_bytes())
            documents.update(found.keys())
            for token, weight in found.items():
                of_language[token] += weight  # type: ignore[assignment]
        weights[folders[folder.name]] = of_language
    n_tokens = len(documents)
    names, unseen, scores = sorted(weights), {}, defaultdict(list)
    for number, name in enumerate(names):
        total = sum(weights[name].values()) + SMOOTHING * n_tokens
        unseen[name] = round(UNIT * log(SMOOTHING / total))
        kept = [(token, weight) for token, weight in weights[name].items() if documents[token] > 1]
        for token, weight in sorted(kept, key=lambda pair: (-pair[1], pair[0]))[:TOKENS_OF_A_LANGUAGE]:
            scores[token] += [number, round(UNIT * log(weight / SMOOTHING + 1))]
    return {"names": names, "unseen": unseen, "tokens": scores}
