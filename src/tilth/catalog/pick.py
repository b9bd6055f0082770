"""`pick`: a curated subset from a SQL predicate, with what each clause cost and a split that no duplicate cluster crosses."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from tilth.artifacts import Named, Part, Spec, Store
from tilth.artifacts.atomic import disk_errors
from tilth.catalog.complaints import complain
from tilth.catalog.connect import open_in_memory, stopping
from tilth.catalog.corpus_views import LICENCE_RULES, CorpusViews, create_corpus_views
from tilth.catalog.cuts import Cuts, count_cuts
from tilth.catalog.held_out import IN_VALIDATION, check_split, count_held_out
from tilth.catalog.keepers import keeper_rule_of
from tilth.catalog.mixture import Mixture, Share, judged, take_mixture
from tilth.catalog.nearest import take_nearest
from tilth.catalog.policies import POLICIES, expand_policies
from tilth.catalog.predicate import Predicate, check_binds, parse_predicate
from tilth.catalog.project import relation_names
from tilth.catalog.quoting import identifier
from tilth.catalog.row_groups import write_rows
from tilth.contracts import SUBSET
from tilth.errors import QueryError, SubsetError

STEP, VERSION = "pick", 3
_ALWAYS = frozenset({"source", "n_bytes", "n_tokens", "cluster_id"})
_BY_RULE = re.compile(r"is_(\w+_)?keeper")
_HASH_RANGE = 2**64
_SUBSET_ROWS = """
select doc_id, shard, row, n_copies::float as weight, split, n_tokens::bigint as n_tokens
from subset_rows order by shard, row"""


@dataclass(frozen=True)
class Pick:
    """What was picked: after the predicate, the mixture and the budget. Tokens and bytes count repeated documents as often."""

    named: Named
    where: str
    cuts: Cuts
    n_documents: int
    n_tokens: int | None
    n_bytes: int
    n_train: int
    n_validation: int
    shares: tuple[Share, ...] = ()


def pick(
    store: Store,
    corpus: str,
    name: str,
    where: str,
    *,
    max_tokens: int | None = None,
    mixture: Mixture | None = None,
    validation_share: float = 0.0,
    validation_where: str | None = None,
    seed: int = 0,
) -> Pick:
    """Let `subset/<name>` be the documents of `corpus` for which `where` is true.

    With `max_tokens` documents are taken in the order of a hash of (seed, doc_id), at the edge those that fit, so that their
    sum comes as near to it as it can without exceeding it; with a `mixture` each source gives its share of them, as near as
    whole documents come to it, and small sources may repeat. A duplicate
    cluster goes to validation when the hash of (seed, cluster_id) falls into the first `validation_share` of its
    range; there nothing is repeated. With `validation_where`, another predicate, the documents for which it is true are for
    validation instead, and with each all of its duplicate cluster. The same arguments over the same data give the same bytes.

    A policy may stand in `where` by its name, `@gopher`.

    Raises NotFoundError (no such corpus), QueryError (the predicate), SubsetError (nothing selected, a
    document twice, no token counts where they are needed).
    """
    check_split(validation_share, validation_where)
    named = store.get_named("corpus", corpus)
    relation = relation_names(thing.name for thing in store.named("corpus"))[corpus]
    with open_in_memory(store.root / "catalog") as connection, stopping(connection):
        views = create_corpus_views(connection, store, named, relation)
        predicate = _bound(connection, views, where)
        held_out = _bound(connection, views, validation_where) if validation_where is not None else None
        parts = _parts_used(views, predicate.names | (held_out.names if held_out else frozenset()))
        params = {
            "where": predicate.sql,
            "max_tokens": max_tokens,
            "mixture": None if mixture is None else asdict(mixture),
            "validation_share": validation_share,
            "seed": seed,
            **({"validation_where": held_out.sql} if held_out else {}),
        }
        spec = Spec(STEP, VERSION, params, {f"{part.step}/{part.shard or 'all'}": part.digest for part in parts})
        selection = _Selection(connection, views, predicate, spec, held_out)
        with disk_errors(store.root):
            try:
                artifact = store.make(spec, selection.write)
            except duckdb.Error as error:
                raise _failure(error, store, predicate) from error
    report = json.loads((artifact.path / "pick.json").read_bytes())
    meta = {"corpus": corpus, "corpus_digest": named.digest, **_summary(report)}
    if rules := [rule for column, rule in LICENCE_RULES.items() if column in predicate.names]:
        meta["licences"] = "; ".join(rules)
    if any(map(_BY_RULE.fullmatch, predicate.names)):
        meta["keepers"] = keeper_rule_of(store, named)
    # The parts that were picked from belong to the subset, so that its documents are found after the corpus changed.
    saved = store.save_named("subset", name, [artifact.part(), *parts], meta)
    counts = {key: report[key] for key in ("n_documents", "n_tokens", "n_bytes", "n_train", "n_validation")}
    shares = tuple(Share(**share) for share in report["shares"])
    return Pick(saved, predicate.sql, Cuts.from_dict(report["cuts"]), **counts, shares=shares)


@dataclass(frozen=True)
class _Selection:
    """One evaluation of a predicate over a corpus, written as an artifact."""

    connection: duckdb.DuckDBPyConnection
    views: CorpusViews
    predicate: Predicate
    spec: Spec
    held_out: Predicate | None = None

    def write(self, folder: Path) -> Mapping[str, Any]:
        has_tokens = "n_tokens" in self.views.columns
        params = self.spec.params
        names = self.predicate.names | _ALWAYS | (self.held_out.names if self.held_out else frozenset())
        source = f"({self.views.select(names)}) as {identifier(self.views.relation)}"
        cuts = count_cuts(self.connection, source, self.predicate.clauses, has_tokens)
        if not cuts.after.n_documents:
            raise _nothing_selected(cuts)
        tokens = "n_tokens" if has_tokens else "null::bigint"
        held_out = f"({self.held_out.sql}) is true" if self.held_out else "null::boolean"
        self.connection.execute(
            f"create temp table chosen as select doc_id, source, shard, row, n_bytes, {tokens} as n_tokens, cluster_id, "
            f"1 as n_copies, {held_out} as is_held_out "
            f"from {source} where {self.predicate.sql}"
        )
        self._refuse_repeats()
        shares = self._budget(has_tokens)
        self._split(float(params["validation_share"]), int(params["seed"]))
        totals = _one_row(
            self.connection,
            "select count(*), sum(n_tokens * n_copies), sum(n_bytes * n_copies), count(*) filter (where split = 'train') "
            "from subset_rows",
        )
        n_documents, n_tokens, n_bytes, n_train = totals
        metadata = {"tilth.where": self.predicate.sql, "tilth.inputs": json.dumps(dict(self.spec.inputs), sort_keys=True)}
        shares = judged(shares, self._in_training()) if shares else []
        write_rows(self.connection, _SUBSET_ROWS, folder / "subset.parquet", SUBSET, metadata)
        counted = {
            "n_documents": n_documents,
            "n_tokens": None if n_tokens is None else int(n_tokens),
            "n_bytes": int(n_bytes),
            "n_train": n_train,
            "n_validation": n_documents - n_train,
            **({"n_moved_to_validation": count_held_out(self.connection, self.held_out.sql).n_moved} if self.held_out else {}),
        }
        report = {**params, **counted, "cuts": cuts.to_dict(), "shares": [asdict(share) for share in shares]}
        (folder / "pick.json").write_text(json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")
        return counted

    def _refuse_repeats(self) -> None:
        n_repeated, example, places = _one_row(
            self.connection,
            "select count(*), min(doc_id), arg_min(places, doc_id) from (select doc_id, "
            "list(shard || ':' || row order by shard, row) as places from chosen group by doc_id having count(*) > 1)",
        )
        if n_repeated:
            is_marked = any(step.startswith("dedup.") for step in self.views.named.steps())
            raise SubsetError(
                f"{n_repeated} documents are selected more than once",
                where=f"{example} at {', '.join(places[:3])}",
                fix="Add `and is_keeper` to the predicate."
                if is_marked
                else "Build the corpus with exact deduplication, then add `and is_keeper`.",
            )

    def _budget(self, has_tokens: bool) -> list[Share]:
        """Bring `chosen` to the mixture and the number of tokens that were asked for."""
        max_tokens, mixture, seed = (self.spec.params[name] for name in ("max_tokens", "mixture", "seed"))
        if max_tokens is None and mixture is None:
            return []
        self._refuse_uncounted(has_tokens)
        if mixture is None:
            self._keep_within(max_tokens, seed)
            return []
        return take_mixture(self.connection, Mixture(**mixture), max_tokens, seed)

    def _refuse_uncounted(self, has_tokens: bool) -> None:
        (n_unknown,) = _one_row(self.connection, "select count(*) from chosen where n_tokens is null")
        if n_unknown:
            raise SubsetError(
                f"{n_unknown} selected documents have no token count, which a budget needs",
                where=f"corpus `{self.views.named.name}`",
                fix="Add `and n_tokens is not null`." if has_tokens else "Build the corpus with a tokenizer.",
            )

    def _keep_within(self, max_tokens: int, seed: int) -> None:
        take_nearest(self.connection, "''", {"": max_tokens}, seed, may_exceed=False)
        self.connection.execute(
            "create or replace temp table chosen as select chosen.* from chosen semi join taken using (shard, row)"
        )
        (n_left,) = _one_row(self.connection, "select count(*) from chosen")
        if not n_left:
            raise SubsetError("no document fits into the budget", where=f"max_tokens {max_tokens}", fix="Allow more tokens.")

    def _in_training(self) -> dict[str, int]:
        query = "select source, sum(n_tokens * n_copies) from subset_rows where split = 'train' group by source"
        return {str(source): int(n_tokens) for source, n_tokens in self.connection.execute(query).fetchall()}

    def _split(self, validation_share: float, seed: int) -> None:
        # MD5, not DuckDB's hash(): that one may change with DuckDB's version.
        limit = int(validation_share * _HASH_RANGE)
        by_share = f"md5_number_upper('{seed}:' || cluster_id::varchar) < {limit}::ubigint"
        self.connection.execute(
            "create temp view subset_rows as select * replace (if(split = 'train', n_copies, 1) as n_copies) from ("
            f"select *, case when {IN_VALIDATION if self.held_out else by_share} then 'validation' else 'train' end as split "
            "from chosen)"
        )


def _bound(connection: duckdb.DuckDBPyConnection, views: CorpusViews, where: str) -> Predicate:
    """`where` as a predicate over the corpus, its policies spelled out. Raises QueryError."""
    where = expand_policies(where, views.columns, views.named.name)
    predicate = parse_predicate(connection, where)
    _refuse_bare_policies(predicate, views, where)
    check_binds(connection, f"main.{identifier(views.relation)}", where, predicate, views.columns)
    return predicate


def _refuse_bare_policies(predicate: Predicate, views: CorpusViews, where: str) -> None:
    for name in sorted(predicate.names - {column.lower() for column in views.columns}):
        if name in POLICIES:
            raise QueryError(f"`{name}` is a policy, not a column", where, f"Write `@{name}`.")


def _parts_used(views: CorpusViews, names: frozenset[str]) -> list[Part]:
    """The corpus' parts on which the outcome depends; others may change without making the subset stale."""
    steps = views.steps_of(names | _ALWAYS)
    return [part for part in views.named.parts if part.step in steps and part.step != "dedup.signatures"]


