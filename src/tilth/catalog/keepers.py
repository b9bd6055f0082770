"""Chooses the keepers of a corpus: its methods' clusters are joined where they overlap, and a rule orders each whole.

What any method marked belongs together, so the cluster of a document is its connected component over all methods. One order
of documents decides everywhere, and each cluster keeps the one that comes first in it: so there is exactly one, and what is
kept of equal texts can be kept of their near copies too.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from tilth.artifacts import Named, Store
from tilth.catalog.complaints import complain
from tilth.catalog.connect import open_in_memory
from tilth.catalog.corpus_views import KEEPERS_STEP, create_corpus_views, table
from tilth.catalog.keeper_rule import Functions, KeeperRule, Key, add_functions
from tilth.catalog.quoting import identifier
from tilth.catalog.row_groups import write_rows
from tilth.contracts import KEEPERS

_RELATION = "documents"
_FLOATS = ("FLOAT", "DOUBLE")


def write_keepers(store: Store, named: Named, rule: KeeperRule, functions: Functions, path: Path) -> dict[str, int]:
    """Write keepers/1 for the documents of `named` that any of its methods marked, and return counts.

    Work and memory follow the marked documents, and what exceeds the memory is spilled. Raises QueryError for a rule that
    fails on a document, StoreError when a file is gone.
    """
    with open_in_memory(store) as connection:
        try:
            views = create_corpus_views(connection, store, named, _RELATION, with_keepers=False)
            _number_members(connection, table(_RELATION, "duplicates"))
            _join_clusters(connection)
            add_functions(connection, functions)
            order = _evaluate(connection, views.select(rule.names), rule.keys)
            n_marked = _write(connection, order, path)
        except duckdb.Error as error:
            raise complain(error, known=views.columns, store_root=store.root) from error
        (n_kept,) = connection.execute("select count(distinct component) from membership").fetchone() or (0,)
    return {"n_marked": n_marked, "n_clusters": int(n_kept)}


def keeper_rule_of(store: Store, named: Named) -> str:
    """The rule that chose the keepers of a corpus, in words; empty where nothing was marked."""
    parts = named.of(KEEPERS_STEP)
    return str(store.artifact(parts[0]).spec.params["rule"]) if parts else ""


def _number_members(connection: duckdb.DuckDBPyConnection, duplicates: str) -> None:
    """`members`: marked documents numbered by (shard, row). `membership`: their clusters, numbered over all methods."""
    connection.execute(
        "create temp table members as select row_number() over (order by shard, row) as document, shard, row, "
        "any_value(doc_id) as doc_id, max(similarity) as similarity, "
        # A published list of copies names those to be dropped; the other methods' own flag is only who was first.
        "coalesce(bool_or(not is_keeper) filter (where method = 'digest'), false) as is_listed "
        f"from {duplicates} group by shard, row"
    )
    connection.execute(
        "create temp table membership as select document, method = 'exact' as is_exact, "
        "dense_rank() over (order by method, cluster_id) as cluster, 0::bigint as component "
        f"from {duplicates} join members using (shard, row)"
    )


def _join_clusters(connection: duckdb.DuckDBPyConnection) -> None:
    """Give each membership its component: the smallest document that a chain of overlapping clusters reaches.

    Only documents in several clusters join any, so the rounds work on these alone. Each round takes over what its neighbours
    reach, and what the cluster of the document reached so far has reached since: long chains take few rounds.
    """
    connection.execute(
        "create temp table labels as select cluster, min(document) as own, min(document) as component "
        "from membership group by cluster"
    )
    connection.execute(
        "create temp table bridges as select document, cluster from membership "
        "semi join (select document from membership group by document having count(*) > 1) as several using (document)"
    )
    while True:
        (n_changed,) = connection.execute(
            """update labels set component = lower.component from (
                with of_document as (
                    select document, min(component) as reached from bridges join labels using (cluster) group by document),
                found as (
                    select cluster, reached from bridges join of_document using (document)
                    union all select here.cluster, there.component
                        from labels as here join labels as there on here.component = there.own)
                select cluster, min(reached) as component from found group by cluster) as lower
            where labels.cluster = lower.cluster and lower.component < labels.component"""
        ).fetchone() or (0,)
        if not n_changed:
            break
    connection.execute("update membership set component = labels.component from labels where labels.cluster = membership.cluster")


def _evaluate(connection: duckdb.DuckDBPyConnection, documents: str, keys: tuple[Key, ...]) -> str:
    """`judged`: the members with a column for each key; returns the one order of all documents as SQL."""
    columns = [f"({key.sql}) as k{number}" for number, key in enumerate(keys)]
    if columns:
        marked = f"({documents} semi join members as m on d.shard = m.shard and d.row = m.row)"
        values = f"select {', '.join(['shard', 'row', *columns])} from {marked} as {identifier(_RELATION)}"
        kinds = [row[1] for row in connection.execute(f"describe {values}").fetchall()][2:]
        # DuckDB puts NaN above every number; a value that is none must not win.
        known = [f"case when isnan(k{n}) then null else k{n} end as k{n}" for n, kind in enumerate(kinds) if kind in _FLOATS]
        known = [f"* replace ({', '.join(known)})"] if known else ["*"]
        connection.execute(
            f"create temp table judged as select {known[0]} from (select * from members join ({values}) using (shard, row))"
        )
    else:
        connection.execute("create temp view judged as select * from members")
    return ", ".join([*(f"k{n} {key.direction} nulls {key.nulls}" for n, key in enumerate(keys)), "is_listed", "document"])


def _write(connection: duckdb.DuckDBPyConnection, order: str, path: Path) -> int:
    query = f"""
        with placed as (
            select document, min(component) as component, min(cluster) filter (where is_exact) as exact
            from membership group by document),
        ranked as (
            select judged.*, component,
                row_number() over (partition by component order by {order}) = 1 as is_keeper,
                exact is null or row_number() over (partition by exact order by {order}) = 1 as is_exact_keeper
            from judged join placed using (document))
        select ranked.doc_id, ranked.shard, ranked.row, first.doc_id as cluster_id, is_keeper, is_exact_keeper,
            ranked.similarity
        from ranked join members as first on ranked.component = first.document order by ranked.shard, ranked.row"""
    return write_rows(connection, query, path, KEEPERS)
