"""The step that chooses the keepers of a corpus: the catalog evaluates the recipe's rule over what the methods have marked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tilth.artifacts import Named
from tilth.contracts import DOCUMENTS
from tilth.pipeline import model_steps
from tilth.pipeline.graph import Node, Step
from tilth.pipeline.recipe import Corpus, Perplexity
from tilth.pipeline.steps import Inputs, Params

if TYPE_CHECKING:
    from tilth.quality_signals.family import SignalFamily

_PROVENANCE = {name: pa.string() for name in ("licence", "origin", "path", "revision", "date")}
_PROVENANCE |= {"n_occurrences": pa.int64()}
_PROVENANCE |= {name: pa.int8() for name in ("licence_strictness", "loosest_strictness", "strictest_anywhere")}


def choose_keepers(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """Choose one keeper for each cluster by the rule `work`."""
    from tilth.catalog.keepers import write_keepers

    artifacts = list(inputs.values())
    corpus = Named("corpus", "documents", tuple(artifact.part() for artifact in artifacts))
    return write_keepers(artifacts[0].store, corpus, work, rule_functions(), folder)


def keeper_node(corpus: Corpus, families: Sequence[SignalFamily], nodes: Mapping[str, Node], reads: Sequence[str]) -> Node:
    """The node of this step: it needs what marks duplicates, and every signal where there is a rule that may ask for it.

    Raises QueryError for a rule that means nothing for this corpus.
    """
    from tilth.catalog.corpus_views import MARKS
    from tilth.catalog.keeper_rule import check_keeper_rule, parse_keeper_rule

    rule = parse_keeper_rule(corpus.keep)
    if rule.keys:
        check_keeper_rule(rule, pa.schema(list(_columns(corpus, families).items())), rule_functions())
    marking = [name for name, node in nodes.items() if node.step.name in MARKS]
    signals = [name for name, node in nodes.items() if node.step.name.startswith("signals.")]
    # Licences and places stand beside the documents as they were read, also where these are edited.
    read = [name for name, node in nodes.items() if node.step.name == "read"]
    step = Step("dedup.keepers", 1, ("license-expression",) if "licence" in rule.names else (), choose_keepers)
    params = {"rule": str(rule), "order": [str(key) for key in rule.keys]}
    needs = dict.fromkeys([*marking, *((*read, *reads, *signals) if rule.keys else ())])
    return Node(step, params=params, needs=tuple(needs), work=rule)


def _columns(corpus: Corpus, families: Sequence[SignalFamily]) -> dict[str, pa.DataType]:
    """What the wide view of this corpus will have, but for the marks."""
    columns = {field.name: field.type for field in DOCUMENTS.schema} | _PROVENANCE
    for name, found in _signals(corpus, families):
        taken = {column.lower() for column in columns}
        columns |= {f"{name}_{column}" if column.lower() in taken else column: kind for column, kind in found.items()}
    return columns


def _signals(corpus: Corpus, families: Sequence[SignalFamily]) -> Iterator[tuple[str, Mapping[str, pa.DataType]]]:
    yield from ((family.name, family.columns) for family in families)
    yield from ((step.name, _typed(step.contract.schema)) for step in corpus.signals if not isinstance(step, str))
    if corpus.tokenizer is not None:
        yield "tokens", {"n_tokens": pa.int64()}
    for model in corpus.models:
        yield model.name, model_steps.family_of(model).columns
        if isinstance(model, Perplexity):
            name = model_steps.bucket_family(model)
            yield name, {name: pa.string()}


def _typed(schema: pa.Schema) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in schema if field.name not in ("shard", "row")}


def rule_functions() -> dict[str, Callable[[str], int]]:
    """What SQL can ask of a licence beyond DuckDB's own functions."""
    from tilth.corpus.provenance.spdx_expressions import strictness

    return {"licence_strictness": strictness}
