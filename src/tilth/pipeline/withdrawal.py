"""What was forgotten as an input of the shards that held it: these are read anew, every other output keeps its key."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tilth.pipeline.graph import Node
from tilth.pipeline.optout_files import OptOutFiles
from tilth.pipeline.project import Project
from tilth.pipeline.steps import READ

INPUT = "withdrawn"


def without_withdrawn(nodes: Mapping[str, Node], project: Project, corpus: str) -> dict[str, Node]:
    """The nodes of `corpus`, those that read shards of which something is withdrawn with that as a further input."""
    files = OptOutFiles(project.folder, corpus)
    shards = files.kept().shards
    if not shards:
        return dict(nodes)
    key = files.key()

    def less(node: Node) -> Node:
        withdrawn = shards.get(node.shard or "") if node.step.name == READ.name else None
        if not withdrawn:
            return node
        external = {**node.external, INPUT: withdrawn.digest}
        return dataclasses.replace(node, external=external, work=(*node.work, withdrawn, key))

    return {name: less(node) for name, node in nodes.items()}
