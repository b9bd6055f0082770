"""From a corpus' description to the graph of steps that makes it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import compress, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilth.artifacts.spec import UNICODE
from tilth.contracts import LICENCES
from tilth.errors import RecipeError, did_you_mean
from tilth.pipeline import (
    contamination_steps,
    duplicate_steps,
    edit_steps,
    keeper_steps,
    model_steps,
    near_steps,
    semantic_steps,
    span_steps,
    steps,
    training_form,
)  # fmt: skip
from tilth.pipeline.graph import Node, Step
from tilth.pipeline.interchange import redpajama_v2_digests, redpajama_v2_minhash
from tilth.pipeline.linguist import Linguist, linguist_node
from tilth.pipeline.recipe import (
    COMPARING,
    OWN_EDITS,
    Corpus,
    Edit,
    MarkdownProse,
    Perplexity,
    Redact,
    RepeatedLines,
    RepeatedSentences,
    RepeatedSpans,
)  # fmt: skip
from tilth.pipeline.tokenizer_steps import tokenizer_node

if TYPE_CHECKING:
    from tilth.pipeline.interchange.datatrove_steps import DatatroveStep
    from tilth.pipeline.malware import Malware
    from tilth.quality_signals.registry import SignalFamily


def corpus_graph(corpus: Corpus, digest: Callable[[Path], str]) -> dict[str, Node]:
    """Nodes by id, with `digest` to fingerprint input files.

    Each shard is read, edited where the recipe wants it, and scored; then duplicates are marked and the small models
    trained over all shards.
    """
    nodes: dict[str, Node] = {}

    def add(node: Node) -> str:
        if node.id in nodes:
            what, _, shard = node.id.partition(" ")
            raise RecipeError(f"two parts of the corpus make `{what}`", where=shard or None, fix="Give one of them another name.")
        nodes[node.id] = node
        return node.id

    reads = as_read = [add(node) for node in _read_nodes(corpus, digest)]
    if corpus.edits:
        reads = [add(node) for node in _edit_nodes(corpus, nodes, reads, add)]
    for family in _families(corpus.signals):
        paths = _resources(family, corpus.resources)
        external = {f"resource {name}": sha256(steps.read_resource(name, path)).hexdigest() for name, path in paths.items()}
        for read in reads:
            add(Node(_scoring(family), nodes[read].shard, {"family": family.name}, external, needs=(read,), work=paths))
    for step in corpus.signals:
        if isinstance(step, Linguist):
            for read in as_read:
                add(linguist_node(nodes[read]))
        elif not isinstance(step, str):
            _add_step(step, nodes, reads, add)
    _refuse_idle(corpus)
    if corpus.tokenizer is not None:
        model = add(tokenizer_node(corpus, reads, digest))
        for read in reads:
            add(Node(steps.TOKENS, nodes[read].shard, needs=(read, model)))
    if corpus.training_form is not None:
        add(training_form.form_node(corpus.training_form))
    add(Node(steps.EXACT, needs=tuple(reads)))
    published = tuple(read for read in reads if _source_of(nodes[read]) in _published_sources(corpus))
    if published:
        add(Node(redpajama_v2_digests.LISTED, needs=published))
    for given in (method for method in corpus.duplicates if type(method).__name__ != "Semantic"):  # which has nodes of its own
        # No edit changes a URL, so other edits need not make its keys again.
        keyed = [nodes[read] for read in (as_read if given == "url" else reads)]
        signed, marks = duplicate_steps.nodes_of(given, keyed)
        for node in (*signed, marks):
            add(node)
    _add_near_duplicates(corpus, nodes, reads, digest, add)
    for node in semantic_steps.semantic_nodes(corpus.duplicates, nodes, reads, digest):
        add(node)
    if corpus.decontaminate is not None:
        for node in contamination_steps.contamination_nodes(corpus.decontaminate, reads, nodes, digest):
            add(node)
    model_steps.check_signals(corpus.models, corpus.signals)
    for trained in corpus.models:
        _add_model(trained, nodes, reads, add)
    add(keeper_steps.keeper_node(corpus, _families(corpus.signals), nodes, reads))
    return nodes


def _add_step(own: DatatroveStep | Malware, nodes: Mapping[str, Node], reads: Sequence[str], add: Callable[[Node], str]) -> None:
    from tilth.quality_signals.registry import families

    if own.name in families():
        fix = f"Call it `{own.name}_dt`."
        raise RecipeError(f"`{own.name}` is the name of a family of signals", f"{type(own).__name__} `{own.name}`", fix)
    step = Step(f"signals.{own.name}", 1, own.libraries, steps.score_by_step)
    for read in reads:
        add(Node(step, nodes[read].shard, {"step": own.description}, needs=(read,), work=own))


def _published_sources(corpus: Corpus) -> list[str]:
    """The sources that come with a list of duplicates."""
    return [source.name for source in corpus.sources if type(source).__name__ == "RedPajamaV2"]


def _add_near_duplicates(
    corpus: Corpus, nodes: Mapping[str, Node], reads: Sequence[str], digest: Callable[[Path], str], add: Callable[[Node], str]
) -> None:
    near = corpus.near_duplicates
    if near is None:
        return
    if isinstance(near, redpajama_v2_minhash.RedPajamaMinHash):
        signing = list(redpajama_v2_minhash.signature_nodes(near, corpus.sources, nodes, reads, digest))
    else:
        label = json.loads(near.label())
        signing = [Node(near_steps.SIGNATURES, nodes[read].shard, label, needs=(read,), work=near) for read in reads]
    for node in (*signing, *near_steps.near_nodes(near, signing, reads, grows=True)):
        add(node)


def _resources(family: SignalFamily, given: Mapping[str, str]) -> dict[str, str]:
    """What the recipe gives this family. Raises RecipeError for what it cannot do without."""
    lacking = [name for name in family.needs_resources if name not in given]
    if lacking:
        fix = f'Corpus(resources={{"{lacking[0]}": "path/to/it"}})'
        raise RecipeError(f"the signals `{family.name}` need the resource `{lacking[0]}`", where="Corpus(resources=...)", fix=fix)
    return {name: path for name, path in given.items() if name in family.resources}


def _refuse_idle(corpus: Corpus) -> None:
    used = {name for family in _families(corpus.signals) for name in family.resources}
    for name in corpus.resources:
        if name not in used:
            fix = did_you_mean(name, used) if used else "Leave it out."
            raise RecipeError(f"no family of signals here takes the resource `{name}`", where="Corpus(resources=...)", fix=fix)


def _add_model(model: model_steps.Model, nodes: Mapping[str, Node], reads: Sequence[str], add: Callable[[Node], str]) -> None:
    params = {"kind": type(model).__name__, **dataclasses.asdict(model)}
    own = tuple(read for read in reads if _source_of(nodes[read]) in model.sources)
    trained = add(Node(model_steps.training_step(model), params=params, needs=own, work=model))
    step = model_steps.scoring_step(model)
    scored = [add(Node(step, nodes[read].shard, needs=(read, trained), work=model)) for read in reads]
    if isinstance(model, Perplexity):
        languages = [f"signals.language {nodes[read].shard}" for read in reads]
        deciding = [not model.cutoffs_from or _source_of(nodes[read]) in model.cutoffs_from for read in reads]
        needs_of_cutoffs = (*compress(scored, deciding), *compress(languages, deciding))
        cutoffs = add(Node(model_steps.cutoff_step(model), needs=needs_of_cutoffs, work=model))
        for read, *needs in zip(reads, scored, languages, strict=True):
            shard = nodes[read].shard
            add(Node(model_steps.bucket_step(model), shard, {"shard": shard}, needs=(*needs, cutoffs), work=model))


def _scoring(family: SignalFamily) -> Step:
    # What is a letter or a word depends on the Unicode version that Python was built with.
    return Step(f"signals.{family.name}", family.version, (UNICODE, *family.libraries), steps.score)


def _read_nodes(corpus: Corpus, digest: Callable[[Path], str]) -> list[Node]:
    found = []
    for source in corpus.sources:
        step = dataclasses.replace(steps.READ, version=source.version, libraries=source.libraries)
        for shard in source.plan(digest):
            params = {"source": type(source).__name__, "licences": LICENCES.label, **shard.params}
            found.append(Node(step, shard.name, params, {shard.name: shard.fingerprint}, work=(source, shard)))
    return found


def _edit_nodes(corpus: Corpus, nodes: Mapping[str, Node], reads: Sequence[str], add: Callable[[Node], str]) -> list[Node]:
    """One node a shard for all edits, and before it what tells the lines, sentences or spans that are repeated."""
    repeated: dict[tuple[Edit | DatatroveStep, str], tuple[str, ...]] = {}
    for edit in corpus.edits:
        if isinstance(edit, COMPARING):
            own = [read for read in reads if not edit.sources or _source_of(nodes[read]) in edit.sources]
            for group, found in _comparing_nodes(edit, nodes, own, add):
                repeated |= dict.fromkeys(((edit, read) for read in group), found)
    edited = []
    for read in reads:
        own_edits = [
            edit
            for edit in corpus.edits
            if ((edit, read) in repeated if isinstance(edit, COMPARING) else _is_edited(edit, _source_of(nodes[read])))
        ]
        described = [{"kind": type(edit).__name__, **_what_decides(edit)} for edit in own_edits]
        needs = (read, *(need for edit in own_edits if isinstance(edit, COMPARING) for need in repeated[edit, read]))
        libraries = {UNICODE}.union(*(edit.libraries for edit in own_edits if not isinstance(edit, OWN_EDITS)))
        step = dataclasses.replace(edit_steps.EDIT, libraries=tuple(sorted(libraries)))
        edited.append(Node(step, nodes[read].shard, {"edits": described}, needs=needs, work=tuple(own_edits)))
    return edited


def _comparing_nodes(
    edit: RepeatedLines | RepeatedSentences | RepeatedSpans,
    nodes: Mapping[str, Node],
    reads: Sequence[str],
    add: Callable[[Node], str],
) -> Iterator[tuple[Sequence[str], tuple[str, ...]]]:
    """Groups of shards that are compared, each with the nodes that tell what is repeated in it."""
    if isinstance(edit, RepeatedSpans):
        yield reads, span_steps.span_nodes(edit, reads, nodes, add)
        return
    if isinstance(edit, RepeatedSentences):
        params = {"n": edit.n, "unit": edit.unit}
        runs = [add(Node(edit_steps.SENTENCES[edit.unit], nodes[read].shard, params, needs=(read,))) for read in reads]
        yield reads, (add(Node(edit_steps.REPEATED_SENTENCES[edit.unit], needs=tuple(runs))),)
        return
    hashed = {read: add(Node(edit_steps.LINES[edit.unit], nodes[read].shard, needs=(read,))) for read in reads}
    for name, group in _groups(reads, nodes, edit.group_shards):
        yield group, (add(Node(edit_steps.REPEATED_LINES[edit.unit], name, needs=tuple(hashed[read] for read in group))),)


def _source_of(node: Node) -> str:
    return (node.shard or "").split("/")[0]


def _is_edited(edit: Edit | DatatroveStep, source: str) -> bool:
    return not isinstance(edit, Redact | MarkdownProse) or not edit.sources or source in edit.sources


def _what_decides(edit: Edit | DatatroveStep) -> dict[str, Any]:
    if not isinstance(edit, OWN_EDITS):
        return {"name": edit.name, "step": edit.description}
    # How shards are grouped shows in the inputs of a group, and which sources are cut in which shards have one.
    return {name: value for name, value in dataclasses.asdict(edit).items() if name not in ("group_shards", "sources")}


def _groups(reads: Sequence[str], nodes: Mapping[str, Node], size: int) -> Iterator[tuple[str, list[str]]]:
    """The shards of each source in runs of `size`, each under the name of its first."""
    for _, of_source in groupby(reads, key=lambda read: _source_of(nodes[read])):
        shards = list(of_source)
        for first in range(0, len(shards), size):
            group = shards[first : first + size]
            yield str(nodes[group[0]].shard), group


def _families(signals: Sequence[str | DatatroveStep | Linguist | Malware]) -> list[SignalFamily]:
    from tilth.quality_signals.registry import families

    known = families()
    names = [signal for signal in signals if isinstance(signal, str)]
    for name in names:
        if name not in known:
            raise RecipeError(
                f"there is no family of signals `{name}`", where="Corpus(signals=...)", fix=did_you_mean(name, known)
            )
    return [known[name] for name in names]
