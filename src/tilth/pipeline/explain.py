"""Explains one document of a corpus: its source, its steps, its signals among the others, and what each policy makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilth.pipeline.project import Project

if TYPE_CHECKING:
    from tilth.catalog.explain import Explained


def explain(project: Project, corpus: str, document: str) -> Explained:
    """Explain `document` (a doc_id, a URL, a path, or shard:row) of `corpus`. Raises NotFoundError."""
    from tilth.catalog.explain import explain as explain_document

    return explain_document(project.store, corpus, document)
