"""Panels register themselves: a new one is a new file under `panels/` with one decorator."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tilth.report.blocks import Block
    from tilth.report.scope import Scope

Draw = Callable[["Scope"], "Iterable[Block]"]


@dataclass(frozen=True)
class Panel:
    """A section of the page. `draw` asks SQL and returns blocks; it raises AbsentError when there is nothing to show yet."""

    name: str
    title: str
    order: int
    lead: str  # one or two sentences under the title: what the reader looks at
    draw: Draw
    per_corpus: bool


_PANELS: dict[str, Panel] = {}


def panel(title: str, order: int, per_corpus: bool = True) -> Callable[[Draw], Draw]:
    """Register the decorated function as the panel of its module; its docstring becomes the sentence under the title."""

    def register(draw: Draw) -> Draw:
        name = draw.__module__.rsplit(".", 1)[-1]
        lead = " ".join((inspect.getdoc(draw) or "").split())
        _PANELS[name] = Panel(name, title, order, lead, draw, per_corpus)
        return draw

    return register


def panels() -> list[Panel]:
    """Every panel of the package, in the order of the page."""
    package = importlib.import_module("tilth.report.panels")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return sorted(_PANELS.values(), key=lambda panel: (panel.order, panel.name))
