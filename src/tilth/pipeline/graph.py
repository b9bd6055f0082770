"""A corpus as a graph of steps: which outputs there will be and what each is made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilth.artifacts import Artifact, Part, Spec
from tilth.artifacts.spec import library_versions


@dataclass(frozen=True)
class Step:
    """Something that makes an output. Raise `version` when equal inputs begin to give another output.

    `run(inputs, folder, params, work)` writes files into `folder` and returns counts.
    """

    name: str
    version: int
    libraries: tuple[str, ...]
    run: Callable[[Mapping[str, Artifact], Path, Mapping[str, Any], Any], Mapping[str, Any]]


@dataclass(frozen=True)
class Node:
    """One output to make: a step, of a shard or of the whole corpus."""

    step: Step
    shard: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)  # in the key
    external: Mapping[str, str] = field(default_factory=dict)  # inputs from outside the store: name -> fingerprint
    needs: tuple[str, ...] = ()  # ids of the nodes whose outputs it reads
    work: Any = None  # what is needed to run it but says nothing about the result: locations

    @property
    def id(self) -> str:
        """`read web/00000`, unique in a graph."""
        return f"{self.step.name} {self.shard}" if self.shard else self.step.name

    def spec(self, parts: Mapping[str, Part]) -> Spec:
        """The spec of this output, once the outputs it needs are known."""
        inputs = {**self.external, **{need: parts[need].digest for need in self.needs}}
        return Spec(
            self.step.name, self.step.version, dict(self.params), inputs, library_versions(self.step.libraries), self.shard
        )


def in_order(nodes: Mapping[str, Node]) -> list[Node]:
    """Nodes such that each comes after what it needs (the order in which they were added, else)."""
    placed: dict[str, Node] = {}

    def place(node: Node) -> None:
        if node.id in placed:
            return
        for need in node.needs:
            place(nodes[need])
        placed[node.id] = node

    for node in nodes.values():
        place(node)
    return list(placed.values())
