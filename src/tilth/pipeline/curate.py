"""Queries the catalog and curates subsets from it, keeping the catalog file that other programs read up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilth.pipeline.project import Project

if TYPE_CHECKING:
    import pyarrow as pa


def sql(project: Project, query: str) -> pa.Table:
    """Answer an SQL query over everything in the project. Raises QueryError."""
    from tilth.catalog.sql import run_sql

    return run_sql(project.store, query)


def pick(
    project: Project, name: str, where: str, *, corpus: str, max_tokens: int | None = None, validation_share: float = 0.05, seed: int = 0
) -> Any:
    """Select the documents of `corpus` for which the SQL predicate `where` is true, as `subset/<name>`.

    Returns tilth.catalog.pick.Pick, with what each clause cost. Raises QueryError, SubsetError, NotFoundError.
    """
    from tilth.catalog.pick import pick as pick_documents
    from tilth.catalog.publish import publish

    picked = pick_documents(
        project.store, corpus, name, where, max_tokens=max_tokens, validation_share=validation_share, seed=seed
    )
    publish(project.store)
    return picked
