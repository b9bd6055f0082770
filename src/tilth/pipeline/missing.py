"""Makes what a plan lacks: in this process, on local workers, or on an existing Dask scheduler."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from tilth.artifacts import Part, Store
from tilth.errors import BuildError, SourceError
from tilth.pipeline import execute
from tilth.pipeline.parquet import read_columns
from tilth.pipeline.plan import Planned
from tilth.pipeline.progress import progress
from tilth.pipeline.steps import READ


def run_missing(store: Store, planned: list[Planned], n_workers: int = 1, scheduler: str | None = None) -> dict[str, Part]:
    """Make what is not made yet; returns the parts by node, in the order of the plan. Raises BuildError."""
    if all(item.part is not None for item in planned):
        return {item.node.id: item.part for item in planned if item.part is not None}
    made = _make(store, planned, n_workers, scheduler)
    return {item.node.id: made[item.node.id] for item in planned}  # in one order, whoever was first


def _make(store: Store, planned: list[Planned], n_workers: int, scheduler: str | None) -> dict[str, Part]:
    nodes = [item.node for item in planned]
    with progress("build", len(nodes)) as advance, _runner(n_workers, scheduler, store) as client:

        def on_done(outcome: execute.Outcome) -> None:
            advance(outcome.node_id)

        outcomes = (
            execute.run_in_process(store, nodes, on_done)
            if client is None
            else execute.run_on_client(client, store, nodes, on_done)
        )
    _refuse_nothing(store, outcomes)
    raise_errors(outcomes)
    return {node_id: outcome.part for node_id, outcome in outcomes.items() if outcome.part is not None}


@contextlib.contextmanager
def _runner(n_workers: int, scheduler: str | None, store: Store) -> Iterator[Any]:
    if scheduler:
        with execute.existing_cluster(scheduler, store) as client:
            yield client
    elif n_workers > 1:
        with execute.local_cluster(n_workers) as client:
            yield client
    else:
        yield None


def _refuse_nothing(store: Store, outcomes: Mapping[str, execute.Outcome]) -> None:
    """Where steps failed because nothing could be read at all, say why not. Raises SourceError."""
    read = [outcome.part for outcome in outcomes.values() if outcome.node_id.startswith(f"{READ.name} ")]
    artifacts = [store.artifact(part) for part in read if part is not None]
    none_failed = all(outcome.error is None for outcome in outcomes.values())
    if none_failed or not read or len(artifacts) < len(read) or any(artifact.stats["n_documents"] for artifact in artifacts):
        return
    n_rejected = sum(artifact.stats["n_rejected"] for artifact in artifacts)
    tables = [read_columns(artifact, "rejects.parquet", ["location", "reason", "detail"]).slice(0, 3) for artifact in artifacts]
    where = [f"{row['location']}: {row['reason']}, {row['detail']}" for table in tables for row in table.to_pylist()][:3]
    raise SourceError(
        f"nothing could be read: 0 documents, {n_rejected:,} rejected",
        where="\n       ".join(where) or ", ".join(str(part.shard) for part in read if part),
        fix="Give the sources of the recipe other input; the same command then continues.",
    )


def raise_errors(outcomes: Mapping[str, execute.Outcome]) -> None:
    """Raise the one error of a build as it is, several as one BuildError that names them; nothing where none failed."""
    failed = {outcome.node_id: outcome.error for outcome in outcomes.values() if outcome.error is not None}
    details = [outcome.details for outcome in outcomes.values() if outcome.details]
    if not failed:
        return
    if len(failed) == 1 and not details:
        raise next(iter(failed.values()))
    n_skipped = sum(outcome.skipped for outcome in outcomes.values())
    fixes = {error.fix for error in failed.values()}
    error = BuildError(
        f"{len(failed)} steps failed, {n_skipped} more could not run; the others are kept",
        where="\n       ".join(f"{node_id}: {error.what}" for node_id, error in list(failed.items())[:10]),
        # One cause, such as a full disk, has one cure.
        fix=(fixes.pop() if len(fixes) == 1 else None) or "Mend the cause and run the same command: it continues.",
    )
    error.add_note("\n".join(details))
    raise error
