"""What was forgotten as an input of the shards that held it: these are read anew, every other output keeps its key.

What was fitted on them stays as it is kept (fitted.py), so that the signals of other shards stay as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tilth.pipeline.fitted import recipe_digests
from tilth.pipeline.graph import Node
from tilth.pipeline.optout_files import OptOutFiles
from tilth.pipeline.project import Project
from tilth.pipeline.steps import READ

INPUT = "withdrawn"


def without_withdrawn(nodes: Mapping[str, Node], project: Project, corpus: str) -> dict[str, Node]:
    """The nodes of `corpus`, those that read shards of which something is withdrawn with that as a further input."""
    files = OptOutFiles(project.folder, corpus)
    kept = files.kept()
    if not kept.shards:
        return dict(nodes)
    key = files.key()
    fits = {fit.node: fit for fit in kept.fits}
    made_for = recipe_digests(nodes) if fits else {}

    def less(node: Node) -> Node:
        fit = fits.get(node.id)
        if fit is not None and fit.made_for == made_for[node.id]:
            return fit.instead_of(node, files.fit_folder(fit.digest))
        withdrawn = kept.shards.get(node.shard or "") if node.step.name == READ.name else None
        if not withdrawn:
            return node
        external = {**node.external, INPUT: withdrawn.digest}
        return dataclasses.replace(node, external=external, work=(*node.work, withdrawn, key))

    return {name: less(node) for name, node in nodes.items()}
