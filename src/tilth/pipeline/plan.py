"""What a build would do: which outputs are made, which are not, and why; runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tilth.artifacts import Named, Part, Spec, Store, difference
from tilth.errors import StoreError
from tilth.pipeline.graph import Node, in_order


@dataclass(frozen=True)
class Planned:
    """A node and what is known of it: `part` where it is made already, else `why` not."""

    node: Node
    part: Part | None
    why: str


def plan(store: Store, nodes: Mapping[str, Node], previous: Named | None) -> list[Planned]:
    """Every node in running order. A node whose inputs must be made first is planned as changed by them."""
    before = {_id(part): part for part in previous.parts} if previous else {}
    parts: dict[str, Part] = {}
    planned = []
    for node in in_order(nodes):
        waiting = [need for need in node.needs if need not in parts]
        if waiting:
            planned.append(Planned(node, None, _why_waiting(store, node, waiting, before)))
            continue
        spec = node.spec(parts)
        made = store.find(spec)
        if made is not None:
            parts[node.id] = made.part()
            planned.append(Planned(node, made.part(), "up to date"))
        else:
            planned.append(Planned(node, None, difference(_old_spec(store, node, before), spec)))
    return planned


def _why_waiting(store: Store, node: Node, waiting: list[str], before: Mapping[str, Part]) -> str:
    """The inputs are not known yet; a change in the parameters can be told all the same."""
    old = _old_spec(store, node, before)
    if old is None:
        return "new"
    guess = Spec(node.step.name, node.step.version, dict(node.params), old.inputs, old.libraries, node.shard)
    changed = difference(old, guess)
    after = f"if this changes: {waiting[0]}" + (f" and {len(waiting) - 1} more" if len(waiting) > 1 else "")
    return after if changed == "unchanged" else changed


def _old_spec(store: Store, node: Node, before: Mapping[str, Part]) -> Spec | None:
    part = before.get(node.id)
    try:
        return store.artifact(part).spec if part else None
    except StoreError:
        return None


def _id(part: Part) -> str:
    return f"{part.step} {part.shard}" if part.shard else part.step
