"""Clusters of duplicates: how large, how similar, and what they look like."""

from __future__ import annotations

from collections.abc import Iterable

from tilth.report.blocks import Block, Chart, Excerpt, Figure, Figures, Grid, Heading, Note
from tilth.report.charts import columns, stacked_bars
from tilth.report.documents import excerpt, fetch, first_difference
from tilth.report.numbers import number
from tilth.report.registry import panel
from tilth.report.scope import Row, Scope

_MEMBERS_SHOWN = 3


@panel("Duplicates", order=40)
def draw(scope: Scope) -> Iterable[Block]:
    """Duplicates are marked, never deleted; similarity is the verified Jaccard similarity, not an estimate."""
    duplicates = scope.side("duplicates")
    counts = scope.rows(
        f"""select method, count(distinct cluster_id) as n_clusters, count(*) as n_members,
                   count(*) filter (not is_keeper) as n_marked, min(threshold) as threshold
            from {duplicates} group by method order by method"""
    )
    if not counts:
        yield Note("No duplicates were found.")
        return
    yield Figures([
        Figure(f"clusters-{row['method']}", f"Clusters, {row['method']}", row["n_clusters"],
               note=f"{row['n_members']:,} members, {row['n_marked']:,} marked, threshold {number(row['threshold'])}")
        for row in counts
    ])  # fmt: skip
    yield Grid([*_sizes(scope, duplicates, [row["method"] for row in counts]), *_similarities(scope, duplicates)])
    yield from _examples(scope, duplicates)


def _sizes(scope: Scope, duplicates: str, methods: Iterable[str]) -> Iterable[Chart]:
    for method in methods:
        rows = scope.rows(
            f"""with sizes as (select count(*) as size from {duplicates} where method = ? group by cluster_id),
                 named as (select size, case when size <= 5 then size::varchar when size <= 10 then '6–10'
                    when size <= 20 then '11–20' when size <= 100 then '21–100' else '> 100' end as bucket from sizes)
                select bucket, count(*) as n from named group by bucket order by min(size)""",
            method,
        )
        data = [{**row, "label": f"{row['n']:,} clusters of {row['bucket']}"} for row in rows]
        if data:
            spec = stacked_bars(data, category="bucket", value="n", title="clusters")
            yield Chart(f"sizes-{method}", f"Documents in a cluster, {method}", spec)


def _similarities(scope: Scope, duplicates: str) -> Iterable[Chart]:
    rows = scope.rows(
        f"""with binned as (
                select least(floor(similarity::double * 25 + 1e-6)::int, 24) as bin, count(*) as n
                from {duplicates} where method = 'minhash' and not is_keeper group by bin)
            select b.bin / 25 as low, coalesce(n, 0) as n
            from (select unnest(range((select min(bin) from binned), 25)) as bin) as b left join binned on binned.bin = b.bin
            order by b.bin"""
    )
    data = [
        {
            "low": f"{row['low']:.2f}",
            "n": row["n"],
            "label": f"{row['n']:,} documents with similarity {row['low']:.2f} to {row['low'] + 0.04:.2f}",
        }
        for row in rows
    ]
    if data:
        spec = columns(data, category="low", value="n", x_title="similarity, from", y_title="documents")
        yield Chart("similarity", "Similarity of near duplicates", spec)


def _examples(scope: Scope, duplicates: str) -> Iterable[Block]:
    """The largest cluster, the least similar one, and the most similar one that is not identical."""
    clusters = scope.rows(
        f"""with clusters as (
                select cluster_id::varchar as id, count(*) as size, min(similarity) filter (not is_keeper) as least,
                       min(shard || ' ' || row) as first from {duplicates} where method = 'minhash' group by cluster_id)
            (select 'The largest' as what, * from clusters order by size desc, first limit 1) union all
            (select 'The least similar' as what, * from clusters order by least, first limit 1) union all
            (select 'Nearly identical' as what, * from clusters where least < 1 order by least desc, first limit 1)"""
    )
    seen: set[str] = set()
    for cluster in clusters:
        if cluster["id"] not in seen:
            seen.add(cluster["id"])
            line = f"{cluster['size']:,} documents; the texts begin shortly before they first differ"
            yield Heading(f"{cluster['what']} cluster of near duplicates", line)
            yield Grid(_members(scope, duplicates, cluster["id"]), kind="texts")


def _members(scope: Scope, duplicates: str, cluster_id: str) -> list[Excerpt]:
    members = scope.rows(
        f"""select shard, row, is_keeper, similarity::double as similarity
            from {duplicates} where method = 'minhash' and cluster_id::varchar = ?
            order by is_keeper desc, similarity, shard, row limit {_MEMBERS_SHOWN}""",
        cluster_id,
    )
    documents = fetch(scope, [(row["shard"], row["row"]) for row in members])
    texts = [documents[row["shard"], row["row"]]["text"] for row in members]
    start = max((first_difference(texts[0], text) for text in texts[1:]), default=0)
    return [_excerpt(row, documents[row["shard"], row["row"]], start) for row in members]


def _excerpt(member: Row, document: Row, start: int) -> Excerpt:
    mark = ("kept", "kept") if member["is_keeper"] else ("duplicate", "dropped")
    facts = [] if member["is_keeper"] else [f"similarity {member['similarity']:.3f} to its match"]
    return excerpt(document, facts, [mark], start=start)
