"""The attributions that a subset owes: whose works are in it, under which licences, with the texts of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb

from tilth.artifacts import Named, Store
from tilth.catalog.complaints import complain
from tilth.catalog.connect import open_in_memory
from tilth.catalog.corpus_views import create_corpus_views, table
from tilth.catalog.quoting import read_parquet

_RELATION = "corpus"
# A line that says whose a work is; it is looked for at the top of files and in licence files.
COPYRIGHT = r"(?i)(?:copyright\s*(?:\(c\)|©|:)?|\(c\)|©)\s*(?:[0-9]{4}|by\s)[^\n]{0,160}"
TOP_CHARS = 12_000
_RULE = "=" * 78

_CHOSEN = """
create temp table chosen as
select l.shard, l.row, l.origin, l.path, l.spdx, l.scope, l.evidence_path, l.evidence_swhid
from {licences} as l semi join {subset} as s on l.shard = s.shard and l.row = s.row
where l.effective"""
_UNLICENSED = """
select coalesce(o.origin, d.source) as origin, count(*) as n
from {subset} as s join {documents} as d on d.shard = s.shard and d.row = s.row
left join (select shard, row, min(origin) as origin from {occurrences} group by shard, row) as o
    on o.shard = s.shard and o.row = s.row
where not exists (select 1 from chosen as c where c.shard = s.shard and c.row = s.row)
group by all order by origin"""
_BY_ORIGIN = """
select origin, spdx, count(distinct (shard, row)) as n_files, list_sort(list(distinct evidence_path))[:5] as evidence
from chosen group by origin, spdx order by origin, spdx"""
_OWNERS = """
with texts as (
    select c.origin, left(d.text, {top}) as text
    from (select distinct shard, row, origin from chosen) as c join {documents} as d on d.shard = c.shard and d.row = c.row
    union all
    select c.origin, d.text
    from (select distinct origin, evidence_swhid from chosen) as c join {documents} as d on d.raw_swhid = c.evidence_swhid)
select distinct origin, trim(regexp_replace(owner, '[\\s*/#;"<>-]+$', '')) as owner
from (select origin, unnest(regexp_extract_all(text, '{copyright}')) as owner from texts)
order by origin, owner"""
_TEXTS = """
select c.spdx, d.raw_swhid as swhid, any_value(d.text) as text, list_sort(list(distinct c.origin)) as origins
from (select distinct spdx, origin, evidence_swhid from chosen where scope <> 'file') as c
join {documents} as d on d.raw_swhid = c.evidence_swhid
group by all order by c.spdx, swhid"""


@dataclass(frozen=True)
class Notice:
    """The bundle as text, and what it speaks of; `n_without` documents have no licence in force."""

    text: str
    n_origins: int
    n_licences: int
    n_texts: int
    n_without: int


def notice(store: Store, subset: str) -> Notice:
    """What a release of `subset` has to carry: by origin the licences in force and who holds the copyright, then the texts.

    Owners are the copyright lines at the top of the files and in the licence files; a licence's text is there where the file
    that is its evidence was read into the corpus too. The same subset gives the same text. Raises NotFoundError.
    """
    named = store.get_named("subset", subset)
    with open_in_memory(store.root / "catalog") as connection:
        create_corpus_views(connection, store, named, _RELATION, with_keepers=False)
        try:
            return _compose(connection, store, named)
        except duckdb.Error as error:
            raise complain(error, store_root=store.root) from error


def _compose(connection: duckdb.DuckDBPyConnection, store: Store, named: Named) -> Notice:
    names = {name: table(_RELATION, name) for name in ("documents", "occurrences", "licences")}
    names["subset"] = read_parquet([store.artifact(named.one("pick")).path / "subset.parquet"])
    fill = {**names, "top": TOP_CHARS, "copyright": COPYRIGHT}

    def rows(query: str) -> list[tuple[Any, ...]]:
        return connection.execute(query.format(**fill)).fetchall()

    connection.execute(_CHOSEN.format(**fill))
    owners: dict[str, list[str]] = {}
    for origin, owner in rows(_OWNERS):
        owners.setdefault(origin, []).append(owner)
    lines = [f"NOTICE of {named.label}", "", "This collection holds works of others, each under its own licence.", ""]
    licences = rows(_BY_ORIGIN)
    seen = set()
    for origin, spdx, n_files, evidence in licences:
        if origin not in seen:
            seen.add(origin)
            lines += [_RULE, origin, *(f"  {owner}" for owner in owners.get(origin, []))]
        lines.append(f"  {spdx}: {n_files:,} file{'s' if n_files != 1 else ''} ({', '.join(evidence)})")
    without = rows(_UNLICENSED)
    lines += [_RULE, "Without a licence in force:", *(f"  {origin}: {n:,}" for origin, n in without)] if without else []
    texts = rows(_TEXTS)
    for spdx, swhid, text, origins in texts:
        lines += ["", _RULE, f"{spdx}, as in {', '.join(origins)} ({swhid})", _RULE, "", text.rstrip()]
    n_licences = len({spdx for _, spdx, _, _ in licences})
    return Notice("\n".join(lines) + "\n", len(seen), n_licences, len(texts), sum(n for _, n in without))
