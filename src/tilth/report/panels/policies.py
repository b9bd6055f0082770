"""What each published filter would keep of every source, and the clause that costs most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tilth.catalog.cuts import Cuts, count_cuts
from tilth.catalog.policies import POLICIES
from tilth.catalog.policy import Policy
from tilth.report.blocks import Block, Cell, Chart, Folded, Heading, Note, Table
from tilth.report.charts import sized
from tilth.report.facts import clause_columns, facts_table, judged_policies
from tilth.report.numbers import share
from tilth.report.registry import panel
from tilth.report.scope import AbsentError, Row, Scope
from tilth.report.theme import MAIN_COLOUR

_ROW_HEIGHT = 24


@panel("Named policies", order=32)
def draw(scope: Scope) -> Iterable[Block]:
    """Published filters, which pick takes by name, as they would act before duplicates are dropped. A document is kept
    where every clause is true; a clause over a signal that is undefined is not."""
    scope.need_corpus()
    judged = judged_policies(scope)
    if not judged:
        raise AbsentError("The corpus has the signals of no named policy: `tilth show policy/NAME` says which one needs.")
    rows = [row for policy in judged for row in _kept(scope, policy)]
    yield Chart("policies", "Documents kept by source", _heat_map(rows, [policy.name for policy in judged], scope.sources))
    yield _table(rows)
    yield Heading("The clause that drops most")
    cuts = {policy: _cuts(scope, policy) for policy in judged}
    yield _biggest(cuts)
    for policy, found in cuts.items():
        yield Folded(f"@{policy.name}: every clause", [Note(f"{policy.source}."), *_beyond(policy), _clauses(policy, found)])
    names = {policy.name for policy in judged}
    lacking = [policy for policy in POLICIES.values() if policy.name not in names and _missing(scope, policy)]
    if lacking:
        needs = "; ".join(f"@{policy.name} ({', '.join(_missing(scope, policy))})" for policy in lacking)
        yield Note(f"Not judged, for these families of signals are not in the corpus: {needs}.")


def _kept(scope: Scope, policy: Policy) -> list[Row]:
    """Rows (policy, source, n_documents, n_kept, n_tokens, n_tokens_kept), the last over all sources."""
    columns = clause_columns(scope)
    kept = " and ".join(f"{columns[clause.sql]} is true" for clause in policy.clauses)
    return scope.rows(
        f"""select $1 as policy, coalesce(source, 'all') as source, grouping(source) = 1 as whole, count(*) as n_documents,
                   count(*) filter ({kept}) as n_kept, sum({scope.n_tokens})::bigint as n_tokens,
                   coalesce(sum({scope.n_tokens}) filter ({kept}), 0)::bigint as n_tokens_kept
            from {facts_table(scope)} group by grouping sets (source, ()) order by whole, list_position($2, source)""",
        policy.name,
        scope.sources,
    )


def _heat_map(rows: Sequence[Row], policies: Sequence[str], sources: Sequence[str]) -> dict[str, Any]:
    import altair as alt

    data = [
        {
            "policy": row["policy"],
            "source": row["source"],
            "share": round(row["n_kept"] / row["n_documents"], 4),
            "shown": share(row["n_kept"], row["n_documents"]),
            "label": f"{row['policy']}, {row['source']}: {row['n_kept']:,} of {row['n_documents']:,} documents",
        }
        for row in rows
        if not row["whole"]
    ]
    base = alt.Chart(alt.Data(values=data)).encode(
        x=alt.X("policy:N", sort=list(policies), title=None, axis=alt.Axis(labelAngle=-30, orient="top", grid=False)),
        y=alt.Y("source:N", sort=list(sources), title=None),
    )
    # The colour is CSS's, so that it suits dark mode; how much of it there is says the share.
    cells = base.mark_rect(fill=MAIN_COLOUR, stroke="var(--rule)").encode(
        fillOpacity=alt.FillOpacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0, 0.75]), legend=None),
        description="label:N",
        tooltip="label:N",
    )
    words = base.mark_text(aria=False).encode(text="shown:N")
    return sized(alt.layer(cells, words).to_dict(), _ROW_HEIGHT * len({row["source"] for row in data}))


def _table(rows: Sequence[Row]) -> Table:
    columns = ["policy", "source", "documents", "kept", "share", "tokens", "tokens kept", "share of tokens"]
    body: list[list[Cell | str]] = []
    for row in rows:
        place = "all sources" if row["whole"] else row["source"]
        body.append([
            row["policy"], place, Cell(row["n_documents"]), Cell(row["n_kept"], name=f"policy/{row['policy']}/{place}/documents"),
            _share(row["n_kept"], row["n_documents"]), Cell(row["n_tokens"]),
            Cell(row["n_tokens_kept"] if row["n_tokens"] is not None else None, name=f"policy/{row['policy']}/{place}/tokens"),
            _share(row["n_tokens_kept"], row["n_tokens"]),
        ])  # fmt: skip
    return Table(columns, body, caption="Documents and tokens kept by source", folded=len(body) > 20)


def _share(part: int, whole: int | None) -> Cell:
    return Cell(part / whole if whole else None, share(part, whole))


def _cuts(scope: Scope, policy: Policy) -> Cuts:
    columns = [clause_columns(scope)[clause.sql] for clause in policy.clauses]
    return count_cuts(scope.connection, facts_table(scope), columns, "n_tokens" in scope.wide_columns)


def _biggest(cuts: dict[Policy, Cuts]) -> Table:
    body: list[list[Cell | str]] = []
    for policy, found in cuts.items():
        dropped = [clause.n_dropped for clause in found.clauses]
        place = dropped.index(max(dropped))
        most = found.clauses[place]
        body.append([
            policy.name, Cell(found.after.n_documents), policy.clauses[place].sql if most.n_dropped else "–",
            Cell(most.n_dropped, name=f"policy/{policy.name}/most"), Cell(most.alone.n_documents), Cell(most.unknown.n_documents),
        ])  # fmt: skip
    return Table(["policy", "documents kept", "clause", "documents dropped", "by it alone", "undefined"], body)


def _clauses(policy: Policy, cuts: Cuts) -> Table:
    body: list[list[Cell | str]] = [
        [clause.word, clause.sql, Cell(count.n_dropped), Cell(count.alone.n_documents), Cell(count.unknown.n_documents)]
        for clause, count in zip(policy.clauses, cuts.clauses, strict=True)
    ]
    return Table(["asks for", "clause", "documents dropped", "by it alone", "undefined"], body)


def _beyond(policy: Policy) -> Iterable[Block]:
    if policy.beyond:
        yield Note(f"Besides, which SQL cannot say: it {policy.beyond}.")


def _missing(scope: Scope, policy: Policy) -> list[str]:
    lacking = [clause.family for clause in policy.clauses if clause.on(scope.wide_columns) is None]
    return list(dict.fromkeys(lacking))
