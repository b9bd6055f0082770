"""Which whole documents come nearest to a number of tokens: the first ones in a given order, and at the edge those that fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import duckdb

N_AT_EDGE = 256  # documents around the edge that may be taken or left
MAX_UNITS = 1 << 20  # beyond it sums are told to a part in a million


def nearest(sizes: Sequence[int], target: float, may_exceed: bool) -> list[int]:
    """The places of documents whose sizes add up as near to `target` as any choice does, of equals the lower sum.

    Of the choices of the same sum it is the one that takes early documents. With more than MAX_UNITS in the target, sizes are
    rounded to a millionth of it. Time: the number of documents times the target's bits.
    """
    unit = max(1.0, target / MAX_UNITS)
    units = [max(1, round(size / unit)) if may_exceed else ceil(size / unit) for size in sizes]
    goal = int(target / unit)
    # reachable[i]: bit s is set where documents from i on can add up to s
    reachable = [1]
    mask = (1 << (2 * goal + 2)) - 1
    for size in reversed(units):
        sums = reachable[-1]
        reachable.append((sums | sums << size) & mask if size <= 2 * goal + 1 else sums)
    reachable.reverse()
    left = (reachable[0] & ((1 << (goal + 1)) - 1)).bit_length() - 1
    above = reachable[0] >> (goal + 1)
    if may_exceed and above:
        over = goal + 1 + (above & -above).bit_length() - 1
        if over * unit - target < target - left * unit:
            left = over
    chosen = []
    for place, size in enumerate(units):
        if 0 < size <= left and reachable[place + 1] >> (left - size) & 1:
            chosen.append(place)
            left -= size
    return chosen


def take_nearest(
    connection: duckdb.DuckDBPyConnection, group: str, targets: Mapping[str, float], seed: int, may_exceed: bool
) -> None:
    """Make the table `taken` (shard, row): of each `group` (SQL) of the table `chosen`, documents that add up to its target.

    Documents come in the order of a hash of (seed, doc_id), so a larger target takes the same ones and more, but for those
    at the edge. Memory here: N_AT_EDGE documents of each group.
    """
    connection.execute(
        f"""create or replace temp table ranked as
        select {group} as of_group, shard, row, n_tokens,
               row_number() over in_order as place, sum(n_tokens) over in_order as n_so_far
        from chosen window in_order as (
            partition by {group} order by md5('{seed}:' || doc_id::varchar), doc_id rows unbounded preceding)"""
    )
    connection.execute("create or replace temp table taken (shard varchar, row integer)")
    for name, target in targets.items():
        fit = "select count(*) from ranked where of_group = $1 and n_so_far <= $2"
        first = max(0, _number(connection, fit, [name, target]) - N_AT_EDGE // 2)
        sure = "select coalesce(max(n_so_far), 0) from ranked where of_group = $1 and place <= $2"
        left = target - _number(connection, sure, [name, first])
        edge = connection.execute(
            "select place, n_tokens from ranked where of_group = $1 and place > $2 and place <= $2 + $3 order by place",
            [name, first, N_AT_EDGE],
        ).fetchall()
        places = [edge[number][0] for number in nearest([n_tokens for _, n_tokens in edge], left, may_exceed)]
        connection.execute(
            "insert into taken select shard, row from ranked "
            "where of_group = $1 and (place <= $2 or list_contains($3::bigint[], place))",
            [name, first, places],
        )


def _number(connection: duckdb.DuckDBPyConnection, query: str, parameters: list[object]) -> int:
    row = connection.execute(query, parameters).fetchone()
    return int(row[0]) if row else 0
