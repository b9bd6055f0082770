"""The calls at which every kernel is compiled ahead of time, checked and timed: one module an operator.

Each module offers
    gate_calls(dtype)           every configuration that is shipped, at small sizes: what the compile gate compiles
    check_calls(dtype, device)  what `gpu.py check` compares with the reference, forward and gradients
    bench_calls(device)         full sizes, with the work done and the peers: what `gpu.py bench` times
each a generator of Call, so that only one call's tensors are alive at a time.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from kernel_calls.call import Call

__all__ = ["Call", "modules"]


def modules() -> dict[str, ModuleType]:
    """Return the module of every operator by its name, found by walking this folder."""
    names = sorted(found.name for found in pkgutil.iter_modules(__path__) if found.name != "call")
    return {name: importlib.import_module(f"kernel_calls.{name}") for name in names}
