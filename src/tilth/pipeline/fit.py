"""Trains a model on the user's own files, without a project: a file that `tilth score --model` takes, and its manifest.

The manifest lies beside it: JSON with the kind, the SHA-256 of the model and of every file that was read, how many texts
of each side were taken, the seed and the parameters, and the versions of what trained it. The same files and settings give
the same bytes.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilth.artifacts.atomic import disk_errors, write_atomically
from tilth.artifacts.spec import UNICODE, library_versions
from tilth.corpus.locations import open_raw
from tilth.corpus.records import CHUNK_BYTES, Document
from tilth.errors import RecipeError, SourceError, did_you_mean
from tilth.pipeline.score_inputs import Fields, find_inputs
from tilth.quality_signals.registry import get_family

SIDES = ("positive", "negative")
KINDS = {"quality": SIDES, "importance": SIDES, "perplexity": SIDES[:1]}
MANIFEST = ".manifest.json"


@dataclass(frozen=True)
class Settings:
    """`seed` chooses the texts where there are more than `max_documents` of a side, and begins a classifier's training.

    `compat="redpajama-v2"` is for `importance` alone.
    """

    seed: int = 0
    max_documents: int | None = None
    compat: str = ""


@dataclass
class Side:
    """What was read of one side: rows, how many of them were rejected, and each file's digest."""

    n_rows: int = 0
    n_rejects: int = 0
    files: dict[str, str] = field(default_factory=dict)


def fit(
    kind: str, files: Mapping[str, Sequence[str]], output: Path, fields: Fields | None = None, settings: Settings | None = None
) -> dict[str, Any]:
    """Train a `quality` classifier (fastText's method), `importance` weights (DSIR) or a `perplexity` model; the manifest.

    `files` are paths, folders, patterns and URLs by side: texts that are wanted are `positive`, the others `negative`
    (`perplexity` has no other side). Raises RecipeError: no such kind, or a side too many or too few; SourceError: nothing
    to read.
    """
    settings = settings or Settings()
    _check(kind, files, settings)
    if output.is_dir():
        raise SourceError("this is a folder, not a file to write to", str(output), "give a file: `-o wikiref.bin`")
    sides = {name: Side() for name in KINDS[kind]}

    def texts(name: str) -> Iterable[str]:
        found = _texts(files[name], output, fields or Fields(), sides[name])
        return _chosen(found, settings.max_documents, settings.seed)

    model, facts = _TRAINERS[kind](texts, settings)
    manifest = {
        **facts, "kind": kind, "seed": settings.seed, "max_documents": settings.max_documents,
        "data": {name: vars(side) for name, side in sides.items()}, "sha256": hashlib.sha256(model).hexdigest(),
        "libraries": library_versions((UNICODE, *get_family(kind).libraries)),
    }  # fmt: skip
    with disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, model)
    write_atomically(manifest_path(output), (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
    return manifest


def manifest_path(model: Path) -> Path:
    """Where the manifest of a model lies."""
    return model.with_name(model.name + MANIFEST)


def _check(kind: str, files: Mapping[str, Sequence[str]], settings: Settings) -> None:
    if kind not in KINDS:
        raise RecipeError(f"there is no model `{kind}`", "KIND", did_you_mean(kind, KINDS))
    for side in SIDES:
        if bool(files.get(side)) != (side in KINDS[kind]):
            what = f"`{kind}` needs {side} texts" if side in KINDS[kind] else f"`{kind}` takes no {side} texts"
            fix = f"--{side} FILES" if side in KINDS[kind] else f"Leave `--{side}` out."
            raise RecipeError(what, f"--{side}", fix)
    if settings.compat and kind != "importance":
        raise RecipeError(f"`{kind}` has no compatible form", "--compat", "Only `importance` has one.")


def _texts(files: Sequence[str], output: Path, fields: Fields, side: Side) -> Iterator[str]:
    for one in find_inputs(files, fields, output):
        side.files[one.name] = _sha256(one.location)
        for row in one.rows():
            side.n_rows += 1
            if isinstance(row, Document):
                yield row.text
            else:
                side.n_rejects += 1


def _sha256(location: str) -> str:
    digest = hashlib.sha256()
    with open_raw(location) as stream:
        while data := stream.read(CHUNK_BYTES):
            digest.update(data)
    return digest.hexdigest()


def _chosen(texts: Iterable[str], n_most: int | None, seed: int) -> Iterable[str]:
    """All texts, or those with the smallest hashes: the same in whatever order they come."""
    if n_most is None:
        return texts
    key = seed.to_bytes(8, "little", signed=True)

    def digest(text: str) -> bytes:
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=key).digest()

    return heapq.nsmallest(n_most, texts, key=digest)


Trained = tuple[bytes, dict[str, Any]]
Texts = Callable[[str], Iterable[str]]


def _fit_quality(texts: Texts, settings: Settings) -> Trained:
    from tilth.quality_signals.models.quality import quality_manifest, train_quality_model

    model = train_quality_model(texts("positive"), texts("negative"), seed=settings.seed)
    return model, quality_manifest(model)


def _fit_importance(texts: Texts, settings: Settings) -> Trained:
    from tilth.quality_signals.models.importance import ImportanceParameters, importance_manifest, train_importance_model

    parameters = ImportanceParameters(compat=settings.compat)  # type: ignore[arg-type]  # it refuses what it does not know
    model = train_importance_model(texts("positive"), texts("negative"), parameters)
    return model, importance_manifest(model)


def _fit_perplexity(texts: Texts, settings: Settings) -> Trained:
    from tilth.quality_signals.models.perplexity import language_model_manifest, train_language_model

    model = train_language_model(texts("positive"))
    return model, language_model_manifest(model)


_TRAINERS: Mapping[str, Callable[[Texts, Settings], Trained]] = {
    "quality": _fit_quality, "importance": _fit_importance, "perplexity": _fit_perplexity,
}  # fmt: skip
