"""Tilth: build a corpus, score it, curate it with SQL, train on it, deploy one bit per weight, trace every token.

Everything public is here; names load on first use, so that importing `tilth` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Bpe": "tilth.pipeline.recipe",
    "Corpus": "tilth.pipeline.recipe",
    "Folder": "tilth.corpus.sources.folder",
    "GitRepository": "tilth.corpus.sources.git",
    "MinHashParameters": "tilth.dedup.minhash.parameters",
    "Project": "tilth.pipeline.project",
    "QualityModel": "tilth.pipeline.recipe",
    "RedactPersonalData": "tilth.pipeline.recipe",
    "RepeatedLines": "tilth.pipeline.recipe",
    "Store": "tilth.artifacts",
    "TilthError": "tilth.errors",
    "Train": "tilth.pipeline.recipe",
    "Warc": "tilth.corpus.sources.warc",
    "Website": "tilth.corpus.crawling.website",
    "build": "tilth.pipeline.build",
    "deploy": "tilth.pipeline.deploy",
    "load_model": "tilth.models.weights",
    "pick": "tilth.pipeline.curate",
    "signal": "tilth.quality_signals.registry",
    "source": "tilth.corpus.registry",
    "sql": "tilth.pipeline.curate",
    "trace": "tilth.pipeline.trace",
    "train": "tilth.pipeline.launch",
    "write_report": "tilth.report",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module `tilth` has no attribute `{name}`")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
