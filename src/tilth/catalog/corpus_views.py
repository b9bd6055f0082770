"""The views of one corpus: a schema with its tables, and a wide view with one row a document.

<corpus>.documents, .edits, .occurrences, .licences, .rejects, .contamination      as the contracts say
<corpus>.duplicates                                 as well, with what the corpus' rule keeps of each method's clusters
<corpus>.signals_<family>, .signals                                    one family; all of them
<corpus>                                                               documents, signals, marks, licence, benchmarks
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import duckdb

from tilth.artifacts import Named, Part, Store
from tilth.catalog.complaints import reading_store
from tilth.catalog.quoting import identifier, no_rows, read_parquet
from tilth.contracts import CONTAMINATION, DOCUMENTS, DUPLICATES, EDITS, LICENCES, OCCURRENCES, REJECTS, Contract
from tilth.errors import StoreError

_READ_TABLES = {"occurrences": OCCURRENCES, "licences": LICENCES, "rejects": REJECTS}
_FAMILY_PREFIX = "signals."
# Methods that decide `is_keeper` together, and those whose marks stand beside, each with a column `is_<method>_keeper`.
DECIDING, BESIDE = ("exact", "minhash", "digest"), ("normal_text", "url", "simhash", "semantic")
MARKS = tuple(f"dedup.{method}" for method in (*DECIDING, *BESIDE))  # the steps that mark duplicates
KEEPERS_STEP = "dedup.keepers"
_CONTAMINATION = "contamination"
_ROW_KEY = ("shard", "row")
# Of all places where the same bytes lie in one repository: every licence that is in force at one of them, its strictness at
# the strictest and at the loosest of them.
LICENCE_COLUMNS = ("licence", "licence_strictness", "loosest_strictness")
ANYWHERE = "strictest_anywhere"  # of all places of the same content, in all repositories (shards) of the corpus
LICENCE_RULES = {
    ANYWHERE: "a document by the strictest licence of all places of its content, in every repository of the corpus; at each the "
    "strictest of the file and its folders, the repository's own where neither speaks",
    "loosest_strictness": "a document by the place with the loosest licence; there the strictest of the file and its folders, "
    "the repository's own where neither speaks",
    "licence_strictness": "a document by the strictest licence of all its places; at each the strictest of the file and its "
    "folders, the repository's own where neither speaks",
    "licence": "a document has all licences of its places; at each the strictest of the file and its folders, the "
    "repository's own where neither speaks",
}
_KEEPER_TYPES = {
    "shard": "VARCHAR",
    "row": "INTEGER",
    "is_keeper": "BOOLEAN",
    "is_exact_keeper": "BOOLEAN",
    "cluster_id": "UUID",
    "similarity": "FLOAT",
}


@dataclass(frozen=True)
class Side:
    """A relation with at most one row a document, joined by (shard, row); `columns` maps its names to those of the wide view."""

    relation: str
    columns: dict[str, str]
    defaults: dict[str, str] = dataclasses.field(default_factory=dict)  # SQL for documents without a row here
    family: str | None = None
    step: str | None = None  # that made it, where that is neither a family nor in every corpus

    def gives(self, wanted: Collection[str] | None) -> bool:
        """True when a query that names the columns `wanted` (lower case; None = any) needs this side."""
        return wanted is None or any(name.lower() in wanted for name in self.columns.values())


@dataclass(frozen=True)
class CorpusViews:
    """What `create_corpus_views` made; `relation` is the name of the schema and of the wide view."""

    named: Named
    relation: str
    document_columns: tuple[str, ...]
    sides: tuple[Side, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the wide view's columns, in order."""
        return (*self.document_columns, *(name for side in self.sides for name in side.columns.values()))

    def select(self, wanted: Collection[str] | None = None) -> str:
        """SQL of the wide view; with `wanted` only what these columns need is joined (lower case, unknown ones are ignored)."""
        chosen = [side for side in self.sides if side.gives(wanted)]
        columns, joins = ["d.*"], []
        for number, side in enumerate(chosen):
            alias = f"s{number}"
            for name, shown in side.columns.items():
                value = f"{alias}.{identifier(name)}"
                value = f"coalesce({value}, {side.defaults[name]})" if name in side.defaults else value
                columns.append(f"{value} as {identifier(shown)}")
            joins.append(f"left join {side.relation} as {alias} on d.shard = {alias}.shard and d.row = {alias}.row")
        return f"select {', '.join(columns)} from {table(self.relation, 'documents')} as d {' '.join(joins)}"

    def steps_of(self, wanted: Collection[str]) -> set[str]:
        """Steps of the corpus on which the values of the columns `wanted` depend."""
        families = {side.family for side in self.sides if side.family and side.gives(wanted)}
        steps = {side.step for side in self.sides if side.step and side.gives(wanted)}
        return {
            "read",
            "edit",
            *steps,
            *(step for step in self.named.steps() if step.startswith("dedup.") or step.removeprefix(_FAMILY_PREFIX) in families),
        }


