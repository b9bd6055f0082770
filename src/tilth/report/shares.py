"""Words, buckets and truth values as shares by source."""

from __future__ import annotations

from tilth.report.blocks import Chart
from tilth.report.charts import stacked_bars
from tilth.report.facts import facts_table, signal_columns
from tilth.report.numbers import share
from tilth.report.scope import Scope, quoted
from tilth.report.theme import OTHER_COLOUR, SOURCE_COLOURS

UNDEFINED, REST = "undefined", "all others"
_SHOWN = len(SOURCE_COLOURS)


def worded_columns(scope: Scope) -> list[str]:
    """The signals whose values are words or true and false."""
    return [name for name, kind in signal_columns(scope).items() if kind in ("VARCHAR", "BOOLEAN") or kind.startswith("ENUM")]


def share_chart(scope: Scope, column: str) -> Chart:
    """One bar a source: the shares of its documents by value, the most frequent values of the corpus apart."""
    rows = scope.rows(
        f"""with named as (select source, {quoted(column)}::varchar as kind from {facts_table(scope)}),
            ranked as (
                select kind, row_number() over (order by count(*) desc, kind) as place
                from named where kind is not null group by kind),
            merged as (
                select source,
                       case when place <= {_SHOWN} then kind when kind is null then '{UNDEFINED}' else '{REST}' end as kind,
                       case when place <= {_SHOWN} then place when kind is null then {_SHOWN + 2} else {_SHOWN + 1} end as place
                from named left join ranked using (kind))
            select source, kind, place, count(*) as n, sum(count(*)) over (partition by source)::bigint as n_source
            from merged group by source, kind, place order by list_position($1, source), place""",
        scope.sources,
    )
    kinds = {row["place"]: row["kind"] for row in sorted(rows, key=lambda row: int(row["place"]))}
    colours = {kind: _colour(place) for place, kind in kinds.items()}
    data = [
        {
            "source": row["source"],
            "kind": row["kind"],
            "share": round(100 * row["n"] / row["n_source"], 3),
            "label": f"{row['source']}, {row['kind']}: {row['n']:,} documents, {share(row['n'], row['n_source'])}",
        }
        for row in rows
    ]
    spec = stacked_bars(data, category="source", value="share", title="% of documents", part="kind", colours=colours, highest=100)
    return Chart(f"signal-{column}", column, spec, legend=list(colours.items()))


def _colour(place: int) -> str:
    if place <= _SHOWN:
        return SOURCE_COLOURS[place - 1]
    return OTHER_COLOUR if place == _SHOWN + 1 else "var(--rule)"
