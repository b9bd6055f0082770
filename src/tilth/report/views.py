"""What the page needs of a store and the catalog has no relation for: texts before they were edited, shares of mixtures."""

from __future__ import annotations

import json
from typing import Any

from tilth.artifacts import Store
from tilth.catalog.project import relation_names
from tilth.catalog.quoting import read_parquet
from tilth.report.scope import quoted

SHARES = "report_shares"  # subset, place, source, weight, n_tokens_there, repeats, n_tokens


def add_views(connection: Any, store: Store) -> None:
    """Add them, temporary, to a connection with the catalog's views; `before_name` for every corpus with edits, and SHARES."""
    corpora = store.named("corpus")
    relations = relation_names(named.name for named in corpora)
    for named in corpora:
        if named.of("edit"):
            paths = [store.artifact(part).path / "documents.parquet" for part in named.of("read")]
            view = quoted(before_name(relations[named.name]))
            connection.execute(f"create temp view {view} as select shard, row, text from {read_parquet(paths)}")
    connection.execute(
        f"""create temp table {SHARES} (subset varchar, place int, source varchar, weight double, n_tokens_there bigint,
                                        repeats double, n_tokens bigint)"""
    )
    for subset in store.named("subset"):
        for part in subset.of("pick"):
            shares = json.loads((store.artifact(part).path / "pick.json").read_bytes()).get("shares") or []
            keys = ("source", "weight", "n_tokens_there", "repeats", "n_tokens")
            for place, share in enumerate(shares):
                row = [subset.name, place, *(share[key] for key in keys)]
                connection.execute(f"insert into {SHARES} values (?, ?, ?, ?, ?, ?, ?)", row)


def before_name(relation: str) -> str:
    """The view of a corpus' texts as they were read."""
    return f"report_read_{relation}"