def table(schema: str, name: str) -> str:
    """`"demo"."documents"`."""
    return f"{identifier(schema)}.{identifier(name)}"


def text_parts(named: Named) -> list[Part]:
    """What holds the texts of a corpus, a part for each shard: as they were edited, else as they were read."""
    return list(named.of("edit") or named.of("read"))


def restrict(named: Named, shards: Collection[str]) -> Named:
    """The same corpus with the parts of these shards alone (and those that belong to no shard)."""
    return dataclasses.replace(named, parts=tuple(part for part in named.parts if part.shard is None or part.shard in shards))


def create_corpus_views(
    connection: duckdb.DuckDBPyConnection, store: Store, named: Named, relation: str, *, with_keepers: bool = True
) -> CorpusViews:
    """Create the schema `relation` and the wide view of that name; without keepers, it lacks what follows from them.

    Raises StoreError for a missing or damaged file, and for duplicates of which nobody has chosen the keepers.
    """
    with reading_store():
        return _create_corpus_views(connection, store, named, relation, with_keepers)


def _create_corpus_views(
    connection: duckdb.DuckDBPyConnection, store: Store, named: Named, relation: str, with_keepers: bool
) -> CorpusViews:
    connection.execute(f"create schema {identifier(relation)}")
    shards = [store.artifact(part).path for part in named.of("read")]
    texts = [store.artifact(part).path for part in text_parts(named)]
    _create_table_view(connection, table(relation, "documents"), [folder / "documents.parquet" for folder in texts], DOCUMENTS)
    edits = [store.artifact(part).path / "edits.parquet" for part in named.of("edit")]
    _create_table_view(connection, table(relation, "edits"), edits, EDITS)
    for name, contract in _READ_TABLES.items():
        _create_table_view(connection, table(relation, name), [folder / f"{name}.parquet" for folder in shards], contract)
    if with_keepers:
        _refuse_marks_alone(named)
    _create_duplicates_view(connection, store, named, relation, with_keepers)
    held = [store.artifact(part).path / "contamination.parquet" for part in named.of(_CONTAMINATION)]
    _create_table_view(connection, table(relation, "contamination"), held, CONTAMINATION)
    document_columns = tuple(DOCUMENTS.schema.names)
    families_found = _family_sides(connection, store, named, relation, document_columns)
    sides = (*families_found, *(_keeper_sides(store, named, relation) if with_keepers else ()), *_provenance_sides(relation))
    sides = (*sides, *([_contamination_side(relation)] if held else []))
    views = CorpusViews(named, relation, document_columns, sides)
    families = dataclasses.replace(views, sides=tuple(side for side in sides if side.family))
    keys_and_signals = ", ".join(map(identifier, ("doc_id", *_ROW_KEY, *families.columns[len(document_columns) :])))
    signals = f"select {keys_and_signals} from ({families.select()})"
    connection.execute(f"create view {table(relation, 'signals')} as {signals}")
    connection.execute(f"create view main.{identifier(relation)} as {views.select()}")
    return views


def contract_types(connection: duckdb.DuckDBPyConnection, contract: Contract) -> dict[str, str]:
    """The contract's columns with DuckDB's names of their types."""
    empty = connection.from_arrow(contract.schema.empty_table())
    return dict(zip(empty.columns, map(str, empty.types), strict=True))


def _create_table_view(connection: duckdb.DuckDBPyConnection, view: str, paths: list[Path], contract: Contract) -> None:
    relation = read_parquet(paths) if paths else no_rows(contract_types(connection, contract))
    columns = ", ".join(map(identifier, contract.schema.names))
    connection.execute(f"create view {view} as select {columns} from {relation}")


def _family_sides(
    connection: duckdb.DuckDBPyConnection, store: Store, named: Named, relation: str, taken: Iterable[str]
) -> Iterable[Side]:
    seen = {name.lower() for name in taken}
    for step in sorted(step for step in named.steps() if step.startswith(_FAMILY_PREFIX)):
        family = step.removeprefix(_FAMILY_PREFIX)
        paths = [store.artifact(part).path / "signals.parquet" for part in named.of(step)]
        view = table(relation, f"signals_{family}")
        connection.execute(f"create view {view} as select * from {read_parquet(paths)}")
        found = connection.execute(
            "select column_name from duckdb_columns() where schema_name = ? and table_name = ? order by column_index",
            [relation, f"signals_{family}"],
        ).fetchall()
        columns = {}
        for (name,) in found:
            if name not in _ROW_KEY:
                columns[name] = f"{family}_{name}" if name.lower() in seen else name
                seen.add(columns[name].lower())
        yield Side(view, columns, family=family)


