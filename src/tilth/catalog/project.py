"""`project`: everything that the store's names stand for, as views and small tables of a DuckDB connection."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import duckdb

from tilth.artifacts import Named, Store
from tilth.artifacts.naming import KINDS
from tilth.artifacts.spec import canonical_json
from tilth.catalog.complaints import reading_store
from tilth.catalog.corpus_views import create_corpus_views
from tilth.catalog.things import GLOBAL_RELATIONS, create_global_relations

PROJECTION_VERSION = 9  # raise it when views change, so that catalogs are published anew
_RESERVED = ("main", "temp", "system", "memory", "catalog", "information_schema", "pg_catalog")

Names = Mapping[str, list[Named]]


def read_names(store: Store) -> Names:
    """One snapshot of all names, so that a digest and the views made for it speak of the same things."""
    return {kind: store.named(kind) for kind in KINDS}


def projection_digest(store: Store, names: Names) -> str:
    """Identifies a projection: what the names contain, where the files lie, and how views are written."""
    body = {kind: [asdict(named) for named in group] for kind, group in names.items()}
    has_times = _seconds_log(store).exists()
    return hashlib.sha256(canonical_json([PROJECTION_VERSION, str(store.root), has_times, body])).hexdigest()[:16]


def project(
    connection: duckdb.DuckDBPyConnection, store: Store, names: Names | None = None, corpora: Collection[str] | None = None
) -> None:
    """Create the views of each corpus (or of `corpora` alone) and the global relations in an empty database.

    Raises StoreError when a file that a name refers to is gone.
    """
    names = read_names(store) if names is None else names
    relations = relation_names(named.name for named in names["corpus"])
    for named in names["corpus"]:
        if corpora is None or named.name in corpora:
            create_corpus_views(connection, store, named, relations[named.name])
    with reading_store():
        create_global_relations(connection, store, names, relations, _seconds_log(store))


def relation_names(corpora: Iterable[str]) -> dict[str, str]:
    """The SQL name of each corpus: its own, unless Tilth, DuckDB or a corpus that differs only in case has it already."""
    taken = {*GLOBAL_RELATIONS, *_RESERVED}
    chosen = {}
    for name in sorted(corpora):
        relation = name
        while relation.lower() in taken:
            relation = f"corpus_{relation}"
        taken.add(relation.lower())
        chosen[name] = relation
    return chosen


def _seconds_log(store: Store) -> Path:
    return store.root / "log" / "seconds.jsonl"
