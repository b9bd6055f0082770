"""Replays: how much of a trace a prefix cache would have saved, by policy and capacity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tilth.report.blocks import Block, Cell, Chart, Grid, Table
from tilth.report.charts import finished
from tilth.report.numbers import seconds, share, size
from tilth.report.registry import panel
from tilth.report.scope import Row, Scope
from tilth.report.theme import OTHER_COLOUR, SOURCE_COLOURS

MAX_REPLAYS = 6
_CELL = """[{"policy": "VARCHAR", "capacity_bytes": "BIGINT", "token_hit_rate": "DOUBLE", "flop_hit_rate": "DOUBLE",
"first_token_p50": "DOUBLE", "first_token_p95": "DOUBLE", "high_water_bytes": "BIGINT", "n_evictions": "BIGINT"}]"""


@panel("Prefix cache", order=85, per_corpus=False)
def draw(scope: Scope) -> Iterable[Block]:
    """Traces replayed through the prefix cache: the share of the prompts' tokens that need not be read again, by policy and
    by the bytes that the cache may hold. The most that was held is never above the capacity."""
    replays = scope.need("replays", ("name", "meta"), "No trace has been replayed here yet: `tilth replay TRACE` does.")
    for row in scope.rows(f"select name, trace, model, is_instant, n_requests from {replays} order by name limit {MAX_REPLAYS}"):
        cells = scope.rows(
            f"""select unnest(from_json(meta -> '$.cells', '{_CELL}'), recursive := true) from {replays} where name = ?""",
            row["name"],
        )
        yield from replay_blocks(row, cells)


def replay_blocks(about: Row, cells: Sequence[Row]) -> Iterable[Block]:
    """Charts and the table of one replay. about: its name, trace, model, is_instant and n_requests."""
    name, policies = about["name"], list(dict.fromkeys(cell["policy"] for cell in cells))
    mode = "each request ends as it arrives" if about["is_instant"] else "requests wait for their turn"
    title = f"{about['trace']} on {about['model']}: {about['n_requests']:,} requests; {mode}"
    colours = dict(zip(policies, (*SOURCE_COLOURS, *[OTHER_COLOUR] * len(policies)), strict=False))
    hits = _curves(cells, colours, "token_hit_rate", "share of tokens", "%")
    waits = _curves(cells, colours, "first_token_p95", "seconds", "~g")
    legend = list(colours.items())
    yield Grid([
        Chart(f"replay-hits-{name}", f"{title}. Tokens not read again", hits, legend=legend),
        Chart(f"replay-waits-{name}", "Time to the first token, 95th percentile", waits, legend=legend),
    ])  # fmt: skip
    yield _table(name, cells)


def _curves(cells: Sequence[Row], colours: Mapping[str, str], value: str, title: str, form: str) -> dict[str, Any]:
    import altair as alt

    data = [
        {"policy": cell["policy"], "capacity": cell["capacity_bytes"] / 1e9, "value": cell[value], "label": _label(cell)}
        for cell in cells
    ]
    colour = alt.Color("policy:N", scale=alt.Scale(domain=list(colours), range=list(colours.values())), legend=None)
    base = alt.Chart(alt.Data(values=data)).encode(
        x=alt.X("capacity:Q", title="capacity, GB", scale=alt.Scale(type="log", nice=False)),
        y=alt.Y("value:Q", title=title, axis=alt.Axis(format=form, tickCount=5)),
        color=colour,
    )
    dots = base.mark_point(filled=True, size=45, opacity=1).encode(description="label:N", tooltip="label:N")
    return finished(alt.layer(base.mark_line(), dots), height=240)


def _label(cell: Row) -> str:
    hits, waits = share(cell["token_hit_rate"], 1), seconds(cell["first_token_p95"])
    return f"{cell['policy']} at {size(cell['capacity_bytes'])}: {hits} of tokens, p95 {waits}"


def _table(name: str, cells: Sequence[Row]) -> Table:
    columns = ["capacity", "policy", "token hits", "FLOPs saved", "first token p50", "p95", "most held", "evictions"]
    body: list[list[Cell | str]] = []
    for cell in cells:
        key = f"replay/{name}/{cell['policy']}/{cell['capacity_bytes']}"
        rates = [Cell(cell[rate], share(cell[rate], 1), f"{key}/{rate}") for rate in ("token_hit_rate", "flop_hit_rate")]
        times = [Cell(cell[time], seconds(cell[time])) for time in ("first_token_p50", "first_token_p95")]
        held = Cell(cell["high_water_bytes"], f"{cell['high_water_bytes'] / 1e9:.3f} GB")
        capacity = Cell(cell["capacity_bytes"], size(cell["capacity_bytes"]))
        body.append([capacity, cell["policy"], *rates, *times, held, Cell(cell["n_evictions"])])
    return Table(columns, body, folded=len(body) > 40, caption="All cells" if len(body) > 40 else None)
