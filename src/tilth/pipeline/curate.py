"""Queries the catalog and curates subsets from it, keeping the catalog file that other programs read up to date."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from tilth.artifacts.naming import check_name
from tilth.pipeline.project import Project
from tilth.pipeline.training_form import TRAINING_FORM

if TYPE_CHECKING:
    import pyarrow as pa

    from tilth.catalog.mixture import Mixture

VALIDATION_SHARE = 0.05  # of duplicate clusters, where a pick says nothing else


def sql(project: Project, query: str) -> pa.Table:
    """Answer an SQL query over everything in the project. Raises QueryError."""
    from tilth.catalog.sql import run_sql

    return run_sql(project.store, query)


def notice(project: Project, subset: str) -> Any:
    """The attributions that a release of `subset/<subset>` owes, as tilth.catalog.notice.Notice. Raises NotFoundError."""
    from tilth.catalog.notice import notice as compose

    return compose(project.store, subset)


def pick(
    project: Project,
    name: str,
    where: str,
    *,
    corpus: str,
    max_tokens: int | None = None,
    mixture: Mixture | None = None,
    validation_share: float | None = None,
    validation_where: str | None = None,
    seed: int = 0,
) -> Any:
    """Select the documents of `corpus` for which the SQL predicate `where` is true, as `subset/<name>`.

    For validation are those for which the predicate `validation_where` is true, else a `validation_share` (0.05) of clusters.
    Returns tilth.catalog.pick.Pick, with what each clause cost. Raises QueryError, SubsetError, NotFoundError.
    """
    from tilth.catalog.pick import pick as pick_documents
    from tilth.catalog.publish import publish

    store = project.store
    check_name(name)
    share = validation_share if validation_share is not None else VALIDATION_SHARE if validation_where is None else 0.0
    picked = pick_documents(
        store, corpus, name, where, max_tokens=max_tokens, mixture=mixture, validation_share=share,
        validation_where=validation_where, seed=seed,
    )  # fmt: skip
    # The tokenizer that counted its tokens belongs to the subset, and the training form: the corpus may get others later.
    whole = store.get_named("corpus", corpus)
    parts = [*picked.named.parts, *whole.of("tokenizer"), *whole.of(TRAINING_FORM.name)]
    named = store.save_named("subset", name, parts, picked.named.meta)
    publish(store)
    return dataclasses.replace(picked, named=named)