def _nothing_selected(cuts: Cuts) -> SubsetError:
    biggest = cuts.biggest
    if not biggest:
        return SubsetError("the corpus has no documents", fix="Look at `rejects` for what could not be read.")
    lost = f", {biggest.unknown.n_documents} of them because it is null" if biggest.unknown.n_documents else ""
    return SubsetError(
        f"the predicate selects none of {cuts.before.n_documents} documents",
        where=f"`{biggest.sql}` drops {biggest.n_dropped}{lost}",
        fix='Loosen that clause; `tilth sql "summarize CORPUS"` shows the range of each signal.',
    )


def _failure(error: duckdb.Error, store: Store, predicate: Predicate) -> Exception:
    # DuckDB reports a full disk in words only; as an OSError it becomes the store's usual advice.
    if "No space left" in str(error):
        return OSError(str(error))
    complaint = complain(error, store_root=store.root)
    # DuckDB's place is one in the statement around the predicate, which the user never saw.
    return QueryError(complaint.what, predicate.sql, complaint.fix) if isinstance(complaint, QueryError) else complaint


def _summary(report: Mapping[str, Any]) -> dict[str, Any]:
    cuts = Cuts.from_dict(report["cuts"])
    biggest = cuts.biggest
    shares = (f"{share['source']} {share['weight']:.1%} (reached {share['reached']:.1%})" for share in report["shares"])
    return {
        **({"mixture": ", ".join(shares)} if report["shares"] else {}),
        **{key: value for key, value in report.items() if key not in ("cuts", "shares", "mixture")},
        "clauses": [clause.sql for clause in cuts.clauses],
        "n_documents_before": cuts.before.n_documents,
        "n_tokens_before": cuts.before.n_tokens,
        "n_bytes_before": cuts.before.n_bytes,
        "n_lost_to_null": cuts.unknown.n_documents,
        "biggest_cut": biggest.sql if biggest else None,
        "n_biggest_cut": biggest.n_dropped if biggest else 0,
    }


def _one_row(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    return connection.execute(query).fetchone() or ()
