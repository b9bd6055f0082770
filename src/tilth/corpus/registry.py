"""Finds the sources: one file in `sources/` with one decorator is the whole registration."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from typing import TypeVar

S = TypeVar("S", bound=type)
_SOURCES: dict[str, type] = {}


def source(cls: S) -> S:
    """Class decorator: register a source under its class name. Raises TypeError if it breaks the protocol."""
    if not dataclasses.is_dataclass(cls) or not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise TypeError(f"source `{cls.__name__}` must be a frozen dataclass")
    if dataclasses.fields(cls)[0].name != "name":
        raise TypeError(f"source `{cls.__name__}`: the first field must be `name`")
    missing = [part for part in ("plan", "read", "version", "libraries") if not hasattr(cls, part)]
    if missing:
        raise TypeError(f"source `{cls.__name__}` lacks {', '.join(missing)}")
    taken = _SOURCES.get(cls.__name__)
    if taken is not None and taken.__module__ != cls.__module__:
        raise TypeError(f"two sources are named `{cls.__name__}`: {taken.__module__} and {cls.__module__}")
    _SOURCES[cls.__name__] = cls
    return cls


def sources() -> dict[str, type]:
    """All sources by class name, after importing every module of `tilth.corpus.sources`."""
    package = importlib.import_module("tilth.corpus.sources")
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
    return dict(sorted(_SOURCES.items()))
