"""What a corpus fits on its own texts and then applies to every shard: its tokenizer, its models and their cutoffs.

Forgetting must not change a shard that held nothing of what goes, so what was fitted before stays, byte for byte, as long as
nothing but withdrawals has changed in what it was fitted on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilth.artifacts.spec import canonical_json, library_versions
from tilth.artifacts.store import folder_digest
from tilth.errors import StoreError
from tilth.pipeline.graph import Node, in_order
from tilth.pipeline.plan import Planned
from tilth.pipeline.steps import READ, Inputs, Params
from tilth.pipeline.tokenizer_steps import TOKENIZER

INPUT = "fitted"


@dataclass(frozen=True)
class Fit:
    """An output that stays: the node that made it, the digest of its bytes, and what it was made for (`recipe_digests`)."""

    node: str
    digest: str
    made_for: str
    stats: Mapping[str, Any] = field(default_factory=dict)

    def instead_of(self, node: Node, folder: Path) -> Node:
        """The node that takes its bytes from `folder` instead of fitting anew: what follows from it keeps its key."""
        step = dataclasses.replace(node.step, run=_take)
        return dataclasses.replace(node, step=step, external={INPUT: self.digest}, needs=(), work=(folder, self))


def recipe_digests(nodes: Mapping[str, Node]) -> dict[str, str]:
    """For each node a digest of all that decides its output by description: recipe, input files, library versions.

    Without what is withdrawn, so that it is the same before and after something was forgotten.
    """
    found: dict[str, str] = {}
    for node in in_order(nodes):
        needs = {need: found[need] for need in node.needs}
        libraries = library_versions(node.step.libraries)
        body = [node.step.name, node.step.version, node.shard, dict(node.params), dict(node.external), libraries, needs]
        found[node.id] = hashlib.sha256(canonical_json(body)).hexdigest()
    return found


def fits_on(nodes: Mapping[str, Node], planned: Iterable[Planned], shards: Iterable[str]) -> Iterator[tuple[Planned, set[str]]]:
    """What was fitted on any of `shards`, is made, and would not change by itself; each with all shards that it was fitted on.

    `nodes` are those of the recipe, `planned` what a build would do now.
    """
    touched = set(shards)
    for item in planned:
        if item.part is not None and _is_fit(item.node):
            own = _shards_before(item.node.id, nodes)
            if own & touched:
                yield item, own


def _is_fit(node: Node) -> bool:
    return node.step.name == TOKENIZER.name or node.step.name.startswith("model.")


def _shards_before(node_id: str, nodes: Mapping[str, Node]) -> set[str]:
    """The shards that are read before a node."""
    found, waiting, seen = set[str](), [node_id], {node_id}
    while waiting:
        node = nodes[waiting.pop()]
        if node.step.name == READ.name:
            found.add(str(node.shard))
        waiting += (new := set(node.needs) - seen)
        seen |= new
    return found


def _take(inputs: Inputs, folder: Path, params: Params, work: tuple[Path, Fit]) -> Mapping[str, Any]:
    """The step of a node that stays. Raises StoreError where the kept bytes are gone or are others."""
    kept, fit = work
    if not kept.is_dir() or folder_digest(kept) != fit.digest:
        fix = "Bring it back from where the project is kept, or fit anew: `tilth forget CORPUS --refit`."
        raise StoreError(f"the kept `{fit.node}` is gone or damaged", where=str(kept), fix=fix)
    for path in kept.iterdir():
        shutil.copyfile(path, folder / path.name)
    return fit.stats
