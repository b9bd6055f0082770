"""Chooses the keepers of a corpus: one order of all documents, by the corpus' rule, decides every cluster of every method.

The clusters of the deciding methods are joined where they overlap (connected components), and each whole keeps the document
that comes first in the order: exactly one, so that what is kept of equal texts can be kept of their near copies too. Beside
that, each method's own clusters keep their first, for the columns that speak of one method alone.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from tilth.artifacts import Named, Store
from tilth.catalog.complaints import complain
from tilth.catalog.connect import open_in_memory
from tilth.catalog.corpus_views import DECIDING, KEEPERS_STEP, create_corpus_views, table
from tilth.catalog.keeper_rule import Functions, KeeperRule, Key, add_functions
from tilth.catalog.quoting import identifier, literal
from tilth.catalog.ranking import in_order, key_values
from tilth.catalog.row_groups import write_rows
from tilth.contracts import KEEPERS, METHOD_KEEPERS

_RELATION = "documents"
_KEEPERS = """
    with whole as (
        select document, min(component) as component, min(cluster) filter (where method = 'exact') as exact,
            max(similarity) as similarity
        from deciding group by document)
    select m.doc_id, m.shard, m.row, first.doc_id as cluster_id,
        place = min(place) over (partition by component) as is_keeper,
        exact is null or place = min(place) over (partition by exact) as is_exact_keeper, similarity
    from whole join ranked using (document) join members as m using (document)
        join members as first on whole.component = first.document
    order by m.shard, m.row"""
_METHOD_KEEPERS = """
    select shard, row, method, place = min(place) over (partition by cluster) as is_keeper
    from membership join ranked using (document) join members using (document) order by shard, row, method"""


def write_keepers(store: Store, named: Named, rule: KeeperRule, functions: Functions, folder: Path) -> dict[str, int]:
    """Write keepers/1 and method_keepers/1 for the documents that the methods of `named` marked, and return counts.

    Work and memory follow the marked documents, and what exceeds the memory is spilled. Raises QueryError for a rule that
    fails on a document, StoreError when a file is gone.
    """
    with open_in_memory(store.root / "catalog") as connection:
        try:
            views = create_corpus_views(connection, store, named, _RELATION, with_keepers=False)
            _number_members(connection, table(_RELATION, "duplicates"))
            _join_clusters(connection)
            add_functions(connection, functions)
            _rank(connection, views.select(rule.names), rule.keys)
            n_marked = write_rows(connection, _KEEPERS, folder / "keepers.parquet", KEEPERS)
            write_rows(connection, _METHOD_KEEPERS, folder / "method_keepers.parquet", METHOD_KEEPERS)
        except duckdb.Error as error:
            raise complain(error, known=views.columns, store_root=store.root) from error
        (n_clusters,) = connection.execute("select count(distinct component) from deciding").fetchone() or (0,)
    return {"n_marked": n_marked, "n_clusters": int(n_clusters)}


def keeper_rule_of(store: Store, named: Named) -> str:
    """The rule that chose the keepers of a corpus, in words; empty where nothing was marked."""
    parts = named.of(KEEPERS_STEP)
    return str(store.artifact(parts[0]).spec.params["rule"]) if parts else ""


def _number_members(connection: duckdb.DuckDBPyConnection, duplicates: str) -> None:
    """`members`: marked documents numbered by (shard, row). `membership`: their clusters, numbered over all methods."""
    connection.execute(
        "create temp table members as select row_number() over (order by shard, row) as document, shard, row, "
        "any_value(doc_id) as doc_id, "
        # A published list of copies names those to be dropped; the other methods' own flag is only who was first.
        "coalesce(bool_or(not is_keeper) filter (where method = 'digest'), false) as is_listed "
        f"from {duplicates} group by shard, row"
    )
    connection.execute(
        "create temp table membership as select document, method, similarity, "
        f"dense_rank() over (order by method, cluster_id) as cluster from {duplicates} join members using (shard, row)"
    )
    connection.execute(
        "create temp table deciding as select *, 0::bigint as component from membership "
        f"where method in ({', '.join(map(literal, DECIDING))})"
    )


def _join_clusters(connection: duckdb.DuckDBPyConnection) -> None:
    """Give each row of `deciding` its component: the smallest document that a chain of overlapping clusters reaches.

    Only documents in several clusters join any, so the rounds work on these alone. Each round takes over what its neighbours
    reach, and what the cluster of the document reached so far has reached since: long chains take few rounds.
    """
    connection.execute(
        "create temp table labels as select cluster, min(document) as own, min(document) as component "
        "from deciding group by cluster"
    )
    connection.execute(
        "create temp table bridges as select document, cluster from deciding "
        "semi join (select document from deciding group by document having count(*) > 1) as several using (document)"
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
    connection.execute("update deciding set component = labels.component from labels where labels.cluster = deciding.cluster")


def _rank(connection: duckdb.DuckDBPyConnection, documents: str, keys: tuple[Key, ...]) -> None:
    """`ranked`: the members with their place in the one order of all documents."""
    judged = "members"
    if keys:
        marked = f"({documents} semi join members as m on d.shard = m.shard and d.row = m.row) as {identifier(_RELATION)}"
        values = key_values(connection, marked, ("shard", "row"), keys)
        judged = f"(select * from members join {values} using (shard, row))"
    connection.execute(
        "create temp table ranked as "
        f"select document, row_number() over (order by {in_order(keys, 'is_listed', 'document')}) as place from {judged}"
    )
