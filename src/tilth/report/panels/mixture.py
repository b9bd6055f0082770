"""Mixtures: the shares of tokens by source that a subset was asked for, and those that it has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tilth.report.blocks import Block, Cell, Chart, Grid, Heading, Legend, Table
from tilth.report.charts import stacked_bars
from tilth.report.facts import facts_table
from tilth.report.numbers import share
from tilth.report.registry import panel
from tilth.report.scope import AbsentError, Row, Scope
from tilth.report.views import SHARES

_ABSENT = "No subset of this corpus is a mixture: `tilth pick NAME WHERE --mix web=0.8,books=0.2` makes one."


@panel("Mixtures", order=36)
def draw(scope: Scope) -> Iterable[Block]:
    """Shares of tokens by source: as the predicate left them, as the mixture asked, and as the subset has them, counting a
    repeated document as often as its weight says."""
    scope.need_corpus()
    if not scope.has_temporary(SHARES) or not scope.columns("subset_documents"):
        raise AbsentError(_ABSENT)
    rows = scope.rows(_sql(scope), [subset.name for subset in scope.subsets])
    if not rows:
        raise AbsentError(_ABSENT)
    yield Legend([(source, colour) for source, colour in scope.legend if any(row["source"] == source for row in rows)])
    by_subset: dict[str, list[Row]] = {}
    for row in rows:
        by_subset.setdefault(row["subset"], []).append(row)
    for subset, shares in by_subset.items():
        yield Heading(subset)
        yield Grid([_chart(scope, subset, shares)])
        yield _table(subset, shares)


def _sql(scope: Scope) -> str:
    # What was asked is written beside the subset; what is in it is counted from its rows.
    return f"""with counted as (
            select s.subset, f.source, count(*) as n_documents, sum(s.weight)::double as n_taken,
                   sum(s.n_tokens * s.weight::double)::bigint as n_tokens
            from subset_documents as s join {facts_table(scope)} as f on f.shard = s.shard and f.row = s.row
            where list_contains($1, s.subset) group by all)
        select asked.subset, asked.source, asked.weight, asked.n_tokens_there, asked.repeats,
               coalesce(counted.n_documents, 0) as n_documents, coalesce(counted.n_taken, 0) as n_taken,
               coalesce(counted.n_tokens, 0) as n_tokens, (sum(asked.n_tokens_there) over of_subset)::bigint as n_there_in_all,
               coalesce(sum(counted.n_tokens) over of_subset, 0)::bigint as n_in_all
        from temp.{SHARES} as asked left join counted on counted.subset = asked.subset and counted.source = asked.source
        where list_contains($1, asked.subset) window of_subset as (partition by asked.subset)
        order by list_position($1, asked.subset), asked.place"""


def _chart(scope: Scope, subset: str, rows: Sequence[Row]) -> Chart:
    data = []
    for what, part, whole in (
        ("there", "n_tokens_there", "n_there_in_all"),
        ("asked for", "weight", None),
        ("taken", "n_tokens", "n_in_all"),
    ):
        for row in rows:
            of_all = row[part] / row[whole] if whole and row[whole] else row[part] if not whole else 0.0
            label = f"{what}, {row['source']}: {share(of_all, 1)} of the tokens"
            data.append({"what": what, "source": row["source"], "share": round(100 * of_all, 3), "label": label})
    spec = stacked_bars(
        data, category="what", value="share", title="% of tokens", part="source", colours=dict(scope.legend), highest=100
    )
    return Chart(f"mixture-{subset}", f"{subset}: tokens by source", spec)


def _table(subset: str, rows: Sequence[Row]) -> Table:
    columns = [
        "source",
        "share asked",
        "share taken",
        "tokens there",
        "tokens taken",
        "documents",
        "repeats asked",
        "repeats taken",
    ]
    body: list[list[Cell | str]] = []
    for row in rows:
        place = f"mixture/{subset}/{row['source']}"
        taken = row["n_tokens"] / row["n_in_all"] if row["n_in_all"] else None
        # Documents that are left out are no repeats of 0: the repeats are those of the tokens that were there.
        repeats = row["n_tokens"] / row["n_tokens_there"] if row["n_tokens_there"] else None
        body.append([
            row["source"], Cell(row["weight"], share(row["weight"], 1), f"{place}/asked"),
            Cell(taken, share(taken, 1), f"{place}/taken"), Cell(row["n_tokens_there"]),
            Cell(row["n_tokens"], name=f"{place}/tokens"), Cell(row["n_documents"]), Cell(row["repeats"]), Cell(repeats),
        ])  # fmt: skip
    return Table(columns, body)