def _refuse_marks_alone(named: Named) -> None:
    if any(part.step in MARKS for part in named.parts) and not named.of(KEEPERS_STEP):
        what = f"duplicates are marked in {named.kind} `{named.name}`, but not which of them are kept"
        again = "Build" if named.kind == "corpus" else "Pick"
        raise StoreError(what, where=named.label, fix=f"{again} it again: it was made before rules for keepers.")


def _create_duplicates_view(
    connection: duckdb.DuckDBPyConnection, store: Store, named: Named, relation: str, with_keepers: bool
) -> None:
    marks = [store.artifact(part).path / "duplicates.parquet" for part in named.parts if part.step in MARKS]
    view = table(relation, "duplicates")
    if not marks or not with_keepers:
        _create_table_view(connection, view, marks, DUPLICATES)
        return
    columns = ", ".join(f"{'k' if name == 'is_keeper' else 'm'}.{identifier(name)}" for name in DUPLICATES.schema.names)
    kept = _kept(store, named, "method_keepers.parquet")
    connection.execute(
        f"create view {view} as select {columns} from {read_parquet(marks)} as m join {kept} as k using (shard, row, method)"
    )


def _keeper_sides(store: Store, named: Named, relation: str) -> Iterable[Side]:
    columns = {name: name for name in ("is_keeper", "is_exact_keeper", "cluster_id")} | {"similarity": "duplicate_similarity"}
    defaults = {"is_keeper": "true", "is_exact_keeper": "true", "cluster_id": "d.doc_id"}
    kept = _kept(store, named, "keepers.parquet") if named.of(KEEPERS_STEP) else no_rows(_KEEPER_TYPES)
    yield Side(kept, columns, defaults)
    for method in BESIDE:
        if named.of(f"dedup.{method}"):
            column = f"is_{method}_keeper"
            own = f"(select shard, row, is_keeper as {column} from {table(relation, 'duplicates')} where method = '{method}')"
            yield Side(own, {column: column}, {column: "true"})


def _kept(store: Store, named: Named, file: str) -> str:
    return read_parquet([store.artifact(named.one(KEEPERS_STEP)).path / file])


def _provenance_sides(relation: str) -> Iterable[Side]:
    licences, occurrences = (table(relation, name) for name in ("licences", "occurrences"))
    yield Side(_effective_licence(licences), {name: name for name in LICENCE_COLUMNS})
    yield Side(_strictest_anywhere(licences, occurrences), {ANYWHERE: ANYWHERE})
    places = ("origin", "path", "revision", "date", "n_occurrences")
    yield Side(_first_occurrence(occurrences), {name: name for name in places}, {"n_occurrences": "0"})


def _contamination_side(relation: str) -> Side:
    """Only where a corpus was searched: a column that is never anything but 0 would say what nobody looked at."""
    held = f"""(
    select shard, row, count(distinct (benchmark, item)) as n_contaminated,
        list_sort(list(distinct benchmark)) as contaminated_by, max(coverage) as contamination_coverage
    from {table(relation, "contamination")} group by shard, row)"""
    defaults = {"n_contaminated": "0", "contaminated_by": "[]::varchar[]", "contamination_coverage": "0"}
    return Side(held, {name: name for name in defaults}, defaults, step=_CONTAMINATION)


def _effective_licence(licences: str) -> str:
    return f"""(
    select shard, row,
        case when count(distinct spdx) = 1 then min(spdx) else string_agg(distinct term, ' AND ' order by term) end as licence,
        max(strictness) as licence_strictness, min(strictness) as loosest_strictness
    from (select shard, row, spdx, case when contains(spdx, ' OR ') then '(' || spdx || ')' else spdx end as term,
            max(strictness) over (partition by shard, row, origin, path) as strictness
        from {licences} where effective)
    group by shard, row)"""


def _strictest_anywhere(licences: str, occurrences: str) -> str:
    """For each document, also for one at whose own places nothing speaks of a licence."""
    return f"""(
    select shard, row, {ANYWHERE} from (select distinct doc_id, shard, row from {occurrences}) join
        (select doc_id, max(strictness) as {ANYWHERE} from {licences} where effective group by doc_id) using (doc_id))"""


def _first_occurrence(occurrences: str) -> str:
    return f"""(
    select shard, row, unnest(place), n_occurrences
    from (select shard, row, count(*) as n_occurrences,
            arg_min({{'origin': origin, 'path': path, 'revision': revision, 'date': date}},
                (coalesce(date, '9999'), origin, path, coalesce(revision, ''))) as place
        from {occurrences} group by shard, row))"""
