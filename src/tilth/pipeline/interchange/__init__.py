"""Other projects' layouts and steps: RedPajama-V2's files, datatrove's pipelines and executors, JSON lines for dolma.

    from tilth.pipeline.interchange import DaskExecutor, DatatroveStep, export_jsonl

Names load on first use: datatrove and Dask are needed only by what runs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "DaskExecutor": "datatrove_executor",
    "DatatroveStep": "datatrove_steps",
    "RedPajamaMinHash": "redpajama_v2_minhash",
    "export_jsonl": "export",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
