"""Sources of documents: what is read becomes a document with its provenance or a reject with its reason.

`sources/` holds one source a file, `extract/` turns bytes into text, `reading.read_shard` gives Arrow batches.
Every source is importable from here (`from tilth.corpus import StackExchange`); nothing heavy is imported before.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if not name[:1].isupper():  # a module, not a source
        raise AttributeError(name)
    from tilth.corpus.registry import sources
    from tilth.errors import did_you_mean

    known = sources()
    if name not in known:
        raise AttributeError(f"there is no source `{name}`. {did_you_mean(name, known)}")
    return known[name]


def __dir__() -> list[str]:
    from tilth.corpus.registry import sources

    return list(sources())
