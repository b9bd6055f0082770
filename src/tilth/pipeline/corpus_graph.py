"""From a corpus' description to the graph of steps that makes it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tilth.artifacts.spec import UNICODE
from tilth.errors import RecipeError, did_you_mean
from tilth.pipeline import steps
from tilth.pipeline.graph import Node, Step
from tilth.pipeline.recipe import Corpus

if TYPE_CHECKING:
    from tilth.quality_signals.registry import SignalFamily


def corpus_graph(corpus: Corpus, digest: Callable[[Path], str]) -> dict[str, Node]:
    """Nodes by id, with `digest` to fingerprint input files.

    Each shard is read and scored; then duplicates are marked and the small models trained over all shards.
    """
    nodes: dict[str, Node] = {}

    def add(node: Node) -> str:
        nodes[node.id] = node
        return node.id

    reads = [add(node) for node in _read_nodes(corpus, digest)]
    for family in _families(corpus.signals):
        for read in reads:
            add(Node(_scoring(family), nodes[read].shard, {"family": family.name}, needs=(read,)))
    if corpus.tokenizer is not None:
        model = add(Node(steps.TOKENIZER, params=dataclasses.asdict(corpus.tokenizer), needs=tuple(reads)))
        for read in reads:
            add(Node(steps.TOKENS, nodes[read].shard, needs=(read, model)))
    add(Node(steps.EXACT, needs=tuple(reads)))
    if corpus.near_duplicates is not None:
        near = corpus.near_duplicates
        label = json.loads(near.label())
        signed = [add(Node(steps.SIGNATURES, nodes[read].shard, label, needs=(read,), work=near)) for read in reads]
        add(Node(steps.NEAR, params=dataclasses.asdict(near), needs=(*reads, *signed)))
    if corpus.quality is not None:
        model = add(Node(steps.QUALITY_MODEL, params=dataclasses.asdict(corpus.quality), needs=tuple(reads)))
        (family,) = _families(["quality"])
        for read in reads:
            add(Node(_scoring(family), nodes[read].shard, {"family": family.name}, needs=(read, model)))
    return nodes


def _scoring(family: SignalFamily) -> Step:
    # What is a letter or a word depends on the Unicode version that Python was built with.
    return Step(f"signals.{family.name}", family.version, (UNICODE, *family.libraries), steps.score)


def _read_nodes(corpus: Corpus, digest: Callable[[Path], str]) -> list[Node]:
    found = []
    for source in corpus.sources:
        step = dataclasses.replace(steps.READ, version=source.version, libraries=source.libraries)
        for shard in source.plan(digest):
            params = {"source": type(source).__name__, **shard.params}
            found.append(Node(step, shard.name, params, {shard.name: shard.fingerprint}, work=(source, shard)))
    return found


def _families(names: Sequence[str]) -> list[SignalFamily]:
    from tilth.quality_signals.registry import families

    known = families()
    for name in names:
        if name not in known:
            raise RecipeError(
                f"there is no family of signals `{name}`", where="Corpus(signals=...)", fix=did_you_mean(name, known)
            )
    return [known[name] for name in names]
