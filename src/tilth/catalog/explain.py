"""Everything that is known of one document: where it came from, the steps it went through, its signals among the others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from tilth.artifacts import Named, Store
from tilth.catalog.complaints import complain
from tilth.catalog.connect import open_in_memory
from tilth.catalog.corpus_views import CorpusViews, create_corpus_views, table
from tilth.catalog.policies import POLICIES
from tilth.catalog.policy import Policy
from tilth.catalog.predicate import parse_predicate
from tilth.catalog.quoting import identifier
from tilth.catalog.thread_policies import META
from tilth.catalog.trace import documents_at
from tilth.errors import NotFoundError

_RELATION = "corpus"
_PLACE = re.compile(r"(?P<shard>.+):(?P<row>\d{1,9})")
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UINTEGER", "UBIGINT", "FLOAT", "DOUBLE", "BOOLEAN")


@dataclass(frozen=True)
class Explained:
    """One document of a corpus.

    `signals` have the keys signal, value, percentile (share of the corpus below it, ties counted half; None for what is
    no number) and why (of a null); `policies` have policy, keeps and, for each clause that does not hold, drops.
    """

    document: dict[str, Any]
    steps: list[dict[str, Any]]
    edits: list[dict[str, Any]]
    signals: list[dict[str, Any]]
    policies: list[dict[str, Any]]


def explain(store: Store, corpus: str, document: str, policies: Mapping[str, Policy] = POLICIES) -> Explained:
    """Explain the document of `corpus` that `document` names: a doc_id, a URL, a path, or shard:row.

    Of `policies`, those are left out that need signals which the corpus lacks, or fields which the document lacks.
    Raises NotFoundError where nothing is found, or several documents are.
    """
    named = store.get_named("corpus", corpus)
    with open_in_memory(store.root / "catalog") as connection:
        try:
            views = create_corpus_views(connection, store, named, _RELATION)
            shard, row = _find(connection, document, corpus)
            signals = _signals(connection, views, shard, row)
            judged = _judgements(connection, views, policies, shard, row)
            edits = connection.execute(
                f'select reason, count(*), sum("end" - start) from {table(_RELATION, "edits")} '
                "where shard = ? and row = ? group by reason order by reason",
                [shard, row],
            ).fetchall()
        except duckdb.Error as error:
            raise complain(error, store_root=store.root) from error
    (facts,) = documents_at(store, named, [(shard, row)]).to_pylist()
    return Explained(
        document=facts,
        steps=_steps(store, named, shard),
        edits=[{"reason": reason, "n_spans": n_spans, "n_characters": int(n)} for reason, n_spans, n in edits],
        signals=signals,
        policies=judged,
    )


def _find(connection: duckdb.DuckDBPyConnection, document: str, corpus: str) -> tuple[str, int]:
    place = _PLACE.fullmatch(document)
    found = connection.execute(
        f"select distinct shard, row, doc_id::varchar from {identifier(_RELATION)} "
        "where doc_id::varchar = lower($1) or url = $1 or path = $1 or (shard = $2 and row = $3) order by all limit 4",
        [document, place["shard"] if place else None, int(place["row"]) if place else None],
    ).fetchall()
    if not found:
        fix = f'Give a doc_id, a URL, a path or shard:row; `tilth sql "select doc_id, url, path from {corpus}"` lists them.'
        raise NotFoundError("no such document", where=f"corpus `{corpus}`: {document}", fix=fix)
    if len(found) > 1:
        places = ", ".join(f"{shard}:{row}" for shard, row, _ in found[:3])
        raise NotFoundError("several documents have this name", where=document, fix=f"Name one by its place: {places}.")
    return str(found[0][0]), int(found[0][1])


def _signals(connection: duckdb.DuckDBPyConnection, views: CorpusViews, shard: str, row: int) -> list[dict[str, Any]]:
    """Every signal of the document, and how much of the corpus lies below it."""
    source = f"({views.select()})"
    types = dict(connection.execute(f"select column_name, column_type from (describe {source})").fetchall())
    families = [side for side in views.sides if side.family]
    names = [name for side in families for name in side.columns.values()]
    if not names:
        return []
    values = _row(
        connection, f"select {', '.join(map(identifier, names))} from {source} where shard = ? and row = ?", [shard, row]
    )
    numbers = [name for name in names if types[name] in _NUMBERS and values[name] is not None]
    ranks: dict[str, Any] = {}
    if numbers:
        below = ", ".join(
            f"avg(case when {identifier(name)} < ${i} then 1.0 when {identifier(name)} = ${i} then 0.5 else 0.0 end) "
            f"filter ({identifier(name)} is not null) as {identifier(name)}"
            for i, name in enumerate(numbers, 1)
        )
        ranks = _row(connection, f"select {below} from {source}", [values[name] for name in numbers])
    found = []
    for side in families:
        why = values.get(next((name for name in side.columns.values() if name.endswith("_undefined")), ""))
        for name in side.columns.values():
            if not name.endswith("_undefined"):
                rank = None if ranks.get(name) is None else round(100 * ranks[name], 1)
                value = values[name]
                found.append({"signal": name, "value": value, "percentile": rank, "why": why if value is None else None})
    return found


def _judgements(
    connection: duckdb.DuckDBPyConnection, views: CorpusViews, policies: Mapping[str, Policy], shard: str, row: int
) -> list[dict[str, Any]]:
    found = []
    for name, policy in policies.items():
        own = policy.on(views.columns)
        if own is None:
            continue
        predicate = parse_predicate(connection, own.sql)
        holds = _row(
            connection,
            f"select {', '.join(f'({clause}) as c{i}' for i, clause in enumerate(predicate.clauses))} "
            f"from ({views.select(predicate.names)}) as {identifier(views.relation)} where shard = ? and row = ?",
            [shard, row],
        )
        if policy.needs == (META,) and holds["c0"] is None:
            continue  # a document of another source, which has no such fields
        drops = [clause for i, clause in enumerate(predicate.clauses) if holds[f"c{i}"] is not True]
        found.append({"policy": name, "keeps": not drops, "drops": drops})
    return found


def _steps(store: Store, named: Named, shard: str) -> list[dict[str, Any]]:
    """What was made of its shard, and of the whole corpus, with version and key."""
    parts: Sequence[Any] = [part for part in named.parts if part.shard in (shard, None)]
    return [{"step": part.step, "version": store.artifact(part).spec.version, "key": part.key[:12]} for part in parts]


def _row(connection: duckdb.DuckDBPyConnection, query: str, parameters: Sequence[Any]) -> dict[str, Any]:
    answer = connection.execute(query, list(parameters))
    names = [column[0] for column in answer.description or ()]
    return dict(zip(names, answer.fetchone() or (), strict=True))
