"""What each clause of a subset's predicate cost."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tilth.report.blocks import Block, Cell, Heading, Note, Sql, Table
from tilth.report.registry import panel
from tilth.report.scope import AbsentError, Scope


@panel("What each clause costs", order=15)
def draw(scope: Scope) -> Iterable[Block]:
    """Documents that a clause drops, those that no other clause would have dropped, and those lost because a signal
    is undefined for them."""
    scope.need_corpus()
    if not {"meta", "corpus_digest"} <= scope.columns("subsets").keys() or not scope.subsets:
        raise AbsentError("No subset has been picked from this corpus yet: `tilth pick NAME WHERE` does.")
    rows = scope.rows(
        """select s.name, s."where" as predicate, s.meta -> '$.clauses' as clauses, s.corpus_digest = c.digest as is_current
           from subsets as s join corpora as c on c.name = s.corpus
           where list_contains($1, s.name) order by list_position($1, s.name)""",
        [subset.name for subset in scope.subsets],
    )
    for row in rows:
        yield Heading(row["name"])
        yield Sql("Documents where", row["predicate"])
        if not row["is_current"]:
            yield Note("The corpus was built anew after this subset was picked: pick again to see what each clause costs now.")
        elif row["clauses"]:
            yield _table(scope, row["name"], json.loads(row["clauses"]))


def _table(scope: Scope, name: str, clauses: list[str]) -> Table:
    from tilth.catalog.cuts import count_cuts

    has_tokens = "n_tokens" in scope.wide_columns
    cuts = count_cuts(scope.connection, scope.wide, clauses, has_tokens)
    rows: list[list[Cell | str]] = [
        [
            clause.sql,
            Cell(clause.n_dropped, name=f"dropped/{name}/{clause.sql}"),
            *(Cell(count.n_documents) for count in (clause.alone, clause.unknown)),
            Cell(None if clause.failed.n_tokens is None else clause.failed.n_tokens + (clause.unknown.n_tokens or 0)),
        ]
        for clause in cuts.clauses
    ]
    return Table(["clause", "documents dropped", "by it alone", "undefined", "tokens dropped"], rows)
