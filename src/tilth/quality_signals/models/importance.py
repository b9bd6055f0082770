"""Importance weights: how much likelier a text is under a target distribution than under the source's (DSIR).

Data Selection via Importance Resampling (Xie et al., arXiv:2302.03169), as RedPajama-V2 uses it (arXiv:2411.12372): counts
of raw words and of neighbouring pairs hashed into buckets, log-likelihood ratio of target and source, and a correction for
length by two Poisson distributions. Two defects of the published code are mended: its hash depends on the process's hash
seed, ours on nothing; and its correction measures length in characters where the Poisson means are in words, and
loses both probabilities to underflow. `compat="redpajama-v2"` computes its numbers exactly.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tilth.errors import RecipeError, SourceError
from tilth.quality_signals.models.container import Container
from tilth.quality_signals.models.python_hash import absolute, pair_hashes, string_hashes
from tilth.quality_signals.raw_words import raw_words

_CONTAINER = Container("an importance model", "train_importance_model")
SIDES = ("target", "source")
N_DECIMALS = 8  # as published
Compat = Literal["", "redpajama-v2"]
Counts = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
_SMOOTHING = 1e-8  # added to probabilities, as published
_MAX_WORDS_KEPT = 1_000_000
_MULTIPLIER, _MIXER = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # splitmix64's


@dataclass(frozen=True)
class ImportanceParameters:
    """What features depend on. `hash_seed` is the PYTHONHASHSEED that `compat="redpajama-v2"` reproduces.

    Raises RecipeError for values that cannot be.
    """

    n_buckets: int = 10_000
    compat: Compat = ""
    hash_seed: int = 42

    def __post_init__(self) -> None:
        if self.compat not in get_args(Compat):
            raise RecipeError(f"there is no compatibility with `{self.compat}`", fix='use "" or "redpajama-v2"')
        if self.n_buckets < 1 or not 0 <= self.hash_seed < 1 << 32:
            raise RecipeError("`n_buckets` must be positive and `hash_seed` a 32-bit number", where=str(self))


class Features(NamedTuple):
    """A text as the model sees it: int64 counts of each bucket, raw words, characters (code points)."""

    counts: Counts
    n_words: int
    n_chars: int


class FeatureExtractor:
    """Makes features of texts; keeps the hashes of words it has met, so use one for many texts."""

    def __init__(self, parameters: ImportanceParameters) -> None:
        self.parameters = parameters
        self._known: dict[str, int] = {}

    def features(self, text: str) -> Features:
        """Bucket counts of the raw words of `text` and of their neighbouring pairs."""
        words = raw_words(text)
        hashes = self._hashes(words)
        n_buckets = np.uint64(self.parameters.n_buckets)
        if self.parameters.compat:
            unigrams, bigrams = absolute(hashes), absolute(pair_hashes(hashes[:-1], hashes[1:]))
        else:
            unigrams, bigrams = hashes, _mix(hashes[:-1] * _MIXER + hashes[1:])
        buckets = np.concatenate([unigrams % n_buckets, bigrams % n_buckets]).astype(np.int64)
        counts = np.bincount(buckets, minlength=self.parameters.n_buckets)
        return Features(counts, len(words), len(text))

    def _hashes(self, words: list[str]) -> Hashes:
        known = self._known
        if len(known) > _MAX_WORDS_KEPT:
            known.clear()
        if new := list(set(words).difference(known)):
            known.update(zip(new, self._hash(new)))
        return np.fromiter(map(known.__getitem__, words), dtype=np.uint64, count=len(words))

    def _hash(self, words: list[str]) -> list[int]:
        if self.parameters.compat:
            return string_hashes(words, self.parameters.hash_seed).tolist()
        return [int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little") for word in words]


def _mix(state: Hashes) -> Hashes:
    """Spread the bits of 64-bit values; a bijection."""
    state = (state ^ (state >> np.uint64(30))) * _MULTIPLIER
    state = (state ^ (state >> np.uint64(27))) * _MIXER
    return state ^ (state >> np.uint64(31))


class ImportanceModel:
    """Bucket counts of both sides and their mean lengths in words; scores features made with the same parameters."""

    def __init__(self, parameters: ImportanceParameters, counts: dict[str, Counts], mean_words: dict[str, float]) -> None:
        self.parameters, self.counts, self.mean_words = parameters, counts, mean_words
        target, source = (np.log(counts[side] / counts[side].sum() + _SMOOTHING) for side in SIDES)
        self._log_ratio = target - source
        self._extractor = FeatureExtractor(parameters)

    def score(self, text: str) -> tuple[float, float] | None:
        """Log importance weight and the same corrected for length (nats, eight decimals); None without words.

        In compatibility only an empty text has none.
        """
        return self.score_features(self._extractor.features(text))

    def score_features(self, features: Features) -> tuple[float, float] | None:
        """Like `score`, for features that several models share."""
        if not (features.n_chars if self.parameters.compat else features.n_words):
            return None
        weight = float(np.inner(features.counts, self._log_ratio))
        target, source = (self.mean_words[side] for side in SIDES)
        if self.parameters.compat:
            pmfs = [_poisson(features.n_chars, mean) for mean in (target, source)]
            correction = math.log(pmfs[0] + _SMOOTHING) - math.log(pmfs[1] + _SMOOTHING)
        else:
            # log Poisson(n; target) - log Poisson(n; source): the factorials cancel, so nothing can underflow.
            correction = features.n_words * math.log(target / source) - (target - source)
        return round(weight, N_DECIMALS), round(weight + correction, N_DECIMALS)


def importance_weights(model: bytes, texts: Iterable[str]) -> pa.Table:
    """Score texts: `importance`, `importance_length_correction` (float64), `undefined` (why both are null), row-aligned."""
    loaded = load_importance_model(model)
    reason = "empty text" if loaded.parameters.compat else "no words"
    scores = [loaded.score(text) for text in texts]
    columns = {
        "importance": pa.array([found and found[0] for found in scores], pa.float64()),
        "importance_length_correction": pa.array([found and found[1] for found in scores], pa.float64()),
        "undefined": pa.array([None if found else reason for found in scores], pa.string()),
    }
    return pa.table(columns)


def train_importance_model(target: Iterable[str], source: Iterable[str], parameters: ImportanceParameters | None = None) -> bytes:
    """Count features of texts like the wanted ones and of texts like those to be weighed; the bytes carry a manifest.

    Texts are streamed; their order does not matter. Raises RecipeError if a side has no words.
    """
    parameters = parameters or ImportanceParameters()
    extractor = FeatureExtractor(parameters)
    counts, mean_words, facts = {}, {}, {}
    for side, texts in zip(SIDES, (target, source)):
        total, n_words, digests = np.zeros(parameters.n_buckets, np.int64), 0, []
        for text in texts:
            found = extractor.features(text)
            total += found.counts
            n_words += found.n_words
            digests.append(hashlib.sha256(text.encode()).digest())
        if not n_words:
            raise RecipeError(f"no {side} text with words to train importance weights on", fix="give texts of both sides")
        counts[side], mean_words[side] = total, n_words / len(digests)
        data = hashlib.sha256(b"".join(sorted(digests))).hexdigest()
        facts[side] = {"n_texts": len(digests), "n_words": n_words, "data_sha256": data}
    return _pack(parameters, counts, mean_words, facts)


def importance_model_from_counts(
    counts: dict[str, Counts], mean_words: dict[str, float], parameters: ImportanceParameters
) -> bytes:
    """A model from counts that exist already, such as RedPajama-V2's `.counts.npy` and `.lambda.npy`; keys as in SIDES.

    Raises SourceError where a side is missing or has not one count for each bucket.
    """
    for side in SIDES:
        found = counts.get(side)
        is_fit = found is not None and found.shape == (parameters.n_buckets,) and found.min() >= 0 and found.sum() > 0
        if not is_fit or not mean_words.get(side, 0.0) > 0:
            fix = f"give {parameters.n_buckets} counts and a positive mean length"
            raise SourceError(f"the counts of the {side} side do not fit", where=side, fix=fix)
    return _pack(parameters, counts, mean_words, {side: {"n_features": int(counts[side].sum())} for side in SIDES})


def importance_manifest(model: bytes) -> dict[str, Any]:
    """What a model was trained on and how: parameters, mean_words, and data_sha256, n_texts, n_words by side."""
    return _CONTAINER.split(model)[0]


@lru_cache(maxsize=8)
def load_importance_model(model: bytes) -> ImportanceModel:
    """The model in these bytes; loaded once for each. Raises SourceError if the bytes are something else."""
    manifest, payload = _CONTAINER.split(model)
    parameters = ImportanceParameters(**manifest["parameters"])
    table = np.frombuffer(payload, "<i8")
    if len(table) != 2 * parameters.n_buckets:
        raise SourceError("the importance model is cut short", fix="train it again")
    counts = dict(zip(SIDES, table.astype(np.int64).reshape(2, -1)))
    return ImportanceModel(parameters, counts, manifest["mean_words"])


def _poisson(n: int, mean: float) -> float:
    return math.exp(n * math.log(mean) - mean - math.lgamma(n + 1))


def _pack(
    parameters: ImportanceParameters, counts: dict[str, Counts], mean_words: dict[str, float], facts: dict[str, Any]
) -> bytes:
    manifest = {"parameters": asdict(parameters), "mean_words": mean_words, **facts}
    return _CONTAINER.pack(manifest, *(counts[side].astype("<i8").tobytes() for side in SIDES))
