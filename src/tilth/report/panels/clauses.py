"""What each clause of a subset's predicate cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tilth.report.blocks import Block, Cell, Heading, Note, Sql, Table
from tilth.report.facts import clause_columns, facts_table
from tilth.report.registry import panel
from tilth.report.scope import AbsentError, Scope


@panel("What each clause costs", order=15)
def draw(scope: Scope) -> Iterable[Block]:
    """Documents that a clause drops, those that no other clause would have dropped, and those lost because a signal
    is undefined for them."""
    scope.need_corpus()
    if not {"meta", "corpus_digest"} <= scope.columns("subsets").keys() or not scope.subsets:
        raise AbsentError("No subset has been picked from this corpus yet: `tilth pick NAME WHERE` does.")
    for subset in scope.subsets:
        yield Heading(subset.name)
        yield Sql("Documents where", subset.where)
        if subset.clauses:
            yield _table(scope, subset.name, subset.clauses)
        elif subset.where:
            yield Note("The corpus was built anew after this subset was picked: pick again to see what each clause costs now.")


def _table(scope: Scope, name: str, clauses: Sequence[str]) -> Table:
    from tilth.catalog.cuts import count_cuts

    columns = clause_columns(scope)
    cuts = count_cuts(
        scope.connection, facts_table(scope), [columns[clause] for clause in clauses], "n_tokens" in scope.wide_columns
    )
    rows: list[list[Cell | str]] = [
        [
            sql,
            Cell(clause.n_dropped, name=f"dropped/{name}/{sql}"),
            *(Cell(count.n_documents) for count in (clause.alone, clause.unknown)),
            Cell(None if clause.failed.n_tokens is None else clause.failed.n_tokens + (clause.unknown.n_tokens or 0)),
        ]
        for sql, clause in zip(clauses, cuts.clauses, strict=True)
    ]
    return Table(["clause", "documents dropped", "by it alone", "undefined", "tokens dropped"], rows)
