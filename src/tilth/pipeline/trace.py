"""From a token of a training step back to its document: SWHID, file or URL, licence, signals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tilth.errors import NotFoundError
from tilth.pipeline.project import Project


@dataclass(frozen=True)
class Traced:
    """One token of a run and where it comes from."""

    run: str
    step: int
    sequence: int
    position: int
    token: str
    context: str  # the tokens around it, `token` in ⟦brackets⟧
    epoch: int
    offset: int  # in tokens, within the document
    document: dict[str, Any]  # the row of the catalog


def trace(project: Project, run: str, step: int, sequence: int = 0, position: int = 0, n_context: int = 12) -> Traced:
    """Trace the token at `position` of `sequence` in `step` (counted from 0, as losses are) of `run/<run>`.

    Nothing was logged for this: the order of a run is a pure function of its settings.
    Raises NotFoundError where the run has no such step, sequence or position.
    """
    from tilth.catalog.trace import documents_at
    from tilth.tokenize.order import RunOrder
    from tilth.tokenize.shards import TokenSet

    store = project.store
    named = store.get_named("run", run)
    meta = named.meta
    for what, value, low, high in (
        ("step", step, 0, meta["steps"] - 1),
        ("sequence", sequence, 0, meta["global_batch"] - 1),
        ("position", position, 0, meta["seq_len"] - 1),
    ):
        if not low <= value <= high:
            raise NotFoundError(f"run `{run}` has no {what} {value}", f"run/{run}", f"Its {what}s go from {low} to {high}.")
    tokens = TokenSet.open(store.artifact(named.one("tokens.train")).path)
    order = RunOrder(tokens.lengths, meta["seq_len"], meta["global_batch"], meta["seed"])
    found = order.locate(step, sequence, position)
    ids = tokens.document(found.document)
    tokenizer = tokens.tokenizer()
    before = tokenizer.decode(ids[max(0, found.offset - n_context) : found.offset])
    after = tokenizer.decode(ids[found.offset + 1 : found.offset + 1 + n_context])
    token = tokenizer.decode(ids[found.offset : found.offset + 1])
    row = tokens.rows([found.document]).to_pylist()[0]
    document = documents_at(store, named, [(row["shard"], row["row"])]).to_pylist()[0]
    return Traced(run, step, sequence, position, token, f"{before}⟦{token}⟧{after}", found.epoch, found.offset, document)
