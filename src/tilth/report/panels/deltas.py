"""Deltas: what a fine-tune in few bits costs and saves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tilth.report.blocks import Block, Cell, Chart, Grid, Sql, Table
from tilth.report.charts import stacked_bars
from tilth.report.markup import shorten
from tilth.report.numbers import size
from tilth.report.registry import panel
from tilth.report.scope import Row, Scope

_KINDS = {"matrix_bytes": "matrices", "table_bytes": "tables", "other_bytes": "other"}
_LOSSES = {"loss_base": "base", "loss_tuned": "fine-tune", "loss_delta": "base + delta"}


@panel("Deltas", order=80, per_corpus=False)
def draw(scope: Scope) -> Iterable[Block]:
    """A fine-tune stored as its difference from the base, against the whole fine-tune. A good delta is far smaller,
    with a loss much nearer to the fine-tune's than to the base's."""
    deltas = scope.need(
        "deltas",
        ("size_bytes", "full_size_bytes", *_LOSSES),
        "No fine-tune has been deployed as a delta yet: `tilth deploy RUN --base BASE` does.",
    )
    kinds = ", ".join(_KINDS)
    rows = scope.rows(
        f"""select name, run, base, size_bytes, full_size_bytes, full_size_bytes / size_bytes as ratio,
                   loss_base, loss_tuned, loss_delta, sample, codec, agreement, {kinds} from {deltas} order by name limit 12"""
    )
    for row in rows:
        yield Grid([_sizes(row), _losses(row)])
    yield _table(rows)
    for row in rows:
        if row["sample"]:
            yield Sql(f"Sampled from {row['base']} with the delta of {row['run']}", shorten(row["sample"], 600))


def _sizes(row: Row) -> Chart:
    sizes = {"fine-tune": row["full_size_bytes"], "delta": row["size_bytes"]}
    sizes |= {f"its {kind}": row[key] for key, kind in _KINDS.items() if row[key] is not None}
    data = [{"what": what, "n": n, "label": f"{what}: {size(n)}"} for what, n in sizes.items()]
    return Chart(
        f"delta-size-{row['name']}", f"{row['name']}: size", stacked_bars(data, category="what", value="n", title="bytes")
    )


def _losses(row: Row) -> Chart:
    data = [
        {"what": what, "n": row[key], "label": f"{what}: {row[key]:.4f}"} for key, what in _LOSSES.items() if row[key] is not None
    ]
    return Chart(
        f"delta-loss-{row['name']}",
        f"{row['name']}: loss",
        stacked_bars(data, category="what", value="n", title="nats per token"),
    )


def _table(rows: Sequence[Row]) -> Table:
    columns = ["delta", "base", "codec", "size", "fine-tune", "times smaller", *_KINDS.values()]
    columns += ["loss: base", "fine-tune", "base + delta", "same likeliest token"]
    body = []
    for row in rows:
        sizes = [Cell(row[key], size(row[key]), f"{key}/{row['name']}") for key in ("size_bytes", "full_size_bytes")]
        kinds = [Cell(row[key], None if row[key] is None else size(row[key]), f"{key}/{row['name']}") for key in _KINDS]
        losses = [Cell(row[key], None if row[key] is None else f"{row[key]:.4f}", f"{key}/{row['name']}") for key in _LOSSES]
        agreement = Cell(row["agreement"], None if row["agreement"] is None else f"{row['agreement']:.1%}")
        body.append([row["name"], row["base"], row["codec"], *sizes, Cell(row["ratio"]), *kinds, *losses, agreement])
    return Table(columns, body)
